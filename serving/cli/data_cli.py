"""`pulsebms site load|list|signal` and `pulsebms data fetch|replay|load`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from core.errors import InputError
from serving.clock_config import clock_from_env
from serving.dispatch.inputs import PRICE, SIGNAL
from serving.series_file import FORMATS, column_of, read_series_file
from serving.site_inputs import replay_inputs
from serving.site_loader import load_site, site_config
from stores import datasets
from stores.connections import open_stores
from stores.postgres.devices import list_devices
from stores.postgres.series import write_series
from stores.postgres.series_rows import withdraw_series
from stores.postgres.sites import list_sites
from stores.settings import StoreSettings

site_app = typer.Typer(help="Sites: load one from a YAML file, list them.", no_args_is_help=True)
data_app = typer.Typer(help="Input data: fetch real prices, replay them, load your own series.", no_args_is_help=True)
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
        series = read_series_file(file, SIGNAL, site)
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
    console.print(
        f"{info.path}: {info.rows} hours from {info.first} to {info.last_end}, "
        f"{info.minimum_eur_per_kwh:g} to {info.maximum_eur_per_kwh:g} EUR/kWh\n"
        f"source: {info.source}; {info.duplicates_removed} duplicates and {info.empty_rows_removed} empty rows removed, "
        f"missing hours filled between neighbours: {', '.join(info.filled) or 'none'}",
        soft_wrap=True,
    )


@data_app.command("replay")
def replay(
    site: str = typer.Option(..., "--site", help="Site id."),
    days: int = typer.Option(7, "--days", min=1, max=60, help="Days ahead."),
) -> None:
    """Give a site inputs for the days ahead: fetched prices of the same season of 2023 moved to today, standard load, PV.

    For trying a site out. A site with a price feed of its own uses `pulsebms data load`. Again, it replaces the same values.
    """
    settings = StoreSettings.from_env()
    datasets.fetch(settings.data_dir, console.print)
    prices = datasets.load_prices(settings.data_dir)
    with open_stores(settings, migrate=True) as stores:
        now = clock_from_env().now()
        scenario, count = replay_inputs(stores, site_config(stores.pg, site), prices, now, days)
        series = scenario.price_eur_per_kwh
        console.print(
            f"{count} values from {series.start:%Y-%m-%d %H:%M} to {series.end:%Y-%m-%d %H:%M} UTC; "
            f"prices are those of {series.start - scenario.price_shift:%Y-%m-%d} onward",
            soft_wrap=True,
        )


@data_app.command("load")
def load_data(
    file: Path = typer.Argument(..., help="CSV with the columns time and the series' own (see --series)."),
    site: str = typer.Option(..., "--site", help="Site id."),
    series: str = typer.Option(
        PRICE, "--series", help=f"Which series: {', '.join(f'{name} (column {c.name})' for name, c in FORMATS.items())}."
    ),
) -> None:
    """Load a series of your own: prices, forecasts, meter values. It counts as known from now on; all of it, or nothing.

    Stamps are ISO 8601 with a UTC offset (UTC, or the site's own), without gaps. Loading again replaces what was known before.
    """
    column = column_of(series)
    with open_stores(StoreSettings.from_env(), migrate=True) as stores:
        loaded = read_series_file(file, series, site_config(stores.pg, site))
        write_series(stores.pg, site, loaded, clock_from_env().now())
        console.print(
            f"{series}: {len(loaded)} values of {loaded.dt_s:g} s from {loaded.start.isoformat()} to {loaded.end.isoformat()}, "
            f"{loaded.values.min():g} to {loaded.values.max():g} {column.unit}",
            soft_wrap=True,
        )
