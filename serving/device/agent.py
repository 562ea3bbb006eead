"""The reference device's loop: take, journal, act, answer; advance the pack; telemetry and status.

Here: the order of things. Not here: the rules (core.device_logic), the queue (stores.redis.pending), the pack (core.pack).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from core.clock import Clock
from core.commands import Command, Outcome, Response
from core.device_logic import DeviceController, Verdict
from core.devices import PackState
from core.errors import InputError
from core.pack import Pack
from core.series import Series
from serving.device.journal import Journal
from stores.connections import Stores
from stores.failures import STORE_FAILURES
from stores.redis import pending
from stores.redis.status import write_status

log = structlog.get_logger()

REMEMBERED = ("latched", "highest_seq", "highest_epoch", "own_charge_w", "own_discharge_w", "revert_s")
SUBSTEP_S = 60.0
STATUS_EVERY_S = 2.0
SEND_EVERY_S = 0.1
"""Telemetry is sent in batches of what has come due in this many wall seconds."""
SEND_AGAIN_S = 30.0
"""Pause after a failed sending: while it waits for its store, no command is taken."""
KEEP_UNSENT = 50_000
"""Measurements kept while their store is away; the oldest go first."""
BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
RECONNECT_AFTER = 3
"""Failures in a row after which connections are made anew: embedded servers may have come back on other ports."""


@dataclass(slots=True)
class DeviceAgent:
    """One device. `sink` receives batches of telemetry states and may raise a store failure: they are kept and sent later."""

    stores: Stores
    controller: DeviceController
    pack: Pack
    journal: Journal
    clock: Clock
    sink: Callable[[Sequence[PackState]], None]
    ambient_c: Series | None = None
    pause_s: float = 0.04
    _advanced_to: datetime | None = None
    _telemetry_due: datetime | None = None
    _unsent: list[PackState] = field(default_factory=list)
    _status_due_s: float = 0.0
    _send_due_s: float = 0.0
    _remembered: bool = False

    def recover(self) -> None:
        """After a start or a lost connection: an answer for everything that was taken and not finished.

        The journal's memory is read once: afterwards the controller knows more than the journal does.
        """
        if not self._remembered:
            for name, value in self.journal.memory().items():
                if name in REMEMBERED:
                    setattr(self.controller, name, value)
            self._remembered = True
        device_id = self.controller.device_id
        for raw in pending.processing(self.stores.redis, device_id):
            try:
                command = Command.from_wire(raw)
            except InputError as error:
                log.error("message_unreadable", device_id=device_id, why=str(error))
                pending.discard(self.stores.redis, device_id, raw)
                continue
            asked_s = time.monotonic()
            now = pending.redis_now(self.stores.redis)
            # A start that was taken before an emergency_shutdown must not be executed after it.
            self.controller.latched = self.controller.latched or (
                command.command_type.is_start and pending.is_latched(self.stores.redis, device_id)
            )
            self._handle(command, raw, now, asked_s)

    def run(self, stop: threading.Event, ends_at: datetime | None = None) -> None:
        """Until `stop` is set or the plant's clock passes `ends_at`; the pack is idle at the end, however it ends."""
        failures = 0
        recovered = False
        try:
            while not stop.is_set() and (ends_at is None or self.clock.now() < ends_at):
                self.advance()
                try:
                    if not recovered:
                        self.recover()
                        recovered = True
                    busy = self.poll()
                    self.report_status()
                    failures = 0
                except STORE_FAILURES as error:
                    log.warning("store_failed", device_id=self.controller.device_id, why=type(error).__name__)
                    stop.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                    failures += 1
                    recovered = False
                    if failures >= RECONNECT_AFTER:
                        self._reconnect()
                    continue
                self.send_telemetry()
                if not busy:
                    stop.wait(self.pause_s)
        finally:
            self.controller.power_w = 0.0

    def _reconnect(self) -> None:
        try:
            self.stores.reconnect()
        except STORE_FAILURES as error:
            log.warning("reconnect_failed", device_id=self.controller.device_id, why=type(error).__name__)

    def poll(self) -> bool:
        """Take and handle one message; True when there was one."""
        # Before the request: a reply that was long on its way makes a command older, never younger.
        taken_s = time.monotonic()
        found = pending.take_all(self.stores.redis, self.controller.device_id)
        if found.expired:
            pending.answer_expired(self.stores.redis, found.expired, pending.redis_now(self.stores.redis))
        for raw in found.broken:
            log.error("message_dropped", device_id=self.controller.device_id, message=raw[:200])
        if found.taken is None:
            return False
        self._handle(found.taken.command, found.taken.raw, found.taken.redis_now, taken_s)
        return True

    def _handle(self, command: Command, raw: str, redis_now: datetime, taken_s: float) -> None:
        known = self.journal.seen(command.command_id)
        if known is not None:
            verdict = Verdict(Outcome.INDETERMINATE, "begun before a restart; not executed again")
            if known.response is not None:
                outcome, _, message = known.response.partition("|")
                verdict = Verdict(Outcome(outcome), message, {"repeated": True})
            self._answer(command, raw, verdict, redis_now)
            return
        refused = self.controller.check(command, redis_now=redis_now, taken_age_s=time.monotonic() - taken_s)
        if refused is not None:
            self._answer(command, raw, refused, redis_now)
            return
        self.journal.begin(command.command_id, self._memory())
        # Between "begun" and here the disk may have been slow: the deadline is judged once more, just before acting.
        late_s = (redis_now - command.expires_at).total_seconds() + time.monotonic() - taken_s
        if late_s >= 0:
            verdict = Verdict(Outcome.EXPIRED, f"its deadline passed {late_s:.1f} s ago, while it was being begun")
        else:
            verdict = self.controller.execute(
                command, monotonic_s=time.monotonic(), condition=self.pack.condition(SUBSTEP_S), state=self._state
            )
        self.journal.done(command.command_id, f"{verdict.outcome.value}|{verdict.message}", self._memory())
        self._answer(command, raw, verdict, redis_now)
        log.info(
            "command",
            device_id=command.device_id,
            type=command.command_type.value,
            outcome=verdict.outcome.value,
            message=verdict.message,
        )

    def _answer(self, command: Command, raw: str, verdict: Verdict, redis_now: datetime) -> None:
        response = Response(
            command_id=command.command_id,
            device_id=command.device_id,
            outcome=verdict.outcome,
            message=verdict.message,
            data=verdict.data,
            acknowledged_at=redis_now,
            completed_at=max(redis_now, pending.redis_now(self.stores.redis)),
        )
        pending.finish(self.stores.redis, command, raw, response)

    def _memory(self) -> dict[str, Any]:
        return {name: getattr(self.controller, name) for name in REMEMBERED}

    def _state(self) -> dict[str, Any]:
        state = self.pack.state(self.clock.now())
        return {
            "soc": state.soc_pct,
            "soh": state.soh_pct,
            "power": state.power_w,
            "voltage": state.voltage_v,
            "temperature": state.temperature_c,
            "set_point": self.controller.power_w,
            "latched": self.controller.latched,
        }

    def advance(self) -> None:
        """Bring the pack to the plant's present, in substeps, taking telemetry where it is due."""
        now = self.clock.now()
        if self._advanced_to is None:
            self._advanced_to = now
            self._telemetry_due = now
        while self._advanced_to < now:
            self._measure()
            dt_s = min(SUBSTEP_S, (now - self._advanced_to).total_seconds())
            if self._telemetry_due is not None:
                dt_s = min(dt_s, max((self._telemetry_due - self._advanced_to).total_seconds(), 1e-3))
            if self.ambient_c is not None:
                self.pack.ambient_c = self._ambient(self._advanced_to)
            power_w = self.controller.applied_power(
                monotonic_s=time.monotonic(),
                soc_pct=self.pack.soc_pct,
                condition=self.pack.condition(dt_s),
                dt_s=dt_s,
            )
            self.pack.step(power_w, dt_s)
            self._advanced_to += timedelta(seconds=dt_s)
        self._measure()

    def _ambient(self, at: datetime) -> float:
        assert self.ambient_c is not None  # noqa: S101
        k = int((at - self.ambient_c.start).total_seconds() // self.ambient_c.dt_s)
        return float(self.ambient_c.values[min(max(k, 0), len(self.ambient_c) - 1)])

    def _measure(self) -> None:
        if self._advanced_to is None or self._telemetry_due is None or self._advanced_to < self._telemetry_due:
            return
        self._unsent.append(self.pack.state(self._telemetry_due))
        step_s = self.controller.telemetry_interval_s
        done = int(self._telemetry_due.timestamp() // step_s) + 1
        self._telemetry_due = datetime.fromtimestamp(done * step_s, tz=UTC)

    def send_telemetry(self) -> None:
        """Send what is due. A store that fails costs time, not measurements, and never keeps commands waiting for long."""
        if not self._unsent or time.monotonic() < self._send_due_s:
            return
        batch = self._unsent[:500]
        try:
            self.sink(batch)
        except STORE_FAILURES as error:
            log.warning("telemetry_kept", device_id=self.controller.device_id, count=len(self._unsent), why=type(error).__name__)
            self._send_due_s = time.monotonic() + SEND_AGAIN_S
            del self._unsent[:-KEEP_UNSENT]
            return
        self._send_due_s = time.monotonic() + SEND_EVERY_S
        del self._unsent[: len(batch)]

    def report_status(self) -> None:
        """device:status every two wall seconds."""
        if time.monotonic() < self._status_due_s or self._advanced_to is None:
            return
        state = self.pack.state(self._advanced_to)
        write_status(
            self.stores.redis,
            self.controller.device_id,
            {
                "online": True,
                "last_telemetry": self._advanced_to.isoformat(),
                "current_soc": round(state.soc_pct, 3),
                "current_power": round(state.power_w, 1),
                "alarm_count": len(state.alarm_flags),
                "communication_quality": 1.0,
            },
        )
        self._status_due_s = time.monotonic() + STATUS_EVERY_S
