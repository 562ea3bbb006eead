"""What a past day was: prices, load, PV, air, states at its beginning, what was commanded and what shadows decided.

Here: reading the stores into a Day (serving.shadow.day). Not here: replaying it (serving.shadow.scoring).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np

from core.calibration import NOMINAL
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.limits import PackLimits, tightest
from core.site import SiteConfig
from serving.dispatch.inputs import AMBIENT, LOAD_ACTUAL, LOAD_FORECAST, PRICE, PV_ACTUAL, PV_FORECAST, SIGNAL
from serving.shadow.day import DAY_S, Day, DaySeries, FloatArray, Schedule, commanded_schedule, on_grid, world_of
from serving.shadow.days import day_bounds
from serving.site_loader import site_config
from stores.connections import Stores
from stores.mongo.telemetry import latest_states
from stores.postgres.calibrations import calibrations_in_force
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import decisions
from stores.postgres.devices import list_devices
from stores.postgres.policy_days import SHADOW
from stores.postgres.series_rows import SeriesRow, rows_as_known, series_rows
from stores.postgres.shadow import DECIDED, shadow_decisions

MOST_PACKS = 64
"""Sites of more are neither shadowed nor scored: perfect foresight plans pack by pack."""
START_AGE_S = 900.0
"""A day begins at telemetry that is no older than this at its start, or no younger."""
HOUR = timedelta(hours=1)


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
    schedules = [commanded_schedule(commanded, devices, start, dt_s, steps)] if commanded else []
    for policy_id in dict.fromkeys(item.policy_id for item in shadows):
        own = [item for item in shadows if item.policy_id == policy_id]
        points = [(item.starts_at, item.interval_s, item.power_w if item.outcome == DECIDED else None) for item in own]
        power_w, decided = on_grid(points, devices, start, dt_s, steps)
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


def _why_no_floor(stores: Stores, site: SiteConfig, start: datetime, end: datetime) -> str:
    if site.grid.peak_price_eur_per_kw > 0:
        return "the site pays for its peak, which a day does not price"
    if series_rows(stores.pg, site.site_id, SIGNAL, start, end, known_at=end):
        return "a dispatch signal was followed, which is not money"
    return ""
