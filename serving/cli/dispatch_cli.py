"""`pulsebms dispatch`, `device run`, `demo`: long-running commands."""

from __future__ import annotations

import signal
import threading
from datetime import datetime
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console

from core.errors import InputError
from serving.clock_config import clock_from_env
from serving.demo.main import DemoOptions, run_demo
from serving.device.provision import run_reference_device
from serving.dispatch.loop import LoopOptions, run_loop
from serving.site_loader import site_config
from stores.connections import open_stores
from stores.settings import StoreSettings

device_app = typer.Typer(help="The reference device.", no_args_is_help=True)
console = Console()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set: the loop ends after what it is doing."""
    stop = threading.Event()

    def handler(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    return stop


def parse_until(text: str | None) -> datetime | None:
    """`--until` as an aware datetime; raises InputError when it has no offset or cannot be read."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise InputError(source="command line", field="--until", value=text, expected="an ISO time with its UTC offset")
    return moment


def dispatch(
    site: str = typer.Option(..., "--site", help="Site id."),
    until: str | None = typer.Option(None, "--until", help="Plant time after which no tick begins (ISO)."),
    validity_grace_s: float = typer.Option(
        60.0,
        "--validity-grace",
        help="Wall seconds past the interval that devices keep a set point without a fresh one.",
    ),
    telemetry_max_age_s: float = typer.Option(
        300.0, "--telemetry-max-age", help="Plant seconds after which a pack without news is stopped and left out."
    ),
    min_calibration_score: float = typer.Option(
        0.5, "--min-calibration-score", min=0.0, max=1.0, help="Predictions by a twin calibrated worse count as missing."
    ),
    require_calibration: bool = typer.Option(
        False, "--require-calibration", help="Predictions by a twin that was never calibrated count as missing, too."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Decide and log, command nothing."),
) -> None:
    """The dispatcher loop of a site: each interval it plans, records and commands. SIGTERM ends it after the tick."""
    stop = stop_on_signals()
    ends_at = parse_until(until)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site_config(stores.pg, site)  # an unknown site is an error now, not a tick that fails for ever
        ticks = run_loop(
            stores,
            clock_from_env(),
            LoopOptions(
                site_id=site,
                validity_grace_s=validity_grace_s,
                ends_at=ends_at,
                dry_run=dry_run,
                telemetry_max_age_s=telemetry_max_age_s,
                min_calibration_score=min_calibration_score,
                require_calibration=require_calibration,
            ),
            stop,
        )
        console.print(f"dispatcher of {site} ended after {ticks} ticks")


@device_app.command("run")
def device_run(
    device: str = typer.Argument(..., help="Device id, as in device_configurations."),
    until: str | None = typer.Option(None, "--until", help="Plant time at which to end (ISO)."),
) -> None:
    """Run the reference device: a simulated pack that takes, executes and acknowledges commands and sends telemetry."""
    stop = stop_on_signals()
    settings = StoreSettings.from_env()
    ends_at = parse_until(until)
    with open_stores(settings, migrate=True) as stores:
        run_reference_device(stores, device, clock_from_env(), settings.data_dir, stop=stop, ends_at=ends_at)


def demo(
    days: float = typer.Option(2.0, "--days", min=1 / 96, max=28.0, help="Simulated days."),
    speed: float = typer.Option(1500.0, "--speed", min=1.0, max=20_000.0, help="Plant seconds per wall second."),
    site_file: Path = typer.Option(Path("configs/sites/demo.yaml"), "--site-file", help="Site to run."),
    out: Path = typer.Option(Path("demo.png"), "--plot", help="Where the picture goes."),
) -> None:
    """The main job on real prices with simulated packs and real servers; ends by itself and prints what it earned."""
    stop = stop_on_signals()
    code = run_demo(DemoOptions(days=days, speed=speed, site_file=site_file, plot=out), stop, console)
    if code:
        raise typer.Exit(code)
