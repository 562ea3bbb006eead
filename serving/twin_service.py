"""The twin service: measured state and planned power in, digital_twin_predictions out.

Here: when predictions are made and from what. Not here: the physics (core.twin).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import numpy as np
import structlog

from core.clock import Clock
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.pack import Pack
from core.predictions import Prediction
from core.twin import predict
from serving.dispatch.inputs import AMBIENT, planned_power
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import latest_states
from stores.postgres.decisions import last_decision
from stores.postgres.devices import list_devices
from stores.postgres.series import read_series

log = structlog.get_logger()

FAILURES: tuple[type[Exception], ...] = (InputError, *STORE_FAILURES)
STALE_S = 900.0
"""Telemetry older than this is not predicted from: a prediction must not look fresher than its input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinOptions:
    """What `pulsebms twin run` may be told."""

    site_id: str
    interval_s: int = 900
    """Plant seconds between two rounds."""
    horizon_hours: int = 26
    """Beyond the MPC's horizon, so that a prediction stays usable for two hours."""
    dt_s: float = 900.0


def predict_site(stores: Stores, options: TwinOptions, at: datetime) -> list[Prediction]:
    """Predict every device of the site from its latest telemetry under the last plan, and write the documents.

    The profile starts at the first grid point not before `at`, and so does its initial state: the measured one, carried
    there by the circuit at the power that was measured (`parameters.carried_s` of the document says over how long). What
    the plan says applies from that point on. Devices without fresh telemetry are left out and logged.
    """
    start = datetime.fromtimestamp(-(-at.timestamp() // options.dt_s) * options.dt_s, tz=at.tzinfo)
    steps = round(options.horizon_hours * 3600 / options.dt_s)
    devices = list_devices(stores.pg, options.site_id)
    states = latest_states(stores.mongo, [device.device_id for device in devices], not_after=at)
    plans = planned_power(last_decision(stores.pg, options.site_id))
    ambient_c = _ambient(stores, options, start, steps)
    written: list[Prediction] = []
    for device in devices:
        state = states.get(device.device_id)
        if state is None or (at - state.measured_at).total_seconds() > STALE_S:
            log.warning("twin_skipped", device_id=device.device_id, why="no telemetry" if state is None else "stale")
            continue
        plan = plans.get(device.device_id)
        power_w = np.zeros(steps) if plan is None else plan.window(start, steps, options.dt_s)
        if plan is not None:
            # Beyond the plan's end nothing is planned: the pack rests.
            ends = plan.starts_at + timedelta(seconds=plan.dt_s * len(plan.power_w))
            covered = max(0, int((ends - start).total_seconds() // options.dt_s))
            power_w = np.where(np.arange(steps) < covered, power_w, 0.0)
        try:
            carried = carry(device, state, start, ambient_c=float(ambient_c[0]))
            prediction = predict(device, carried, power_w, dt_s=options.dt_s, start=start, ambient_c=ambient_c)
            carried_s = (start - state.measured_at).total_seconds()
            written.append(replace(prediction, parameters={**prediction.parameters, "carried_s": carried_s}))
        except InputError as error:
            log.error("twin_refused", device_id=device.device_id, why=str(error))
    write_predictions(stores.mongo, written)
    return written


def carry(device: DeviceConfig, state: PackState, to: datetime, *, ambient_c: float) -> PackState:
    """The state at `to`, not before it was measured, when the pack goes on as it did; resistance stays as measured.

    Raises InputError when the state is not usable.
    """
    ahead_s = (to - state.measured_at).total_seconds()
    if ahead_s <= 0:
        return state
    pack = Pack(device, soc_pct=state.soc_pct, soh_pct=state.soh_pct, temperature_c=state.temperature_c, ambient_c=ambient_c)
    pack.step(state.power_w, ahead_s)
    return replace(state, measured_at=to, soc_pct=pack.soc_pct, temperature_c=pack.temperature_c)


def _ambient(stores: Stores, options: TwinOptions, start: datetime, steps: int) -> np.ndarray:
    """Ambient forecast over the profile, yesterday's values where it ends."""
    end = start + timedelta(seconds=steps * options.dt_s)
    series = read_series(stores.pg, options.site_id, AMBIENT, start - timedelta(days=1), end, known_at=start)
    steps_known = int(min((series.end - start).total_seconds(), steps * options.dt_s) // options.dt_s)
    known = series.window(start, steps_known, options.dt_s)
    if steps_known == steps:
        return known
    per_day = round(86_400 / options.dt_s)
    values = np.concatenate([series.window(start - timedelta(days=1), per_day, options.dt_s), known])
    while len(values) < per_day + steps:
        values = np.append(values, values[len(values) - per_day])
    return values[per_day:]


def run_twin(
    stores: Stores,
    clock: Clock,
    options: TwinOptions,
    stop: threading.Event,
    *,
    ends_at: datetime | None = None,
    on_round: Callable[[datetime, int], None] | None = None,
) -> int:
    """A round now and then two thirds into every interval, so that the next tick finds a fresh prediction."""
    rounds = 0
    due = clock.now()
    while not stop.is_set() and (ends_at is None or due < ends_at):
        if stop.wait(min(clock.wall_seconds_until(due), 0.5)):
            break
        if clock.now() < due:
            continue
        try:
            count = len(predict_site(stores, options, clock.now()))
            rounds += 1
            if on_round is not None:
                on_round(due, count)
        except FAILURES as error:
            log.error("twin_failed", why=f"{type(error).__name__}: {error}")
            stop.wait(1.0)
        interval = timedelta(seconds=options.interval_s)
        grid = datetime.fromtimestamp(clock.now().timestamp() // options.interval_s * options.interval_s, tz=clock.now().tzinfo)
        due = grid + interval * 2 / 3
        if due <= clock.now():
            due += interval
    return rounds
