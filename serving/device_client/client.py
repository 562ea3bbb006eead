"""One device's side of the command protocol: what is taken is begun at most once, and always answered.

Here: the order of journal, queue and answers, and the refusals that hold for every device. Not here: what a command does to a
pack. A message reaches the caller only when it may be begun; everything else is answered here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.commands import Command, CommandType, Outcome, Response
from core.device_protocol import CommandGuard, Verdict
from core.errors import InputError, StoreError
from serving.device_client.journal import Answer, Journal
from stores.redis import pending, responses
from stores.redis.connect import Client, client_of
from stores.redis.status import write_status

GUARD_MEMORY = ("latched", "latch", "highest_seq", "highest_epoch")
"""What a device must remember over a restart."""
DEFAULT_VALIDITY_S = 60.0
BROKEN_BYTES = 500
ACT_MARGIN_S = 0.2
ACT_MARGIN_SHARE = 0.1
UNNAMED_LATCH = "device"
"""What Redis is told of a latch whose shutdown this journal does not name."""


@dataclass(frozen=True, slots=True)
class Work:
    """A command that this device holds and may begin."""

    command: Command
    raw: str
    redis_now: datetime
    """Redis TIME when it was taken."""
    taken_s: float
    """Monotonic time before it was asked for."""
    latch: str = ""
    """The device's latest latch when it was taken: the one that a reset may end."""

    @property
    def kind(self) -> CommandType:
        """Its type."""
        return self.command.command_type

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Its parameters, checked: numbers are finite and within their bounds."""
        return self.command.parameters

    @property
    def resets(self) -> bool:
        """Whether it releases the latch when it is completed."""
        return self.kind is CommandType.UPDATE_PARAMETERS and float(self.parameters.get("reset_latch", 0)) >= 1

    def left_s(self) -> float:
        """Seconds to its deadline: Redis TIME of the take and this machine's monotonic clock, no other clock."""
        return (self.command.expires_at - self.redis_now).total_seconds() - (time.monotonic() - self.taken_s)

    @property
    def set_point_w(self) -> float | None:
        """Power at the pack's terminals, discharge positive; None when the command sets none."""
        if self.kind is CommandType.START_DISCHARGE:
            return float(self.parameters["target_power"])
        if self.kind is CommandType.START_CHARGE:
            return -float(self.parameters["target_power"])
        return 0.0 if self.kind is CommandType.EMERGENCY_SHUTDOWN else None

    @property
    def valid_for_s(self) -> float:
        """How long a set point may be held without a fresh one."""
        return float(self.parameters.get("valid_for_seconds", DEFAULT_VALIDITY_S))


