"""A dispatch signal from a CSV file: `time,net_import_w`, checked before anything is written.

Here: reading and every check that needs the file. Not here: storing (stores.postgres.series), tracking (policies.mpc).
"""

from __future__ import annotations

import csv
import math
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from core.errors import InputError, nearest
from core.series import Series, check_series
from core.site import SiteConfig
from serving.dispatch.inputs import SIGNAL

COLUMNS = ("time", "net_import_w")
LARGEST_W = 1e8
MIN_STEP_S = 60.0


def read_signal(file: Path, site: SiteConfig) -> Series:
    """The file's signal, W, import positive, on a uniform grid.

    Raises InputError naming file, line and value: a column that is missing, a stamp without its UTC offset or with one that is
    neither UTC nor the site's, a gap, a duplicate, a step back, a value that is no finite number.
    """
    source = str(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.reader(opened))
    except OSError as error:
        raise InputError(source=source, field="file", value=error.strerror, expected="a readable file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(source=source, field="file", value=str(error), expected="a CSV file in UTF-8") from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    for name in COLUMNS:
        if name not in header:
            hint = nearest(name, header)
            raise InputError(source=source, field="header", value=",".join(header), expected=f"a column {name}{hint}")
    time_at, value_at = (header.index(name) for name in COLUMNS)
    stamps, values = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise InputError(source=source, field=f"line {number}", value=",".join(row), expected=f"{len(header)} cells")
        stamps.append(_stamp(row[time_at].strip(), f"line {number}, time", source, ZoneInfo(site.timezone)))
        values.append(_watt(row[value_at].strip(), f"line {number}, net_import_w", source))
    series = check_series(SIGNAL, stamps, values, source=source)
    if series.dt_s < MIN_STEP_S or series.dt_s % 1:
        raise InputError(
            source=source, field="step", value=f"{series.dt_s:g} s", expected=f"whole seconds, {MIN_STEP_S:g} or more"
        )
    return series


def _stamp(text: str, field: str, source: str, zone: ZoneInfo) -> datetime:
    try:
        stamp = datetime.fromisoformat(text)
    except ValueError:
        stamp = None
    if stamp is None or stamp.tzinfo is None:
        raise InputError(
            source=source, field=field, value=text, expected="an ISO 8601 time with its UTC offset, as 2026-01-31T13:15:00+01:00"
        )
    local = stamp.astimezone(zone)
    if stamp.utcoffset() not in (UTC.utcoffset(None), local.utcoffset()):
        # A whole file in another zone is almost always a mistake, such as winter time kept through the summer.
        raise InputError(
            source=source, field=field, value=text, expected=f"UTC or the site's own offset then ({local:%z}, {zone.key})"
        )
    return stamp


def _watt(text: str, field: str, source: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or abs(value) > LARGEST_W:
        raise InputError(source=source, field=field, value=text, expected=f"a finite number of watts, at most {LARGEST_W:g}")
    return value
