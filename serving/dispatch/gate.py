"""The safety gate: no set point becomes a command unless it passes here, whoever decided it.

Here: projection of set points onto limits and freshly measured state, what protections and alarms forbid, the meter's check.
Not here: the limits themselves (core.limits), what each alarm means (serving.dispatch.alarms), the replay on the twin
(serving.dispatch.replay), what the meter may show (serving.dispatch.meter).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite

from core.decisions import Decision, Reason, SetPoint
from core.devices import DeviceConfig, PackState
from core.errors import InputError, PulseBmsError
from core.limits import Bound, PackLimits, clamp
from core.pack import condition_from_state
from policies.base import Observation
from serving.dispatch.alarms import beyond_limits, restricted
from serving.dispatch.meter import Meter, net_loads
from serving.dispatch.replay import replay

REASON_OF_BOUND: Mapping[Bound, Reason] = {
    Bound.RATED_POWER: Reason.POWER_LIMIT,
    Bound.CURRENT: Reason.POWER_LIMIT,
    Bound.C_RATE: Reason.POWER_LIMIT,
    Bound.VOLTAGE: Reason.VOLTAGE_LIMIT,
    Bound.SOC: Reason.SOC_LIMIT,
    Bound.SOC_TAPER: Reason.SOC_LIMIT,
    Bound.TEMPERATURE: Reason.THERMAL_LIMIT,
    Bound.TEMPERATURE_SPREAD: Reason.THERMAL_LIMIT,
    Bound.CYCLE_DEPTH: Reason.CYCLE_DEPTH,
}
REASON_OF_REPLAY: Mapping[str, Reason] = {
    "soc_max": Reason.SOC_LIMIT,
    "soc_min": Reason.SOC_LIMIT,
    "voltage_max": Reason.VOLTAGE_LIMIT,
    "voltage_min": Reason.VOLTAGE_LIMIT,
    "temperature_max": Reason.THERMAL_LIMIT,
    "charge_current": Reason.POWER_LIMIT,
    "discharge_current": Reason.POWER_LIMIT,
    "deliverable_power": Reason.POWER_LIMIT,
    "finite": Reason.STOP,
}
MATERIAL_W = 1.0
"""A projection by less than this is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """A decision after the gate, and what the gate changed: device -> text."""

    decision: Decision
    changes: Mapping[str, str]
    projected_w: float
    """Sum of what was cut, W; without what alarms and protections took, which is no fault of the policy."""
    cut_by: Mapping[str, str] = field(default_factory=dict)
    """Device -> which part of the gate cut it last: `state`, `limits`, `replay`, `meter`."""
    meter: Mapping[str, object] = field(default_factory=dict)
    """JSON-ready: the net loads against which the sum was checked."""


def gate(decision: Decision, observation: Observation, meter: Meter | None = None) -> Gated:
    """Clip each set point to the device's bounds now, replay it on the twin, then clip the sum to the meter's limits.

    A device whose bounds cannot be computed from its measurements gets 0 W; the others keep theirs.
    Raises InputError when the decision names a device that may not be commanded, misses one, or names one twice.
    """
    wanted = {point.device_id: point for point in decision.set_points}
    allowed = {device.device_id: device for device in observation.devices}
    if len(wanted) != len(decision.set_points) or wanted.keys() != allowed.keys():
        raise InputError(
            source=f"decision of {decision.source}",
            field="set_points",
            value=sorted(point.device_id for point in decision.set_points),
            expected=f"one set point for each of {sorted(allowed)}",
        )
    changes: dict[str, str] = {}
    cut_by: dict[str, str] = {}
    points: dict[str, SetPoint] = {}
    ambient_c = float(observation.ambient_c.window(observation.starts_at, 1, observation.interval_s)[0])
    for key, point in wanted.items():
        state, limits = observation.states[key], observation.limits[key]
        stopped = _stopped(point.power_w, state, limits, allowed[key])
        if stopped:
            points[key] = replace(point, power_w=0.0, reason=Reason.STOP, detail=stopped)
            changes[key], cut_by[key] = stopped, "state"
            continue
        try:
            condition = condition_from_state(allowed[key], state, observation.interval_s, ambient_c=ambient_c)
            power_w, bound = clamp(point.power_w, limits, condition, observation.interval_s)
            if not isfinite(power_w):
                raise ValueError(f"the bound is {power_w}")
        except (PulseBmsError, ArithmeticError, ValueError) as error:
            why = f"its bounds cannot be computed: {error}"
            points[key] = replace(point, power_w=0.0, reason=Reason.STOP, detail=why)
            changes[key], cut_by[key] = why, "state"
            continue
        points[key] = point
        if bound is not None:
            points[key] = replace(point, power_w=power_w, reason=REASON_OF_BOUND[bound], detail=bound.name.lower())
            if abs(power_w - point.power_w) > MATERIAL_W:
                changes[key] = f"{point.power_w:.0f} W cut to {power_w:.0f} W by {bound.name.lower()}"
                cut_by[key] = "limits"
    _replay(points, observation, ambient_c, changes, cut_by)
    loads = net_loads(decision, observation, meter)
    for name, net_load_w in loads.items():
        _meter(points, observation, name, net_load_w, changes, cut_by)
    cut = [key for key in wanted if points[key].reason is not Reason.STOP]
    projected_w = sum(abs(points[key].power_w - wanted[key].power_w) for key in cut)
    gated = replace(decision, set_points=tuple(points[point.device_id] for point in decision.set_points))
    record: dict[str, object] = {f"net_load_{name}_w": round(value, 1) for name, value in loads.items()}
    if meter is not None and meter.ended_at is not None:
        record["measured_age_s"] = max(0.0, (observation.starts_at - meter.ended_at).total_seconds())
    return Gated(decision=gated, changes=changes, projected_w=projected_w, cut_by=cut_by, meter=record)


