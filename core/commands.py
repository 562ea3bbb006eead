"""Commands: their types, parameters, wire format and terminal outcomes.

Here: what a command IS. Not here: queues (stores.redis), history (stores.postgres), what a device does
with one (core.device).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

from core.errors import InputError, nearest

DEFAULT_TIMEOUT_S = 30
"""Default of command_history.timeout_seconds."""
_WIRE = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
MAX_TIMEOUT_S = 86_400
"""A command that may begin a day later is none."""


class CommandType(StrEnum):
    """`command_type_enum` of the contract."""

    START_CHARGE = "start_charge"
    STOP_CHARGE = "stop_charge"
    START_DISCHARGE = "start_discharge"
    STOP_DISCHARGE = "stop_discharge"
    EMERGENCY_SHUTDOWN = "emergency_shutdown"
    UPDATE_PARAMETERS = "update_parameters"
    REQUEST_STATUS = "request_status"

    @property
    def is_start(self) -> bool:
        """Whether it makes energy flow, so that it is never retried past its deadline."""
        return self in (CommandType.START_CHARGE, CommandType.START_DISCHARGE)


class Outcome(StrEnum):
    """How a command ended; kept in `response_data.outcome` beside `success`."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The device tried and could not."""
    REJECTED = "rejected"
    """The device refused: limits, latch, old epoch, old sequence number, bad parameters."""
    EXPIRED = "expired"
    """Its deadline passed before a device began it."""
    SUPERSEDED = "superseded"
    """An emergency_shutdown purged it before a device took it."""
    INDETERMINATE = "indeterminate"
    """Begun before a crash; whether it took effect is unknown. Never executed again."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a command type: unit, bounds, whether it must be there, and what it does."""

    unit: str
    minimum: float
    maximum: float
    required: bool
    meaning: str


_WATT_MAX = 1e9
_DAY_S = 86_400.0
_SET_POINT = {
    "target_power": Parameter("W", 1e-3, _WATT_MAX, True, "magnitude of the set point, at the pack's terminals"),
    "valid_for_seconds": Parameter(
        "s", 0.5, _DAY_S, False, "revert timer: idle after this long without a fresh set point (default 60)"
    ),
    "stop_at_soc": Parameter("%", 0.0, 100.0, False, "end by itself at this state of charge"),
}
PARAMETERS: Mapping[CommandType, Mapping[str, Parameter]] = {
    CommandType.START_CHARGE: _SET_POINT,
    CommandType.START_DISCHARGE: _SET_POINT,
    CommandType.STOP_CHARGE: {},
    CommandType.STOP_DISCHARGE: {},
    CommandType.EMERGENCY_SHUTDOWN: {},
    CommandType.UPDATE_PARAMETERS: {
        "telemetry_interval_seconds": Parameter("s", 1.0, 3600.0, False, "how often the device sends telemetry"),
        "revert_seconds": Parameter("s", 1.0, 3600.0, False, "default revert timer of set points"),
        "max_charge_power": Parameter("W", 0.0, _WATT_MAX, False, "tighter own charge limit; never loosens one"),
        "max_discharge_power": Parameter("W", 0.0, _WATT_MAX, False, "tighter own discharge limit"),
        "reset_latch": Parameter("0/1", 0.0, 1.0, False, "1 releases the emergency latch; an operator's decision"),
    },
    CommandType.REQUEST_STATUS: {},
}
"""Every parameter is a number; `reason` (text) is accepted with every command."""


