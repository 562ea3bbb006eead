"""The twin service: measured state and planned power in, digital_twin_predictions out, a whole site at once.

Here: when predictions are made and from what. Not here: which telemetry is fit for it (serving.twin_checks), the physics
(core.twin), calibration (serving.calibration).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import numpy as np
import structlog
from numpy.typing import NDArray

from core.calibration import Calibration
from core.clock import Clock
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.predictions import Prediction
from core.twin import circuit_parameters, predict_many, run_circuit
from policies.base import PlannedPower
from serving.dispatch.inputs import AMBIENT, planned_power
from serving.twin_checks import why_unusable, why_wrong_clock
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.mongo.predictions import write_predictions
from stores.mongo.records import newest_stamps
from stores.mongo.telemetry import latest_states
from stores.postgres.calibrations import calibrations_in_force
from stores.postgres.decisions import last_decision
from stores.postgres.devices import list_devices
from stores.postgres.series import read_series
from stores.postgres.series_rows import series_rows

FloatArray = NDArray[np.float64]
log = structlog.get_logger()

FAILURES: tuple[type[Exception], ...] = (InputError, *STORE_FAILURES)
NEAR_AMBIENT = timedelta(days=2)
"""How far a single known ambient temperature may lie from the profile's start to stand for it."""
BATCH = 2000
"""Devices predicted and written together: bounds the memory of a round."""
SETTLE_WALL_S = 5.0
"""Wall seconds between two rounds while devices are being started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinOptions:
    """What `pulsebms twin run` may be told."""

    site_id: str
    interval_s: int = 900
    """Plant seconds between two rounds."""
    horizon_hours: int = 26
    """Beyond the MPC's horizon, so that a prediction stays usable for two hours."""
    dt_s: float = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRound:
    """What a round did."""

    start: datetime
    """First step of its predictions."""
    predictions: list[Prediction]
    left_out: Mapping[str, str]
    """Devices that were not predicted, and why."""
    ambient: str = ""
    """Where the ambient temperature is from."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by stage."""


