"""Gathers what policies may know, and says of each input where it came from and how old it is.

Here: reading the stores into an Observation, staleness rules. Not here: deciding (policies), commanding
(serving.dispatch.tick).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from core.decisions import Decision
from core.devices import CYCLE_HOURS, DeviceConfig, DeviceStatus, PackState
from core.errors import InputError
from core.limits import PackLimits, tightest
from core.predictions import Prediction
from core.series import Series
from core.signal import DispatchSignal, SignalStep
from optimizer.measured import check_measured
from policies.base import Observation, PlannedPower
from serving.dispatch.history import day_before_errors, forecast_errors, month_peak
from serving.dispatch.price_history import long_prices
from serving.site_loader import site_config
from stores.connections import Stores
from stores.mongo.predictions import latest_predictions
from stores.mongo.telemetry import latest_states, soc_extremes
from stores.postgres.constraints import constraint_rows, newest_constraints
from stores.postgres.decisions import last_decision
from stores.postgres.devices import list_devices
from stores.postgres.series import read_series
from stores.postgres.series_rows import series_rows
from stores.redis.pending import latched_among

PRICE = "day_ahead_price_eur_per_kwh"
LOAD_FORECAST = "load_forecast_w"
PV_FORECAST = "pv_forecast_w"
LOAD_ACTUAL = "load_w"
PV_ACTUAL = "pv_w"
AMBIENT = "ambient_c"
GRID_IMPORT = "grid_import_w"
"""Net import at the meter, mean over each interval, as recorded."""
SIGNAL = "dispatch_signal_w"
"""Net import that the site is asked for (`pulsebms site signal`)."""

LATCHED = "latched by an emergency_shutdown; an operator must reset it"
OUT_OF_SERVICE: Mapping[DeviceStatus, str] = {
    DeviceStatus.MAINTENANCE: "in maintenance (device_configurations.status)",
    DeviceStatus.ERROR: "in error (device_configurations.status)",
}
"""Why a device of this status is not commanded; `offline` is no reason, telemetry says better who is heard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Freshness:
    """How old an input may be, in plant seconds, before it counts as missing."""

    telemetry_s: float = 300.0
    prediction_s: float = 3600.0
    min_calibration_score: float = 0.5
    """A prediction by a twin whose calibration explains less (0-1, docs/twin.md) counts as missing; one by a twin that was never
    calibrated has no score and passes, unless `require_calibration`."""
    require_calibration: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """An observation, and the devices that are left out of it with the reason for each."""

    observation: Observation
    left_out: Mapping[str, str]
    all_devices: tuple[DeviceConfig, ...]


