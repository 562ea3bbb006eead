"""What every device must check before it begins a command: address, deadline, epoch, sequence, parameters, latch.

Pure and small: the client library for device makers (serving.device_client) needs no more of core than this. Not here: what
a pack does with a command (core.device_logic), queues (stores.redis.pending).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from core.commands import Command, CommandType, Outcome, validate_parameters
from core.errors import InputError

CLOCK_SET_BACK_S = 1.0
"""A command issued so far in the future is from before Redis' clock was set back: slewing alone does not make as much."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Outcome of one command, what is said about it, and data for the answer."""

    outcome: Outcome
    message: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class CommandGuard:
    """What one device remembers of commands, and its refusals."""

    device_id: str
    latched: bool = False
    latch: str = ""
    """The shutdown that latched it, as Redis names it; that of the last latch when it has been released."""
    highest_seq: int = 0
    highest_epoch: int = 0

    def check(self, command: Command, *, redis_now: datetime, taken_age_s: float) -> Verdict | None:
        """Like `why_not`, and remembers the sequence and epoch of a command that may be begun."""
        refused = self.why_not(command, redis_now=redis_now, taken_age_s=taken_age_s)
        if refused is None:
            self.highest_seq = max(self.highest_seq, command.seq)
            self.highest_epoch = max(self.highest_epoch, command.epoch)
        return refused

    def why_not(self, command: Command, *, redis_now: datetime, taken_age_s: float) -> Verdict | None:
        """Why a command must not be begun, or None; nothing changes.

        `redis_now` is Redis TIME as the take said it, `taken_age_s` the monotonic seconds since before that request.
        """
        if command.device_id != self.device_id:
            return Verdict(Outcome.REJECTED, f"meant for {command.device_id}")
        late_s = (redis_now - command.expires_at).total_seconds() + taken_age_s
        if late_s >= 0:
            return Verdict(Outcome.EXPIRED, f"its deadline passed {late_s:.1f} s ago")
        early_s = (command.issued_at - redis_now).total_seconds()
        if early_s > CLOCK_SET_BACK_S and command.command_type is not CommandType.EMERGENCY_SHUTDOWN:
            return Verdict(Outcome.EXPIRED, f"issued {early_s:.1f} s from now: Redis' clock was set back, its age is not known")
        stops = command.command_type in (
            CommandType.EMERGENCY_SHUTDOWN,
            CommandType.STOP_CHARGE,
            CommandType.STOP_DISCHARGE,
        )
        if command.epoch < self.highest_epoch and command.command_type is not CommandType.EMERGENCY_SHUTDOWN:
            return Verdict(Outcome.REJECTED, f"epoch {command.epoch} is older than {self.highest_epoch}")
        if command.seq <= self.highest_seq and command.command_type is not CommandType.EMERGENCY_SHUTDOWN:
            return Verdict(Outcome.REJECTED, f"sequence {command.seq} is not above {self.highest_seq}: superseded")
        try:
            validate_parameters(command.command_type, command.parameters)
        except InputError as error:
            return Verdict(Outcome.REJECTED, str(error))
        if self.latched and not stops and command.command_type.is_start:
            return Verdict(Outcome.REJECTED, "latched by an emergency_shutdown; an operator must reset it")
        return None
