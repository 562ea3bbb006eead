"""`device_configurations`: reading and writing packs."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import psycopg

from core.devices import Chemistry, DeviceConfig, DeviceStatus

_COLUMNS = (
    "device_id, site_id, name, chemistry, nominal_capacity, nominal_voltage, max_charge_power, max_discharge_power, "
    "series_cells, parallel_cells, status"
)


def _device(row: tuple[Any, ...]) -> DeviceConfig:
    return DeviceConfig(
        device_id=row[0],
        site_id=row[1],
        name=row[2],
        chemistry=Chemistry(row[3]),
        nominal_capacity_ah=float(row[4]),
        nominal_voltage_v=float(row[5]),
        max_charge_power_w=float(row[6]),
        max_discharge_power_w=float(row[7]),
        series_cells=row[8],
        parallel_cells=row[9],
        status=DeviceStatus(row[10] or "offline"),
    )


def list_devices(conn: psycopg.Connection[Any], site_id: str) -> list[DeviceConfig]:
    """Packs of a site, by device_id."""
    query = f"SELECT {_COLUMNS} FROM device_configurations WHERE site_id = %s ORDER BY device_id"  # noqa: S608
    return [_device(row) for row in conn.execute(query.encode(), (site_id,))]


def get_device(conn: psycopg.Connection[Any], device_id: str) -> DeviceConfig | None:
    """One pack, or None."""
    query = f"SELECT {_COLUMNS} FROM device_configurations WHERE device_id = %s"  # noqa: S608
    row = conn.execute(query.encode(), (device_id,)).fetchone()
    return None if row is None else _device(row)


def upsert_device(conn: psycopg.Connection[Any], device: DeviceConfig, *, by: str) -> None:
    """Write a pack's configuration; status and last_seen of an existing row stay as they are."""
    conn.execute(
        """
        INSERT INTO device_configurations (device_id, site_id, name, chemistry, nominal_capacity, nominal_voltage,
            max_charge_power, max_discharge_power, series_cells, parallel_cells, status, created_by, updated_by)
        VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        ON CONFLICT (device_id) DO UPDATE SET site_id = EXCLUDED.site_id, name = EXCLUDED.name,
            chemistry = EXCLUDED.chemistry, nominal_capacity = EXCLUDED.nominal_capacity,
            nominal_voltage = EXCLUDED.nominal_voltage, max_charge_power = EXCLUDED.max_charge_power,
            max_discharge_power = EXCLUDED.max_discharge_power, series_cells = EXCLUDED.series_cells,
            parallel_cells = EXCLUDED.parallel_cells, updated_by = EXCLUDED.updated_by, updated_at = clock_timestamp()
        """,
        (
            device.device_id,
            device.site_id,
            device.name,
            device.chemistry.value,
            device.nominal_capacity_ah,
            device.nominal_voltage_v,
            device.max_charge_power_w,
            device.max_discharge_power_w,
            device.series_cells,
            device.parallel_cells,
            device.status.value,
            by,
            by,
        ),
    )


def touch_device(conn: psycopg.Connection[Any], device_id: str, status: DeviceStatus, seen_at: datetime) -> None:
    """Record that a device was heard of. Maintenance is an operator's word: online or offline does not end it."""
    conn.execute(
        """
        UPDATE device_configurations SET last_seen = %(seen_at)s, status = CASE
            WHEN status = 'maintenance' AND %(status)s::device_status_enum IN ('online', 'offline') THEN status
            ELSE %(status)s::device_status_enum END
        WHERE device_id = %(device_id)s
        """,
        {"status": status.value, "seen_at": seen_at, "device_id": device_id},
    )
