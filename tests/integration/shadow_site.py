"""A site of one pack for the tests of shadows and daily scores: live for one interval, or with whole days that were lived."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from core.decisions import Decision, Reason, SetPoint
from core.pack import Pack
from core.policy_record import PolicyRecord
from core.series import Series
from core.twin import predict
from serving.dispatch.inputs import AMBIENT, LOAD_ACTUAL, LOAD_FORECAST, PRICE, PV_ACTUAL, PV_FORECAST
from serving.shadow.days import day_bounds
from serving.shadow.scorer import score_day
from serving.site_loader import load_site
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres.decisions import record_decision
from stores.postgres.devices import list_devices
from stores.postgres.policies import upsert_policy
from stores.postgres.policy_days import COMMANDED, PolicyDay, ScoredDay, mark_day, write_policy_days
from stores.postgres.series import write_series
from stores.postgres.shadow import ShadowDecision, record_turn

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
SITE = "demo"
ZONE = "Europe/Amsterdam"
STEP = timedelta(seconds=900)
DAY = date(2026, 3, 29)
"""92 quarter hours in Amsterdam."""
QUARTERS = 92
LATER = datetime(2026, 3, 30, 6, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def load(stores, **changes):
    """The demo's first pack, without the file's policies."""
    file = yaml.safe_load(SITE_FILE.read_text()) | {"site_id": SITE, "policies": [], **changes}
    file["packs"] = file["packs"][:1]
    return load_site(stores.pg, yaml.safe_dump(file))


def row(stores, name, status="active", score=None, **config):
    """A policy row; `config` is that of tests.unit.failing_policies. Returns its id."""
    record = PolicyRecord(
        policy_id=None, site_id=SITE, name=name, policy_type="MPC", config=config, horizon_hours=24, update_interval_seconds=900,
        status=status, performance_score=score, deployed_at=LONG_AGO,
    )  # fmt: skip
    return upsert_policy(stores.pg, record)


def series(stores, start, hours, price=None):
    """Prices with a cheap night and a dear evening, a flat load, no sun."""
    clock = np.arange(hours)
    flat = np.ones(hours)
    made = 0.12 + 0.08 * np.sin(2 * np.pi * (clock - 9) / 24) if price is None else price * flat
    for name, values in (
        (PRICE, made), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 18 * flat), (LOAD_ACTUAL, 2.1e4 * flat),
        (PV_ACTUAL, 0 * flat),
    ):  # fmt: skip
        write_series(stores.pg, SITE, Series(name, start, 3600.0, values), start - timedelta(days=1))


def live(stores, at, soc_pct=50.0):
    """Telemetry and a prediction of just before `at`."""
    (device,) = list_devices(stores.pg, SITE)
    state = Pack(device, soc_pct=soc_pct, soh_pct=92.0, temperature_c=22.0, ambient_c=20.0).state(at - timedelta(seconds=10))
    insert_telemetry(stores.mongo, [pack_document(state, site_id=SITE, firmware="1")])
    write_predictions(stores.mongo, [predict(device, state, np.zeros(104), dt_s=900.0, start=at, ambient_c=20.0)])


def quarters(day):
    """Beginnings of the day's intervals."""
    start, end = day_bounds(day, ZONE)
    return [start + k * STEP for k in range(round((end - start) / STEP))]


def cycle(count, watt=20_000.0):
    """Charge in the night, discharge in the evening."""
    power = np.zeros(count)
    power[8:16], power[-24:-16] = -watt, watt
    return power


def lived(stores, day, policy_id, name, power_w, *, off_pct=0.0, soc_pct=50.0):
    """A day that one policy commanded: decisions with their plans, and the telemetry of a pack that did as it was told.

    `off_pct`: by how much the pack ends each interval above its plan.
    """
    (device,) = list_devices(stores.pg, SITE)
    pack = Pack(device, soc_pct=soc_pct, soh_pct=92.0, temperature_c=20.0, ambient_c=18.0)
    rng = np.random.default_rng(day.toordinal())
    documents = [pack_document(pack.state(quarters(day)[0]), site_id=SITE, firmware="1")]
    with stores.pg.transaction():
        for at, watt in zip(quarters(day), power_w, strict=True):
            for k in range(1, 4):
                pack.step(float(watt), 300.0)
                documents.append(pack_document(pack.state(at + k * STEP / 3), site_id=SITE, firmware="1"))
            planned = pack.soc_pct - off_pct + rng.normal(0.0, 0.05)
            part = {
                "device_id": device.device_id, "power_w": [float(watt)], "soc_pct": [planned],
                "temperature_c": [pack.temperature_c + rng.normal(0.0, 0.05)],
            }  # fmt: skip
            point = SetPoint(device_id=device.device_id, power_w=float(watt), reason=Reason.RULE)
            plan = {"starts_at": at.isoformat(), "dt_s": 900.0, "devices": [part]}
            record_decision(
                stores.pg,
                Decision(
                    site_id=SITE, starts_at=at, interval_s=900, set_points=(point,), source=name, policy_id=policy_id, plan=plan
                ),
            )
    insert_telemetry(stores.mongo, documents)


def shadowed(stores, day, policy_id, name, power_w, outcome="decided"):
    """What a shadow decided in a day."""
    (device,) = list_devices(stores.pg, SITE)
    for at, watt in zip(quarters(day), power_w, strict=True):
        made = ShadowDecision(
            site_id=SITE, policy_id=policy_id, policy=name, starts_at=at, interval_s=900, outcome=outcome,
            detail="" if outcome == "decided" else "it did not", power_w={device.device_id: float(watt)},
        )  # fmt: skip
        record_turn(stores.pg, made, {})


def past_days(stores, policy_id, scores, *, drifted=(), detectors=None, room=10.0, name="best"):
    """Scores of the days before DAY, the newest last, as if each had been scored when it ended."""
    for back, score in enumerate(reversed(scores), start=1):
        day = DAY - timedelta(days=back)
        start, end = day_bounds(day, ZONE)
        mark_day(stores.pg, ScoredDay(site_id=SITE, day=day, starts_at=start, ends_at=end, why_not="", scored_by="test"))
        details = {"drift": {"drifted": list(drifted), "states": detectors or {}}}
        made = PolicyDay(
            site_id=SITE, day=day, role=COMMANDED, policy_id=policy_id, policy=name, score=max(0.0, min(1.0, score)),
            j_eur=score * room, idle_eur=0.0, best_eur=room, decided_share=1.0, violations=0, details=details,
        )  # fmt: skip
        write_policy_days(stores.pg, [made])


@pytest.fixture
def site(stores):
    """The site with the series of ten days before DAY and two after."""
    config = load(stores)
    series(stores, day_bounds(DAY, ZONE)[0] - timedelta(days=10), 24 * 13)
    return config


@pytest.fixture
def best(stores, site):
    """Id of the active policy `best`."""
    return row(stores, "best", score=0.9)


def best_lived(stores, policy_id, **arguments):
    """DAY as `best` commanded it; see lived."""
    lived(stores, DAY, policy_id, "best", cycle(QUARTERS), **arguments)


def scored(stores, **arguments):
    """DAY scored on the morning after."""
    return score_day(stores, SITE, DAY, now=LATER, **arguments)
