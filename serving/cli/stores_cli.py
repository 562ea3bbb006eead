"""`pulsebms stores up|status|down`, `migrate`, `maintain`."""

from __future__ import annotations

from collections.abc import Mapping

import typer
from rich.console import Console
from rich.table import Table

from stores import embedded
from stores.connections import open_stores
from stores.mongo.maintenance import maintain_mongo
from stores.mongo.schema import ensure_collections
from stores.postgres.maintenance import maintain_postgres
from stores.postgres.migrations import migrate as migrate_postgres
from stores.redis.maintenance import maintain_redis
from stores.settings import StoreSettings

app = typer.Typer(help="Start, look at and stop the embedded PostgreSQL, Valkey and mongod.", no_args_is_help=True)
console = Console()


@app.command()
def up() -> None:
    """Start the embedded servers and leave them running until `stores down`."""
    settings = StoreSettings.from_env()
    embedded.up(settings)
    with open_stores(settings, migrate=True):
        console.print(f"embedded servers are running in {settings.data_dir}; stop them with: pulsebms stores down")


@app.command()
def status() -> None:
    """Which embedded servers run, on which port, for whom."""
    settings = StoreSettings.from_env()
    table = Table("what", "value")
    for name, value in embedded.status(settings.data_dir).items():
        table.add_row(str(name), str(value))
    console.print(table)


@app.command()
def down(force: bool = typer.Option(False, "--force", help="Also when other commands are still using them.")) -> None:
    """Stop the embedded servers cleanly."""
    settings = StoreSettings.from_env()
    embedded.down(settings.data_dir, force=force)
    console.print("stopped")


def migrate() -> None:
    """Bring PostgreSQL and MongoDB to this version's schema. Run twice, it does nothing the second time."""
    with open_stores(StoreSettings.from_env()) as stores:
        applied = migrate_postgres(stores.pg)
        applied += ensure_collections(stores.mongo)
        console.print(f"applied: {', '.join(applied) if applied else 'nothing, all was up to date'}")


def maintain() -> None:
    """Schema, partitions ahead, retention and archive in all three stores; says what it did. Safe to run at any time."""
    with open_stores(StoreSettings.from_env()) as stores:
        applied = migrate_postgres(stores.pg)
        jobs: list[tuple[str, Mapping[str, object]]] = [
            ("PostgreSQL", {"migrations applied": ", ".join(applied) or 0, **maintain_postgres(stores.pg)}),
            ("MongoDB", maintain_mongo(stores.mongo)),
            ("Redis", maintain_redis(stores.redis)),
        ]
    table = Table("store", "job", "result")
    for store, done in jobs:
        for name, value in done.items():
            table.add_row(store, name, str(value))
    console.print(table)
