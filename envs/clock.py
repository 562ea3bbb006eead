"""The local wall clock of rows: hour, weekday, where days begin and end. Not here: what is made of it (envs.features)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from envs.data import Exogenous

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
SHORT_HOURS = 20 * 24
"""No zone's clock is put on and back within this: equal offsets at both ends are those between, too."""
EPOCH_ORDINAL = 719_163
"""Proleptic ordinal of 1 January 1970 (datetime.date.toordinal)."""


@dataclass(frozen=True, slots=True)
class Clock:
    """A zone's wall clock at R rows, each (R,)."""

    hour: FloatArray
    """0 to 24, with its fraction."""
    weekday: FloatArray
    """0 to 7 with the fraction of the day, Monday first."""
    year_share: FloatArray
    day_end: IntArray
    """Row at which the local day ends; may lie beyond the data."""
    next_day_end: IntArray
    month_begins: FloatArray


def _offsets_s(start: datetime, hours: int, zone: ZoneInfo) -> NDArray[np.int64]:
    """Seconds that the zone's clock is ahead of UTC at `start` and each hour after it, (hours,)."""

    def at(hour: int) -> int:
        return int(((start + timedelta(hours=hour)).astimezone(zone).utcoffset() or timedelta()).total_seconds())

    if hours <= SHORT_HOURS and at(0) == at(hours - 1):
        return np.full(hours, at(0), dtype=np.int64)
    return np.array([at(k) for k in range(hours)], dtype=np.int64)


def clock_of(data: Exogenous) -> Clock:
    """Of all rows."""
    zone, n, per_hour = ZoneInfo(data.timezone), len(data), round(3600.0 / data.dt_s)
    hours = n // per_hour + 2
    clock_s = int(data.start.timestamp()) + 3600 * np.arange(hours) + _offsets_s(data.start, hours, zone)
    dates = clock_s.astype("datetime64[s]").astype("datetime64[D]")
    of_row = np.arange(n) // per_hour
    fraction = (np.arange(n) % per_hour) / per_hour

    def rows(values: NDArray[Any]) -> FloatArray:
        return np.asarray(values, dtype=np.float64)[of_row]

    hour = rows(clock_s // 3600 % 24 + clock_s // 60 % 60 / 60) + fraction
    date = rows(dates.astype(np.int64) + EPOCH_ORDINAL) + np.floor(hour / 24.0)
    hour = np.mod(hour, 24.0)
    dates = (date.astype(np.int64) - EPOCH_ORDINAL).astype("datetime64[D]")  # midnight lies within an hour in half-hour zones
    month = dates.astype("datetime64[M]").astype(np.int64)
    year_day = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.float64)
    # Row at which each local date begins; from the last ones of the data on by the zone's clock.
    changes = np.concatenate([[0], np.flatnonzero(np.diff(date)) + 1])
    number = np.searchsorted(changes, np.arange(n), side="right")
    day = 24 * per_hour
    begins = np.concatenate([changes, [changes[-1] + day, changes[-1] + 2 * day, changes[-1] + 3 * day]])
    return Clock(
        hour=hour,
        weekday=np.mod(date - 1.0, 7.0) + hour / 24.0,
        year_share=year_day / 366.0,
        day_end=begins[number].astype(np.int64),
        next_day_end=begins[number + 1].astype(np.int64),
        month_begins=np.concatenate([[0.0], (np.diff(month) != 0).astype(np.float64)]),
    )


def clock_at(data: Exogenous, row: int) -> Clock:
    """Of one row, without those of the others: the same numbers."""
    zone = ZoneInfo(data.timezone)
    at = _local_time(data, row, zone)
    before = _local_time(data, row - 1, zone)
    hour = at.hour + at.minute / 60.0 + at.second / 3600.0
    date = at.date()

    def begins(days: int) -> int:
        midnight = datetime.combine(date + timedelta(days=days), time(), tzinfo=zone)
        return math.ceil((midnight - data.start).total_seconds() / data.dt_s)

    return Clock(
        hour=np.array([hour]),
        weekday=np.array([date.weekday() + hour / 24.0]),
        year_share=np.array([(date.timetuple().tm_yday - 1) / 366.0]),
        day_end=np.array([begins(1)]),
        next_day_end=np.array([begins(2)]),
        month_begins=np.array([float(row > 0 and at.month != before.month)]),
    )


def _local_time(data: Exogenous, row: int, zone: ZoneInfo) -> datetime:
    return (data.start + timedelta(seconds=data.dt_s * row)).astimezone(zone)
