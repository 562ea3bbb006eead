"""What a past day was: prices, load, PV, air, states at its beginning, what was commanded and what shadows decided.

Here: reading the stores into a World of one day (serving.evaluation.world) and the schedules that are replayed on it. Not here:
replaying them (serving.shadow.scoring).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from core.calibration import NOMINAL, Factors
from core.decisions import Decision
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.limits import PackLimits, tightest
from core.site import SiteConfig
from serving.dispatch.inputs import AMBIENT, LOAD_ACTUAL, LOAD_FORECAST, PRICE, PV_ACTUAL, PV_FORECAST, SIGNAL
from serving.evaluation.world import World
from serving.shadow.days import day_bounds
from serving.site_loader import site_config
from stores.connections import Stores
from stores.mongo.telemetry import latest_states
from stores.postgres.calibrations import calibrations_in_force
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import decisions
from stores.postgres.devices import list_devices
from stores.postgres.policy_days import COMMANDED, SHADOW
from stores.postgres.series_rows import SeriesRow, rows_as_known, series_rows
from stores.postgres.shadow import DECIDED, shadow_decisions

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
MOST_PACKS = 64
"""Sites of more are neither shadowed nor scored: perfect foresight plans pack by pack."""
START_AGE_S = 900.0
"""A day begins at telemetry that is no older than this at its start, or no younger."""
DAY_S = 86_400.0
HOUR = timedelta(hours=1)
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


def read_day(stores: Stores, site_id: str, day: date) -> Day:
    """Raises InputError saying what is missing when the day cannot be scored."""
    site = site_config(stores.pg, site_id)
    start, end = day_bounds(day, site.timezone)
    source = f"day {day.isoformat()} of {site_id}"
    commanded = decisions(stores.pg, site_id, since=start, until=end)
    shadows = shadow_decisions(stores.pg, site_id, start, end)
    if not commanded and not shadows:
        raise InputError(source=source, field="decisions", value=0, expected="one at least")
    dt_s = min([*(item.interval_s for item in commanded), *(item.interval_s for item in shadows)])
    steps = round((end - start).total_seconds() / dt_s)
    if abs(steps * dt_s - (end - start).total_seconds()) > 1e-6 or DAY_S % dt_s:
        raise InputError(source=source, field="interval_s", value=dt_s, expected="a divisor of the day")
    devices, limits, states, left_out = _packs(stores, site, start, dt_s)
    if not devices:
        raise InputError(source=source, field="devices", value=left_out, expected="one with limits and telemetry at its start")
    if len(devices) > MOST_PACKS:
        raise InputError(source=source, field="devices", value=len(devices), expected=f"{MOST_PACKS} at most")
    series, notes = _read_series(stores, site_id, start, end, dt_s, steps, source)
    site = site.model_copy(
        update={"packs": tuple(p.model_copy(update={"soh_pct": states[p.device_id].soh_pct}) if p.device_id in states else p
                               for p in site.packs)}
    )  # fmt: skip
    calibrations, _ = calibrations_in_force(stores.pg, list(states), at=start)
    factors = {key: calibrations[key].factors if key in calibrations else NOMINAL for key in states}
    world = world_of(site, devices, limits, states, start, float(dt_s), series)
    schedules = [_commanded(commanded, devices, start, dt_s, steps)] if commanded else []
    for policy_id in dict.fromkeys(item.policy_id for item in shadows):
        own = [item for item in shadows if item.policy_id == policy_id]
        points = [(item.starts_at, item.interval_s, item.power_w if item.outcome == DECIDED else None) for item in own]
        power_w, decided = _on_grid(points, devices, start, dt_s, steps)
        failed = [item for item in own if item.outcome != DECIDED]
        counts = {kind: sum(item.outcome == kind for item in failed) for kind in dict.fromkeys(item.outcome for item in failed)}
        schedules.append(
            Schedule(
                role=SHADOW, policy_id=policy_id, policy=own[-1].policy, power_w=power_w, decided=decided, failures=counts,
                last_failure=failed[-1].detail[:300] if failed else "",
            )
        )  # fmt: skip
    return Day(
        day=day, world=world, states=states, factors=factors, schedules=tuple(schedules), commanded=tuple(commanded),
        notes={**notes, "left_out": left_out}, why_no_floor=_why_no_floor(stores, site, start, end),
    )  # fmt: skip


def _packs(
    stores: Stores, site: SiteConfig, start: datetime, dt_s: float
) -> tuple[tuple[DeviceConfig, ...], dict[str, PackLimits], dict[str, PackState], dict[str, str]]:
    """Devices that can be replayed, and why others cannot."""
    rows = constraint_rows(stores.pg, site.site_id)
    devices = list_devices(stores.pg, site.site_id)
    known = {pack.device_id for pack in site.packs}
    # Telemetry of just after midnight serves as well as that of just before, if nothing came for a while.
    measured = latest_states(stores.mongo, [d.device_id for d in devices], not_after=start + timedelta(seconds=dt_s))
    before = latest_states(stores.mongo, [d.device_id for d in devices], not_after=start)
    usable, limits, states, left_out = [], {}, {}, {}
    for device in devices:
        key = device.device_id
        state = next((s for s in (before.get(key), measured.get(key)) if s is not None and _near(s, start)), None)
        if key not in known:
            left_out[key] = "not in the site's file"
        elif state is None:
            left_out[key] = "no telemetry at the day's start"
        elif state.not_finite or not 0 < state.soh_pct <= 100 or not 0 <= state.soc_pct <= 100:
            left_out[key] = f"telemetry says SoC {state.soc_pct:g} %, SoH {state.soh_pct:g} %"
        else:
            try:
                limits[key] = tightest(device, rows.get(key, []), start)
            except InputError as error:
                left_out[key] = str(error)
                continue
            usable.append(device)
            states[key] = state
    return tuple(usable), limits, states, left_out


def _near(state: PackState, start: datetime) -> bool:
    return abs((state.measured_at - start).total_seconds()) <= START_AGE_S


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


def _read_series(
    stores: Stores, site_id: str, start: datetime, end: datetime, dt_s: float, steps: int, source: str
) -> tuple[DaySeries, dict[str, object]]:
    """The series, and the shares of load and PV that were measured."""
    notes: dict[str, object] = {}
    late = end + timedelta(days=365)

    def final(name: str) -> FloatArray:
        return _grid(series_rows(stores.pg, site_id, name, start - HOUR, end, known_at=late), start, dt_s, steps)

    def known(name: str) -> FloatArray:
        rows = rows_as_known(stores.pg, site_id, name, start - HOUR, end, known_at=end)
        return np.nan_to_num(_grid(rows, start, dt_s, steps), nan=0.0)

    def measured(name: str, actual: FloatArray, forecast: FloatArray) -> FloatArray:
        notes[f"{name}_measured_share"] = round(float(np.isfinite(actual).mean()), 4)
        return np.where(np.isnan(actual), forecast, actual)

    price = final(PRICE)
    missing = int(np.isnan(price).sum())
    if missing:
        raise InputError(source=source, field=PRICE, value=f"{missing} of {steps} steps unknown", expected="every price")
    load_forecast_w, pv_forecast_w = known(LOAD_FORECAST), known(PV_FORECAST)
    air, at = final(AMBIENT), np.arange(steps)
    if np.isnan(air).all():
        raise InputError(source=source, field=AMBIENT, value=None, expected="a value of the day")
    return DaySeries(
        price=price,
        load_w=measured("load", final(LOAD_ACTUAL), load_forecast_w),
        pv_w=measured("pv", final(PV_ACTUAL), pv_forecast_w),
        load_forecast_w=load_forecast_w,
        pv_forecast_w=pv_forecast_w,
        ambient_c=np.interp(at, at[~np.isnan(air)], air[~np.isnan(air)]),
    ), notes


def _grid(rows: Sequence[SeriesRow], start: datetime, dt_s: float, steps: int) -> FloatArray:
    """Time-weighted means on the day's grid; NaN where a step is not covered whole."""
    total, covered = np.zeros(steps), np.zeros(steps)
    for row in rows:
        begin = (row.starts_at - start).total_seconds() / dt_s
        end = begin + row.dt_s / dt_s
        for k in range(max(0, int(np.floor(begin))), min(steps, int(np.ceil(end)))):
            part = min(end, k + 1.0) - max(begin, float(k))
            if part > 0:
                total[k] += part * row.value
                covered[k] += part
    found: FloatArray = np.where(covered > 1.0 - 1e-6, total / np.maximum(covered, 1e-12), np.nan)
    return found


def _on_grid(
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


def _commanded(items: Sequence[Decision], devices: Sequence[DeviceConfig], start: datetime, dt_s: float, steps: int) -> Schedule:
    """All that was commanded, in the name of whoever decided most of it."""
    points = [(d.starts_at, d.interval_s, {p.device_id: p.power_w for p in d.set_points}) for d in items]
    power_w, _ = _on_grid(points, devices, start, dt_s, steps)
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


def _why_no_floor(stores: Stores, site: SiteConfig, start: datetime, end: datetime) -> str:
    if site.grid.peak_price_eur_per_kw > 0:
        return "the site pays for its peak, which a day does not price"
    if series_rows(stores.pg, site.site_id, SIGNAL, start, end, known_at=end):
        return "a dispatch signal was followed, which is not money"
    return ""
