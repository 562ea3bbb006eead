"""`pulsebms telemetry import|rejected` and `pulsebms metrics run`."""

from __future__ import annotations

import gc
from datetime import timedelta
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from serving.cli.dispatch_cli import parse_until, stop_on_signals
from serving.clock_config import clock_from_env
from serving.metrics_service import MetricsServiceOptions, run_metrics, run_round
from serving.telemetry_import import import_file
from stores.connections import open_stores
from stores.mongo.metrics import MetricsOptions
from stores.mongo.rejected import rejected_counts
from stores.settings import StoreSettings

telemetry_app = typer.Typer(help="Telemetry: import files, see what was set aside.", no_args_is_help=True)
metrics_app = typer.Typer(help="Hourly and daily metrics, device and site status.", no_args_is_help=True)
console = Console()


@telemetry_app.command("import")
def import_(
    file: Path = typer.Argument(..., help="JSON lines or CSV (by .csv in its name), plain or gzipped."),
    replace: bool = typer.Option(
        False,
        "--replace",
        help="A different document for a stored moment replaces it in telemetry_data (not in telemetry_ts, see the docs).",
    ),
    soc_is_percent: bool = typer.Option(
        False, "--soc-is-percent", help="A state of charge that never exceeds 1 is percent all the same."
    ),
) -> None:
    """Import telemetry. Bad documents are set aside with a reason; importing a file again changes nothing."""
    clock = clock_from_env()
    gc.set_threshold(200_000)  # documents hold no cycles: looking for some in each generation costs a sixth of the time
    with open_stores(StoreSettings.from_env(), migrate=True) as stores, _progress() as progress:
        task = progress.add_task(file.name, total=None)
        result = import_file(
            stores,
            file,
            clock.now,
            replace=replace,
            soc_is_percent=soc_is_percent,
            on_progress=lambda done, size: progress.update(task, completed=done, total=size),
        )
    table = Table("documents", "count", "first of them")
    for name, count in (
        ("read", result.read),
        ("written", result.written),
        ("there already", result.unchanged),
        ("replaced", result.replaced),
    ):
        table.add_row(name, f"{count:,}", "")
    for reason, count in sorted(result.set_aside.items()):
        table.add_row(f"set aside: {reason}", f"{count:,}", result.examples[reason])
    console.print(table)
    if result.series_old:
        console.print(
            f"{result.series_old:,} replaced documents keep their old values in telemetry_ts, which MongoDB cannot change; "
            "telemetry_data, metrics and status have the new ones",
            soft_wrap=True,
        )
    if result.resting_near_zero:
        names = ", ".join(result.resting_near_zero[:5])
        console.print(
            f"{len(result.resting_near_zero)} devices never had more than 1 % of charge ({names}): percent, or a share?"
        )


@telemetry_app.command("rejected")
def rejected() -> None:
    """What was set aside and is still kept (30 days), by source and reason."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        table = Table("source", "reason", "documents", "an example")
        for entry in rejected_counts(stores.mongo):
            table.add_row(
                entry.source, entry.reason, str(entry.count), f"line {entry.line}: {entry.field}, expected {entry.expected}"
            )
        console.print(table)


@metrics_app.command("run")
def run(
    site: str | None = typer.Option(None, "--site", help="One site; all telemetry without it."),
    once: bool = typer.Option(False, "--once", help="One round, with progress; then end."),
    interval_s: float = typer.Option(60.0, "--interval", min=1.0, help="Plant seconds between two rounds."),
    until: str | None = typer.Option(None, "--until", help="Plant time after which no round begins (ISO)."),
    include_open: bool = typer.Option(False, "--include-open", help="Also hours that have not ended."),
    look_back_h: float = typer.Option(
        2.0, "--look-back", min=0.0, help="Hours in which documents are counted, to find what other services wrote."
    ),
) -> None:
    """Bring metrics_hourly, metrics_daily, device:status and site:metrics up to date, round after round or once."""
    options = MetricsServiceOptions(
        site_id=site,
        interval_s=interval_s,
        metrics=MetricsOptions(include_open=include_open, look_back=timedelta(hours=look_back_h)),
    )
    clock = clock_from_env()
    ends_at = parse_until(until)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        if not once:
            rounds = run_metrics(stores, clock, options, stop_on_signals(), ends_at=ends_at)
            console.print(f"metrics ended after {rounds} rounds")
            return
        with _progress() as progress:
            task = progress.add_task("device-hours", total=None)
            result = run_round(
                stores, options, clock.now(), on_progress=lambda done, total: progress.update(task, completed=done, total=total)
            )
        table = Table("metrics", "count")
        for name, value in (
            ("device-hours computed", result.device_hours),
            ("hourly documents written", result.hourly),
            ("daily documents written", result.daily),
            ("documents without telemetry removed", result.removed),
            ("device-hours that have not ended", result.waiting),
            ("device-hours beyond retention", result.too_old),
        ):
            table.add_row(name, f"{value:,}")
        console.print(table)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
