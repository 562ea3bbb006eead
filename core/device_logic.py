"""What a device does with commands: set point with revert timer, limits, latch. Pure: time and messages come in.

Every device must behave so, whoever makes it (docs/command_protocol.md). Not here: what it refuses before it begins
(core.device_protocol), queues, journal, battery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from core.commands import Command, CommandType, Outcome
from core.device_protocol import CommandGuard, Verdict
from core.limits import Bound, Condition, PackLimits, clamp, power_bounds

DEFAULT_REVERT_S = 60.0
LIMIT_STEP_S = 60.0
"""A start must be possible for this long within the limits; after that the clamp of each step lowers it."""
ACCEPT_SHARE = 0.05
"""A start up to 5 % above what the limits allow now is taken and clamped: the controller saw a slightly older state."""


@dataclass(slots=True, kw_only=True)
class DeviceController(CommandGuard):
    """State of one device. `limits` are provisioned; `own` limits may only tighten them."""

    limits: PackLimits
    power_w: float = 0.0
    """Set point, discharge positive."""
    valid_until_s: float = 0.0
    """Monotonic time at which the set point ends by itself."""
    stop_at_soc_pct: float | None = None
    revert_s: float = DEFAULT_REVERT_S
    telemetry_interval_s: float = 60.0
    own_charge_w: float | None = None
    own_discharge_w: float | None = None
    inverter_writes: int = 0
    """How often the inverter was given another set point: a renewal is none."""

    def execute(
        self, command: Command, *, monotonic_s: float, condition: Condition, state: Callable[[], Mapping[str, Any]]
    ) -> Verdict:
        """Carry out a command that `check` has passed."""
        kind, parameters = command.command_type, command.parameters
        if kind.is_start:
            return self._start(command, monotonic_s, condition)
        if kind in (CommandType.STOP_CHARGE, CommandType.STOP_DISCHARGE):
            charging = kind is CommandType.STOP_CHARGE
            if (self.power_w < 0) == charging or self.power_w == 0:
                self._set(0.0)
                return Verdict(Outcome.COMPLETED, "stopped")
            direction = "discharging" if charging else "charging"
            return Verdict(Outcome.COMPLETED, f"nothing to stop: the pack is {direction}")
        if kind is CommandType.EMERGENCY_SHUTDOWN:
            self._set(0.0)
            self.latched = True
            return Verdict(Outcome.COMPLETED, "shut down and latched")
        if kind is CommandType.REQUEST_STATUS:
            return Verdict(Outcome.COMPLETED, "status", dict(state()))
        return self._update(parameters)

    def _start(self, command: Command, monotonic_s: float, condition: Condition) -> Verdict:
        wanted = float(command.parameters["target_power"])
        signed = wanted if command.command_type is CommandType.START_DISCHARGE else -wanted
        bounds = power_bounds(self.effective_limits(), condition, LIMIT_STEP_S)
        if signed > 0:
            allowed, bound = float(bounds.discharge_w[0]), Bound(int(bounds.discharge_bound[0]))
        else:
            allowed, bound = float(bounds.charge_w[0]), Bound(int(bounds.charge_bound[0]))
        if wanted > allowed * (1 + ACCEPT_SHARE):
            return Verdict(
                Outcome.REJECTED,
                f"{wanted:.0f} W breaks a limit: {bound.name.lower()} allows {allowed:.0f} W",
                {"limit": bound.name.lower(), "allowed_power": allowed},
            )
        stop_at = command.parameters.get("stop_at_soc")
        self.stop_at_soc_pct = None if stop_at is None else float(stop_at)
        self._set(signed)
        self.valid_until_s = monotonic_s + float(command.parameters.get("valid_for_seconds", self.revert_s))
        return Verdict(Outcome.COMPLETED, f"set point {signed:.0f} W", {"set_point": signed})

    def _update(self, parameters: Mapping[str, Any]) -> Verdict:
        if "telemetry_interval_seconds" in parameters:
            self.telemetry_interval_s = float(parameters["telemetry_interval_seconds"])
        if "revert_seconds" in parameters:
            self.revert_s = float(parameters["revert_seconds"])
        if "max_charge_power" in parameters:
            self.own_charge_w = float(parameters["max_charge_power"])
        if "max_discharge_power" in parameters:
            self.own_discharge_w = float(parameters["max_discharge_power"])
        if float(parameters.get("reset_latch", 0)) >= 1:
            self.latched = False
        return Verdict(Outcome.COMPLETED, "parameters updated: " + (", ".join(sorted(parameters)) or "none"))

    def effective_limits(self) -> PackLimits:
        """Provisioned limits, tightened by the device's own."""
        from dataclasses import replace

        return replace(
            self.limits,
            charge_power_w=min(self.limits.charge_power_w, _or_inf(self.own_charge_w)),
            discharge_power_w=min(self.limits.discharge_power_w, _or_inf(self.own_discharge_w)),
        )

    def _set(self, power_w: float) -> None:
        if power_w != self.power_w:
            self.inverter_writes += 1
        self.power_w = power_w
        if power_w == 0.0:
            self.stop_at_soc_pct = None

    def applied_power(self, *, monotonic_s: float, soc_pct: float, condition: Condition, dt_s: float) -> float:
        """Power for the next dt_s: the set point while it is valid, within the limits now; 0 when latched."""
        if self.power_w != 0.0 and monotonic_s >= self.valid_until_s:
            self._set(0.0)
        if self.stop_at_soc_pct is not None and (
            (self.power_w < 0 and soc_pct >= self.stop_at_soc_pct) or (self.power_w > 0 and soc_pct <= self.stop_at_soc_pct)
        ):
            self._set(0.0)
        if self.latched:
            self._set(0.0)
        if self.power_w == 0.0:
            return 0.0
        power_w, _ = clamp(self.power_w, self.effective_limits(), condition, dt_s)
        return power_w


def _or_inf(value: float | None) -> float:
    return float("inf") if value is None else value
