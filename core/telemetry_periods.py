"""Which hour and which day a moment belongs to at a site, across changes of the clock.

A day is the site's calendar day, from local midnight to local midnight: 23, 24 or 25 hours. Its hours are counted in elapsed
time from that midnight, so that every hour lies in one day; where the UTC offset is whole hours they are UTC's hours.
The fields `day` and `hour` of telemetry_data are UTC's and have nothing to do with this.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """One hour [starts_at, ends_at) and the day [day_starts_at, day_ends_at) that it lies in; aware, UTC."""

    starts_at: datetime
    ends_at: datetime
    day_starts_at: datetime
    day_ends_at: datetime


@lru_cache(maxsize=20_000)
def _midnight(day: date, zone: str) -> datetime:
    """First moment of the local day; where the clock jumps over midnight, the moment of the jump."""
    return datetime.combine(day, time(0), tzinfo=ZoneInfo(zone)).astimezone(UTC)


def window_of(moment: datetime, zone: str) -> Window:
    """The hour of the site's day that holds the moment."""
    day = moment.astimezone(ZoneInfo(zone)).date()
    starts, ends = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    hour = starts + (moment - starts) // HOUR * HOUR
    return Window(hour, min(hour + HOUR, ends), starts, ends)


def windows_between(start: datetime, end: datetime, zone: str) -> list[Window]:
    """All hours that overlap [start, end)."""
    found = [window_of(start, zone)]
    while found[-1].ends_at < end:
        found.append(window_of(found[-1].ends_at, zone))
    return found