def validate_parameters(command_type: CommandType, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters as plain numbers and text.

    Raises InputError naming the parameter when one is unknown, missing, not finite or out of range.
    """
    known = PARAMETERS[command_type]
    source = f"command {command_type.value}"
    clean: dict[str, Any] = {}
    for name, value in parameters.items():
        if name == "reason":
            clean[name] = str(value)[:500]
            continue
        if name not in known:
            hint = nearest(name, [*known, "reason"])
            raise InputError(source=source, field=name, value=value, expected="a known parameter" + hint)
        spec = known[name]
        expected = f"a number from {spec.minimum:g} to {spec.maximum:g} {spec.unit} ({spec.meaning})"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(source=source, field=name, value=value, expected=expected)
        if not spec.minimum <= value <= spec.maximum:
            raise InputError(source=source, field=name, value=value, expected=expected)
        clean[name] = float(value)
    for name, spec in known.items():
        if spec.required and name not in clean:
            raise InputError(source=source, field=name, value=None, expected=f"a value in {spec.unit}: {spec.meaning}")
    return clean


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command on its way to one device. Immutable: a retry is the same command again.

    `seq` grows per device and orders commands; `epoch` is the dispatcher's lease epoch (fencing);
    `issued_at` is read from Redis TIME, so that one clock judges expiry.
    """

    command_id: str
    site_id: str
    device_id: str
    command_type: CommandType
    parameters: Mapping[str, Any]
    issued_at: datetime
    timeout_s: int = DEFAULT_TIMEOUT_S
    seq: int
    epoch: int
    max_retries: int = 3
    issued_by: str = ""
    source_system: str = "pulsebms-optimizer"
    _wire: str = field(default="", init=False, repr=False, compare=False)
    """Of the first `to_wire`: a command is recorded and pushed in the same words."""

    def __post_init__(self) -> None:
        if self.issued_at.tzinfo is None:
            raise InputError(source="command", field="issued_at", value=self.issued_at, expected="an aware datetime (UTC)")
        if not 0 < self.timeout_s <= MAX_TIMEOUT_S:
            raise InputError(
                source="command", field="timeout", value=self.timeout_s, expected=f"seconds > 0, up to {MAX_TIMEOUT_S}"
            )

    @property
    def expires_at(self) -> datetime:
        """The moment after which no device may begin it."""
        return self.issued_at + timedelta(seconds=self.timeout_s)

    def to_wire(self) -> str:
        """The JSON text that goes into `commands:pending:{device_id}`.

        The documented fields (command_id, type, parameters, issued_at, timeout) plus site_id, device_id, expires_at,
        expires_at_ms (for the Lua scripts), seq and epoch. NaN is refused (ValueError).
        """
        if not self._wire:
            object.__setattr__(self, "_wire", self._encoded())
        return self._wire

    def _encoded(self) -> str:
        return _WIRE.encode(
            {
                "command_id": self.command_id,
                "type": self.command_type.value,
                "parameters": dict(self.parameters),
                "issued_at": iso_utc(self.issued_at),
                "timeout": self.timeout_s,
                "expires_at": iso_utc(self.expires_at),
                "expires_at_ms": round(self.expires_at.timestamp() * 1000),
                "site_id": self.site_id,
                "device_id": self.device_id,
                "seq": self.seq,
                "epoch": self.epoch,
            }
        )

    @classmethod
    def from_wire(cls, text: str) -> Command:
        """Parse a message; raises InputError naming the field that is missing or wrong."""
        try:
            raw = json.loads(text)
        except ValueError:
            raise InputError(source="pending list", field="message", value=text, expected="JSON") from None
        if not isinstance(raw, dict):
            raise InputError(source="pending list", field="message", value=text, expected="a JSON object")
        try:
            return cls(
                command_id=str(raw["command_id"]),
                site_id=str(raw["site_id"]),
                device_id=str(raw["device_id"]),
                command_type=CommandType(raw["type"]),
                parameters=dict(raw["parameters"] or {}),
                issued_at=datetime.fromisoformat(raw["issued_at"]),
                timeout_s=int(raw["timeout"]),
                seq=int(raw["seq"]),
                epoch=int(raw["epoch"]),
            )
        except KeyError as error:
            raise InputError(
                source="pending list",
                field=str(error.args[0]),
                value=None,
                expected="a value in every message",
            ) from None
        except (TypeError, ValueError, OverflowError) as error:  # int(Infinity) overflows, which JSON of others may hold
            raise InputError(
                source="pending list",
                field="message",
                value=text,
                expected=f"the documented fields ({error})",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What a device says of a command; becomes the response columns of command_history."""

    command_id: str
    device_id: str
    outcome: Outcome
    message: str
    data: Mapping[str, Any]
    acknowledged_at: datetime
    completed_at: datetime

    @property
    def success(self) -> bool:
        """The `success` column."""
        return self.outcome is Outcome.COMPLETED


def iso_utc(moment: datetime) -> str:
    """ISO 8601 in UTC with milliseconds and Z, as on the wire."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
