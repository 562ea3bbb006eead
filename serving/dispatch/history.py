"""What the stores know of the past that decisions use: forecast errors, and the billing month's highest import.

Here: reading, and saying where each comes from and how old it is. Not here: correcting a forecast (optimizer.forecast).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import InputError
from core.series import Series
from core.site import SiteConfig
from optimizer.forecast import WINDOW_DAYS
from stores.connections import Stores
from stores.postgres.series_rows import SeriesRow, rows_as_known, series_rows

DAY = timedelta(days=1)


def forecast_errors(
    stores: Stores, site_id: str, name: str, forecast_name: str, actual_name: str, starts_at: datetime, inputs: dict[str, Any]
) -> Series | None:
    """Actual minus forecast (as known when each step began) up to `starts_at`, without gaps; None when there is none."""
    since = starts_at - timedelta(days=WINDOW_DAYS)
    actual = unbroken(series_rows(stores.pg, site_id, actual_name, since, starts_at, known_at=starts_at), actual_name)
    said = rows_as_known(stores.pg, site_id, forecast_name, since - DAY, starts_at, known_at=starts_at)
    forecast = unbroken(said, forecast_name)
    errors = None
    why = "nothing recorded"
    if actual is not None and forecast is not None:
        try:
            errors = _difference(name, actual, forecast)
        except InputError as error:
            why = str(error)
    return _said(name, errors, f"site_series {actual_name} minus {forecast_name}", why, starts_at, inputs)


def day_before_errors(stores: Stores, site_id: str, name: str, starts_at: datetime, inputs: dict[str, Any]) -> Series | None:
    """What a price was beyond that of 24 hours before, up to `starts_at`: the error where a horizon outlasts the known prices."""
    since = starts_at - timedelta(days=WINDOW_DAYS)
    known = unbroken(series_rows(stores.pg, site_id, name, since, starts_at, known_at=starts_at), name)
    errors = None
    if known is not None and len(known) > (lag := round(DAY.total_seconds() / known.dt_s)):
        errors = Series(name, known.start + DAY, known.dt_s, known.values[lag:] - known.values[:-lag])
    return _said(name, errors, f"site_series {name} minus that of the day before", "less than a day recorded", starts_at, inputs)


def _said(name: str, errors: Series | None, source: str, why: str, starts_at: datetime, inputs: dict[str, Any]) -> Series | None:
    if errors is None:
        inputs[f"errors:{name}"] = {"source": f"none: {why}"}
        return None
    days = len(errors) * errors.dt_s / DAY.total_seconds()
    age_s = max(0.0, (starts_at - errors.end).total_seconds())
    inputs[f"errors:{name}"] = {"source": source, "days": round(days, 2), "age_s": age_s}
    return errors


def unbroken(rows: Sequence[SeriesRow], name: str) -> Series | None:
    """The newest stretch of rows of one step length without a gap."""
    if not rows:
        return None
    first = len(rows) - 1
    step = timedelta(seconds=rows[-1].dt_s)
    while first > 0 and rows[first - 1].dt_s == rows[-1].dt_s and rows[first - 1].starts_at + step == rows[first].starts_at:
        first -= 1
    return Series(name, rows[first].starts_at, rows[-1].dt_s, np.array([row.value for row in rows[first:]]))


def _difference(name: str, actual: Series, forecast: Series) -> Series | None:
    """On the actual's grid, where both are there; InputError when the grids do not line up."""
    late_s = max(0.0, (forecast.start - actual.start).total_seconds())
    first = int(np.ceil(late_s / actual.dt_s - 1e-9))
    count = int(min(len(actual) - first, (forecast.end - actual.start).total_seconds() // actual.dt_s - first))
    if count < 1:
        return None
    start = actual.start + timedelta(seconds=first * actual.dt_s)
    values = actual.values[first : first + count] - forecast.window(start, count, actual.dt_s)
    return Series(name, start, actual.dt_s, values)


def month_peak(stores: Stores, site: SiteConfig, name: str, starts_at: datetime, inputs: dict[str, Any]) -> float:
    """Highest recorded import (W) of the site's calendar month so far; 0, and said so, when nothing is recorded in it."""
    local = starts_at.astimezone(ZoneInfo(site.timezone))
    month = local.replace(day=1, hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    rows = series_rows(stores.pg, site.site_id, name, month, starts_at, known_at=starts_at)
    entry: dict[str, Any] = {"since": month.isoformat(), "value_w": 0.0}
    inputs["peak_incurred_w"] = entry
    if not rows:
        entry["source"] = f"none: no {name} recorded since then, taken as 0"
        return 0.0
    newest = rows[-1]
    peak_w = max(0.0, *(row.value for row in rows))
    ended = newest.starts_at + timedelta(seconds=newest.dt_s)
    covered_s = sum(row.dt_s for row in rows)
    entry |= {
        "source": f"site_series {name}",
        "value_w": round(peak_w, 1),
        "age_s": (starts_at - ended).total_seconds(),
        "recorded_share": round(min(1.0, covered_s / max(1.0, (starts_at - month).total_seconds())), 3),
    }
    return peak_w
