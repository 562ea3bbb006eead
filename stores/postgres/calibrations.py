"""`optimizer.twin_calibrations`: every attempt to calibrate a pack, and which calibration is in force. Not here: the fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from core.calibration import Calibration, Factors
from core.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationRow:
    """One attempt. `score` and `factors` are None when nothing could be fitted."""

    device_id: str
    site_id: str
    calibrated_at: datetime
    data_from: datetime
    data_to: datetime
    accepted: bool
    reason: str
    score: float | None
    factors: Factors | None
    details: Mapping[str, Any]
    """Excitation, errors before and after, standard errors."""


def record_calibration(conn: psycopg.Connection[Any], row: CalibrationRow) -> str:
    """Write an attempt; returns its id."""
    made = conn.execute(
        """
        INSERT INTO optimizer.twin_calibrations (device_id, site_id, calibrated_at, data_from, data_to, accepted, reason,
            score, parameters, details) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id::text
        """,
        (
            row.device_id,
            row.site_id,
            row.calibrated_at,
            row.data_from,
            row.data_to,
            row.accepted,
            row.reason,
            row.score,
            None if row.factors is None else Jsonb(row.factors.as_parameters()),
            Jsonb(dict(row.details)),
        ),
    ).fetchone()
    return str(made[0]) if made else ""


def calibrations_in_force(
    conn: psycopg.Connection[Any], device_ids: Iterable[str], *, at: datetime
) -> tuple[dict[str, Calibration], dict[str, str]]:
    """The newest accepted calibration of each device not dated after `at`; devices without one are absent.

    The second dictionary names devices whose row holds factors that cannot be, with the reason: such a row must not keep the
    others from being read.
    """
    rows = conn.execute(
        """
        SELECT DISTINCT ON (device_id) device_id, calibrated_at, score, parameters FROM optimizer.twin_calibrations
        WHERE device_id = ANY(%s) AND accepted AND calibrated_at <= %s
        ORDER BY device_id, calibrated_at DESC, recorded_at DESC
        """,
        (list(device_ids), at),
    )
    found: dict[str, Calibration] = {}
    unusable: dict[str, str] = {}
    for device_id, calibrated_at, score, parameters in rows:
        try:
            factors = Factors.from_parameters(parameters)
        except InputError as error:
            unusable[device_id] = str(error)
            continue
        found[device_id] = Calibration(device_id=device_id, calibrated_at=calibrated_at, score=float(score), factors=factors)
    return found, unusable


def calibration_history(conn: psycopg.Connection[Any], device_id: str) -> list[CalibrationRow]:
    """Every attempt for a device, newest first."""
    rows = conn.execute(
        """
        SELECT device_id, site_id, calibrated_at, data_from, data_to, accepted, reason, score, parameters, details
        FROM optimizer.twin_calibrations WHERE device_id = %s ORDER BY calibrated_at DESC, recorded_at DESC
        """,
        (device_id,),
    )
    return [
        CalibrationRow(
            device_id=row[0],
            site_id=row[1],
            calibrated_at=row[2],
            data_from=row[3],
            data_to=row[4],
            accepted=row[5],
            reason=row[6],
            score=row[7],
            factors=None if row[8] is None else Factors.from_parameters(row[8]),
            details=row[9],
        )
        for row in rows
    ]


def delete_calibrations(conn: psycopg.Connection[Any], site_id: str) -> int:
    """Forget a site's calibrations (a demo's, before it runs again); returns the rows."""
    return conn.execute("DELETE FROM optimizer.twin_calibrations WHERE site_id = %s", (site_id,)).rowcount
