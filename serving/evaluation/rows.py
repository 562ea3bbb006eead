"""Evaluations and `optimization_policies`: rows to contenders, scores into rows, life cycle testing -> active -> deprecated.

Not here: scoring (serving.evaluation.score), the SQL (stores.postgres.policies, stores.postgres.policy_life).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from core.errors import InputError, PulseBmsError
from core.policy_record import PolicyRecord
from serving.dispatch.artefacts import StoredArtefacts
from serving.evaluation.baselines import Contender
from serving.evaluation.config import BASELINES
from stores.connections import Stores
from stores.postgres.connection import PgConnection
from stores.postgres.policies import ranked_policies
from stores.postgres.policy_life import change_status, merge_metrics, set_score
from stores.postgres.sites import list_sites

KEY = "evaluation"
"""Of performance_metrics: what the newest evaluation said."""
LIFE_KEY = "life_cycle"
"""Of performance_metrics: every change of status with its reason, oldest first."""
NEXT = {
    "promote": (("testing", "inactive"), "active"),
    "demote": (("active",), "testing"),
    "retire": (("testing", "active", "inactive"), "deprecated"),
}
"""Step -> (statuses that it starts from, the status after it)."""
ORDER = ("published", "hourly_reveal", "five_minute")
"""Whose score goes into the column when an evaluation holds several information sets: the first of these."""


LEAST_WEEKS = 4
"""Fewer weeks, drawn again and again, are too much alike for an interval that a promotion could rest on."""


def policies_of_site(pg: PgConnection, site_id: str) -> list[PolicyRecord]:
    """All rows, active ones first, each group by score."""
    return [row for status in ("active", "testing", "inactive", "deprecated") for row in ranked_policies(pg, site_id, status)]


def policy_named(pg: PgConnection, site_id: str, name: str) -> PolicyRecord:
    """The row of a site by name. Raises InputError when there is none."""
    rows = policies_of_site(pg, site_id)
    for row in rows:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in rows) or "none is there"
    raise InputError(source=f"optimization_policies of {site_id}", field="name", value=name, expected=f"one of: {known}")


def rows_of_site(stores: Stores, site_id: str) -> list[Contender]:
    """Rows that are active or in testing, as contenders. Raises InputError for one that is called like a baseline, and for a site
    that there is not.

    A learned row whose artefact cannot be had is a contender all the same: its jobs fail, and the reason is its mark.
    """
    sites = [site.site_id for site in list_sites(stores.pg)]
    if site_id not in sites:
        known = ", ".join(sites) or "none is loaded"
        raise InputError(source="command line", field="--site", value=site_id, expected=f"a loaded site ({known})")
    artefacts = StoredArtefacts(stores)
    found = []
    for row in policies_of_site(stores.pg, site_id):
        if row.status not in ("active", "testing"):
            continue
        if row.name in BASELINES:
            raise InputError(
                source=f"optimization_policies of {site_id}", field="name", value=row.name, expected="another than a baseline's"
            )
        files = None
        if row.policy_type != "MPC":
            try:
                files = artefacts.files(row)
            except PulseBmsError:
                files = None
        found.append(Contender(name=row.name, record=row, files=files, policy_id=row.policy_id))
    return found


def write_scores(pg: PgConnection, document: dict[str, Any], contenders: Sequence[Contender]) -> list[str]:
    """Scores and metrics of contenders that have a row; returns a line for each. A policy without a score loses its old one."""
    lines = []
    for contender in contenders:
        if contender.policy_id is None:
            continue
        said = {
            information: _metrics(row, part)
            for information, part in document["benchmarks"].items()
            for row in part["ranking"]
            if row["policy"] == contender.name
        }
        counted = next((information for information in ORDER if information in said), None)
        row = said[counted] if counted is not None else None
        failed = row is not None and not row["eligible"] and not row["violated"]
        score = row["score"] if row is not None and row["eligible"] else None
        metrics = {
            "name": document["name"],
            "at": datetime.now(UTC).isoformat(),
            "code_sha256": document["code_sha256"],
            "scored_by": None if counted is None else f"{document['name']}/{counted}",
            "benchmarks": said,
        }
        with pg.transaction():
            if not failed:
                set_score(pg, contender.policy_id, score)
            merge_metrics(pg, contender.policy_id, {KEY: metrics})
        if failed and row is not None:
            lines.append(f"{contender.name}: performance_score unchanged, its replay failed: {row['why_not']}")
            continue
        lines.append(
            f"{contender.name}: performance_score {'NULL' if score is None else f'{score:.4f}'}, by {metrics['scored_by']}"
        )
    return lines


def _metrics(row: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "score", "score_interval", "iqm", "eligible", "why_not", "against_mpc", "j_eur", "cash_eur", "peak_eur", "wear_eur",
        "full_cycles", "soh_loss_pct", "peak_w", "violated", "decided_share", "latency_p50_s", "latency_p99_s",
        "score_without_spikes",
    )  # fmt: skip
    of_all = ("blocks", "weeks", "foresight_gap_pct")
    return {name: row.get(name) for name in kept} | {name: part.get(name) for name in of_all}


def why_not_promote(record: PolicyRecord) -> str:
    """Why a policy must not be promoted without force; empty when it may: better than the MPC, with the interval above zero."""
    metrics = dict(record.performance_metrics or {}).get(KEY)
    if not metrics:
        return "it was never evaluated (pulsebms evaluate --site)"
    scored = str(metrics.get("scored_by") or "")
    found = metrics.get("benchmarks", {}).get(scored.rpartition("/")[2])
    if not found:
        return "its evaluation gave no score"
    if not found.get("eligible"):
        return f"it is ineligible: {found.get('why_not')}"
    weeks = found.get("weeks")
    if weeks is not None and weeks < LEAST_WEEKS:
        return f"its evaluation has {weeks} week{'' if weeks == 1 else 's'}: an interval of fewer than {LEAST_WEEKS} says nothing"
    paired = found.get("against_mpc")
    if not paired:
        return "it was not compared with the MPC"
    points = paired["points"]
    if not points["low"] > 0:
        return (
            f"less the MPC it is {points['value']:+.2f} points [{points['low']:+.2f}, {points['high']:+.2f}] in {scored}: "
            "the interval is not above zero"
        )
    return ""


def step_life(
    pg: PgConnection, site_id: str, name: str, step: str, *, reason: str = "", force: bool = False, by: str = "pulsebms"
) -> str:
    """Take a policy one step of its life cycle and record who, when and why; returns the new status.

    Raises InputError when the step is not possible from its status, when a promotion is not earned and not forced, or when a
    forced one has no reason.
    """
    source = f"optimization_policies {name!r} ({site_id})"
    with pg.transaction():
        record = policy_named(pg, site_id, name)
        allowed, after = NEXT[step]
        if record.status not in allowed:
            raise InputError(source=source, field="status", value=record.status, expected=f"{' or '.join(allowed)} to {step}")
        why_not = why_not_promote(record) if step == "promote" else ""
        if why_not and not force:
            raise InputError(
                source=source, field="promote", value=why_not, expected="an interval above zero, or --force with --reason"
            )
        if force and not reason.strip():
            raise InputError(source=source, field="--reason", value=reason, expected="why the promotion is forced")
        entry = {
            "at": datetime.now(UTC).isoformat(), "step": step, "from": record.status, "to": after, "by": by, "reason": reason,
            "forced": bool(why_not), "against": why_not,
        }  # fmt: skip
        history = [*dict(record.performance_metrics or {}).get(LIFE_KEY, []), entry]
        change_status(pg, str(record.policy_id), record.status, after)
        merge_metrics(pg, str(record.policy_id), {LIFE_KEY: history})
    return after
