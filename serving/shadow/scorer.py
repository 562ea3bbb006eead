"""Scores a day once: read, replay, judge, write whole. By the dispatcher's process for it, or by hand.

Here: `score_day` with its lock, `days_due`, and the process that does it beside a dispatcher. Not here: the numbers
(serving.shadow.scoring), the judgement (serving.shadow.judge).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

import structlog

from core.errors import InputError
from serving.dispatch.asked_process import bound_to_parent
from serving.dispatch.warm import warm_kernels
from serving.logs import configure_logging
from serving.shadow.day import Day
from serving.shadow.day_inputs import read_day
from serving.shadow.days import BACK_DAYS, day_bounds, due_days, local_day
from serving.shadow.drift import watch_day
from serving.shadow.judge import judge, own_days
from serving.shadow.residuals import day_residuals
from serving.shadow.scoring import DayScores, Scored, score_schedules
from serving.shadow.worker import NICE
from serving.site_loader import site_config
from stores.connections import Stores, open_stores
from stores.failures import STORE_FAILURES
from stores.mongo.telemetry import latest_states
from stores.postgres.connection import PgConnection
from stores.postgres.decisions import first_decision_since
from stores.postgres.policies import ranked_policies
from stores.postgres.policy_days import (
    COMMANDED,
    PolicyAlarm,
    PolicyDay,
    ScoredDay,
    lock_day,
    mark_day,
    policy_days,
    scored_day,
    scored_days,
    unlock_day,
    write_policy_days,
)
from stores.settings import StoreSettings

log = structlog.get_logger()
SCORED, FAILED = "scored", "failed"
EXPECTED: tuple[type[Exception], ...] = (InputError, *STORE_FAILURES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A day and its scores; `mine` when they were made just now."""

    marker: ScoredDay
    days: list[PolicyDay]
    alarms: list[PolicyAlarm]
    mine: bool


def score_day(
    stores: Stores, site_id: str, day: date, *, now: datetime, by: str = "", again: bool = False,
    before_writing: Callable[[], None] = lambda: None,
) -> Result | None:  # fmt: skip
    """Score a day that nobody has scored (`again`: also one that was); None while another session does it.

    A day that cannot be scored is marked with the reason. Raises InputError for an unknown site or a day that has not ended.
    `before_writing` is called between computing and writing.
    """
    site = site_config(stores.pg, site_id)
    start, end = day_bounds(day, site.timezone)
    if now < end:
        expected = f"a day that has ended; it is {local_day(now, site.timezone)} there"
        raise InputError(source=f"site {site_id}", field="day", value=day.isoformat(), expected=expected)
    by = by or f"{socket.gethostname()}:{os.getpid()}"
    if not lock_day(stores.pg, site_id, day):
        return None
    try:
        known = scored_day(stores.pg, site_id, day)
        if known is not None and not again:
            return Result(marker=known, days=_days(stores, site_id, day), alarms=[], mine=False)
        rows: list[PolicyDay] = []
        why_not = ""
        try:
            read = read_day(stores, site_id, day)
            rows = _rows(stores, site_id, site.timezone, read, score_schedules(read))
        except InputError as error:
            why_not = str(error)
        marker = ScoredDay(site_id=site_id, day=day, starts_at=start, ends_at=end, why_not=why_not, scored_by=by)
        before_writing()
        with stores.pg.transaction():
            if not mark_day(stores.pg, marker, again=again):
                return None  # a session whose lock was lost with its connection was faster
            write_policy_days(stores.pg, rows)
            alarms = judge(stores.pg, site_id, site.timezone, day, by) if rows else []
    finally:
        unlock_day(stores.pg, site_id, day)
    _tell(site_id, marker, rows, alarms)
    return Result(marker=marker, days=_days(stores, site_id, day), alarms=alarms, mine=True)


def days_due(pg: PgConnection, site_id: str, now: datetime) -> list[date]:
    """Days of the site that want a score, oldest first."""
    timezone = site_config(pg, site_id).timezone
    since = local_day(now, timezone) - timedelta(days=BACK_DAYS)
    first = first_decision_since(pg, site_id, day_bounds(since, timezone)[0])
    done = {marker.day for marker in scored_days(pg, site_id, since)}
    return due_days(now, timezone, None if first is None else local_day(first, timezone), done)


