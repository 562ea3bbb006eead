"""What an alarm flag of a pack's telemetry does: a declared table, and one rule for flags that are not in it.

A stop or a barred direction lasts as long as the flag is up. An emergency_shutdown latches the device until an operator
resets it, and follows again while the flag stands. Not here: protection_status, which always stops (serving.dispatch.gate).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum

from core.devices import PackState


class AlarmAction(StrEnum):
    """From mild to severe."""

    NOTED = "noted"
    NO_CHARGE = "no_charge"
    NO_DISCHARGE = "no_discharge"
    STOP = "stop"
    EMERGENCY_SHUTDOWN = "emergency_shutdown"


_FLAGS: Mapping[AlarmAction, tuple[str, ...]] = {
    AlarmAction.EMERGENCY_SHUTDOWN: (
        "emergency_stop",
        "fire_detected",
        "gas_detected",
        "ground_fault",
        "insulation_fault",
        "internal_short",
        "smoke_detected",
        "thermal_runaway",
        "water_detected",
    ),
    AlarmAction.STOP: (
        "bms_fault",
        "communication_fault",
        "contactor_fault",
        "cooling_fault",
        "high_temp_critical",
        "overcurrent",
        "overtemperature",
        "sensor_fault",
        "undertemperature",
        "voltage_imbalance_critical",
    ),
    AlarmAction.NO_CHARGE: ("cell_overvoltage", "low_temp_charge", "overvoltage", "soc_high"),
    AlarmAction.NO_DISCHARGE: ("cell_undervoltage", "soc_low", "undervoltage"),
    AlarmAction.NOTED: ("balancing_active", "capacity_low", "maintenance_due", "voltage_imbalance"),
}
ACTION_OF_FLAG: Mapping[str, AlarmAction] = {flag: action for action, flags in _FLAGS.items() for flag in flags}
WARNING = "_warning"


def action_of(flag: str) -> AlarmAction:
    """The table's action; otherwise a flag that ends in `_warning` is noted, and any other stops the pack.

    A stop is safe, cheap and ends with its flag; it needs no knowledge of what the flag means. A latch needs an operator,
    so that no unknown flag sets one.
    """
    name = flag.strip().lower()
    known = ACTION_OF_FLAG.get(name)
    if known is not None:
        return known
    return AlarmAction.NOTED if name.endswith(WARNING) else AlarmAction.STOP


def flags_with(flags: Iterable[str], *actions: AlarmAction) -> list[str]:
    """The flags that do one of these, sorted."""
    return sorted(flag for flag in flags if action_of(flag) in actions)


def restricted(power_w: float, state: PackState) -> str:
    """Why the pack's flags forbid a set point (discharge positive); empty when they do not."""
    stops = flags_with(state.alarm_flags, AlarmAction.STOP, AlarmAction.EMERGENCY_SHUTDOWN)
    if stops:
        return f"alarm: {', '.join(stops)}"
    barred = AlarmAction.NO_CHARGE if power_w < 0 else AlarmAction.NO_DISCHARGE
    flags = flags_with(state.alarm_flags, barred)
    return f"alarm ({barred.value}): {', '.join(flags)}" if power_w and flags else ""
