"""Observations with a week of prices behind and two days ahead, and small artefacts, for the tests of learned policies."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from core.devices import Chemistry
from core.limits import tightest
from core.pack import Pack
from core.policy_record import PolicyRecord
from core.series import Series
from core.twin import predict
from policies.base import Observation, PolicyUnableError
from policies.learned.layout import VALUE_LAYOUT
from policies.learned.network import Mlp
from serving.site_loader import read_site_file
from training.artefacts import make_artefact

SITE = read_site_file(Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml")
NOW = datetime(2026, 3, 10, 10, tzinfo=UTC)
BACK_H, AHEAD_H, HORIZON_H, NETWORK_H = 170, 72, 12, 36
CHEMISTRIES = tuple(Chemistry)


def observation(soc_pct=50.0, history=True, price=None, back_h=BACK_H):
    devices = tuple(pack.device_config(SITE.site_id) for pack in SITE.packs)
    limits, states, predictions = {}, {}, {}
    for pack, device in zip(SITE.packs, devices, strict=True):
        rows = [spec.row(pack.device_id, str(k)) for k, spec in enumerate(pack.constraints)]
        limits[pack.device_id] = tightest(device, rows, NOW)
        simulated = Pack(device, soc_pct=soc_pct, soh_pct=pack.soh_pct, temperature_c=22.0, ambient_c=20.0)
        states[pack.device_id] = simulated.state(NOW)
        predictions[pack.device_id] = predict(
            device, states[pack.device_id], np.zeros(HORIZON_H), dt_s=3600.0, start=NOW, ambient_c=20.0
        )
    back = back_h if history else 0
    hours = np.arange(-back, AHEAD_H)
    values = 0.1 + 0.08 * np.sin(2 * np.pi * (hours + 3) / 24) if price is None else np.full(len(hours), price)
    n = AHEAD_H
    return Observation(
        site=SITE,
        starts_at=NOW,
        interval_s=3600,
        devices=devices,
        limits=limits,
        states=states,
        predictions=predictions,
        price_eur_per_kwh=Series("price", NOW - timedelta(hours=back), 3600.0, values),
        load_w=Series("load_w", NOW, 3600.0, np.full(n, 2e4)),
        pv_w=Series("pv_w", NOW, 3600.0, np.where(np.arange(n) < 8, 1e4, 0.0)),
        ambient_c=Series("ambient_c", NOW, 3600.0, np.full(n, 20.0)),
    )


def record(artefact=None, name="learned", **config):
    if artefact is not None:
        config["artefact"] = artefact.sha256
    return PolicyRecord(
        policy_id="p", name=name, site_id=SITE.site_id, policy_type="HYBRID", status="active", horizon_hours=HORIZON_H,
        update_interval_seconds=3600, config=config,
    )  # fmt: skip


def mlp(inputs, outputs, seed=0, size=1.0, shift=None):
    g = np.random.default_rng(seed)
    layers, width = [], inputs
    for out in (16, outputs):
        layers.append(((size * g.normal(0, 1 / np.sqrt(width), (out, width))).astype(np.float32), np.zeros(out, np.float32)))
        width = out
    if shift is not None:
        layers[-1] = (0 * layers[-1][0], np.asarray(shift, np.float32))
    return Mlp(tuple(layers))


def value_artefact(share=1.0, seed=0, shift=None, **changes):
    said = {
        "kind": "energy_value",
        "layout": VALUE_LAYOUT,
        "chemistries": CHEMISTRIES,
        "parameters": {"share": share, "horizon_steps": NETWORK_H, "dt_s": 3600.0},
        "plant": {"round_trip": 0.9025},
    } | changes
    return make_artefact({"value0": mlp(6 + NETWORK_H, 40, seed, shift=shift)}, **said)


class SmallLayout:
    """Three numbers a pack."""

    version = "small/1"
    packs = 1
    size = 3
    base_columns = 0

    def vectors(self, observation):
        price = float(observation.price_eur_per_kwh.window(observation.starts_at, 1, observation.interval_s)[0])
        if not np.isfinite(price):
            raise PolicyUnableError("no price")
        rows = [[observation.states[d.device_id].soc_pct / 100, price, 1.0] for d in observation.devices]
        return np.array(rows).reshape(len(rows), 3)


def actor_artefact(kind="actor", share=0.3, seed=1, **changes):
    said = {"kind": kind, "layout": "small/1", "chemistries": CHEMISTRIES, "parameters": {"share": share}} | changes
    return make_artefact({"actor": mlp(3, 1, seed, size=2.0)}, **said)
