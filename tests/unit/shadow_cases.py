"""Days of the demo's packs on made-up prices, and shadows' tasks, for the tests of serving.shadow."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import yaml
from dispatch_cases import device, observation, record

from core.calibration import NOMINAL
from core.limits import tightest
from core.pack import Pack
from core.series import Series
from core.site import SiteConfig
from core.twin import predict
from serving.shadow.day import Day, DaySeries, Schedule, world_of
from serving.shadow.days import day_bounds, local_day
from serving.shadow.turn import Task
from stores.postgres.policy_days import SHADOW

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


def site(packs=1, **changes):
    file = yaml.safe_load(SITE_FILE.read_text()) | changes
    file["packs"] = file["packs"][:packs]
    return SiteConfig.model_validate(file)


def prices(steps, dt_s=900.0):
    hours = np.arange(steps) * dt_s / 3600.0
    return 0.12 + 0.08 * np.sin(2 * np.pi * (hours - 9) / 24) + 0.04 * np.sin(4 * np.pi * hours / 24)


def schedule(steps, ids, power_w, *, name="x", role=SHADOW, decided=None):
    values = np.broadcast_to(np.asarray(power_w, dtype=np.float64), (steps,))
    return Schedule(
        role=role, policy_id=f"id-{name}", policy=name, power_w={key: values.copy() for key in ids},
        decided=np.ones(steps, dtype=np.bool_) if decided is None else decided,
    )  # fmt: skip


def day(on, *powers, config=None, dt_s=900.0, soc_pct=50.0, load_w=2e4, factors=NOMINAL, price=None):
    """A day on which schedules x0, x1 ... hold these powers, the same for all packs."""
    config = config or site()
    start, end = day_bounds(on, config.timezone)
    steps = round((end - start).total_seconds() / dt_s)
    devices = tuple(pack.device_config(config.site_id) for pack in config.packs)
    limits = {
        d.device_id: tightest(d, [spec.row(d.device_id, "r") for spec in pack.constraints], start)
        for d, pack in zip(devices, config.packs, strict=True)
    }
    states = {
        d.device_id: Pack(d, soc_pct=soc_pct, soh_pct=pack.soh_pct, temperature_c=20.0, ambient_c=18.0).state(start)
        for d, pack in zip(devices, config.packs, strict=True)
    }
    flat = np.ones(steps)
    series = DaySeries(
        price=prices(steps, dt_s) if price is None else price * flat, load_w=load_w * flat, pv_w=0 * flat,
        load_forecast_w=load_w * flat, pv_forecast_w=0 * flat, ambient_c=18.0 * flat,
    )  # fmt: skip
    world = world_of(config, devices, limits, states, start, dt_s, series)
    ids = [d.device_id for d in devices]
    return Day(
        day=on, world=world, states=states, factors=dict.fromkeys(ids, factors), commanded=(), notes={}, why_no_floor="",
        schedules=tuple(schedule(steps, ids, power, name=f"x{k}") for k, power in enumerate(powers)),
    )  # fmt: skip


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def task(at=NOON, kept=None, *, pack=None, soc_pct=50.0, earlier=None, plan_h=26, meter=None, **config):
    """A shadow's task at a time, with the real pack at a SoC; `config` is the row's (tests.unit.failing_policies)."""
    config_of = pack or device()
    real = Pack(config_of, soc_pct=soc_pct, soh_pct=90.0, temperature_c=22.0, ambient_c=20.0).state(at - timedelta(seconds=10))
    prediction = predict(config_of, real, np.zeros(plan_h * 4), dt_s=900.0, start=at, ambient_c=20.0)
    seen = observation(config_of, states={config_of.device_id: real}, starts_at=at, predictions={config_of.device_id: prediction})
    hours = np.ones(96)
    series = {
        name: Series(name, at - timedelta(hours=1), 3600.0, value * hours)
        for name, value in (("price_eur_per_kwh", 0.1), ("load_w", 0.0), ("pv_w", 0.0), ("ambient_c", 20.0))
    }
    return Task(
        record=record("shadow", **config), files=None, observation=replace(seen, **series), meter=meter,
        day=local_day(at, "UTC"), kept=kept, earlier=earlier or {},
    )  # fmt: skip