@dataclass(slots=True)
class DeviceClient:
    """One device. Not for several threads at once; one process a device (the journal sees to it).

    Every method may raise one of FAILURES (Redis or the journal's disk): then wait, call `recover`, and go on.
    """

    redis: Client
    guard: CommandGuard
    journal: Journal
    remembered: tuple[str, ...] = GUARD_MEMORY
    """Attributes of the guard that the journal keeps."""
    on_dropped: Callable[[str], None] = lambda message: None
    """Told of each message that could not be read; it is never executed."""
    act_margin_s: float = ACT_MARGIN_S
    """What the device needs from `begin` to the moment at which power moves; a command with less left is not begun. At most a
    tenth of the command's timeout counts."""
    _restored: bool = field(default=False)
    _open: set[str] = field(default_factory=set)
    """Begun and not completed by this process."""
    _behind: bool = False
    """An answer may not have reached Redis: the mark in Redis must not move past it."""

    @classmethod
    def connect(cls, redis_url: str, device_id: str, journal_path: Path | str) -> DeviceClient:
        """A client for one device; the journal's directory is made. Connects with the first request."""
        return cls(client_of(redis_url), CommandGuard(device_id=device_id), Journal(Path(journal_path)))

    @property
    def device_id(self) -> str:
        """Of the guard."""
        return self.guard.device_id

    @property
    def latched(self) -> bool:
        """No power until an operator's reset: by an emergency_shutdown that was begun, or by the latch that every take reads."""
        return self.guard.latched

    def recover(self) -> list[Work]:
        """After a start or a lost connection, before the first take: what was taken and not finished.

        What had been begun is answered (with its answer of then, or as indeterminate) and is never begun again; what may still
        be begun is returned, oldest first. `latched` then says whether an emergency_shutdown stands, heard or not.
        """
        self._restore()
        self._open.clear()
        begun: list[Work] = []
        fresh: list[Work] = []
        for raw in pending.processing(self.redis, self.device_id):
            try:
                command = Command.from_wire(raw)
            except InputError:
                self.on_dropped(raw[:BROKEN_BYTES])
                pending.discard(self.redis, self.device_id, raw)
                continue
            asked_s = time.monotonic()
            work = Work(command, raw, pending.redis_now(self.redis), asked_s)
            (fresh if self.journal.seen(command.command_id) is None else begun).append(work)
        # First what was begun: the answer of a completed reset, were it lost, clears the latch before it is read.
        for work in begun:
            self._admit(work)
        self._tell_again(responses.told(self.redis, self.device_id), besides={work.command.command_id for work in begun})
        # A start that was taken before an emergency_shutdown must not be executed after it, nor a reset undo it.
        self._obey_latch(pending.latch_of(self.redis, self.device_id))
        for work in [work for work in fresh if work.resets]:
            self._answer(
                work, Verdict(Outcome.REJECTED, "taken before a restart: which latch it was to end is not known; send it again")
            )
        return [work for work in fresh if not work.resets and self._admit(work) is not None]

    def take(self) -> Work | None:
        """The next command that may be begun, or None. The take acknowledges it; what must be refused is answered here.

        Look at `latched` after every take, also one without a command: an emergency_shutdown may have expired unheard.
        """
        self._restore()
        while True:
            # Before the request: a reply that was long on its way makes a command older, never younger.
            taken_s = time.monotonic()
            found = pending.take_all(self.redis, self.device_id)
            self._tell_again(found.told)
            self._obey_latch(found.latch)
            if found.expired:
                responses.answer_expired(self.redis, found.expired, pending.redis_now(self.redis))
            for raw in found.broken:
                self.on_dropped(raw[:BROKEN_BYTES])
            if found.taken is None:
                return None
            taken = found.taken
            work = self._admit(Work(taken.command, taken.raw, taken.redis_now, taken_s, self.guard.latch))
            if work is not None:
                return work

    def acknowledge(self, work: Work) -> None:
        """Say again that the command is in hand: for one that takes long, after Redis came back empty. Harmless otherwise."""
        responses.acknowledge(self.redis, work.command, work.redis_now)

    def begin(self, work: Work) -> bool:
        """Write "begun" to the journal, on disk; act only when this returns True, and at once.

        What is to be computed or looked up for the command belongs before this call: its deadline is judged last in here.

        False when it may not be begun any more (its deadline, a newer command, a latch): that is answered here.
        """
        refused = self._why_not(work) or self._too_close(work)
        if refused is not None:
            self._answer(work, refused)
            return False
        guard = self.guard
        before = guard.highest_seq, guard.highest_epoch
        guard.highest_seq = max(guard.highest_seq, work.command.seq)
        guard.highest_epoch = max(guard.highest_epoch, work.command.epoch)
        if work.kind is CommandType.EMERGENCY_SHUTDOWN:
            guard.latched, guard.latch = True, work.command.command_id
        unknown = Verdict(Outcome.INDETERMINATE, "begun, and then its device or Redis failed; not executed again")
        try:
            self.journal.begin(work.command.command_id, self._memory(), self._kept(work, self._response(work, unknown)))
        except BaseException:
            # Not begun: `recover` hands it out again, and it must not be taken for an old one then. A latch stays.
            guard.highest_seq, guard.highest_epoch = before
            raise
        self._open.add(work.command.command_id)
        # Between the take and here the disk may have been slow: the deadline is judged once more, just before acting.
        late = self._too_close(work)
        if late is None:
            return True
        self.complete(work, late.outcome, f"{late.message}, after it was begun")
        return False

    def complete(
        self,
        work: Work,
        outcome: Outcome = Outcome.COMPLETED,
        message: str = "done",
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Answer a command that was begun: completed, failed, or rejected for a limit of the device's own."""
        if self.journal.seen(work.command.command_id) is None:
            raise InputError(
                source=f"device {self.device_id}",
                field="complete",
                value=work.command.command_id,
                expected="a command that was begun",
            )
        if outcome is Outcome.COMPLETED and work.resets:
            if self.guard.latch != work.latch:
                # Another emergency_shutdown has latched the device since this reset was taken; the newer latch stands.
                self.guard.latched = True
                outcome, message = Outcome.FAILED, "another emergency_shutdown came in between: still latched"
            else:
                self.guard.latched = False
        verdict = Verdict(outcome, message, data or {})
        response = self._response(work, verdict)
        self.journal.done(work.command.command_id, f"{outcome.value}|{message}", self._memory(), self._kept(work, response))
        self._open.discard(work.command.command_id)
        self._hand_in(work, response, self.journal.mark)

    def heartbeat(
        self,
        *,
        last_telemetry: datetime,
        soc_pct: float,
        power_w: float,
        alarm_count: int = 0,
        communication_quality: float = 1.0,
    ) -> None:
        """device:status, gone after 300 s; several times as often. InputError when a number is not finite."""
        status = {
            "online": True,
            "last_telemetry": last_telemetry.astimezone(UTC).isoformat(),
            "current_soc": round(soc_pct, 3),
            "current_power": round(power_w, 1),
            "alarm_count": alarm_count,
            "communication_quality": communication_quality,
        }
        try:
            write_status(self.redis, self.device_id, status)
        except ValueError:
            raise InputError(
                source=f"heartbeat of {self.device_id}", field="status", value=status, expected="finite numbers"
            ) from None

    def close(self) -> None:
        """Close the journal; the connection is the caller's, or ends with the process."""
        self.journal.close()

    def _obey_latch(self, latch: str) -> None:
        """The latch in Redis stands until a reset is completed, which ends both; one that is gone there stays here, and is
        announced: nobody is to plan with a device that will not move."""
        guard = self.guard
        if not latch:
            if guard.latched:
                guard.latch = guard.latch or UNNAMED_LATCH
                pending.announce_latch(self.redis, self.device_id, guard.latch)
            return
        if guard.latched and guard.latch == latch:
            return
        guard.latched, guard.latch = True, latch  # before the disk: a journal that cannot be written keeps no power on
        self.journal.remember(self._memory())

    def _tell_again(self, mark: str, besides: Collection[str] = ()) -> None:
        """What Redis has lost with its memory, from the journal; the record takes each answer once."""
        if mark == self.journal.mark and not self._behind:
            return
        lost = [answer for answer in self.journal.untold(mark) if answer.command_id not in {*self._open, *besides}]
        if lost or besides or self._behind:
            responses.announce(self.redis, self.device_id, [(answer.site_id, answer.text) for answer in lost], self.journal.mark)
        self._behind = False

    def _admit(self, work: Work) -> Work | None:
        """The work when it may be begun; otherwise it is answered."""
        known = self.journal.seen(work.command.command_id)
        if known is not None:
            verdict = Verdict(Outcome.INDETERMINATE, "begun before a restart; not executed again")
            if known.response is not None:
                outcome, _, message = known.response.partition("|")
                verdict = Verdict(Outcome(outcome), message, {"repeated": True})
            self._hand_in(work, self._response(work, verdict), "")
            return None
        refused = self._why_not(work)
        if refused is not None:
            self._answer(work, refused)
            return None
        return work

    def _why_not(self, work: Work) -> Verdict | None:
        age_s = time.monotonic() - work.taken_s
        return self.guard.why_not(work.command, redis_now=work.redis_now, taken_age_s=age_s)

    def _too_close(self, work: Work) -> Verdict | None:
        """A deadline that would pass before power has moved."""
        needed_s, left_s = min(self.act_margin_s, ACT_MARGIN_SHARE * work.command.timeout_s), work.left_s()
        if left_s > needed_s:
            return None
        when = f"passed {-left_s:.1f} s ago" if left_s <= 0 else f"is {left_s:.2f} s away, and acting may take {needed_s:.2f} s"
        return Verdict(Outcome.EXPIRED, f"its deadline {when}")

    def _answer(self, work: Work, verdict: Verdict) -> None:
        """The answer to what is not begun. A journal that cannot be written does not keep it from being given."""
        response = self._response(work, verdict)
        mark = ""
        with suppress(StoreError):
            self.journal.refused(self._kept(work, response))
            mark = self.journal.mark
        self._hand_in(work, response, mark)

    def _response(self, work: Work, verdict: Verdict) -> Response:
        """Completed now, by Redis TIME of the take and the monotonic clock."""
        return Response(
            command_id=work.command.command_id,
            device_id=work.command.device_id,
            outcome=verdict.outcome,
            message=verdict.message,
            data=verdict.data,
            acknowledged_at=work.redis_now,
            completed_at=work.redis_now + timedelta(seconds=time.monotonic() - work.taken_s),
        )

    @staticmethod
    def _kept(work: Work, response: Response) -> Answer:
        return Answer(work.command.command_id, work.command.site_id, responses.response_json(response))

    def _hand_in(self, work: Work, response: Response, mark: str) -> None:
        """To Redis; one that does not get there keeps the mark where it is, so that it is told again."""
        done = response.outcome is Outcome.COMPLETED and work.resets
        clear = (work.latch or self.guard.latch) if done and not self.guard.latched else ""
        try:
            responses.finish(
                self.redis,
                work.command,
                work.raw,
                response,
                device_id=self.device_id,
                clear_latch=clear,
                told="" if self._behind else mark,
            )
        except BaseException:
            self._behind = True
            raise

    def _restore(self) -> None:
        """The journal's memory is read once: afterwards the guard knows more than the journal does."""
        if self._restored:
            return
        for name, value in self.journal.memory().items():
            if name in self.remembered:
                setattr(self.guard, name, value)
        self._restored = True

    def _memory(self) -> dict[str, Any]:
        return {name: getattr(self.guard, name) for name in self.remembered}
