"""What a pack's telemetry does by itself: alarm flags by a declared table, and measurements beyond the limits by another.

A stop or a barred direction lasts as long as its cause. An emergency_shutdown latches the device until an operator resets it,
and follows again while the cause stands. Not here: protection_status, which always stops (serving.dispatch.gate).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite

from core.devices import DeviceConfig, PackState
from core.limits import PackLimits


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


@dataclass(frozen=True, slots=True)
class LimitRule:
    """What a measurement does that is beyond its limit by more than `noise`, and by more than `grave` (0-based, in `unit`)."""

    name: str
    unit: str
    beyond: Callable[[PackState, PackLimits, DeviceConfig], float]
    """How far the measurement is beyond the limit; negative inside."""
    action: AlarmAction
    noise: float
    grave: float = inf
    grave_action: AlarmAction = AlarmAction.EMERGENCY_SHUTDOWN


def _finite(values: Iterable[float]) -> list[float]:
    """What can be compared: with NaN the result of max and min would depend on the order. The rest stops by `not_finite`."""
    return [value for value in values if isfinite(value)]


def _cells_c(state: PackState) -> list[float]:
    return _finite(state.cell_temperatures_c or (state.temperature_c,))


def _over_temperature_k(state: PackState, limits: PackLimits, _device: DeviceConfig) -> float:
    return max(_cells_c(state), default=-inf) - limits.temperature_max_c


def _under_temperature_k(state: PackState, limits: PackLimits, _device: DeviceConfig) -> float:
    return limits.temperature_min_c - min(_cells_c(state), default=inf)


def _over_spread_k(state: PackState, limits: PackLimits, _device: DeviceConfig) -> float:
    cells_c = _cells_c(state)
    return (max(cells_c) - min(cells_c) if cells_c else 0.0) - limits.temperature_delta_k


def _cells_v(state: PackState, device: DeviceConfig) -> list[float]:
    return _finite(state.cell_voltages_v or (state.voltage_v / device.series_cells,))


def _over_voltage_pct(state: PackState, limits: PackLimits, device: DeviceConfig) -> float:
    """Of the pack or of its highest cell, whichever is further, percent of the limit."""
    pack = [value / limits.voltage_max_v - 1.0 for value in _finite((state.voltage_v,))]
    cells = [value / limits.cell_voltage_max_v - 1.0 for value in _cells_v(state, device)]
    return 100.0 * max(pack + cells, default=-inf)


def _under_voltage_pct(state: PackState, limits: PackLimits, device: DeviceConfig) -> float:
    pack = [1.0 - value / limits.voltage_min_v for value in _finite((state.voltage_v,))]
    cells = [1.0 - value / limits.cell_voltage_min_v for value in _cells_v(state, device)]
    return 100.0 * max(pack + cells, default=-inf)


def _over_current_pct(state: PackState, limits: PackLimits, _device: DeviceConfig) -> float:
    if not isfinite(state.current_a):
        return -inf
    limit_a = limits.charge_current_a if state.current_a < 0 else limits.discharge_current_a
    return 100.0 * (abs(state.current_a) / limit_a - 1.0) if limit_a > 0 else (inf if abs(state.current_a) > 1.0 else -inf)


def _over_power_pct(state: PackState, limits: PackLimits, device: DeviceConfig) -> float:
    """Beyond what the device may ever do: limits that were tightened a moment ago are the next set point's to keep."""
    del limits
    if not isfinite(state.power_w):
        return -inf
    rated_w = device.max_charge_power_w if state.power_w < 0 else device.max_discharge_power_w
    return 100.0 * (abs(state.power_w) / rated_w - 1.0) if rated_w > 0 else -inf


LIMIT_RULES: tuple[LimitRule, ...] = (
    LimitRule("temperature_max", "K", _over_temperature_k, AlarmAction.STOP, noise=0.5, grave=10.0),
    LimitRule("temperature_min", "K", _under_temperature_k, AlarmAction.STOP, noise=0.5),
    LimitRule("temperature_delta", "K", _over_spread_k, AlarmAction.STOP, noise=0.5),
    LimitRule("voltage_max", "%", _over_voltage_pct, AlarmAction.NO_CHARGE, noise=0.5, grave=3.0),
    LimitRule(
        "voltage_min", "%", _under_voltage_pct, AlarmAction.NO_DISCHARGE, noise=0.5, grave=15.0, grave_action=AlarmAction.STOP
    ),
    LimitRule("current", "%", _over_current_pct, AlarmAction.STOP, noise=10.0, grave=50.0),
    LimitRule("power", "%", _over_power_pct, AlarmAction.STOP, noise=10.0),
    LimitRule("soc_max", "%", lambda s, m, _: s.soc_pct - m.soc_max_pct, AlarmAction.NO_CHARGE, noise=0.5),
    LimitRule("soc_min", "%", lambda s, m, _: m.soc_min_pct - s.soc_pct, AlarmAction.NO_DISCHARGE, noise=0.5),
)
"""Noise: what a sensor may be off without anything being wrong. Grave: overheating and overcharge run away by themselves, and
a current half above its limit means that the device does not obey; a cell far below its lowest voltage must not be charged by a
plan either. A pack outside its SoC limits is only kept from going further out: plans bring it back."""


def limit_findings(state: PackState, limits: PackLimits, device: DeviceConfig) -> list[tuple[AlarmAction, str]]:
    """(action, text) for each limit that the measurement breaks, in the order of the table.

    A number that is not finite says nothing of the pack: it stops (a latch would need an operator for a sensor's fault), and
    the finite ones are judged all the same.
    """
    found = [(AlarmAction.STOP, f"{name} is not finite") for name in state.not_finite]
    for rule in LIMIT_RULES:
        beyond = rule.beyond(state, limits, device)
        if beyond > rule.noise:
            action = rule.grave_action if beyond > rule.grave else rule.action
            found.append((action, f"{rule.name} exceeded by {beyond:.3g} {rule.unit}"))
    return found


def beyond_limits(power_w: float, state: PackState, limits: PackLimits, device: DeviceConfig) -> str:
    """Why measurements beyond limits forbid a set point (discharge positive); empty when they do not."""
    barred = {AlarmAction.STOP, AlarmAction.EMERGENCY_SHUTDOWN}
    barred |= {AlarmAction.NO_CHARGE} if power_w < 0 else {AlarmAction.NO_DISCHARGE} if power_w > 0 else set()
    texts = [text for action, text in limit_findings(state, limits, device) if action in barred]
    return f"limit: {'; '.join(texts)}" if texts else ""


def shutdown_reason(state: PackState, limits: PackLimits | None, device: DeviceConfig) -> str:
    """Why the device must be shut down and latched; empty when it need not. Without limits its flags alone are judged."""
    flags = flags_with(state.alarm_flags, AlarmAction.EMERGENCY_SHUTDOWN)
    if flags:
        return f"alarm: {', '.join(flags)}"
    findings = [] if limits is None else limit_findings(state, limits, device)
    texts = [text for action, text in findings if action is AlarmAction.EMERGENCY_SHUTDOWN]
    return f"limit: {'; '.join(texts)}" if texts else ""
