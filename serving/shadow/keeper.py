"""Scores the days of a site beside its dispatcher: looks after each tick whether one is due, and has a process score it.

Here: when, and what becomes of a failure. Not here: scoring (serving.shadow.scorer).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

import structlog

from core.clock import Clock
from core.errors import InputError
from serving.dispatch.asked_process import AskedProcess
from serving.dispatch.metrics import SiteMetrics
from serving.shadow.days import local_day
from serving.shadow.judge import live_score
from serving.shadow.scorer import SCORED, Result, days_due, serve_scoring
from serving.site_loader import site_config
from stores.connections import Postgres, Stores
from stores.failures import STORE_FAILURES
from stores.postgres.policy_days import PolicyDay, policy_days
from stores.postgres.session import bound_session

log = structlog.get_logger()
DEADLINE_S = 1200.0
"""Wall seconds that a day may take."""
RETRY_S = (60.0, 600.0, 3600.0)
"""Wall seconds after failures in a row."""
WINDOW_DAYS = 14
"""Of the live score that is exported."""
END_WAIT_S = 10.0
LOOK_S = 0.5
ONE_AT_A_TIME = threading.BoundedSemaphore(1)
"""Sites whose days end at the same moment are scored one after the other: each needs a process of its own."""
FAILURES: tuple[type[Exception], ...] = (InputError, *STORE_FAILURES)


@dataclass(slots=True)
class DayKeeper:
    """The days of one site."""

    stores: Stores
    site_id: str
    clock: Clock
    by: str
    metrics: SiteMetrics = field(default_factory=SiteMetrics.unwatched)
    _poked: threading.Event = field(default_factory=threading.Event)
    _stop: bool = False
    _thread: threading.Thread | None = None
    _process: AskedProcess = field(init=False)
    _not_before_s: float = 0.0
    _failures: int = 0
    _told: bool = False
    _nothing_until: datetime | None = None

    def __post_init__(self) -> None:
        self._process = AskedProcess(serve_scoring, (self.stores.settings,), name="scoring")

    def start(self) -> None:
        """Begin to wait for ticks."""
        self._thread = threading.Thread(target=self._run, name=f"days-{self.site_id}", daemon=True)
        self._thread.start()

    def poke(self) -> None:
        """A tick has ended: look. Returns at once."""
        self._poked.set()

    def close(self) -> None:
        """End the process, with a day that it scores, and the thread: the day is scored at the next start."""
        self._stop = True
        self._process.close()
        self._poked.set()
        if self._thread is not None:
            self._thread.join(END_WAIT_S)

    def _run(self) -> None:
        while not self._stop:
            self._poked.wait()
            self._poked.clear()
            if self._stop or time.monotonic() < self._not_before_s:
                continue
            try:
                self.look()
                self._failures = 0
            except FAILURES as error:
                self._failed(f"{type(error).__name__}: {error}")
            except Exception as error:
                log.exception("scoring_failed", site_id=self.site_id)
                self._failed(f"{type(error).__name__}: {error}")

    def look(self) -> None:
        """Score what is due; raises a store failure, or InputError when scoring failed."""
        now = self.clock.now()
        if self._nothing_until is not None and now < self._nothing_until:
            return
        pg = self.stores.pg_connect()  # its own: the loop's is the loop's
        try:
            bound_session(pg)
            due = days_due(pg, self.site_id, now)
            if not self._told:
                self._publish(pg, now)
                self._told = True
            for day in due:
                self._score(pg, day, now)
        finally:
            pg.close()
        if due:
            self._process.kill()  # its memory is not needed for a day
        else:
            # Days end on the hour or half hour: nothing becomes due before the next quarter.
            self._nothing_until = _next_quarter(now)

    def _score(self, pg: Postgres, day: date, now: datetime) -> None:
        """Have one day scored, when no other site of this process is at it."""
        while not self._stop and not ONE_AT_A_TIME.acquire(timeout=LOOK_S):
            pass
        if self._stop:
            return
        try:
            kind, content = self._process.ask((self.site_id, day, now, self.by), DEADLINE_S)
        finally:
            ONE_AT_A_TIME.release()
        if self._stop:
            return
        if kind != SCORED:
            raise InputError(source=f"site {self.site_id}", field=f"score of {day}", value=kind, expected=str(content))
        if isinstance(content, Result) and content.mine:
            self.metrics.day_scored("unscored" if content.marker.why_not else "scored")
            for alarm in content.alarms:
                self.metrics.policy_alarm(alarm.policy, alarm.kind, alarm.action)
            self._publish(pg, now)

    def _failed(self, why: str) -> None:
        if self._stop:
            return
        log.error("day_not_scored", site_id=self.site_id, why=why)
        self.metrics.day_scored("failed")
        self._not_before_s = time.monotonic() + RETRY_S[min(self._failures, len(RETRY_S) - 1)]
        self._failures += 1

    def _publish(self, pg: Postgres, now: datetime) -> None:
        """Scores of the newest days, for the metrics."""
        since = local_day(now, site_config(pg, self.site_id).timezone) - timedelta(days=WINDOW_DAYS)
        groups: dict[tuple[str, str], list[PolicyDay]] = {}
        for row in policy_days(pg, self.site_id, since=since):
            groups.setdefault((row.policy, row.role), []).append(row)
        for (policy, role), rows in groups.items():
            live = live_score(rows)
            self.metrics.policy_scores(
                policy, role, day=rows[0].score, live=None if live is None else live.interval.value,
                adrift=len(rows[0].details.get("drift", {}).get("drifted") or []),
            )  # fmt: skip


def _next_quarter(now: datetime) -> datetime:
    return datetime.fromtimestamp((int(now.timestamp()) // 900 + 1) * 900, tz=now.tzinfo)
