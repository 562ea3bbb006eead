"""`safety_constraints`: reading all rows of a site, adding, deactivating. Which apply is core.limits' business."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from typing import Any

import psycopg

from core.limits import ConstraintRow

COLUMN_OF = {
    "max_cell_voltage_v": "max_cell_voltage",
    "min_cell_voltage_v": "min_cell_voltage",
    "max_pack_voltage_v": "max_pack_voltage",
    "min_pack_voltage_v": "min_pack_voltage",
    "max_charge_current_a": "max_charge_current",
    "max_discharge_current_a": "max_discharge_current",
    "max_cell_temperature_c": "max_cell_temperature",
    "min_cell_temperature_c": "min_cell_temperature",
    "max_temperature_delta_k": "max_temperature_delta",
    "max_soc_pct": "max_soc",
    "min_soc_pct": "min_soc",
    "max_charge_power_w": "max_charge_power",
    "max_discharge_power_w": "max_discharge_power",
    "max_cycle_depth_pct": "max_cycle_depth",
    "max_c_rate_per_h": "max_c_rate",
    "active": "active",
    "effective_from": "effective_from",
    "effective_until": "effective_until",
}
"""Field of ConstraintRow -> column."""
_FIELDS = [item.name for item in fields(ConstraintRow)]


def constraint_rows(conn: psycopg.Connection[Any], site_id: str) -> dict[str, list[ConstraintRow]]:
    """Every active row of the site's devices, in force or not, by device."""
    columns = ", ".join(f"c.{COLUMN_OF[name]}" for name in _FIELDS[2:])
    query = (
        f"SELECT c.id::text, c.device_id, {columns} FROM safety_constraints c "  # noqa: S608
        "JOIN device_configurations d USING (device_id) WHERE d.site_id = %s AND c.active ORDER BY c.created_at, c.id"
    )
    result: dict[str, list[ConstraintRow]] = {}
    for row in conn.execute(query.encode(), (site_id,)):
        values: list[Any] = [float(value) if isinstance(value, Decimal) else value for value in row]
        made = ConstraintRow(**dict(zip(_FIELDS, values, strict=True)))
        result.setdefault(made.device_id, []).append(made)
    return result


def newest_constraints(conn: psycopg.Connection[Any], site_id: str) -> dict[str, datetime]:
    """When the newest active row of each device was written (the database's clock), by device."""
    rows = conn.execute(
        "SELECT c.device_id, max(c.created_at) FROM safety_constraints c JOIN device_configurations d USING (device_id) "
        "WHERE d.site_id = %s AND c.active GROUP BY c.device_id",
        (site_id,),
    )
    return {device_id: written_at for device_id, written_at in rows if written_at is not None}


def add_constraint(conn: psycopg.Connection[Any], row: ConstraintRow, *, by: str) -> str:
    """Insert a row (its row_id is ignored); returns the new id. None means NULL: without effective_from it always held."""
    names = _FIELDS[2:]
    columns = ", ".join(["device_id", "created_by", *(COLUMN_OF[name] for name in names)])
    marks = ", ".join(["%s"] * (len(names) + 2))
    query = f"INSERT INTO safety_constraints ({columns}) VALUES ({marks}) RETURNING id::text"  # noqa: S608
    found = conn.execute(query.encode(), (row.device_id, by, *(getattr(row, name) for name in names))).fetchone()
    return str(found[0]) if found else ""


def deactivate_constraints(conn: psycopg.Connection[Any], device_id: str) -> int:
    """Set every row of a device inactive; returns how many."""
    return conn.execute("UPDATE safety_constraints SET active = false WHERE device_id = %s AND active", (device_id,)).rowcount