def predict_site(
    stores: Stores, options: TwinOptions, at: datetime, *, present: Callable[[], datetime] | None = None
) -> TwinRound:
    """Predict every device of the site from its latest telemetry under the last plan, and write the documents.

    The profile starts at the first grid point not before `at`, and so does its initial state: the measured one, carried
    there by the circuit at the power that was measured (`parameters.carried_s` of the document says over how long). What
    the plan says applies from that point on. Devices whose telemetry is not fit for it are left out, logged and counted.
    Without a forecast of ambient temperature the round goes on with the next best one (`_ambient`), and says so.
    `present` tells the plant's time after reading (`at` without it): telemetry stamped well after that is a wrong clock.
    """
    watch = _Stopwatch()
    start = datetime.fromtimestamp(-(-at.timestamp() // options.dt_s) * options.dt_s, tz=at.tzinfo)
    steps = round(options.horizon_hours * 3600 / options.dt_s)
    devices = list_devices(stores.pg, options.site_id)
    ids = [device.device_id for device in devices]
    states = latest_states(stores.mongo, ids, not_after=at)
    newest = newest_stamps(stores.mongo, ids)
    read_at = at if present is None else max(at, present())
    calibrations, unusable = calibrations_in_force(stores.pg, ids, at=at)
    plans = planned_power(last_decision(stores.pg, options.site_id))
    ambient_c, ambient = _ambient(stores, options, start, steps)
    watch.lap("read")
    left_out: dict[str, str] = {}
    usable: list[DeviceConfig] = []
    for device in devices:
        key = device.device_id
        why = why_wrong_clock(newest.get(key), read_at) or why_unusable(device, states.get(key), at)
        why = why or (f"calibration: {unusable[key]}" if key in unusable else None)
        if why is None:
            usable.append(device)
        else:
            left_out[key] = why
    watch.lap("check")
    written: list[Prediction] = []
    for begin in range(0, len(usable), BATCH):
        batch = usable[begin : begin + BATCH]
        inputs = _Inputs(options, start, steps, ambient_c, ambient, states, calibrations, plans)
        made = _predict_batch(inputs, batch, left_out)
        watch.lap("predict")
        write_predictions(stores.mongo, made)
        watch.lap("write")
        written += made
    for device_id, why in left_out.items():
        log.warning("twin_left_out", device_id=device_id, why=why)
    return TwinRound(start=start, predictions=written, left_out=left_out, ambient=ambient, seconds=watch.seconds)


class _Stopwatch:
    """Wall seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last_s = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What has passed since the last lap belongs to this stage."""
        now_s = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now_s - self._last_s
        self._last_s = now_s


@dataclass(frozen=True, slots=True)
class _Inputs:
    options: TwinOptions
    start: datetime
    steps: int
    ambient_c: FloatArray | None
    """(N,); None: nothing is known of it, and each device's own temperature stands for it."""
    ambient: str
    states: Mapping[str, PackState]
    calibrations: Mapping[str, Calibration]
    plans: Mapping[str, PlannedPower]


def _predict_batch(inputs: _Inputs, devices: Sequence[DeviceConfig], left_out: dict[str, str]) -> list[Prediction]:
    """Predictions of a batch; when it cannot be computed as a whole, device by device, so that one does not cost the others."""
    try:
        made = _predictions(inputs, devices)
    except InputError:
        made = []
        for device in devices:
            try:
                made += _predictions(inputs, [device])
            except InputError as error:
                left_out[device.device_id] = str(error)
    good = []
    for prediction in made:
        profiles = (prediction.voltage_profile_v, prediction.temperature_profile_c, prediction.soc_profile_pct)
        if all(np.isfinite(profile).all() for profile in profiles):
            good.append(prediction)
        else:
            left_out[prediction.device_id] = "the circuit gave numbers that are not finite"
    return good


def _predictions(inputs: _Inputs, devices: Sequence[DeviceConfig]) -> list[Prediction]:
    options = inputs.options
    states = [inputs.states[device.device_id] for device in devices]
    known = [inputs.calibrations.get(device.device_id) for device in devices]
    power_w = np.stack([_planned(inputs, device) for device in devices])
    if inputs.ambient_c is None:
        ambient_c = np.repeat([[state.temperature_c] for state in states], inputs.steps, axis=1)
    else:
        ambient_c = np.broadcast_to(inputs.ambient_c, power_w.shape)
    carried = carry_many(devices, states, known, inputs.start, ambient_c=ambient_c[:, 0])
    made = predict_many(devices, carried, power_w, dt_s=options.dt_s, start=inputs.start, ambient_c=ambient_c, calibrations=known)
    return [
        replace(
            prediction,
            parameters={
                **prediction.parameters,
                "carried_s": (inputs.start - state.measured_at).total_seconds(),
                "ambient": inputs.ambient,
            },
        )
        for prediction, state in zip(made, states, strict=True)
    ]


def _planned(inputs: _Inputs, device: DeviceConfig) -> FloatArray:
    """The plan's power over the profile, (N,); beyond its end nothing is planned: the pack rests."""
    plan, dt_s = inputs.plans.get(device.device_id), inputs.options.dt_s
    if plan is None:
        return np.zeros(inputs.steps)
    ends = plan.starts_at + timedelta(seconds=plan.dt_s * len(plan.power_w))
    covered = max(0, int((ends - inputs.start).total_seconds() // dt_s))
    return np.where(np.arange(inputs.steps) < covered, plan.window(inputs.start, inputs.steps, dt_s), 0.0)


def carry_many(
    devices: Sequence[DeviceConfig],
    states: Sequence[PackState],
    calibrations: Sequence[Calibration | None],
    to: datetime,
    *,
    ambient_c: float | FloatArray,
) -> list[PackState]:
    """Each state at `to`, where that is later than it was measured, when the pack goes on as it did; whole seconds.
    `ambient_c`: one for all, or one a device.

    Resistance stays as measured. Raises InputError when a state is not usable.
    """
    ahead_s = np.rint([max(0.0, (to - state.measured_at).total_seconds()) for state in states])
    around_c = np.broadcast_to(np.asarray(ambient_c, dtype=np.float64), (len(states),))
    result = list(states)
    for span_s in np.unique(ahead_s[ahead_s > 0]):  # devices report at the same few moments: few groups
        rows = np.flatnonzero(ahead_s == span_s).tolist()
        group = [states[i] for i in rows]
        made = run_circuit(
            [devices[i].chemistry for i in rows],
            np.stack([circuit_parameters(devices[i], states[i], calibrations[i]) for i in rows]),
            np.array([state.soc_pct / 100.0 for state in group]),
            np.array([state.temperature_c for state in group]),
            np.array([[state.power_w] for state in group]),
            around_c[rows][:, None],
            float(span_s),
        )
        for i, end in zip(rows, made[:, -1], strict=True):
            result[i] = replace(states[i], measured_at=to, soc_pct=float(end[5] * 100.0), temperature_c=float(end[-1]))
    return result


def _ambient(stores: Stores, options: TwinOptions, start: datetime, steps: int) -> tuple[FloatArray | None, str]:
    """Ambient over the profile, (N,), and where it is from: the site's forecast, continued by yesterday's values where it ends;
    the known value that lies nearest, held; or None: each pack's own temperature then stands for it, and it neither cools nor
    warms but by its own losses. A site without a thermometer must not cost it its predictions.
    """
    try:
        return _forecast_ambient(stores, options, start, steps), AMBIENT
    except InputError as error:
        why = str(error)
    rows = series_rows(stores.pg, options.site_id, AMBIENT, start - NEAR_AMBIENT, start + NEAR_AMBIENT, known_at=start)
    if rows:
        nearest = min(rows, key=lambda row: abs(row.starts_at - start))
        source = f"{AMBIENT} of {nearest.starts_at.isoformat()}, held"
        ambient_c: FloatArray | None = np.full(steps, nearest.value)
    else:
        ambient_c, source = None, "the pack's own temperature"
    log.warning("twin_ambient_missing", site_id=options.site_id, why=why, instead=source)
    return ambient_c, f"{source} ({why})"


def _forecast_ambient(stores: Stores, options: TwinOptions, start: datetime, steps: int) -> FloatArray:
    """Ambient forecast over the profile, yesterday's values where it ends. Raises InputError when neither reaches."""
    end = start + timedelta(seconds=steps * options.dt_s)
    series = read_series(stores.pg, options.site_id, AMBIENT, start - timedelta(days=1), end, known_at=start)
    steps_known = max(0, int(min((series.end - start).total_seconds(), steps * options.dt_s) // options.dt_s))
    known = series.window(start, steps_known, options.dt_s) if steps_known else np.empty(0)
    if steps_known == steps:
        return known
    per_day = round(86_400 / options.dt_s)
    values = np.concatenate([series.window(start - timedelta(days=1), per_day, options.dt_s), known])
    while len(values) < per_day + steps:
        values = np.append(values, values[len(values) - per_day])
    return values[per_day:]


def _reconnect(stores: Stores) -> None:
    try:
        stores.reconnect()
    except STORE_FAILURES as error:
        log.error("twin_reconnect_failed", why=f"{type(error).__name__}: {error}")


def run_twin(
    stores: Stores,
    clock: Clock,
    options: TwinOptions,
    stop: threading.Event,
    *,
    ends_at: datetime | None = None,
    on_round: Callable[[datetime, TwinRound], None] | None = None,
) -> int:
    """A round now and then two thirds into every interval, so that the next tick finds a fresh prediction.

    Until each device has been predicted once, or an interval has passed, rounds follow each other: devices that are just being
    started need not wait for the next interval.
    """
    rounds = 0
    due = clock.now()
    settled = due + timedelta(seconds=options.interval_s)
    again_s = 0.0
    while not stop.is_set() and (ends_at is None or due < ends_at):
        if stop.wait(min(clock.wall_seconds_until(due), 0.5)):
            break
        if clock.now() < due and not (again_s and time.monotonic() >= again_s):
            continue
        again_s = 0.0
        try:
            made = predict_site(stores, options, clock.now(), present=clock.now)
            rounds += 1
            log.info(
                "twin_round", predicted=len(made.predictions), left_out=len(made.left_out), wall_s=sum(made.seconds.values())
            )
            if on_round is not None:
                on_round(due, made)
            if made.left_out and clock.now() < settled:
                again_s = time.monotonic() + SETTLE_WALL_S
        except FAILURES as error:
            log.error("twin_failed", why=f"{type(error).__name__}: {error}")
            stop.wait(1.0)
            if isinstance(error, STORE_FAILURES):
                _reconnect(stores)
        interval = timedelta(seconds=options.interval_s)
        grid = datetime.fromtimestamp(clock.now().timestamp() // options.interval_s * options.interval_s, tz=clock.now().tzinfo)
        due = grid + interval * 2 / 3
        if due <= clock.now():
            due += interval
    return rounds
