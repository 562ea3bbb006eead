"""Puts the groups of subcommands together; sets up logging. Not here: what any of them does."""

from __future__ import annotations

import typer

from serving.cli import (
    commands_cli,
    data_cli,
    dispatch_cli,
    evaluate_cli,
    plan_cli,
    policies_cli,
    stores_cli,
    telemetry_cli,
    train_cli,
    twin_cli,
)
from serving.logs import configure_logging

app = typer.Typer(
    name="pulsebms",
    help="Decides how hard to charge or discharge each battery pack of a site, and makes it happen.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def root(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log at level debug."),
    json_logs: bool = typer.Option(False, "--json-logs", help="Logs as JSON lines, also on a terminal."),
) -> None:
    """DATABASE_URL, REDIS_URL, MONGODB_URI point at your own servers; without them, embedded ones are started
    in PULSEBMS_DATA (default .pulsebms)."""
    configure_logging(verbose=verbose, json_logs=json_logs)


app.add_typer(stores_cli.app, name="stores")
app.command("migrate")(stores_cli.migrate)
app.add_typer(data_cli.site_app, name="site")
app.add_typer(data_cli.data_app, name="data")
app.command("plan")(plan_cli.plan)
app.command("dispatch")(dispatch_cli.dispatch)
app.add_typer(dispatch_cli.device_app, name="device")
app.add_typer(twin_cli.twin_app, name="twin")
app.command("demo")(dispatch_cli.demo)
app.add_typer(commands_cli.command_app, name="command")
app.command("history")(commands_cli.history)
app.add_typer(telemetry_cli.telemetry_app, name="telemetry")
app.add_typer(telemetry_cli.metrics_app, name="metrics")
app.command("train")(train_cli.train)
app.command("tune")(train_cli.tune)
app.add_typer(train_cli.artefact_app, name="artefact")
app.command("evaluate")(evaluate_cli.evaluate)
app.command("compare")(evaluate_cli.compare)
app.add_typer(policies_cli.policies_app, name="policies")
app.command("maintain")(stores_cli.maintain)