def _days(stores: Stores, site_id: str, day: date) -> list[PolicyDay]:
    return [row for row in policy_days(stores.pg, site_id, since=day) if row.day == day]


def _rows(stores: Stores, site_id: str, timezone: str, day: Day, scores: DayScores) -> list[PolicyDay]:
    found = []
    for item in scores.scored:
        details: dict[str, Any] = {**item.details(), **day.notes, "why_no_floor": day.why_no_floor}
        if item.schedule.role == COMMANDED:
            details |= _of_commanded(stores, site_id, timezone, day, item)
        found.append(
            PolicyDay(
                site_id=site_id, day=day.day, role=item.schedule.role, policy_id=item.schedule.policy_id,
                policy=item.schedule.policy, score=item.score, j_eur=item.account.j_eur, idle_eur=scores.idle_eur,
                best_eur=scores.best_eur, decided_share=float(item.schedule.decided.mean()), violations=item.account.violations,
                details=details,
            )
        )  # fmt: skip
    return found


def _of_commanded(stores: Stores, site_id: str, timezone: str, day: Day, item: Scored) -> dict[str, Any]:
    """What telemetry says beside the replay: the SoC that the day really ended at, and the drift of predictions."""
    end = day_bounds(day.day, timezone)[1]
    measured = latest_states(stores.mongo, [d.device_id for d in day.world.devices], not_after=end)
    ended = {
        key: round(item.end_soc_pct[key] - state.soc_pct, 3)
        for key, state in measured.items()
        if (end - state.measured_at).total_seconds() <= day.world.dt_s
    }
    own = [d for d in day.commanded if d.policy_id and d.policy_id == item.schedule.policy_id]
    residuals = day_residuals(stores, own, day.world.devices)
    record = next((r for r in ranked_policies(stores.pg, site_id) if r.policy_id == item.schedule.policy_id), None)
    earlier = [d for d in own_days(stores.pg, record, timezone) if d.day < day.day] if record is not None else []
    before = earlier[0].details.get("drift", {}).get("states", {}) if earlier else {}
    drifted, states = watch_day(residuals.values, before)
    return {
        "replay_less_measured_soc_pct": ended,
        "drift": {
            "drifted": [found.as_json() for found in drifted], "states": states, "intervals": residuals.intervals,
            "not_executed": residuals.not_executed, "not_measured": residuals.not_measured,
        },
    }  # fmt: skip


def _tell(site_id: str, marker: ScoredDay, rows: list[PolicyDay], alarms: list[PolicyAlarm]) -> None:
    scores = {f"{row.policy} ({row.role})": row.score for row in rows}
    log.info("day_scored", site_id=site_id, day=marker.day.isoformat(), why_not=marker.why_not, scores=scores)
    for alarm in alarms:
        name = "policy_demoted" if alarm.action == "demoted" else "policy_alarm"
        log.error(name, site_id=site_id, policy=alarm.policy, kind=alarm.kind, why=alarm.reason)


def serve_scoring(pipe: Connection, settings: StoreSettings) -> None:
    """The process beside a dispatcher: reads (site, day, now, by), answers whether it was scored, and by whom."""
    bound_to_parent(NICE)
    configure_logging()
    warm_kernels()
    while True:
        try:
            site_id, day, now, by = pipe.recv()
        except (EOFError, OSError):
            return
        reply: tuple[str, Any]
        try:
            with open_stores(settings) as stores:
                result = score_day(stores, site_id, day, now=now, by=by)
            reply = (SCORED, result)
        except EXPECTED as error:
            reply = (FAILED, f"{type(error).__name__}: {error}")
        except Exception as error:
            log.exception("scoring_failed", site_id=site_id, day=day.isoformat())
            reply = (FAILED, f"{type(error).__name__}: {error}")
        try:
            pipe.send(reply)
        except (EOFError, OSError):
            return