def gather(stores: Stores, site_id: str, starts_at: datetime, interval_s: int, *, horizon_s: int, fresh: Freshness) -> Gathered:
    """Read every input of one tick.

    Raises InputError when the site is unknown or a series does not cover even the interval itself. A single device's
    missing or impossible state, contradictory limits, latch or maintenance only leave that device out: what rests must not be
    planned with.
    """
    site = site_config(stores.pg, site_id)
    devices = tuple(list_devices(stores.pg, site_id))
    ids = [device.device_id for device in devices]
    rows, written = constraint_rows(stores.pg, site_id), newest_constraints(stores.pg, site_id)
    states = latest_states(stores.mongo, ids, not_after=starts_at + timedelta(seconds=interval_s))
    # A tick that runs late must not take the prediction that the twin has made for the next one.
    predictions = latest_predictions(stores.mongo, ids, not_after=starts_at + timedelta(seconds=interval_s - 1))
    latched = latched_among(stores.redis, ids)
    limits: dict[str, PackLimits] = {}
    left_out: dict[str, str] = {}
    usable: list[DeviceConfig] = []
    inputs: dict[str, Any] = {}
    for device in devices:
        key = device.device_id
        why = OUT_OF_SERVICE.get(device.status) or (LATCHED if key in latched else _why_not(states.get(key), starts_at, fresh))
        if why is None:
            try:
                check_measured(device, states[key])
                limits[key] = tightest(device, rows.get(key, []), starts_at)
            except InputError as error:
                why = str(error)
        if why is None:
            usable.append(device)
            inputs[f"telemetry:{key}"] = _aged("telemetry_data", states[key].measured_at, starts_at)
            in_force = sum(row.in_force(starts_at) for row in rows.get(key, []))
            inputs[f"limits:{key}"] = {
                **_aged("safety_constraints", written.get(key), starts_at),
                "rows_in_force": in_force,
                "set_by": dict(limits[key].origins),
            }
        else:
            left_out[key] = why
    # The cycle's extremes so far: a depth that only looked ahead would begin anew at every tick.
    since = starts_at - timedelta(hours=CYCLE_HOURS)
    for key, (low, high) in soc_extremes(stores.mongo, [d.device_id for d in usable], since, starts_at).items():
        states[key] = replace(states[key], cycle_low_pct=low, cycle_high_pct=high)
        inputs[f"telemetry:{key}"] |= {"cycle_low_pct": low, "cycle_high_pct": high}
    missing = {d.device_id: why for d in usable if (why := _no_prediction(d, predictions, starts_at, fresh))}
    for device in usable:
        if device.device_id not in missing:
            predicted = predictions[device.device_id]
            inputs[f"prediction:{device.device_id}"] = {
                **_aged("digital_twin_predictions", predicted.prediction_timestamp, starts_at),
                "model": predicted.model_type,
                "calibration_score": predicted.calibration_score,
                "calibrated_at": None if predicted.calibration_date is None else predicted.calibration_date.isoformat(),
            }
    series = {
        name: _known_series(stores, site_id, name, starts_at, horizon_s, inputs)
        for name in (PRICE, LOAD_FORECAST, PV_FORECAST, AMBIENT)
    }
    price_known_until = datetime.fromisoformat(inputs[PRICE]["known_until"])
    errors = {
        name: series
        for name, series in (
            ("load_w", forecast_errors(stores, site_id, "load_w", LOAD_FORECAST, LOAD_ACTUAL, starts_at, inputs)),
            ("pv_w", forecast_errors(stores, site_id, "pv_w", PV_FORECAST, PV_ACTUAL, starts_at, inputs)),
            ("price_eur_per_kwh", day_before_errors(stores, site_id, PRICE, starts_at, inputs)),
        )
        if series is not None
    }
    last = last_decision(stores.pg, site_id)
    if last is not None:
        inputs["last_plan"] = _aged(f"decisions, by {last.source}", last.starts_at, starts_at)
    observation = Observation(
        site=site,
        starts_at=starts_at,
        interval_s=interval_s,
        devices=tuple(usable),
        limits=limits,
        states={d.device_id: states[d.device_id] for d in usable},
        predictions=predictions,
        missing_predictions=missing,
        price_eur_per_kwh=long_prices(stores, site_id, PRICE, series[PRICE], starts_at),
        load_w=series[LOAD_FORECAST],
        pv_w=series[PV_FORECAST],
        ambient_c=series[AMBIENT],
        peak_incurred_w=month_peak(stores, site, GRID_IMPORT, starts_at, inputs),
        signal=_signal(stores, site_id, starts_at, horizon_s, inputs),
        errors=errors,
        price_known_until=price_known_until,
        last_plan=planned_power(last),
        inputs=inputs,
    )
    return Gathered(observation=observation, left_out=left_out, all_devices=devices)


def planned_power(decision: Decision | None) -> dict[str, PlannedPower]:
    """The plan kept with a decision, by device; the set points alone where it kept none."""
    if decision is None:
        return {}
    stored = decision.plan
    if not stored:
        return {
            point.device_id: PlannedPower(
                starts_at=decision.starts_at, dt_s=decision.interval_s, power_w=np.array([point.power_w])
            )
            for point in decision.set_points
        }
    starts_at = datetime.fromisoformat(stored["starts_at"])
    return {
        part["device_id"]: PlannedPower(
            starts_at=starts_at, dt_s=float(stored["dt_s"]), power_w=np.asarray(part["power_w"], dtype=np.float64)
        )
        for part in stored["devices"]
    }


