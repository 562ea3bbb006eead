"""`pulsebms site load|list` and `pulsebms data fetch`."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from serving.site_loader import load_site
from stores import datasets
from stores.connections import open_stores
from stores.postgres.devices import list_devices
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


@data_app.command("fetch")
def fetch() -> None:
    """Fetch the Dutch day-ahead prices (needs the network once), check them by hash, keep them."""
    settings = StoreSettings.from_env()
    info = datasets.fetch(settings.data_dir, console.print)
    console.print(info)
