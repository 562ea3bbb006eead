"""`pulsebms dispatch`, `device run`, `demo`: long-running commands."""

from __future__ import annotations

import signal
import threading
from datetime import datetime
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.table import Table

from core.commands import DEFAULT_TIMEOUT_S
from core.errors import InputError
from serving.clock_config import clock_from_env
from serving.demo.main import DemoOptions, run_demo
from serving.device.provision import run_reference_device
from serving.dispatch.health import LOOPBACK, HealthServer
from serving.dispatch.loop import LEASE_TTL_S, LoopOptions
from serving.dispatch.supervisor import Supervisor
from serving.dispatch.tick import TickResult
from serving.site_loader import site_config
from stores.connections import open_stores
from stores.postgres.leases import LONGEST_TTL_S
from stores.postgres.sites import list_sites
from stores.settings import StoreSettings

MIN_DEMO_DAYS = 1 / 24
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
    site: list[str] = typer.Option([], "--site", help="Site id; may be given several times."),
    all_sites: bool = typer.Option(False, "--all", help="Every loaded site, also those loaded later."),
    until: str | None = typer.Option(None, "--until", help="Plant time after which no tick begins (ISO)."),
    validity_grace_s: float = typer.Option(
        60.0,
        "--validity-grace",
        min=0.0,
        help="Wall seconds past the interval that devices keep a set point without a fresh one.",
    ),
    telemetry_max_age_s: float = typer.Option(
        300.0, "--telemetry-max-age", min=1.0, help="Plant seconds after which a pack without news is stopped and left out."
    ),
    min_calibration_score: float = typer.Option(
        0.5, "--min-calibration-score", min=0.0, max=1.0, help="Predictions by a twin calibrated worse count as missing."
    ),
    require_calibration: bool = typer.Option(
        False, "--require-calibration", help="Predictions by a twin that was never calibrated count as missing, too."
    ),
    command_timeout_s: int = typer.Option(
        DEFAULT_TIMEOUT_S, "--command-timeout", min=1, max=3600, help="Wall seconds within which a device must begin a command."
    ),
    policy_deadline_s: float | None = typer.Option(
        None, "--policy-deadline", min=0.05, help="Wall seconds that one policy may take (default: a fifth of the interval)."
    ),
    lease_s: float = typer.Option(
        LEASE_TTL_S,
        "--lease",
        min=1.0,
        max=LONGEST_TTL_S,
        help="Seconds of a site's lease; a standby takes over within two of them.",
    ),
    metrics_port: int | None = typer.Option(
        None, "--metrics-port", min=0, max=65_535, help="Serve /metrics and /healthz on this port of 127.0.0.1 (0: a free one)."
    ),
    watch: bool = typer.Option(
        True, "--watch/--no-watch", help="Let policies in testing decide beside the active one, score each day, act on drift."
    ),
    once: bool = typer.Option(
        False, "--once", help="One tick for the running interval, then end; exit code 1 without a decision."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Decide and log; take no lease, write nothing, command nothing."),
) -> None:
    """The dispatcher: at each interval of each site it plans, records and commands. SIGTERM ends it after the tick."""
    if bool(site) == all_sites:
        raise InputError(source="command line", field="--site", value=site, expected="one or more sites, or --all")
    stop = stop_on_signals()
    options = LoopOptions(
        site_id="",
        validity_grace_s=validity_grace_s,
        ends_at=parse_until(until),
        dry_run=dry_run,
        once=once,
        telemetry_max_age_s=telemetry_max_age_s,
        min_calibration_score=min_calibration_score,
        require_calibration=require_calibration,
        deadline_s=policy_deadline_s,
        lease_ttl_s=lease_s,
        command_timeout_s=command_timeout_s,
        watch=watch,
    )
    settings = StoreSettings.from_env()
    with open_stores(settings, migrate=True) as stores:
        sites = list(dict.fromkeys(site))
        for site_id in sites:
            site_config(stores.pg, site_id)  # an unknown site is an error now, not a tick that fails for ever
        if once and all_sites:
            sites = [row.site_id for row in list_sites(stores.pg)]
        decided: dict[str, TickResult] = {}
        supervisor = Supervisor(
            settings, clock_from_env(), options, sites, on_tick=lambda name, _, result: decided.update({name: result})
        )
        server = None
        if metrics_port is not None:
            server = HealthServer(metrics_port, supervisor.health, supervisor.metrics.registry, supervisor.refresh)
            console.print(f"http://{LOOPBACK}:{server.port}/metrics and /healthz", soft_wrap=True)
        try:
            ticks = supervisor.run(stores, stop)
        finally:
            if server is not None:
                server.close()
        for site_id, count in sorted(ticks.items()):
            console.print(f"dispatcher of {site_id} ended after {count} ticks")
        if once:
            _say_decisions(sites, decided)


def _say_decisions(sites: list[str], decided: dict[str, TickResult]) -> None:
    """What a single tick decided, for a person; exit code 1 when a site has no decision."""
    table = Table("site", "device", "power W", "reason", "detail")
    for site_id in sites:
        result = decided.get(site_id)
        if result is None or result.decision is None:
            why = (
                result.why_no_decision
                if result
                else "no tick: another dispatcher holds the lease, or a store failed (see the log)"
            )
            table.add_row(site_id, "", "", "no decision", why)
            continue
        decision = result.decision
        for point in decision.set_points:
            table.add_row(site_id, point.device_id, f"{point.power_w:.0f}", point.reason.value, point.detail)
        for device_id, why in result.left_out.items():
            table.add_row(site_id, device_id, "", "left out", why)
        table.add_row(site_id, "", "", f"by {decision.source}", "; ".join(f"{name}: {why}" for name, why in decision.passed_over))
    console.print(table)
    if any(site_id not in decided or decided[site_id].decision is None for site_id in sites):
        raise typer.Exit(1)


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
    days: float = typer.Option(
        2.0, "--days", min=MIN_DEMO_DAYS, max=28.0, help="Simulated days, in whole hours: 0.25 (six hours), 1, 2."
    ),
    speed: float = typer.Option(1500.0, "--speed", min=1.0, max=20_000.0, help="Plant seconds per wall second."),
    site_file: Path = typer.Option(Path("configs/sites/demo.yaml"), "--site-file", help="Site to run."),
    out: Path = typer.Option(Path("demo.png"), "--plot", help="Where the picture goes."),
    on_these_servers: bool = typer.Option(
        False, "--on-these-servers", help="Also with DATABASE_URL, REDIS_URL or MONGODB_URI set: deletes and commands there."
    ),
    forget: bool = typer.Option(False, "--forget", help="Delete the site's telemetry, series and decisions whoever wrote them."),
) -> None:
    """The main job on real prices with simulated packs and real servers; ends by itself and prints what it earned.

    Exit code 1 when a limit was violated, a command is still open, or nothing was measured or planned.
    """
    stop = stop_on_signals()
    options = DemoOptions(days=days, speed=speed, site_file=site_file, plot=out, on_these_servers=on_these_servers, forget=forget)
    code = run_demo(options, stop, console)
    if code:
        raise typer.Exit(code)
