"""A shadow's virtual packs: anchored to the measured state once a local day, moved by its own decisions, seen by it as its own.

Here: anchoring, what the shadow sees of the live observation, stepping, and the form in which it is kept. Not here: deciding
(serving.shadow.turn).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.calibration import NOMINAL, Calibration, Factors
from core.decisions import Decision
from core.devices import DeviceConfig, PackState
from core.errors import InputError
from core.predictions import Prediction
from core.twin import predict_many
from policies.base import Observation, PlannedPower
from serving.dispatch.inputs import planned_power
from serving.shadow.twin_pack import TwinPack

FloatArray = NDArray[np.float64]


@dataclass(slots=True, kw_only=True)
class VirtualSite:
    """Where one shadow stands."""

    day: date
    """Local day of the anchor."""
    until: datetime
    """To which moment the packs have been moved."""
    packs: dict[str, TwinPack] = field(default_factory=dict)
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Lowest and highest SoC since the anchor, percent."""
    plan: dict[str, PlannedPower] = field(default_factory=dict)

    def anchor(self, device: DeviceConfig, state: PackState, factors: Factors, ambient_c: float) -> None:
        """A pack begins at its measured state, at rest."""
        self.packs[device.device_id] = TwinPack(
            device, soc_pct=state.soc_pct, soh_pct=state.soh_pct, temperature_c=state.temperature_c, ambient_c=ambient_c,
            factors=factors,
        )  # fmt: skip
        self.extremes[device.device_id] = (state.soc_pct, state.soc_pct)

    def move(self, power_w: Mapping[str, float], dt_s: float, ambient_c: float) -> None:
        """Every pack for dt_s; one that is not named rests."""
        for key, pack in self.packs.items():
            pack.step(power_w.get(key, 0.0), dt_s, ambient_c)
            low, high = self.extremes[key]
            self.extremes[key] = (min(low, pack.soc_pct), max(high, pack.soc_pct))
        self.until += timedelta(seconds=dt_s)

    def as_json(self) -> dict[str, Any]:
        """What `kept_site` reads."""
        return {
            "day": self.day.isoformat(),
            "until": self.until.isoformat(),
            "packs": {key: {**pack.put_away(), "extremes": list(self.extremes[key])} for key, pack in self.packs.items()},
            "plan": {
                key: {"starts_at": part.starts_at.isoformat(), "dt_s": part.dt_s, "power_w": np.round(part.power_w, 2).tolist()}
                for key, part in self.plan.items()
            },
        }


def kept_site(kept: Mapping[str, Any] | None, devices: Mapping[str, DeviceConfig]) -> VirtualSite | None:
    """A site as it was kept; None when nothing was, or what was is of no use (another version's): it is anchored anew then."""
    if kept is None:
        return None
    try:
        made = VirtualSite(day=date.fromisoformat(kept["day"]), until=datetime.fromisoformat(kept["until"]))
        for key, part in kept["packs"].items():
            if key in devices:
                made.packs[key] = TwinPack.taken_up(devices[key], part)
                low, high = (float(value) for value in part["extremes"])
                made.extremes[key] = (low, high)
        for key, part in kept["plan"].items():
            made.plan[key] = PlannedPower(
                starts_at=datetime.fromisoformat(part["starts_at"]), dt_s=float(part["dt_s"]), power_w=np.array(part["power_w"])
            )
    except (KeyError, TypeError, ValueError, AttributeError, InputError):
        return None
    return made


def brought_to(site: VirtualSite | None, day: date, observation: Observation) -> VirtualSite:
    """The site at the observation's start: anchored anew on a new day, at rest since its last step, new packs measured."""
    air_c = ambient_now_c(observation)
    if site is None or site.day != day or site.until > observation.starts_at:
        site = VirtualSite(day=day, until=observation.starts_at)
    gap_s = (observation.starts_at - site.until).total_seconds()
    if gap_s > 0:
        site.move({}, gap_s, air_c)
    for device in observation.devices:
        if device.device_id not in site.packs:
            prediction = observation.predictions.get(device.device_id)
            site.anchor(device, observation.states[device.device_id], factors_of(prediction), air_c)
    return site


