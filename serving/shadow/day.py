"""One past day as it is replayed: the World on its grid, and the schedules that were decided for it. Pure.

Not here: reading them (serving.shadow.day_inputs), replaying them (serving.shadow.scoring).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime

import numpy as np
from numpy.typing import NDArray

from core.calibration import Factors
from core.decisions import Decision
from core.devices import DeviceConfig, PackState
from core.limits import PackLimits
from core.site import SiteConfig
from serving.evaluation.world import World
from stores.postgres.policy_days import COMMANDED

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
DAY_S = 86_400.0
PAD_DAYS = 2
"""Of the World before and after the day: replay looks there, the schedules do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What one policy decided in a day, on the day's grid."""

    role: str
    policy_id: str
    """Empty for rule, hold and stop."""
    policy: str
    power_w: Mapping[str, FloatArray]
    """Device -> (steps,), discharge positive; 0 where nothing was decided."""
    decided: BoolArray
    """(steps,): whether this policy decided."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Why it did not, by kind, and how often."""
    last_failure: str = ""
    made_by: Mapping[str, int] = field(default_factory=dict)
    """Of what was commanded: steps by the policy that decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One day of one site, ready to be replayed."""

    day: date
    world: World
    states: Mapping[str, PackState]
    """As measured when it began."""
    factors: Mapping[str, Factors]
    schedules: tuple[Schedule, ...]
    commanded: tuple[Decision, ...]
    notes: Mapping[str, object]
    """JSON-ready: where load and PV are from, devices that are not in it."""
    why_no_floor: str
    """Why its scores must not be held against a floor; empty when they may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DaySeries:
    """The day's series on its grid, each (steps,)."""

    price: FloatArray
    """Day-ahead, EUR/kWh."""
    load_w: FloatArray
    pv_w: FloatArray
    load_forecast_w: FloatArray
    """As known when each step began; so is PV's."""
    pv_forecast_w: FloatArray
    ambient_c: FloatArray


def world_of(
    site: SiteConfig,
    devices: tuple[DeviceConfig, ...],
    limits: Mapping[str, PackLimits],
    states: Mapping[str, PackState],
    start: datetime,
    dt_s: float,
    series: DaySeries,
) -> World:
    """The day with itself repeated before and after it: replay looks there, schedules and perfect foresight do not."""
    steps, pad = len(series.price), round(PAD_DAYS * DAY_S / dt_s)

    def wide(values: FloatArray) -> FloatArray:
        around: FloatArray = np.resize(values, pad)
        return np.concatenate([around, values, around])

    count = steps + 2 * pad
    everything = np.full(count, count, dtype=np.int64)
    replayed, price = _as_replayed(site, series)
    return World(
        site=replayed, devices=devices, limits=dict(limits), start=start, steps=steps, dt_s=dt_s, first=pad,
        price=wide(price), expected=np.full(count, np.nan), price_known_until=everything, expected_until=everything,
        load_w=wide(series.load_w), pv_w=wide(series.pv_w), load_forecast_w=wide(series.load_forecast_w),
        pv_forecast_w=wide(series.pv_forecast_w), ambient_c=wide(series.ambient_c),
        start_soc_pct={key: state.soc_pct for key, state in states.items()},
    )  # fmt: skip


def _as_replayed(site: SiteConfig, series: DaySeries) -> tuple[SiteConfig, FloatArray]:
    """The site without policies and without a price of the month's peak (a day is no month); prices with another zero.

    J values the change of stored energy at the mean of the price. Where fees and taxes lie between market and meter, that would
    reward emptying the packs day by day, and each day begins anew at the measured state. So the price is moved by a constant to
    the mean of what energy is worth at the meter (import price while the site draws, export price else), and the tariff by its
    opposite: what is bought and sold costs the same as before.
    """
    buy, sell = site.tariff.buy_sell(series.price)
    worth = float(np.where(series.load_w > series.pv_w, buy, sell).mean())
    moved = worth - float(series.price.mean())
    tariff = site.tariff.model_copy(
        update={
            "network_fee_eur_per_kwh": site.tariff.network_fee_eur_per_kwh - moved,
            "export_margin_eur_per_kwh": site.tariff.export_margin_eur_per_kwh + moved,
        }
    )
    grid = site.grid.model_copy(update={"peak_price_eur_per_kw": 0.0})
    return site.model_copy(update={"policies": (), "grid": grid, "tariff": tariff}), series.price + moved


def on_grid(
    points: Sequence[tuple[datetime, int, Mapping[str, float] | None]],
    devices: Sequence[DeviceConfig],
    start: datetime,
    dt_s: float,
    steps: int,
) -> tuple[dict[str, FloatArray], BoolArray]:
    """Powers of each device and whether something was decided; the later of two decisions for a step holds."""
    power = {device.device_id: np.zeros(steps) for device in devices}
    decided = np.zeros(steps, dtype=np.bool_)
    for starts_at, interval_s, power_w in points:
        if power_w is None:
            continue
        first = round((starts_at - start).total_seconds() / dt_s)
        last = min(steps, first + round(interval_s / dt_s))
        for key, values in power.items():
            values[first:last] = power_w.get(key, 0.0)
        decided[first:last] = True
    return power, decided


def commanded_schedule(
    items: Sequence[Decision], devices: Sequence[DeviceConfig], start: datetime, dt_s: float, steps: int
) -> Schedule:
    """All that was commanded, in the name of whoever decided most of it."""
    points = [(d.starts_at, d.interval_s, {p.device_id: p.power_w for p in d.set_points}) for d in items]
    power_w, _ = on_grid(points, devices, start, dt_s, steps)
    by: list[tuple[str, str] | None] = [None] * steps
    for item in items:
        first = round((item.starts_at - start).total_seconds() / dt_s)
        for k in range(max(0, first), min(steps, first + round(item.interval_s / dt_s))):
            by[k] = (item.policy_id or "", item.source)
    counts: dict[tuple[str, str], int] = {}
    for who in by:
        if who is not None:
            counts[who] = counts.get(who, 0) + 1
    main = max(counts, key=lambda who: counts[who])
    passed: dict[str, int] = {}
    last = ""
    for item in items:
        for name, why in item.passed_over:
            if name == main[1]:
                passed["passed_over"] = passed.get("passed_over", 0) + 1
                last = why
    return Schedule(
        role=COMMANDED, policy_id=main[0], policy=main[1], power_w=power_w, decided=np.array([who == main for who in by]),
        failures=passed, last_failure=last[:300], made_by={name: count for (_, name), count in counts.items()},
    )  # fmt: skip
