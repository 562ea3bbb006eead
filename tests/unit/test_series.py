"""Series: every fault of an input is named, and windows keep the mean."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.series import Series, check_series

START = datetime(2024, 3, 30, 23, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _stamps(count):
    return [START + k * HOUR for k in range(count)]


def test_good_stamps_make_a_series():
    series = check_series("load_w", _stamps(4), [1, 2, 3, 4], source="file")
    assert (series.start, series.dt_s, list(series.values)) == (START, 3600.0, [1, 2, 3, 4])
    assert series.end == START + 4 * HOUR


@pytest.mark.parametrize(
    ("stamps", "values", "message"),
    [
        ([START.replace(tzinfo=None), START + HOUR], [1, 2], "UTC offset"),
        ([START, START, START + HOUR], [1, 2, 3], "duplicate stamp"),
        ([START, START + HOUR, START + HOUR], [1, 2, 3], "duplicate stamp"),
        ([START, START + HOUR, START], [1, 2, 3], "ascending"),
        ([START, START + HOUR, START + 3 * HOUR], [1, 2, 3], "gap of 7200 s"),
        ([START, START + HOUR, START + 1.5 * HOUR], [1, 2, 3], "uniform step"),
        ([START, START + HOUR], [1, float("nan")], "finite number"),
        ([START, START + HOUR], [float("inf"), 1], "finite number"),
        ([START, START + HOUR], [1], "2 values"),
        ([START], [1], "at least two"),
    ],
)
def test_each_fault_is_named(stamps, values, message):
    with pytest.raises(InputError, match=message) as caught:
        check_series("load_w", stamps, values, source="meter.csv")
    assert "meter.csv" in str(caught.value)
    assert "load_w" in str(caught.value)


@pytest.mark.parametrize(("day", "quarters"), [((2024, 3, 31), 92), ((2024, 10, 27), 100), ((2024, 6, 1), 96)])
def test_local_days_of_any_length_are_plain_in_utc(day, quarters):
    zone = ZoneInfo("Europe/Amsterdam")
    begin = datetime(*day, tzinfo=zone).astimezone(UTC)
    end = datetime(day[0], day[1], day[2], tzinfo=zone) + timedelta(days=1)
    stamps = []
    moment = begin
    while moment < end.astimezone(UTC):
        stamps.append(moment.astimezone(zone))
        moment += timedelta(minutes=15)
    assert len(check_series("load_w", stamps, range(len(stamps)), source="test")) == quarters


def test_windows_repeat_and_average():
    series = Series("p", START, 3600.0, np.array([1.0, 3.0, 5.0]))
    assert list(series.window(START + HOUR, 4, 900.0)) == [3, 3, 3, 3]
    assert list(series.window(START, 1, 7200.0)) == [2]


@pytest.mark.parametrize(
    ("start", "steps", "dt_s"),
    [(START - HOUR, 2, 3600.0), (START, 4, 3600.0), (START, 1, 2700.0), (START + timedelta(seconds=60), 1, 3600.0)],
)
def test_a_window_that_is_not_covered_or_off_grid_is_refused(start, steps, dt_s):
    with pytest.raises(InputError, match="series p"):
        Series("p", START, 3600.0, np.array([1.0, 3.0, 5.0])).window(start, steps, dt_s)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=24))
def test_refining_and_averaging_give_the_values_back(values):
    series = Series("p", START, 3600.0, np.array(values))
    fine = Series("p", START, 900.0, series.window(START, 4 * len(values), 900.0))
    assert np.allclose(fine.window(START, len(values), 3600.0), values)
