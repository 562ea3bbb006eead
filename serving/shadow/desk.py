"""Where shadows are asked: a thread beside the dispatcher's loop, with a connection and a process of its own.

The loop hands over what its tick had gathered (`offer`, which never waits and never raises) and goes on. Here: which policies are
shadows, asking them in turn, writing what came of it. Not here: a turn (serving.shadow.turn), the daily score
(serving.shadow.keeper). Nothing here can command: no function of the outbox or the queue is imported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from core.artefact import ArtefactFiles
from core.devices import CYCLE_HOURS
from core.errors import PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation
from serving.dispatch.asked_process import AskedProcess
from serving.dispatch.eligibility import Artefacts, why_not
from serving.dispatch.meter import Meter
from serving.dispatch.metrics import SiteMetrics
from serving.dispatch.policy_factory import Factory, policy_of
from serving.dispatch.ranking import SHORTEST_S
from serving.dispatch.runner import Why
from serving.shadow.day_inputs import MOST_PACKS
from serving.shadow.days import day_bounds, local_day
from serving.shadow.turn import Task, Turn, rested
from serving.shadow.worker import TURN, serve_shadows
from stores.connections import Postgres, Stores
from stores.failures import STORE_FAILURES
from stores.mongo.telemetry import soc_extremes
from stores.postgres.policies import ranked_policies
from stores.postgres.session import bound_session
from stores.postgres.shadow import ShadowDecision, record_turn, shadow_state

log = structlog.get_logger()
MOST_SHADOWS = 4
SHARE_OF_INTERVAL = 0.5
"""All shadows of a tick together may take so much of its interval."""
END_WAIT_S = 10.0
FAILURES: tuple[type[Exception], ...] = STORE_FAILURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """What a tick leaves to its shadows."""

    observation: Observation
    meter: Meter | None
    decided_by: str | None
    """Policy id of the row that decided; None for rule, hold and stop."""
    deadline_s: float
    """Wall seconds that one policy may take."""
    until_s: float
    """Monotonic time by which all must have been asked."""


@dataclass(slots=True)
class ShadowDesk:
    """The shadows of one site."""

    stores: Stores
    site_id: str
    artefacts: Artefacts
    """Its own: what the loop's thread uses is not shared."""
    factory: Factory = policy_of
    metrics: SiteMetrics = field(default_factory=SiteMetrics.unwatched)
    asked: threading.Event = field(default_factory=threading.Event)
    """Set while a shadow is being asked."""
    _given: Ticked | None = None
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: bool = False
    _thread: threading.Thread | None = None
    _process: AskedProcess = field(init=False)
    _pg: Postgres | None = None
    _states: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    _said_large: bool = False

    def __post_init__(self) -> None:
        self._process = AskedProcess(serve_shadows, (self.factory,), name="shadows")

    def start(self) -> None:
        """Begin to wait for ticks."""
        self._thread = threading.Thread(target=self._run, name=f"shadows-{self.site_id}", daemon=True)
        self._thread.start()

    def offer(self, ticked: Ticked) -> bool:
        """Hand a tick over; False, and counted, when the shadows are still busy with the one before. Returns at once."""
        with self._changed:
            free = self._given is None and not self._stop
            if free:
                self._given = ticked
                self._changed.notify_all()
        if not free:
            self.metrics.shadow("", "skipped")
        return free

    def idle(self, timeout_s: float) -> bool:
        """Wait until nothing is under way; False when that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._given is None, timeout_s)

    def close(self) -> None:
        """End the process, a shadow that is being asked with it, and the thread."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self._process.close()
        if self._thread is not None:
            self._thread.join(END_WAIT_S)

    def _run(self) -> None:
        self._warm_for_shadows()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._given is not None or self._stop)
                if self._stop:
                    break
                ticked = self._given
            try:
                if ticked is not None:
                    self.turns(ticked)
            except FAILURES as error:
                log.warning("shadows_failed", site_id=self.site_id, why=f"{type(error).__name__}: {error}")
                self._disconnect()
            except Exception:
                log.exception("shadows_failed", site_id=self.site_id)
            with self._changed:
                self._given = None
                self._changed.notify_all()
        self._disconnect()

    def _warm_for_shadows(self) -> None:
        """Have the process ready before the first tick, where there is a shadow."""
        try:
            if shadows_of(self._connected(), self.site_id, None):
                self._warm()
        except FAILURES as error:
            log.warning("shadows_failed", site_id=self.site_id, why=f"{type(error).__name__}: {error}")
            self._disconnect()

    def _warm(self) -> None:
        try:
            self._process.warm()
        except (EOFError, OSError) as error:  # closed meanwhile, or the machine has none left: the next turn says so
            log.debug("shadows_not_warm", site_id=self.site_id, why=str(error))

    def turns(self, ticked: Ticked) -> None:
        """Ask every shadow of the site for this tick's interval, one after the other, and write each turn."""
        observation = ticked.observation
        if len(observation.devices) > MOST_PACKS:
            if not self._said_large:
                log.warning("no_shadows", site_id=self.site_id, why=f"more than {MOST_PACKS} packs")
            self._said_large = True
            return
        pg = self._connected()
        records = shadows_of(pg, self.site_id, ticked.decided_by)
        if not records or not observation.devices:
            return
        starts_at = observation.starts_at
        day = local_day(starts_at, observation.site.timezone)
        begin, since = day_bounds(day, observation.site.timezone)[0], starts_at - timedelta(hours=CYCLE_HOURS)
        ids = [device.device_id for device in observation.devices]
        earlier = soc_extremes(self.stores.mongo, ids, since, begin) if since < begin else {}
        for record in records:
            if self._stop:
                return
            key = record.policy_id or record.name
            kept = self._states[key] if key in self._states else shadow_state(pg, self.site_id, key)
            task = Task(
                record=record, files=None, observation=observation, meter=ticked.meter, day=day, kept=kept, earlier=earlier
            )
            begun_s = time.monotonic()
            turn = self._turn(task, min(ticked.deadline_s, ticked.until_s - begun_s))
            if self._stop:
                return  # it was ended with the dispatcher: that is no fault of its own
            row = ShadowDecision(
                site_id=self.site_id, policy_id=key, policy=record.name, starts_at=starts_at, interval_s=observation.interval_s,
                outcome=turn.outcome, detail=turn.detail, power_w=turn.power_w, soc_pct=turn.soc_pct, cut_w=turn.cut_w,
                wall_s=time.monotonic() - begun_s,
            )  # fmt: skip
            if record_turn(pg, row, turn.state):
                self._states[key] = turn.state
            else:
                self._states.pop(key, None)  # another dispatcher has written this interval: its state counts
            self.metrics.shadow(record.name, turn.outcome)

    def _turn(self, task: Task, deadline_s: float) -> Turn:
        """The shadow's turn, or a rest with the reason."""
        why = why_not(task.record, task.observation, self.artefacts)
        if why:
            return rested(task, Why.INELIGIBLE, why)
        if deadline_s < SHORTEST_S:
            return rested(task, Why.DEADLINE, "shadows before it have used the time")
        files: ArtefactFiles | None = None
        if task.record.policy_type != "MPC":
            try:
                files = self.artefacts.files(task.record)
            except PulseBmsError as error:
                return rested(task, Why.REFUSED, str(error))
        asked = Task(
            record=task.record, files=files, observation=task.observation, meter=task.meter, day=task.day, kept=task.kept,
            earlier=task.earlier,
        )  # fmt: skip
        self.asked.set()
        try:
            kind, content = self._process.ask(asked, deadline_s)
        finally:
            self.asked.clear()
        if kind == TURN and isinstance(content, Turn):
            return content
        if not self._stop:
            self._warm()  # the next process gets ready while nobody waits for it
            log.warning("shadow_failed", site_id=self.site_id, policy=task.record.name, reason=kind, why=str(content))
        return rested(task, kind, str(content))

    def _connected(self) -> Postgres:
        if self._pg is None or self._pg.closed:
            self._pg = self.stores.pg_connect()
            bound_session(self._pg)
        return self._pg

    def _disconnect(self) -> None:
        self._states.clear()
        if self._pg is not None:
            self._pg.close()
            self._pg = None


def shadows_of(pg: Postgres, site_id: str, decided_by: str | None) -> list[PolicyRecord]:
    """Who decides without commanding: rows in testing first, then active ones that have not decided; at most MOST_SHADOWS."""
    active = [record for record in ranked_policies(pg, site_id) if record.policy_id != decided_by]
    return [*ranked_policies(pg, site_id, "testing"), *active][:MOST_SHADOWS]
