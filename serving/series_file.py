"""A time series from a CSV file, `time` and one column of values, checked before anything is written.

Here: which series a file may bring, reading, and every check that needs the file. Not here: storing (stores.postgres.series).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from core.errors import InputError, nearest
from core.series import Series, check_series
from core.site import SiteConfig
from serving.dispatch.inputs import AMBIENT, GRID_IMPORT, LOAD_ACTUAL, LOAD_FORECAST, PRICE, PV_ACTUAL, PV_FORECAST, SIGNAL

TIME = "time"
MIN_STEP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column of values is called, and between which values a number can be meant."""

    name: str
    unit: str
    lowest: float
    highest: float


FORMATS: Mapping[str, Column] = {
    PRICE: Column(name="eur_per_kwh", unit="EUR/kWh (a price of 80 EUR/MWh is 0.08)", lowest=-5.0, highest=5.0),
    LOAD_FORECAST: Column(name="load_w", unit="W, not negative", lowest=0.0, highest=1e8),
    PV_FORECAST: Column(name="pv_w", unit="W, not negative", lowest=0.0, highest=1e8),
    AMBIENT: Column(name="ambient_c", unit="deg C", lowest=-60.0, highest=80.0),
    LOAD_ACTUAL: Column(name="load_w", unit="W, not negative", lowest=0.0, highest=1e8),
    PV_ACTUAL: Column(name="pv_w", unit="W, not negative", lowest=0.0, highest=1e8),
    GRID_IMPORT: Column(name="net_import_w", unit="W, import positive", lowest=-1e8, highest=1e8),
    SIGNAL: Column(name="net_import_w", unit="W, import positive", lowest=-1e8, highest=1e8),
}
"""Series that a site understands, with their columns."""


def column_of(series: str) -> Column:
    """The column that a series is read from; InputError with the nearest known name when there is no such series."""
    if series not in FORMATS:
        hint = nearest(series, list(FORMATS))
        raise InputError(source="command line", field="--series", value=series, expected=f"one of {', '.join(FORMATS)}{hint}")
    return FORMATS[series]


def read_series_file(file: Path, name: str, site: SiteConfig) -> Series:
    """The file's values of series `name` on a uniform grid.

    Raises InputError naming file, line and value: an unknown series, a column that is missing, a stamp without its UTC offset or
    with one that is neither UTC nor the site's, a gap, a duplicate, a step back, a value that is no number or of another unit.
    """
    column = column_of(name)
    source = str(file)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = list(csv.reader(opened))
    except OSError as error:
        raise InputError(source=source, field="file", value=error.strerror, expected="a readable file") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(source=source, field="file", value=str(error), expected="a CSV file in UTF-8") from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    for wanted in (TIME, column.name):
        if wanted not in header:
            hint = nearest(wanted, header)
            raise InputError(source=source, field="header", value=",".join(header), expected=f"a column {wanted}{hint}")
    time_at, value_at = header.index(TIME), header.index(column.name)
    zone = ZoneInfo(site.timezone)
    stamps, values = [], []
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise InputError(source=source, field=f"line {number}", value=",".join(row), expected=f"{len(header)} cells")
        stamps.append(_stamp(row[time_at].strip(), f"line {number}, {TIME}", source, zone))
        values.append(_value(row[value_at].strip(), f"line {number}, {column.name}", source, column))
    series = check_series(name, stamps, values, source=source)
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


def _value(text: str, field: str, source: str, column: Column) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not column.lowest <= value <= column.highest:
        expected = f"a number from {column.lowest:g} to {column.highest:g}, in {column.unit}"
        raise InputError(source=source, field=field, value=text, expected=expected)
    return value
