"""The safety gate: no set point becomes a command unless it passes here, whoever decided it.

Here: projection of set points onto limits and freshly measured state, the meter's check, what protections and
alarms forbid. Not here: the limits themselves (core.limits), what each alarm means (serving.dispatch.alarms).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from core.decisions import Decision, Reason, SetPoint
from core.devices import PackState
from core.errors import InputError
from core.limits import Bound, clamp
from core.pack import condition_from_state
from policies.base import Observation
from serving.dispatch.alarms import restricted

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
MATERIAL_W = 1.0
"""A projection by less than this is rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """A decision after the gate, and what the gate changed: device -> text."""

    decision: Decision
    changes: Mapping[str, str]
    projected_w: float
    """Sum of what was cut, W; without what alarms and protections took, which is no fault of the policy."""


def gate(decision: Decision, observation: Observation) -> Gated:
    """Clip each set point to the device's bounds now, then the sum to the meter's limits.

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
    points: dict[str, SetPoint] = {}
    ambient_c = float(observation.ambient_c.window(observation.starts_at, 1, observation.interval_s)[0])
    for key, point in wanted.items():
        state = observation.states[key]
        stopped = _stopped(point.power_w, state)
        if stopped:
            points[key] = replace(point, power_w=0.0, reason=Reason.STOP, detail=stopped)
            changes[key] = stopped
            continue
        condition = condition_from_state(allowed[key], state, observation.interval_s, ambient_c=ambient_c)
        power_w, bound = clamp(point.power_w, observation.limits[key], condition, observation.interval_s)
        points[key] = point
        if bound is not None:
            points[key] = replace(point, power_w=power_w, reason=REASON_OF_BOUND[bound], detail=bound.name.lower())
            if abs(power_w - point.power_w) > MATERIAL_W:
                changes[key] = f"{point.power_w:.0f} W cut to {power_w:.0f} W by {bound.name.lower()}"
    _meter(points, observation, changes)
    cut = [key for key in wanted if points[key].reason is not Reason.STOP]
    projected_w = sum(abs(points[key].power_w - wanted[key].power_w) for key in cut)
    gated = replace(decision, set_points=tuple(points[point.device_id] for point in decision.set_points))
    return Gated(decision=gated, changes=changes, projected_w=projected_w)


def _stopped(power_w: float, state: PackState) -> str:
    """Why the pack may not do this whatever its limits say; empty when it may."""
    tripped = sorted(name for name, active in state.protection.items() if active)
    if tripped:
        return f"protection tripped: {', '.join(tripped)}"
    return restricted(power_w, state)


def _meter(points: dict[str, SetPoint], observation: Observation, changes: dict[str, str]) -> None:
    """Scale charge (discharge) down where the forecast meter would pass its import (export) limit."""
    start, grid = observation.starts_at, observation.site.grid
    load_w = float(observation.load_w.window(start, 1, observation.interval_s)[0])
    pv_w = float(observation.pv_w.window(start, 1, observation.interval_s)[0])
    packs_w = sum(point.power_w for point in points.values())
    import_w = load_w - pv_w - packs_w
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
                points[key] = replace(point, power_w=point.power_w * keep, reason=Reason.GRID_LIMIT, detail="meter")
                changes[key] = f"{point.power_w:.0f} W cut to {point.power_w * keep:.0f} W by the grid limit"
