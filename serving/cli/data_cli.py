"""`pulsebms site load|list|signal` and `pulsebms data fetch`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from core.errors import InputError
from serving.clock_config import clock_from_env
from serving.dispatch.inputs import SIGNAL
from serving.signal_file import read_signal
from serving.site_loader import load_site, site_config
from stores import datasets
from stores.connections import open_stores
from stores.postgres.devices import list_devices
from stores.postgres.series import write_series
from stores.postgres.series_rows import withdraw_series
from stores.postgres.sites import list_sites
from stores.settings import StoreSettings

site_app = typer.Typer(help="Sites: load one from a YAML file, list them.", no_args_is_help=True)
data_app = typer.Typer(help="Real input data: fetch it once, keep it.", no_args_is_help=True)
console = Console()


@site_app.command("load")
def load(file: Path = typer.Argument(..., help="Site file, e.g. configs/sites/demo.yaml")) -> None:
    """Write a site's packs, limits and policies into PostgreSQL: all of it, or nothing."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site = load_site(stores.pg, file)
        console.print(f"site {site.site_id}: {len(site.packs)} packs, {len(site.policies)} policies")


@site_app.command("list")
def list_() -> None:
    """Sites and how many packs they have."""
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        table = Table("site", "name", "time zone", "packs")
        for site in list_sites(stores.pg):
            table.add_row(site.site_id, site.name, site.timezone, str(len(list_devices(stores.pg, site.site_id))))
        console.print(table)


@site_app.command("signal")
def signal(
    site_id: str = typer.Argument(..., help="Site id."),
    file: Path | None = typer.Argument(None, help="CSV with the columns time,net_import_w."),
    withdraw: bool = typer.Option(False, "--withdraw", help="Forget what the site is asked for from now on."),
) -> None:
    """Ask a site for a net import over time (W, export negative); MPC policies track it, `tracking_weight` says how hard.

    Stamps are ISO 8601 with a UTC offset (UTC, or the site's own). All of the file is stored, or nothing. Loading again replaces
    the same steps; steps that no file covers are not tracked.
    """
    if (file is None) == (not withdraw):
        raise InputError(source="command line", field="FILE, --withdraw", value=str(file), expected="one of the two")
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        site, now = site_config(stores.pg, site_id), clock_from_env().now()
        if file is None:
            console.print(f"{withdraw_series(stores.pg, site_id, SIGNAL, now)} steps from {now.isoformat()} on withdrawn")
            return
        series = read_signal(file, site)
        write_series(stores.pg, site_id, series, now)
        console.print(
            f"{len(series)} steps of {series.dt_s:g} s from {series.start.isoformat()} to {series.end.isoformat()}, "
            f"{series.values.min():.0f} to {series.values.max():.0f} W"
        )
        beyond = (series.values > site.grid.import_limit_w) | (series.values < -site.grid.export_limit_w)
        if beyond.any():
            console.print(f"[yellow]{int(beyond.sum())} of them lie beyond the meter's limits and can only be approached[/]")


@data_app.command("fetch")
def fetch() -> None:
    """Fetch the Dutch day-ahead prices (needs the network once), check them by hash, keep them."""
    settings = StoreSettings.from_env()
    info = datasets.fetch(settings.data_dir, console.print)
    console.print(info)
