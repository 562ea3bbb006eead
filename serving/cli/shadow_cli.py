"""`pulsebms policies shadow|score-day`: shadows beside what was commanded, and a day scored by hand."""

from __future__ import annotations

import getpass
from datetime import date, datetime, timedelta

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from core.errors import InputError
from serving.clock_config import clock_from_env
from serving.shadow.days import local_day
from serving.shadow.scorer import Result, score_day
from serving.shadow.view import Standing, standings
from serving.site_loader import site_config
from stores.connections import open_stores
from stores.postgres.policy_days import PolicyDay, policy_alarms, policy_days, scored_days
from stores.postgres.shadow import last_failures
from stores.settings import StoreSettings

console = Console()
DEFAULT_DAYS = 14


def shadow(
    site: str = typer.Option(..., "--site", help="Site id."),
    days: int = typer.Option(DEFAULT_DAYS, "--days", min=1, max=730, help="Calendar days to look back."),
    each: bool = typer.Option(False, "--each-day", help="Every day by itself, too."),
) -> None:
    """Policies that decide without commanding, next to what was commanded: scores on the twin, money, errors, alarms."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        timezone = site_config(stores.pg, site).timezone
        since = local_day(clock_from_env().now(), timezone) - timedelta(days=days)
        rows = policy_days(stores.pg, site, since=since)
        console.print(_standings(standings(rows), {key: text for key, (_, _, text) in last_failures(stores.pg, site).items()}))
        if each:
            console.print(_days(rows))
        for marker in scored_days(stores.pg, site, since):
            if marker.why_not:
                console.print(f"{marker.day}: not scored: {marker.why_not}", soft_wrap=True, markup=False)
        for alarm in policy_alarms(stores.pg, site, since=since):
            text = f"{alarm.day} {alarm.policy} {alarm.action}, {alarm.kind}: {alarm.reason} (by {alarm.raised_by})"
            console.print(text, soft_wrap=True, markup=False)


def score_day_by_hand(
    site: str = typer.Option(..., "--site", help="Site id."),
    on: str = typer.Option(..., "--date", help="The site's calendar day, YYYY-MM-DD."),
    again: bool = typer.Option(False, "--again", help="Also when it was scored: its scores are replaced."),
) -> None:
    """Score a past day of a site on the twin, once: what was commanded and every shadow. Exit code 1 when it has no score."""
    try:
        day = date.fromisoformat(on)
    except ValueError:
        raise InputError(source="command line", field="--date", value=on, expected="a day as YYYY-MM-DD") from None
    now: datetime = clock_from_env().now()
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        found = score_day(stores, site, day, now=now, by=getpass.getuser(), again=again)
    if found is None:
        console.print(f"{day}: another process scores it at this moment")
        raise typer.Exit(1)
    _say(found)
    if found.marker.why_not:
        raise typer.Exit(1)


def _say(found: Result) -> None:
    if found.marker.why_not:
        console.print(f"{found.marker.day}: not scored: {found.marker.why_not}", soft_wrap=True, markup=False)
        return
    console.print(_days(found.days))
    how = "scored now" if found.mine else f"scored before, by {found.marker.scored_by} (--again scores it anew)"
    console.print(f"{found.marker.day}: {how}", soft_wrap=True, markup=False)
    for alarm in found.alarms:
        console.print(f"{alarm.policy} {alarm.action}, {alarm.kind}: {alarm.reason}", soft_wrap=True, markup=False)


def live_text(item: Standing | None) -> str:
    """`0.873 [0.81, 0.92], 7 d`; a dash where there is no score."""
    if item is None or item.live is None:
        return "-"
    found = item.live.interval
    return escape(f"{found.value:.3f} [{found.low:.2f}, {found.high:.2f}], {item.live.days} d")


def _standings(items: list[Standing], failing: dict[str, str]) -> Table:
    table = Table(
        "policy", Column("role", no_wrap=True), "live score", "EUR a day",
        "less commanded", "wear a day", "decided", "breaches", "last error",
        title="Scores on the twin: 0 is idle, 1 is perfect foresight",
    )  # fmt: skip
    for item in items:
        less = "" if item.less_commanded_eur is None else f"{item.less_commanded_eur:+.2f} ({item.common_days} d)"
        table.add_row(
            escape(item.policy), item.role, live_text(item), _eur(item.eur_a_day), less, _eur(item.wear_eur_a_day),
            f"{100 * item.decided_share:.0f} %", str(item.violations),
            escape(failing.get(item.policy_id, item.last_failure)[:120]),
        )  # fmt: skip
    return table


def _days(rows: list[PolicyDay]) -> Table:
    table = Table(
        Column("day", no_wrap=True),
        "policy",
        Column("role", no_wrap=True),
        "score",
        "EUR",
        "foresight EUR",
        "decided",
        "breaches",
        "last error",
    )
    for row in rows:
        table.add_row(
            row.day.isoformat(), escape(row.policy), row.role, "-" if row.score is None else f"{row.score:.3f}",
            _eur(row.j_eur - row.idle_eur), _eur(row.best_eur - row.idle_eur), f"{100 * row.decided_share:.0f} %",
            str(row.violations), escape(str(row.details.get("last_failure") or "")[:120]),
        )  # fmt: skip
    return table


def _eur(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"
