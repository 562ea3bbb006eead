"""`pulsebms twin run|calibrate`."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from core.calibration import FACTORS
from core.calibration_fit import Errors, Needed
from serving.calibration import CalibrateOptions, Outcome, calibrate_site
from serving.cli.dispatch_cli import parse_until, stop_on_signals
from serving.cli.twin_compare import compare
from serving.clock_config import clock_from_env
from serving.site_loader import site_config
from serving.twin_service import TwinOptions, run_twin
from stores.connections import open_stores
from stores.settings import StoreSettings

twin_app = typer.Typer(help="The digital twin.", no_args_is_help=True)
console = Console()
DEFAULTS = Needed()


twin_app.command("compare")(compare)


@twin_app.command("run")
def run(
    site: str = typer.Option(..., "--site", help="Site id."),
    interval_s: int = typer.Option(900, "--interval", min=1, help="Plant seconds between two rounds."),
    horizon_hours: int = typer.Option(
        26, "--horizon", min=1, max=24 * 14, help="Hours predicted; keep it above the MPC's horizon."
    ),
    until: str | None = typer.Option(None, "--until", help="Plant time after which no round begins (ISO)."),
) -> None:
    """Predict every pack of a site from its latest telemetry under the last plan, round after round."""
    stop = stop_on_signals()
    ends_at = parse_until(until)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site_config(stores.pg, site)
        rounds = run_twin(
            stores,
            clock_from_env(),
            TwinOptions(site_id=site, interval_s=interval_s, horizon_hours=horizon_hours),
            stop,
            ends_at=ends_at,
        )
        console.print(f"twin of {site} ended after {rounds} rounds")


@twin_app.command("calibrate")
def calibrate(
    site: str = typer.Option(..., "--site", help="Site id."),
    device: str | None = typer.Option(None, "--device", help="One device; all of the site without it."),
    days: float = typer.Option(7.0, "--days", min=0.1, max=90.0, help="Days of telemetry, up to now."),
    min_hours: float = typer.Option(DEFAULTS.hours, "--min-hours", min=2.0, help="Refuse with less telemetry than this."),
    min_current: float = typer.Option(
        DEFAULTS.current_range_per_h, "--min-current", min=0.01, help="Refuse with a smaller current range (C)."
    ),
    min_swing: float = typer.Option(
        DEFAULTS.soc_swing_pct, "--min-swing", min=1.0, help="Refuse with a smaller SoC swing within 6 hours (%)."
    ),
) -> None:
    """Fit each pack's resistance, capacity and cooling to its telemetry; the twin uses the result from its next round on."""
    now = clock_from_env().now()
    needed = Needed(
        hours=min_hours,
        steady_hours=min(DEFAULTS.steady_hours, min_hours / 4),
        current_range_per_h=min_current,
        soc_swing_pct=min_swing,
    )
    options = CalibrateOptions(site_id=site, device_id=device, days=days, needed=needed)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores, _progress() as progress:
        site_config(stores.pg, site)
        task = progress.add_task("devices", total=None)
        outcomes = calibrate_site(
            stores, options, now, on_device=lambda done, total: progress.update(task, completed=done, total=total)
        )
    console.print(outcome_table(outcomes))
    accepted = sum(outcome.fit.accepted for outcome in outcomes)
    console.print(f"{accepted} of {len(outcomes)} accepted")


def outcome_table(outcomes: list[Outcome]) -> Table:
    """A row a device: factors, score, errors on held-out data before and after, and why."""
    table = Table("device", "score", *(name.replace("_", " ") for name in FACTORS), "V / SoC / T error", "outcome")
    for outcome in outcomes:
        fit = outcome.fit
        numbers = [f"{getattr(fit.factors, name):.3f}" if fit.factors else "-" for name in FACTORS]
        score = "-" if fit.score is None else f"{fit.score:.3f}"
        table.add_row(outcome.device_id, score, *numbers, f"{_errors(fit.before)}\n{_errors(fit.after)}", fit.reason)
    return table


def _errors(errors: Errors | None) -> str:
    if errors is None:
        return "-"
    return f"{errors.voltage_mv_per_cell:.1f} mV/cell, {errors.soc_pct:.2f} %, {errors.temperature_k:.2f} K"


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
