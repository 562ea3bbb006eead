"""What a scored day means for the policy that commanded it: below its floor, predictions adrift, and what follows.

Here: `live_score`, `judge`. Not here: scores (serving.shadow.scoring), detectors (serving.shadow.drift), the life cycle itself
(serving.evaluation.rows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import structlog

from core.errors import InputError
from core.policy_record import PolicyRecord
from serving.evaluation.rows import step_life
from serving.evaluation.score import Interval, frame_of, score_interval
from serving.shadow.days import local_day
from serving.shadow.settings import floor_of, watch_settings
from stores.postgres.connection import PgConnection
from stores.postgres.policies import ranked_policies
from stores.postgres.policy_days import COMMANDED, PolicyAlarm, PolicyDay, lock_site, policy_days, raise_alarm

log = structlog.get_logger()

FLOOR, DRIFT = "floor", "drift"
DEMOTED, KEPT = "demoted", "kept"
MOSTLY = 0.8
"""Share of a day that a policy must have decided for the day to speak of it."""
LEVEL, RESAMPLES = 0.9, 4000
LEAST_ROOM_EUR = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """Scores of several days together."""

    interval: Interval
    days: int
    j_eur: float
    """Beyond idle, all days."""
    room_eur: float


def live_score(days: Sequence[PolicyDay]) -> Live | None:
    """The score of the days together, with the interval over days; None without a day in which there was something to earn.

    Days that the policy hardly decided say nothing of it.
    """
    rich = [d for d in days if d.decided_share >= MOSTLY and d.best_eur - d.idle_eur >= LEAST_ROOM_EUR]
    if not rich:
        return None
    blocks = {d.day: ("live", d.day.isoformat(), 0) for d in rich}
    frame = frame_of(
        list(blocks.values()), {blocks[d.day]: d.idle_eur for d in rich}, {blocks[d.day]: d.best_eur for d in rich}, LEVEL,
        RESAMPLES,
    )  # fmt: skip
    by_day = {d.day: d for d in rich}
    j_eur = np.array([by_day[date.fromisoformat(block[1])].j_eur for block in frame.blocks])
    interval = score_interval(frame, j_eur, frame.draws())
    if interval is None:
        return None
    return Live(
        interval=interval, days=len(rich), j_eur=float((j_eur - frame.idle_eur).sum()), room_eur=float(frame.room_eur.sum())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something against a policy."""

    kind: str
    reason: str
    figures: Mapping[str, Any]


def findings(record: PolicyRecord, days: Sequence[PolicyDay]) -> list[Finding]:
    """What the days that it commanded since it was deployed, newest first, say against a policy."""
    settings = watch_settings(record)
    own = [d for d in days if d.decided_share >= MOSTLY]
    found = []
    floor = floor_of(record, settings)
    counted = [d for d in own if not d.details.get("why_no_floor")][: settings.floor_window_days]
    live = live_score(counted)
    if floor > 0 and live is not None and live.days >= settings.floor_least_days and live.interval.high < floor:
        found.append(
            Finding(
                kind=FLOOR,
                reason=f"live score {live.interval.value:.3f} [{live.interval.low:.3f}, {live.interval.high:.3f}] of {live.days} "
                f"days is below its floor {floor:.3f}",
                figures={
                    "score": live.interval.document(), "floor": floor, "days": live.days, "level": LEVEL,
                    "earned_eur": round(live.j_eur, 4), "foresight_eur": round(live.room_eur, 4),
                },
            )
        )  # fmt: skip
    confirming = own[: settings.drift_confirm_days]
    drifted = [d.details.get("drift", {}).get("drifted") or [] for d in confirming]
    if len(confirming) == settings.drift_confirm_days and all(drifted):
        worst = max(drifted[0], key=lambda item: item["statistic"])
        found.append(
            Finding(
                kind=DRIFT,
                reason=f"predictions have drifted on {len(confirming)} scored days in a row: {worst['quantity']} of "
                f"{worst['device_id']} by {worst['shift']:+.2f} (CUSUM {worst['statistic']:.1f}, spread {worst['spread']:.2f})",
                figures={"days": [d.day.isoformat() for d in confirming], "drifted": drifted[0]},
            )
        )
    return found


def judge(pg: PgConnection, site_id: str, timezone: str, day: date, by: str) -> list[PolicyAlarm]:
    """Raise what the scores up to `day` say against the policy that commanded it, and demote it; inside the caller's transaction.

    At most one policy is demoted, never the last active one. Returns the alarms that are new.
    """
    lock_site(pg, site_id)
    rows = policy_days(pg, site_id, limit=1)
    if rows and rows[0].day > day:
        return []  # an old day scored again: what came after it has been judged
    active = ranked_policies(pg, site_id)
    commanded = next((d for d in policy_days(pg, site_id, since=day) if d.role == COMMANDED and d.day == day), None)
    record = next((r for r in active if commanded is not None and r.policy_id == commanded.policy_id), None)
    if commanded is None or record is None or record.policy_id is None or commanded.decided_share < MOSTLY:
        return []
    try:
        settings = watch_settings(record)
        found = findings(record, own_days(pg, record, timezone))
    except InputError as error:
        log.error("watch_refused", site_id=site_id, policy=record.name, why=str(error))
        return []
    raised: list[PolicyAlarm] = []
    demoted = False
    for finding in found:
        last = len(active) <= 1
        may = settings.demote and not last and not demoted
        note = "" if may or demoted else "; kept: " + ("the last active policy of the site" if last else "watch.demote is false")
        alarm = PolicyAlarm(
            site_id=site_id, policy_id=record.policy_id, policy=record.name, day=day, kind=finding.kind,
            action=DEMOTED if may or demoted else KEPT, reason=finding.reason + note, figures=finding.figures, raised_by=by,
        )  # fmt: skip
        try:
            with pg.transaction():
                new = raise_alarm(pg, alarm)
                if new and may:
                    step_life(pg, site_id, record.name, "demote", reason=f"{finding.kind}: {finding.reason}", by=by)
                    demoted = True
        except InputError as error:  # somebody has taken it out of command in this moment: nothing is left to do
            log.warning("not_demoted", site_id=site_id, policy=record.name, why=str(error))
            return raised
        raised += [alarm] if new else []
    return raised


def own_days(pg: PgConnection, record: PolicyRecord, timezone: str) -> list[PolicyDay]:
    """Days that the policy commanded since it was deployed, newest first; the day of its deployment is not yet one."""
    days = [d for d in policy_days(pg, record.site_id, policy_id=record.policy_id) if d.role == COMMANDED]
    if record.deployed_at is None:
        return days
    deployed = local_day(record.deployed_at, timezone)
    return [d for d in days if d.day > deployed]
