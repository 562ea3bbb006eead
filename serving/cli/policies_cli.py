"""`pulsebms policies list|show|promote|demote|retire|shadow|score-day`: the life cycle testing -> active -> deprecated."""

from __future__ import annotations

import getpass
import json
from datetime import timedelta

import typer
from rich.console import Console
from rich.table import Table

from serving.cli.shadow_cli import DEFAULT_DAYS, live_text, score_day_by_hand, shadow
from serving.clock_config import clock_from_env
from serving.evaluation.rows import KEY, policies_of_site, policy_named, step_life, why_not_promote
from serving.shadow.days import local_day
from serving.shadow.settings import floor_of, watch_settings
from serving.shadow.view import day_document, live_by_policy
from stores.connections import open_stores
from stores.postgres.policy_days import policy_alarms, policy_days
from stores.settings import StoreSettings

SHOWN_DAYS = 14
policies_app = typer.Typer(help="Policies of a site: what there is, and their life cycle.", no_args_is_help=True)
console = Console()
_SITE = typer.Option(..., "--site", help="Site id.")
policies_app.command("shadow")(shadow)
policies_app.command("score-day")(score_day_by_hand)


@policies_app.command("list")
def list_(site: str = _SITE) -> None:
    """Every policy of a site with status, score and what it was scored by, and its live score on the twin."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        table = Table("name", "type", "status", "score", "scored by", "live score", "as", "deployed")
        live = live_by_policy(stores.pg, site, local_day(clock_from_env().now(), "UTC") - timedelta(days=DEFAULT_DAYS))
        for row in policies_of_site(stores.pg, site):
            standing = live.get(row.policy_id or "")
            scored = dict(row.performance_metrics or {}).get(KEY, {}).get("scored_by")
            table.add_row(
                row.name, row.policy_type, row.status, "-" if row.performance_score is None else f"{row.performance_score:.4f}",
                str(scored or ""), live_text(standing), standing.role if standing else "",
                "" if row.deployed_at is None else f"{row.deployed_at:%Y-%m-%d %H:%M}",
            )  # fmt: skip
        console.print(table)


@policies_app.command("show")
def show(name: str = typer.Argument(..., help="Name of the policy."), site: str = _SITE) -> None:
    """All of one policy as JSON, and whether it may be promoted."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        row = policy_named(stores.pg, site, name)
        days = policy_days(stores.pg, site, policy_id=row.policy_id, limit=SHOWN_DAYS)
        alarms = [alarm for alarm in policy_alarms(stores.pg, site) if alarm.policy_id == row.policy_id]
        console.print_json(
            json.dumps(
                {
                    "policy_id": row.policy_id, "name": row.name, "policy_type": row.policy_type, "status": row.status,
                    "config": dict(row.config), "performance_score": row.performance_score, "model_version": row.model_version,
                    "training_date": None if row.training_date is None else row.training_date.isoformat(),
                    "deployed_at": None if row.deployed_at is None else row.deployed_at.isoformat(),
                    "performance_metrics": dict(row.performance_metrics or {}), "why_not_promote": why_not_promote(row),
                    "floor": floor_of(row, watch_settings(row)), "days_on_the_twin": [day_document(day) for day in days],
                    "alarms": [
                        {"day": alarm.day.isoformat(), "kind": alarm.kind, "action": alarm.action, "reason": alarm.reason,
                         "by": alarm.raised_by, "figures": dict(alarm.figures)}
                        for alarm in alarms
                    ],
                }
            )
        )  # fmt: skip


@policies_app.command("promote")
def promote(
    name: str = typer.Argument(..., help="Name of the policy."),
    site: str = _SITE,
    force: bool = typer.Option(False, "--force", help="Also without a paired interval against the MPC above zero."),
    reason: str = typer.Option("", "--reason", help="Why; must be given with --force, and is recorded."),
) -> None:
    """Make a policy active: only when it is better than the MPC with the interval above zero, or with --force."""
    _step(site, name, "promote", reason, force=force)


@policies_app.command("demote")
def demote(
    name: str = typer.Argument(..., help="Name of the policy."),
    site: str = _SITE,
    reason: str = typer.Option("", "--reason", help="Why; recorded."),
) -> None:
    """Take an active policy back to testing: the next in rank takes over at the next tick."""
    _step(site, name, "demote", reason)


@policies_app.command("retire")
def retire(
    name: str = typer.Argument(..., help="Name of the policy."),
    site: str = _SITE,
    reason: str = typer.Option("", "--reason", help="Why; recorded."),
) -> None:
    """Set a policy to deprecated: it is neither run nor evaluated any more."""
    _step(site, name, "retire", reason)


def _step(site: str, name: str, step: str, reason: str, *, force: bool = False) -> None:
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        after = step_life(stores.pg, site, name, step, reason=reason, force=force, by=getpass.getuser())
        console.print(f"{name}: {after}")
