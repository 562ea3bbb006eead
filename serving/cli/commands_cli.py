"""`pulsebms command send` and `pulsebms history`."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from core.commands import MAX_TIMEOUT_S, PARAMETERS, Command, CommandType, Outcome
from core.errors import InputError, StoreError
from serving import emergency
from serving.cli.commands_wait import wait_for
from serving.dispatch.tick import push_and_settle
from serving.site_loader import site_config
from stores.connections import Postgres, Redis, open_redis, open_stores
from stores.failures import STORE_FAILURES
from stores.postgres import leases, outbox
from stores.postgres.devices import get_device
from stores.postgres.history import history as read_history
from stores.redis import pending
from stores.redis.status import read_statuses
from stores.settings import StoreSettings

command_app = typer.Typer(help="Commands to devices, by hand.", no_args_is_help=True)
console = Console()
SHORT_ID = 8
"""Digits of a command's id that `history` shows."""


def parse_parameters(pairs: list[str], command_type: CommandType) -> dict[str, Any]:
    """`name=value` pairs into parameters; raises InputError naming the pair that cannot be read."""
    result: dict[str, Any] = {}
    for pair in pairs:
        name, sep, value = pair.partition("=")
        if not sep:
            raise InputError(source="command line", field="--set", value=pair, expected="name=value")
        if name == "reason":
            result[name] = value
            continue
        try:
            result[name] = float(value)
        except ValueError:
            known = PARAMETERS[command_type].get(name)
            unit = known.unit if known else "see `pulsebms command types`"
            raise InputError(source="command line", field=f"--set {name}", value=value, expected=f"a number ({unit})") from None
    return result


@command_app.command("send")
def send(
    device: str = typer.Argument(..., help="Device id."),
    command_type: CommandType = typer.Argument(..., help="Type; `pulsebms command types` lists parameters."),
    set_: list[str] = typer.Option([], "--set", "-s", help="Parameter as name=value; repeatable."),
    timeout_s: int = typer.Option(
        30, "--timeout", min=1, max=MAX_TIMEOUT_S, help="Seconds within which the device must begin it."
    ),
    site: str | None = typer.Option(
        None, "--site", help="Site of the device: only for an emergency_shutdown while PostgreSQL is down, and only if asked."
    ),
    wait_s: float = typer.Option(
        0.0, "--wait", min=0.0, max=MAX_TIMEOUT_S, help="Seconds to wait for the answer; exit code 1 unless it is `completed`."
    ),
) -> None:
    """Issue one command: recorded in command_history first, then pushed to the device's pending list.

    An emergency_shutdown goes out first, through Redis alone, and is recorded after. With --wait the answer is printed.

    Example: pulsebms command send pack-lfp start_charge --set target_power=5000 --set valid_for_seconds=900
    """
    settings = StoreSettings.from_env()
    parameters = parse_parameters(set_, command_type)
    hint = ""
    if command_type is CommandType.EMERGENCY_SHUTDOWN:
        if _shut_down(settings, device, site, parameters, timeout_s, wait_s):
            return
        hint = "; no dispatcher has named the device's site: with --site the shutdown goes out without PostgreSQL"
    try:
        opened = open_stores(settings, migrate=True)
    except StoreError as error:
        raise StoreError(f"{error}{hint}") from None
    with opened as stores:
        config = get_device(stores.pg, device)
        if config is None:
            raise InputError(source="command line", field="device", value=device, expected="a known device id")
        draft = outbox.CommandDraft(
            device_id=device,
            site_id=config.site_id,
            command_type=command_type,
            parameters=parameters,
            timeout_s=timeout_s,
            issued_by=getpass.getuser(),
        )
        epoch = leases.current_epoch(stores.pg, config.site_id)
        (command,) = outbox.enqueue(stores.pg, [draft], epoch=epoch, redis_now=pending.redis_now(stores.redis))
        (result,) = push_and_settle(stores, [command])
        if result.status is not pending.Pushed.PUSHED:
            raise StoreError(f"{command.command_id} was recorded but not pushed: {result.status.name.lower()}")
        _say(command, result)
        if wait_s:
            _await(stores.redis, stores.pg, command, wait_s)


