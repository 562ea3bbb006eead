"""Local days of 92, 96 and 100 quarter hours, and which are due."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.shadow.days import BACK_DAYS, GRACE_S, day_bounds, due_days, local_day

AMSTERDAM = "Europe/Amsterdam"
zones = st.sampled_from([AMSTERDAM, "UTC", "Australia/Lord_Howe", "America/New_York", "Asia/Kathmandu"])


@pytest.mark.parametrize(("day", "quarters"), [("2026-03-29", 92), ("2026-10-25", 100), ("2026-06-01", 96), ("2026-12-31", 96)])
def test_quarter_hours(day, quarters):
    start, end = day_bounds(date.fromisoformat(day), AMSTERDAM)
    assert (end - start) / timedelta(minutes=15) == quarters


@given(st.dates(date(2020, 1, 1), date(2035, 1, 1)), zones)
def test_days_tile_time_and_each_moment_lies_in_its_own(day, zone):
    start, end = day_bounds(day, zone)
    assert end == day_bounds(day + timedelta(days=1), zone)[0]
    assert start.tzinfo is UTC
    for moment in (start, start + (end - start) / 2, end - timedelta(microseconds=1)):
        assert local_day(moment, zone) == day
    assert local_day(end, zone) == day + timedelta(days=1)


def test_due_is_what_has_ended_and_is_not_done():
    end = datetime(2026, 3, 28, 23, tzinfo=UTC)  # of the 28th, local
    first = date(2026, 3, 26)
    just_before = end + timedelta(seconds=GRACE_S - 1)
    assert due_days(just_before, AMSTERDAM, first, []) == [date(2026, 3, 26), date(2026, 3, 27)]
    after = end + timedelta(seconds=GRACE_S)
    assert due_days(after, AMSTERDAM, first, []) == [date(2026, 3, day) for day in (26, 27, 28)]
    assert due_days(after, AMSTERDAM, first, [date(2026, 3, 27)]) == [date(2026, 3, 26), date(2026, 3, 28)]
    assert due_days(after, AMSTERDAM, None, []) == []


def test_old_days_are_left():
    found = due_days(datetime(2026, 6, 30, 12, tzinfo=UTC), AMSTERDAM, date(2026, 1, 1), [])
    assert found == [date(2026, 6, 30) - timedelta(days=back) for back in range(BACK_DAYS, 0, -1)]
