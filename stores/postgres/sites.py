"""`optimizer.sites`: a site's file as it was loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.types.json import Jsonb


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """One site."""

    site_id: str
    name: str
    timezone: str
    config: Mapping[str, Any]


def put_site(conn: psycopg.Connection[Any], site_id: str, name: str, timezone: str, config: Mapping[str, Any]) -> None:
    """Write or replace a site."""
    conn.execute(
        "INSERT INTO optimizer.sites (site_id, name, timezone, config) VALUES (%s, %s, %s, %s) ON CONFLICT (site_id) "
        "DO UPDATE SET name = EXCLUDED.name, timezone = EXCLUDED.timezone, config = EXCLUDED.config, "
        "updated_at = clock_timestamp()",
        (site_id, name, timezone, Jsonb(dict(config))),
    )


def get_site(conn: psycopg.Connection[Any], site_id: str) -> SiteRow | None:
    """One site, or None."""
    row = conn.execute("SELECT site_id, name, timezone, config FROM optimizer.sites WHERE site_id = %s", (site_id,)).fetchone()
    return None if row is None else SiteRow(site_id=row[0], name=row[1], timezone=row[2], config=row[3])


def list_sites(conn: psycopg.Connection[Any]) -> list[SiteRow]:
    """All sites, by id."""
    rows = conn.execute("SELECT site_id, name, timezone, config FROM optimizer.sites ORDER BY site_id")
    return [SiteRow(site_id=row[0], name=row[1], timezone=row[2], config=row[3]) for row in rows]
