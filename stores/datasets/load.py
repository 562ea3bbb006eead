"""Standard load profiles (BDEW) on a UTC grid, and a synthetic actual load around them.

Here: `load_profile` and `actual_load`. The table is the one that the demandlib package carries (VDEW/BDEW 1999: a
profile per season, weekday and quarter hour); the package's own classes are not used, because they work in one naive
calendar year, and turn every warning of newer pandas versions into an error. Not here: holidays (none are known to the
table's calendar; a site's load on a holiday is that of its weekday), measured load.
"""

from __future__ import annotations

import csv
import importlib.util
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError, StoreError
from core.series import Series

FloatArray = NDArray[np.float64]

QUARTER_S = 900.0
_SEASONS = ("winter", "transition", "summer")
_TABLE = Path("bdew") / "bdew_data" / "selp_series.csv"
PERSISTENCE_PER_STEP = 0.97
"""AR(1) coefficient of a quarter hour: deviations fade with a time constant of about 8 hours."""


def load_profile(annual_kwh: float, profile: str, start: datetime, days: int, timezone: str) -> Series:
    """Load of `days` local days from `start` (aware), W, 15 min, scaled to `annual_kwh` in the year of `start`.

    Days follow the zone's wall clock: those of 23 and 25 hours have 92 and 100 values. H0 is dynamised with the day of
    the year (polynomial of VDEW M-05/2000). Raises InputError for an unknown profile or a start off the quarter hour,
    StoreError when demandlib is not installed.
    """
    source = "load profile"
    if start.tzinfo is None or start.timestamp() % QUARTER_S:
        raise InputError(source=source, field="start", value=start.isoformat(), expected="an aware quarter hour")
    if days < 1:
        raise InputError(source=source, field="days", value=days, expected="at least 1")
    zone = ZoneInfo(timezone)
    begin = start.astimezone(UTC)
    local = start.astimezone(zone)
    end = (local.replace(tzinfo=None) + timedelta(days=days)).replace(tzinfo=zone).astimezone(UTC)
    year = local.year
    whole_year = _shape(
        profile,
        datetime(year, 1, 1, tzinfo=zone).astimezone(UTC),
        datetime(year + 1, 1, 1, tzinfo=zone).astimezone(UTC),
        zone,
    )
    scale = annual_kwh * 1000.0 / (float(whole_year.sum()) * QUARTER_S / 3600.0)
    return Series("load_w", begin, QUARTER_S, _shape(profile, begin, end, zone) * scale)


def actual_load(profile: Series, variation: float, seed: int) -> Series:
    """A synthetic "actual": the profile times (1 + e), e an AR(1) process of standard deviation `variation`.

    Seeded, hence repeatable; never below 20 % of the profile. It stands for what a forecast of the profile misses.
    """
    rng = np.random.default_rng(seed)
    innovations = rng.standard_normal(len(profile)) * variation * np.sqrt(1.0 - PERSISTENCE_PER_STEP**2)
    deviation = np.empty(len(profile))
    state = rng.standard_normal() * variation
    for k, innovation in enumerate(innovations):
        state = PERSISTENCE_PER_STEP * state + innovation
        deviation[k] = state
    return Series("load_w", profile.start, profile.dt_s, profile.values * np.maximum(0.2, 1.0 + deviation))


def _shape(profile: str, begin: datetime, end: datetime, zone: ZoneInfo) -> FloatArray:
    table = _table(profile)
    steps = round((end - begin).total_seconds() / QUARTER_S)
    values = np.empty(steps)
    for k in range(steps):
        local = (begin + timedelta(seconds=QUARTER_S * k)).astimezone(zone)
        quarter = local.hour * 4 + local.minute // 15
        values[k] = table[_season(local.date()), local.weekday(), quarter]
        if profile == "H0":
            values[k] *= _dynamisation(local.timetuple().tm_yday)
    return values


def _season(day: date) -> int:
    key = (day.month, day.day)
    if key >= (11, 1) or key <= (3, 20):
        return 0
    return 2 if (5, 15) <= key <= (9, 14) else 1


def _dynamisation(day_of_year: int) -> float:
    t = float(day_of_year)
    return -3.92e-10 * t**4 + 3.2e-7 * t**3 - 7.02e-5 * t**2 + 2.1e-3 * t + 1.24


@lru_cache(maxsize=16)
def _table(profile: str) -> FloatArray:
    """Shape (3 seasons, 7 weekdays from Monday, 96 quarter hours)."""
    spec = importlib.util.find_spec("demandlib")
    if spec is None or spec.origin is None:
        raise StoreError("load profiles need the package demandlib: install pulsebms-optimizer[data]")
    path = Path(spec.origin).parent / _TABLE
    table = np.full((3, 7, 96), np.nan)
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        known = [name.upper() for name in (reader.fieldnames or [])[3:]]
        if profile.upper() not in known:
            raise InputError(source="load profile", field="profile", value=profile, expected=f"one of {known}")
        for row in reader:
            clock = (row.get("") or "").partition(" ")[2]
            quarter = int(clock[:2]) * 4 + int(clock[3:5]) // 15
            table[_SEASONS.index(row["period"]), int(row["weekday"]) - 1, quarter] = float(row[profile.lower()])
    if not np.isfinite(table).all():
        raise StoreError(f"{path}: the table of profile {profile} has holes")
    return table
