"""Measured less planned SoC and temperature at each interval's end, where a pack did what was commanded.

Here: residuals of a day from decisions and telemetry. Not here: what they say (serving.shadow.drift).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.decisions import Decision
from core.devices import DeviceConfig
from stores.connections import Stores
from stores.mongo.records import measured_columns

FloatArray = NDArray[np.float64]
QUANTITIES: Mapping[str, tuple[str, str]] = {"soc_pct": ("soc", "soc_pct"), "temperature_c": ("temperature", "temperature_c")}
"""Quantity -> (measurement of telemetry, profile of a plan's device)."""
AS_COMMANDED_SHARE = 0.05
"""Of the pack's rated power: a mean power that is off by more was not what was commanded."""
GAP_S = 400.0
"""No sample so near an interval's end: nothing is known of it."""


@dataclass(slots=True, kw_only=True)
class Residuals:
    """Of one day: device -> quantity -> residuals in order of time."""

    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    intervals: int = 0
    """Of packs, with a plan."""
    not_executed: int = 0
    """Of those, where the pack did something else than the set point."""
    not_measured: int = 0


def day_residuals(stores: Stores, decisions: Sequence[Decision], devices: Sequence[DeviceConfig]) -> Residuals:
    """Residuals of one policy's decisions; those without a plan say nothing."""
    found = Residuals()
    planned = [item for item in decisions if item.plan.get("devices")]
    if not planned:
        return found
    start = min(item.starts_at for item in planned)
    end = max(item.starts_at + timedelta(seconds=item.interval_s) for item in planned)
    margin = timedelta(seconds=GAP_S)
    for device in devices:
        measured = measured_columns(
            stores.mongo, device.device_id, start - margin, end + margin, ("power", *(pair[0] for pair in QUANTITIES.values()))
        )
        for item in planned:
            add_residual(found, item, device, measured)
    return found


def add_residual(found: Residuals, decision: Decision, device: DeviceConfig, measured: Mapping[str, FloatArray]) -> None:
    """Add what one decision with a plan says of a device; `measured`: columns of stores.mongo.records."""
    part = next((p for p in decision.plan["devices"] if p["device_id"] == device.device_id), None)
    point = next((p for p in decision.set_points if p.device_id == device.device_id), None)
    k = _step(decision)
    if part is None or point is None or k is None or k >= len(part["power_w"]):
        return
    allowed_w = AS_COMMANDED_SHARE * max(device.max_charge_power_w, device.max_discharge_power_w)
    found.intervals += 1
    if abs(float(np.mean(part["power_w"][: k + 1])) - point.power_w) > allowed_w:
        found.not_executed += 1  # the gate changed it: the plan speaks of another power
        return
    begin_s = decision.starts_at.timestamp()
    end_s = begin_s + decision.interval_s
    time_s = measured["time_s"]
    within = (time_s > begin_s) & (time_s <= end_s)
    if not within.any() or not len(time_s) or np.abs(time_s - end_s).min() > GAP_S:
        found.not_measured += 1
        return
    flown_w = float(measured["power"][within].mean())
    if not np.isfinite(flown_w) or abs(flown_w - point.power_w) > allowed_w:
        found.not_executed += 1
        return
    for quantity, (column, profile) in QUANTITIES.items():
        if profile in part and k < len(part[profile]):
            residual = float(np.interp(end_s, time_s, measured[column])) - float(part[profile][k])
            if np.isfinite(residual):
                found.values.setdefault(device.device_id, {}).setdefault(quantity, []).append(residual)


def _step(decision: Decision) -> int | None:
    """Which value of the plan's profiles stands for the interval's end; None when the grids do not line up."""
    plan: Mapping[str, Any] = decision.plan
    try:
        offset_s = (decision.starts_at - datetime.fromisoformat(plan["starts_at"])).total_seconds()
        steps = (offset_s + decision.interval_s) / float(plan["dt_s"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    k = round(steps)
    return k - 1 if offset_s == 0 and k >= 1 and abs(steps - k) < 1e-6 else None
