"""What people and tables are told of shadows, daily scores and alarms. Pure but for reading; printing is serving.cli's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from serving.shadow.judge import Live, live_score
from stores.postgres.connection import PgConnection
from stores.postgres.policy_days import COMMANDED, PolicyDay, policy_days

HIDDEN = ("states",)
"""Of a day's `drift`: detectors' memory, which says nothing to a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One policy in one role over the newest scored days."""

    policy_id: str
    policy: str
    role: str
    days: int
    live: Live | None
    eur_a_day: float | None
    """Beyond idle, mean of its days."""
    less_commanded_eur: float | None
    """A day, over the days on which both have a score; None for what was commanded itself."""
    common_days: int
    wear_eur_a_day: float | None
    decided_share: float
    violations: int
    last_failure: str


def standings(rows: Sequence[PolicyDay]) -> list[Standing]:
    """What was commanded first, then shadows, each best first."""
    commanded = {row.day: row for row in rows if row.role == COMMANDED}
    groups: dict[tuple[str, str, str], list[PolicyDay]] = {}
    for row in rows:
        groups.setdefault((row.role, row.policy_id, row.policy), []).append(row)
    made = []
    for (role, policy_id, policy), own in groups.items():
        both = [] if role == COMMANDED else [row for row in own if row.day in commanded]
        less = [row.j_eur - commanded[row.day].j_eur for row in both]
        newest = max(own, key=lambda row: row.day)
        made.append(
            Standing(
                policy_id=policy_id,
                policy=policy,
                role=role,
                days=len(own),
                live=live_score(own),
                eur_a_day=sum(row.j_eur - row.idle_eur for row in own) / len(own),
                less_commanded_eur=sum(less) / len(less) if less else None,
                common_days=len(both),
                wear_eur_a_day=sum(float(row.details.get("wear_eur", 0.0)) for row in own) / len(own),
                decided_share=sum(row.decided_share for row in own) / len(own),
                violations=sum(row.violations for row in own),
                last_failure=str(newest.details.get("last_failure") or ""),
            )
        )
    return sorted(
        made, key=lambda item: (item.role != COMMANDED, -(item.live.interval.value if item.live else -1.0), item.policy)
    )


def live_by_policy(pg: PgConnection, site_id: str, since: date) -> dict[str, Standing]:
    """Policy id -> its standing: as a commander where it was one in these days, else as a shadow."""
    found: dict[str, Standing] = {}
    for item in standings(policy_days(pg, site_id, since=since)):
        if item.policy_id:
            found.setdefault(item.policy_id, item)
    return found


def day_document(row: PolicyDay) -> dict[str, Any]:
    """A day for `policies show`; JSON-ready."""
    details = dict(row.details)
    if isinstance(details.get("drift"), dict):
        details["drift"] = {key: value for key, value in details["drift"].items() if key not in HIDDEN}
    return {
        "day": row.day.isoformat(),
        "role": row.role,
        "score": row.score,
        "eur_beyond_idle": row.j_eur - row.idle_eur,
        "foresight_eur_beyond_idle": row.best_eur - row.idle_eur,
        "decided_share": row.decided_share,
        "violations": row.violations,
        **details,
    }