def _why_not(state: PackState | None, starts_at: datetime, fresh: Freshness) -> str | None:
    if state is None:
        return "no telemetry"
    age_s = (starts_at - state.measured_at).total_seconds()
    if age_s > fresh.telemetry_s:
        return f"telemetry is {age_s:.0f} s old (allowed {fresh.telemetry_s:.0f} s)"
    if state.not_finite:
        return f"telemetry holds a number that is not finite: {', '.join(state.not_finite)}"
    if not 0 < state.soh_pct <= 100 or not 0 <= state.soc_pct <= 100:
        return f"telemetry says SoC {state.soc_pct:g} %, SoH {state.soh_pct:g} %: outside 0-100"
    return None


def _no_prediction(
    device: DeviceConfig, predictions: Mapping[str, Prediction], starts_at: datetime, fresh: Freshness
) -> str | None:
    prediction = predictions.get(device.device_id)
    if prediction is None:
        return "missing"
    age_s = (starts_at - prediction.prediction_timestamp).total_seconds()
    if age_s > fresh.prediction_s:
        return f"{age_s:.0f} s old (allowed {fresh.prediction_s:.0f} s)"
    score = prediction.calibration_score
    if score is None:
        return "its twin was never calibrated, which is required" if fresh.require_calibration else None
    if not score >= fresh.min_calibration_score:  # NaN too
        return f"its calibration scores {score:.2f} (needed {fresh.min_calibration_score:.2f})"
    return None


def _known_series(stores: Stores, site_id: str, name: str, starts_at: datetime, horizon_s: int, inputs: dict[str, Any]) -> Series:
    """What is known now; where the horizon reaches past it, the value of 24 hours before is taken, and said so."""
    day = timedelta(days=1)
    end = starts_at + timedelta(seconds=horizon_s)
    hour = starts_at.replace(minute=0, second=0, microsecond=0)
    known = read_series(stores.pg, site_id, name, hour - day, end, known_at=starts_at)
    if known.end <= starts_at:
        raise InputError(
            source=f"series {name} of {site_id}",
            field="end",
            value=known.end.isoformat(),
            expected=f"values for {starts_at.isoformat()} and later",
        )
    missing = int(np.ceil(max(0.0, (end - known.end).total_seconds()) / known.dt_s))
    per_day = round(day.total_seconds() / known.dt_s)
    values = known.values
    for _ in range(missing):
        if len(values) < per_day:
            raise InputError(
                source=f"series {name} of {site_id}",
                field="range",
                value=f"{known.start.isoformat()} to {known.end.isoformat()}",
                expected="a day of known values to continue from",
            )
        values = np.append(values, values[len(values) - per_day])
    newest = max(
        (row.known_at for row in series_rows(stores.pg, site_id, name, starts_at - day, end, known_at=starts_at)), default=None
    )
    inputs[name] = {
        **_aged("site_series", newest, starts_at),
        "known_until": known.end.isoformat(),
        "continued_by_yesterday_s": missing * known.dt_s,
    }
    return Series(name, known.start, known.dt_s, values)


def _signal(stores: Stores, site_id: str, starts_at: datetime, horizon_s: int, inputs: dict[str, Any]) -> DispatchSignal | None:
    """The dispatch signal over the horizon as known now; None when nothing is asked in it."""
    end = starts_at + timedelta(seconds=horizon_s)
    rows = series_rows(stores.pg, site_id, SIGNAL, starts_at - timedelta(days=1), end, known_at=starts_at)
    ahead = [row for row in rows if row.starts_at + timedelta(seconds=row.dt_s) > starts_at]
    if not ahead:
        return None
    last = max(row.starts_at + timedelta(seconds=row.dt_s) for row in ahead)
    inputs[SIGNAL] = {
        **_aged("site_series", max(row.known_at for row in ahead), starts_at),
        "known_until": last.isoformat(),
        "steps": len(ahead),
    }
    return DispatchSignal(tuple(SignalStep(row.starts_at, row.dt_s, row.value, row.known_at) for row in ahead))


def _aged(source: str, at: datetime | None, starts_at: datetime) -> dict[str, Any]:
    """Source and age; an input that is newer than the interval, or of another clock, has age 0."""
    if at is None:
        return {"source": source, "age_s": None}
    return {"source": source, "at": at.isoformat(), "age_s": max(0.0, (starts_at - at).total_seconds())}
