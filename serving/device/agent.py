"""The reference device's loop: take, begin, act, complete; advance the pack; telemetry and status.

Here: the simulated device around the client library that any device uses (serving.device_client). Not here: the rules
(core.device_logic), the pack (core.pack).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from core.clock import Clock
from core.device_logic import LIMIT_STEP_S, DeviceController
from core.devices import PackState
from core.limits import Condition, power_bounds
from core.pack import Pack
from core.series import Series
from core.soc_window import SocWindow
from serving.device_client import GUARD_MEMORY, DeviceClient, Journal, Work
from stores.connections import Stores
from stores.failures import STORE_FAILURES

log = structlog.get_logger()

REMEMBERED = (*GUARD_MEMORY, "own_charge_w", "own_discharge_w", "revert_s")
SUBSTEP_S = 60.0
STATUS_EVERY_S = 2.0
SEND_EVERY_S = 0.1
"""Telemetry is sent in batches of what has come due in this many wall seconds."""
SEND_AGAIN_S = 30.0
"""Pause after a failed sending: while it waits for its store, no command is taken."""
CLOCK_SET_BACK = timedelta(seconds=1)
"""The plant's clock is behind the pack by more than this: it was set back, and the pack goes on from there."""
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
    cycle: SocWindow = field(default_factory=SocWindow)
    """SoC of the last day, by the plant's clock: the depth of a cycle is held here as well as in the plan."""
    _advanced_to: datetime | None = None
    _telemetry_due: datetime | None = None
    _unsent: list[PackState] = field(default_factory=list)
    _status_due_s: float = 0.0
    _send_due_s: float = 0.0
    _client: DeviceClient | None = None

    def recover(self) -> None:
        """After a start or a lost connection: an answer for everything that was taken and not finished."""
        for work in self._connected().recover():
            self._carry_out(work)

    def run(self, stop: threading.Event, ends_at: datetime | None = None) -> None:
        """Until `stop` is set or the plant's clock passes `ends_at`; the pack is idle at the end, however it ends."""
        failures = 0
        recovered = False
        self._warm()
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

    def _warm(self) -> None:
        """What a command needs is compiled, or loaded, before the first is taken: that may take longer than a deadline."""
        power_bounds(self.controller.effective_limits(), self._condition(SUBSTEP_S), LIMIT_STEP_S)

    def _reconnect(self) -> None:
        try:
            self.stores.reconnect()
        except STORE_FAILURES as error:
            log.warning("reconnect_failed", device_id=self.controller.device_id, why=type(error).__name__)

    def poll(self) -> bool:
        """Take and carry out one command; True when there was one."""
        work = self._connected().take()
        if work is None:
            return False
        self._carry_out(work)
        return True

    def _connected(self) -> DeviceClient:
        """The client, on the connection of now."""
        if self._client is None:
            self._client = DeviceClient(
                self.stores.redis, self.controller, self.journal, remembered=REMEMBERED, on_dropped=self._dropped
            )
        self._client.redis = self.stores.redis
        return self._client

    def _dropped(self, message: str) -> None:
        log.error("message_dropped", device_id=self.controller.device_id, message=message[:200])

    def _carry_out(self, work: Work) -> None:
        client, command = self._connected(), work.command
        # Before "begun": nothing but a comparison of times stands between the deadline and the inverter.
        condition = self._condition(SUBSTEP_S)
        if not client.begin(work):
            return
        verdict = self.controller.execute(command, monotonic_s=time.monotonic(), condition=condition, state=self._state)
        client.complete(work, verdict.outcome, verdict.message, verdict.data)
        log.info(
            "command",
            device_id=command.device_id,
            type=command.command_type.value,
            outcome=verdict.outcome.value,
            message=verdict.message,
        )

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
        if self._advanced_to is None or self._advanced_to > now + CLOCK_SET_BACK:
            self._advanced_to = now
            self._telemetry_due = now
            self.cycle.add(now, self.pack.soc_pct)
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
                condition=self._condition(dt_s),
                dt_s=dt_s,
            )
            self.pack.step(power_w, dt_s)
            self._advanced_to += timedelta(seconds=dt_s)
            self.cycle.add(self._advanced_to, self.pack.soc_pct)
        self._measure()

    def _condition(self, dt_s: float) -> Condition:
        """The pack's, with the extremes of the cycle so far."""
        condition, extremes = self.pack.condition(dt_s), self.cycle.extremes()
        if extremes is None:
            return condition
        low_pct, high_pct = min(extremes[0], self.pack.soc_pct), max(extremes[1], self.pack.soc_pct)
        return replace(condition, soc_low_pct=low_pct, soc_high_pct=high_pct)

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
        self._connected().heartbeat(
            last_telemetry=self._advanced_to,
            soc_pct=state.soc_pct,
            power_w=state.power_w,
            alarm_count=len(state.alarm_flags),
        )
        self._status_due_s = time.monotonic() + STATUS_EVERY_S