def _shut_down(
    settings: StoreSettings, device: str, site: str | None, parameters: dict[str, Any], timeout_s: int, wait_s: float
) -> bool:
    """Send without asking PostgreSQL; False when the device's site is not known without it.

    Raises InputError, with nothing sent, when a dispatcher has named another site for the device than `--site`.
    """
    with open_redis(settings) as client:
        known = pending.known_site(client, device)
        if site is not None and known is not None and site != known:
            raise InputError(
                source="command line",
                field="--site",
                value=site,
                expected=f"the site of {device}, which is {known}, or no --site",
            )
        site_id = site or known
        if site_id is None:
            return False
        heard_of = known is not None or bool(read_statuses(client, [device]))
        command, result = emergency.send_first(
            client, device_id=device, site_id=site_id, parameters=parameters, timeout_s=timeout_s, issued_by=getpass.getuser()
        )
        if result.status is not pending.Pushed.PUSHED:
            raise StoreError(f"{command.command_id} was not pushed: {result.status.name.lower()}")
        _say(command, result)
        try:
            with open_stores(settings) as stores:
                config = get_device(stores.pg, device)
                heard_of = heard_of or (config is not None and config.site_id == site_id)
                emergency.record_sent(stores.pg, client, site_id)
                emergency.end_purged(stores.pg, client, result)
        except STORE_FAILURES as error:
            console.print(f"[yellow]not on record yet[/]; the dispatcher of {site_id} will see to it: {error}", soft_wrap=True)
        if not heard_of:
            _warn_unknown(device, site_id)
        if wait_s:
            _await(client, None, command, wait_s, settings)
    return True


def _await(client: Redis, pg: Postgres | None, command: Command, wait_s: float, settings: StoreSettings | None = None) -> None:
    """Print how the command ended; exit code 1 when that is not `completed`, or nobody has answered in time.

    `settings`, instead of `pg`: PostgreSQL is asked where it can be, and the answer awaited from Redis alone where it cannot.
    """
    if settings is not None:
        try:
            with open_stores(settings) as stores:
                found = wait_for(client, stores.pg, command, wait_s)
        except STORE_FAILURES:
            found = wait_for(client, None, command, wait_s)
    else:
        found = wait_for(client, pg, command, wait_s)
    if found is None:
        errors = Console(stderr=True)
        errors.print(
            f"no answer within {wait_s:g} s; `pulsebms history --site {command.site_id}` will have it",
            soft_wrap=True,
            markup=False,
        )
        raise typer.Exit(1)
    console.print(f"{found.outcome.value}: {found.message}", soft_wrap=True, markup=False)
    if found.outcome is not Outcome.COMPLETED:
        raise typer.Exit(1)


def _warn_unknown(device: str, site_id: str) -> None:
    errors = Console(stderr=True)
    errors.print(
        f"[bold red]WARNING: nobody has heard of a device {device!r} of site {site_id!r}.[/] The shutdown lies in its pending "
        "list, but perhaps NOTHING WAS SHUT DOWN. Check both ids, and send it again if one is mistyped.",
        soft_wrap=True,
    )


def _say(command: Command, result: pending.PushResult) -> None:
    if result.purged:
        console.print(f"{len(result.purged)} pending starts were purged")
    sent = f"{command.command_id} {command.command_type.value} to {command.device_id}"
    console.print(f"{sent}, begin within {command.timeout_s} s", soft_wrap=True)


@command_app.command("types")
def types() -> None:
    """The seven command types and the parameters each takes."""
    table = Table("type", "parameter", "unit", "range", "needed", "meaning")
    for kind, parameters in PARAMETERS.items():
        table.add_row(kind.value, "reason", "text", "", "", "free text, kept on record")
        for name, spec in parameters.items():
            table.add_row(
                "",
                name,
                spec.unit,
                f"{spec.minimum:g} to {spec.maximum:g}",
                "yes" if spec.required else "",
                spec.meaning,
            )
    console.print(table)


def history(
    site: str = typer.Option(..., "--site", help="Site id."),
    device: str | None = typer.Option(None, "--device", help="Only this device."),
    hours: float = typer.Option(24.0, "--hours", help="How far back."),
    limit: int = typer.Option(40, "--limit", help="At most so many rows, newest first."),
) -> None:
    """What was commanded, what became of it, and why."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site_config(stores.pg, site)
        since = datetime.now(UTC) - timedelta(hours=hours)
        table = Table("id", "issued", "by", "device", "command", "parameters", "outcome", "answer")
        for row in read_history(stores.pg, site, device_id=device, since=since, limit=limit):
            outcome = (row.response_data or {}).get("outcome", "open")
            table.add_row(
                row.command_id.removeprefix("cmd_")[:SHORT_ID],
                f"{row.issued_at:%m-%d %H:%M:%S}",
                row.issued_by or "",
                row.device_id,
                row.command_type.value,
                ", ".join(f"{k}={v}" for k, v in (row.parameters or {}).items()),
                outcome,
                row.response_message or "",
            )
        console.print(table)