def as_seen(site: VirtualSite, observation: Observation, earlier: Mapping[str, tuple[float, float]]) -> Observation:
    """The live observation with the shadow's own states, plan and predictions.

    `earlier`: lowest and highest measured SoC of each device within the cycle's window before the anchor.
    """
    states = {
        device.device_id: _state(site, device.device_id, observation, earlier.get(device.device_id))
        for device in observation.devices
    }
    return replace(observation, states=states, predictions=_predictions(site, observation, states), last_plan=dict(site.plan))


def keep_plan(site: VirtualSite, decision: Decision) -> None:
    """What the shadow planned, for its next turn."""
    site.plan = planned_power(decision)


def ambient_now_c(observation: Observation) -> float:
    """Ambient temperature of the interval."""
    return float(observation.ambient_c.window(observation.starts_at, 1, observation.interval_s)[0])


def factors_of(prediction: Prediction | None) -> Factors:
    """The pack's calibration as its twin's prediction carries it; nominal where there is none that can be read."""
    if prediction is None:
        return NOMINAL
    try:
        return Factors.from_parameters(prediction.parameters)
    except InputError:
        return NOMINAL


def _state(site: VirtualSite, key: str, observation: Observation, earlier: tuple[float, float] | None) -> PackState:
    """What sensors of the virtual pack would say; alarms and protections are the real pack's: they stop the active one too."""
    live, (low, high) = observation.states[key], site.extremes[key]
    if earlier is not None:
        low, high = min(low, earlier[0]), max(high, earlier[1])
    return replace(
        site.packs[key].state(live.measured_at), alarm_flags=live.alarm_flags, protection=live.protection, cycle_low_pct=low,
        cycle_high_pct=high,
    )  # fmt: skip


def _predictions(site: VirtualSite, observation: Observation, states: Mapping[str, PackState]) -> dict[str, Prediction]:
    """The twin's, from the virtual states under the shadow's plan, for the devices and grids of the live ones."""
    grids: dict[tuple[int, float], list[DeviceConfig]] = {}
    for device in observation.devices:
        live = observation.predictions.get(device.device_id)
        if live is not None and device.device_id not in observation.missing_predictions:
            grids.setdefault((live.steps, live.dt_s), []).append(device)
    made: dict[str, Prediction] = {}
    start = observation.starts_at
    for (steps, dt_s), devices in grids.items():
        power = np.array(
            [site.plan[d.device_id].window(start, steps, dt_s) if d.device_id in site.plan else np.zeros(steps) for d in devices]
        )
        air_c = _ambient_c(observation, steps, dt_s)
        calibrations = [_calibration(observation.predictions[d.device_id], site.packs[d.device_id].factors) for d in devices]
        for prediction in predict_many(
            devices, [states[d.device_id] for d in devices], power, dt_s=dt_s, start=start, ambient_c=air_c,
            calibrations=calibrations,
        ):  # fmt: skip
            made[prediction.device_id] = prediction
    return made


def _calibration(live: Prediction, factors: Factors) -> Calibration | None:
    if live.calibration_date is None or live.calibration_score is None:
        return None
    return Calibration(
        device_id=live.device_id, calibrated_at=live.calibration_date, score=live.calibration_score, factors=factors
    )


def _ambient_c(observation: Observation, steps: int, dt_s: float) -> FloatArray:
    """The forecast as far as it goes, its last value beyond, (steps,)."""
    series = observation.ambient_c
    at = np.floor(((observation.starts_at - series.start).total_seconds() + dt_s * np.arange(steps)) / series.dt_s + 1e-9)
    found: FloatArray = series.values[np.clip(at.astype(int), 0, len(series) - 1)]
    return found
