"""Cleans the published file of Dutch day-ahead prices, and says what it changed.

Here: text to checked hourly values. Not here: where the text comes from (stores.datasets.prices).

The source stamps in UTC beside local time; only the UTC column is read, so that the changes of summer time need no
care. Its known defects: one block of 2023-2025 in another date format, overlapping the first; a row without a stamp;
two missing hours.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from core.errors import InputError
from core.series import Series

PRICE = "day_ahead_price_eur_per_kwh"
STAMP_COLUMN = "Datetime (UTC)"
VALUE_COLUMN = "Price (EUR/MWhe)"
HOUR = timedelta(hours=1)
MAX_FILLED_GAP_H = 2
"""Longer gaps are an error: nothing is invented over them."""
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%d/%m/%Y %H:%M")


@dataclass(frozen=True, slots=True, kw_only=True)
class CleanReport:
    """What cleaning did."""

    rows: int
    """Hours in the clean series."""
    duplicates_removed: int
    empty_rows_removed: int
    filled: tuple[str, ...]
    """Stamps (ISO, UTC) whose price was interpolated linearly between its neighbours."""


def clean_prices(text: str, source: str) -> tuple[Series, CleanReport]:
    """Hourly EUR/kWh from the CSV text in EUR/MWh.

    Raises InputError naming line and field: missing column, unreadable or not full-hour stamp, price that is not a
    finite number, duplicates that contradict each other, gap of more than 2 hours.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    for column in (STAMP_COLUMN, VALUE_COLUMN):
        if column not in (reader.fieldnames or []):
            raise InputError(source=source, field="header", value=reader.fieldnames, expected=f"a column {column!r}")
    prices: dict[datetime, float] = {}
    duplicates = empty = 0
    for row in reader:
        where = f"{source}:{reader.line_num}"
        if not (row[STAMP_COLUMN] or "").strip():
            empty += 1
            continue
        stamp, price = _stamp(row[STAMP_COLUMN], where), _price(row[VALUE_COLUMN], where)
        if stamp in prices:
            if prices[stamp] != price:
                raise InputError(source=where, field=stamp.isoformat(), value=price, expected=f"{prices[stamp]:g} as before")
            duplicates += 1
        prices[stamp] = price
    if len(prices) < 2:
        raise InputError(source=source, field="rows", value=len(prices), expected="at least two hours")
    filled = _fill(prices, source)
    start = min(prices)
    values = np.array([prices[stamp] for stamp in sorted(prices)]) / 1000.0
    report = CleanReport(
        rows=len(values),
        duplicates_removed=duplicates,
        empty_rows_removed=empty,
        filled=tuple(stamp.isoformat() for stamp in filled),
    )
    return Series(PRICE, start, 3600.0, values), report


def _stamp(text: str, where: str) -> datetime:
    for pattern in _FORMATS:
        try:
            stamp = datetime.strptime(text.strip(), pattern).replace(tzinfo=UTC)
        except ValueError:
            continue
        if stamp.minute or stamp.second:
            break
        return stamp
    raise InputError(
        source=where, field=STAMP_COLUMN, value=text, expected="a full hour, as 2015-01-31 13:00:00 or 31/01/2015 13:00"
    )


def _price(text: str | None, where: str) -> float:
    try:
        price = float(text or "")
    except ValueError:
        price = math.nan
    if not math.isfinite(price):
        raise InputError(source=where, field=VALUE_COLUMN, value=text, expected="a finite number of EUR/MWh")
    return price


def _fill(prices: dict[datetime, float], source: str) -> list[datetime]:
    """Fill gaps in place, linearly; returns the stamps that were added."""
    stamps = sorted(prices)
    filled: list[datetime] = []
    for before, after in itertools.pairwise(stamps):
        missing = round((after - before) / HOUR) - 1
        if missing > MAX_FILLED_GAP_H:
            raise InputError(
                source=source,
                field=f"gap from {before.isoformat()}",
                value=f"{missing} hours without a price",
                expected=f"at most {MAX_FILLED_GAP_H}",
            )
        for k in range(1, missing + 1):
            share = k / (missing + 1)
            prices[before + k * HOUR] = (1 - share) * prices[before] + share * prices[after]
            filled.append(before + k * HOUR)
    return filled


def to_csv(series: Series) -> str:
    """The clean file: `utc,eur_per_kwh`, one row an hour."""
    rows = (f"{(series.start + k * HOUR):%Y-%m-%dT%H:%MZ},{value:.8g}" for k, value in enumerate(series.values))
    return "utc,eur_per_kwh\n" + "\n".join(rows) + "\n"


def from_csv(text: str, manifest: Mapping[str, object], source: str) -> Series:
    """Read `to_csv` back; the content was verified by hash, so only shape and start are checked."""
    lines = text.splitlines()[1:]
    if len(lines) != manifest.get("rows"):
        raise InputError(source=source, field="rows", value=len(lines), expected=f"{manifest.get('rows')} as recorded")
    start = datetime.strptime(lines[0].partition(",")[0], "%Y-%m-%dT%H:%MZ").replace(tzinfo=UTC)
    return Series(PRICE, start, 3600.0, np.array([float(line.partition(",")[2]) for line in lines]))