def _stopped(power_w: float, state: PackState, limits: PackLimits, device: DeviceConfig) -> str:
    """Why the pack may not do this whatever its bounds say; empty when it may."""
    tripped = sorted(name for name, active in state.protection.items() if active)
    if tripped:
        return f"protection tripped: {', '.join(tripped)}"
    return restricted(power_w, state) or beyond_limits(power_w, state, limits, device)


def _replay(
    points: dict[str, SetPoint], observation: Observation, ambient_c: float, changes: dict[str, str], cut_by: dict[str, str]
) -> None:
    """Cut what the twin cannot carry through the interval within the limits."""
    moving = [device for device in observation.devices if points[device.device_id].power_w != 0.0]
    replayed = replay(
        moving,
        observation.states,
        observation.limits,
        observation.predictions,
        {device.device_id: points[device.device_id].power_w for device in moving},
        interval_s=observation.interval_s,
        ambient_c=ambient_c,
    )
    for key, found in replayed.items():
        before_w = points[key].power_w
        if found.power_w == before_w:
            continue
        points[key] = replace(
            points[key], power_w=found.power_w, reason=REASON_OF_REPLAY[found.broken], detail=f"replay: {found.broken}"
        )
        if abs(found.power_w - before_w) > MATERIAL_W:
            changes[key] = f"{before_w:.0f} W cut to {found.power_w:.0f} W: the twin breaks {found.broken} within the interval"
            cut_by[key] = "replay"


def _meter(
    points: dict[str, SetPoint],
    observation: Observation,
    name: str,
    net_load_w: float,
    changes: dict[str, str],
    cut_by: dict[str, str],
) -> None:
    """Scale charge (discharge) down where the meter would pass its import (export) limit at this net load."""
    grid = observation.site.grid
    import_w = net_load_w - sum(point.power_w for point in points.values())
    # PV beyond the export limit is the inverter's to curtail: packs are only cut for what they add.
    over_import, over_export = import_w - grid.import_limit_w, -import_w - grid.export_limit_w
    for over_w, sign in ((over_import, -1.0), (over_export, 1.0)):
        if over_w <= MATERIAL_W:
            continue
        own_w = sum(sign * point.power_w for point in points.values() if sign * point.power_w > 0)
        if own_w <= 0:
            continue
        keep = max(0.0, 1.0 - over_w / own_w)
        for key, point in points.items():
            if sign * point.power_w > 0:
                kept_w = point.power_w * keep
                points[key] = replace(point, power_w=kept_w, reason=Reason.GRID_LIMIT, detail=f"meter, {name} load")
                changes[key] = f"{point.power_w:.0f} W cut to {kept_w:.0f} W by the grid limit at the {name} load"
                cut_by[key] = "meter"
