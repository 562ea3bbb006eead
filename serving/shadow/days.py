"""Local calendar days of a site: their bounds in UTC, and which of them are due to be scored. Pure."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

GRACE_S = 900.0
"""After a day's end, for what devices and meters still send."""
BACK_DAYS = 7
"""A day that was not scored within so many is left."""


def local_day(moment: datetime, timezone: str) -> date:
    """The site's calendar day in which a moment lies."""
    return moment.astimezone(ZoneInfo(timezone)).date()


def day_bounds(day: date, timezone: str) -> tuple[datetime, datetime]:
    """[start, end) in UTC: 23, 24 or 25 hours."""
    zone = ZoneInfo(timezone)
    start, end = (datetime.combine(at, time(0), tzinfo=zone).astimezone(UTC) for at in (day, day + timedelta(days=1)))
    return start, end


def due_days(now: datetime, timezone: str, first: date | None, done: Collection[date]) -> list[date]:
    """Days whose end and grace have passed, from `first` (the first with a decision) on, that are not done; oldest first."""
    if first is None:
        return []
    today = local_day(now, timezone)
    days = [today - timedelta(days=back) for back in range(BACK_DAYS, 0, -1)]
    return [
        day
        for day in days
        if day >= first and day not in done and now >= day_bounds(day, timezone)[1] + timedelta(seconds=GRACE_S)
    ]
