"""Series from files: every fault named, each quantity in its own unit; a dispatch signal brought onto a grid with holes."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.signal import DispatchSignal, SignalStep
from serving.dispatch.inputs import LOAD_FORECAST, PRICE, SIGNAL
from serving.series_file import read_series_file
from serving.site_loader import read_site_file

SITE = read_site_file(Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml")
T0 = datetime(2026, 1, 15, 12, tzinfo=UTC)


def read(tmp_path, text, name=SIGNAL):
    file = tmp_path / "signal.csv"
    file.write_text(text, encoding="utf-8")
    return read_series_file(file, name, SITE)


def rows(*pairs):
    return "time,net_import_w\n" + "".join(f"{time},{value}\n" for time, value in pairs)


def test_reads_utc_and_local_stamps(tmp_path):
    utc = read(tmp_path, rows(("2026-01-15T12:00:00Z", 1000), ("2026-01-15T12:15:00Z", -2000.5)))
    local = read(tmp_path, rows(("2026-01-15T13:00+01:00", 1000), ("2026-01-15T13:15+01:00", -2000.5)))
    for series in (utc, local):
        assert (series.start, series.dt_s, series.values.tolist()) == (T0, 900.0, [1000.0, -2000.5])


def test_the_hour_that_comes_twice_is_read_once_each(tmp_path):
    stamps = ["2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]
    series = read(tmp_path, rows(*[(stamp, k) for k, stamp in enumerate(stamps)]))
    assert series.dt_s == 1800.0
    assert len(series) == 4


def test_columns_may_stand_in_any_order(tmp_path):
    text = "note,net_import_w,time\na,5,2026-01-15T12:00Z\nb,6,2026-01-15T13:00Z\n"
    assert read(tmp_path, text).values.tolist() == [5, 6]


FAULTS = {
    "gap": (rows(("2026-01-15T12:00Z", 1), ("2026-01-15T12:15Z", 1), ("2026-01-15T12:45Z", 1)), "gap of 1800 s"),
    "not a number": (rows(("2026-01-15T12:00Z", 1), ("2026-01-15T12:15Z", "nan")), "line 3, net_import_w"),
    "empty value": (rows(("2026-01-15T12:00Z", ""), ("2026-01-15T12:15Z", 1)), "line 2, net_import_w"),
    "infinite": (rows(("2026-01-15T12:00Z", "inf"), ("2026-01-15T12:15Z", 1)), "line 2, net_import_w"),
    "far too much": (rows(("2026-01-15T12:00Z", 1e12), ("2026-01-15T12:15Z", 1)), "line 2, net_import_w"),
    "duplicate": (rows(("2026-01-15T12:00Z", 1), ("2026-01-15T12:15Z", 1), ("2026-01-15T13:15+01:00", 1)), "duplicate stamp"),
    "backwards": (rows(("2026-01-15T12:15Z", 1), ("2026-01-15T12:00Z", 1), ("2026-01-15T11:00Z", 1)), "before its predecessor"),
    "no zone": (rows(("2026-01-15T12:00", 1), ("2026-01-15T12:15", 1)), "line 2, time.*UTC offset"),
    "winter time in summer": (rows(("2026-07-15T12:00+01:00", 1), ("2026-07-15T12:15+01:00", 1)), r"line 2, time.*\+0200"),
    "another zone": (rows(("2026-01-15T12:00-05:00", 1), ("2026-01-15T12:15-05:00", 1)), "Europe/Amsterdam"),
    "no time at all": (rows(("tomorrow", 1), ("2026-01-15T12:15Z", 1)), "line 2, time.*ISO 8601"),
    "wrong column": ("time,net_import_kw\n2026-01-15T12:00Z,1\n", "did you mean 'net_import_kw'"),
    "no rows": ("time,net_import_w\n", "at least two stamps"),
    "nothing": ("", "a column time"),
    "ragged": ("time,net_import_w\n2026-01-15T12:00Z\n", "line 2.*2 cells"),
    "too fine": (rows(("2026-01-15T12:00:00Z", 1), ("2026-01-15T12:00:10Z", 1)), "step"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(tmp_path, name):
    text, says = FAULTS[name]
    with pytest.raises(InputError, match=says) as caught:
        read(tmp_path, text)
    assert "signal.csv" in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(InputError, match="a readable file"):
        read_series_file(tmp_path / "none.csv", SIGNAL, SITE)
    (tmp_path / "binary.csv").write_bytes(b"time,net_import_w\n\xff\xfe,1\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_series_file(tmp_path / "binary.csv", SIGNAL, SITE)


@pytest.mark.parametrize(
    ("name", "column", "value", "says"),
    [
        (PRICE, "eur_per_kwh", 80.0, "80 EUR/MWh is 0.08"),
        (LOAD_FORECAST, "load_w", -1.0, "not negative"),
        (PRICE, "eur_per_mwh", 80.0, "a column eur_per_kwh; did you mean 'eur_per_mwh'"),
    ],
)
def test_each_series_has_its_own_unit(tmp_path, name, column, value, says):
    text = f"time,{column}\n2026-01-15T12:00Z,{value}\n2026-01-15T13:00Z,{value}\n"
    with pytest.raises(InputError, match=says):
        read(tmp_path, text, name)


def test_an_unknown_series_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'load_forecast_w'"):
        read(tmp_path, rows(("2026-01-15T12:00Z", 1)), "load_forcast_w")


def step(minute, length_s, value, known=0):
    return SignalStep(T0 + timedelta(minutes=minute), length_s, value, T0 + timedelta(hours=known))


def test_holes_are_not_tracked():
    signal = DispatchSignal((step(0, 900, 1.0), step(30, 900, 3.0)))
    target, tracked = signal.window(T0, 4, 900.0)
    assert target.tolist() == [1.0, 0.0, 3.0, 0.0]
    assert tracked.tolist() == [True, False, True, False]


def test_a_coarse_step_needs_all_of_its_signal():
    signal = DispatchSignal((step(0, 900, 1.0), step(15, 900, 3.0), step(30, 900, 5.0)))
    target, tracked = signal.window(T0, 2, 1800.0)
    assert target.tolist() == [2.0, 0.0]
    assert tracked.tolist() == [True, False]


def test_what_became_known_last_holds():
    signal = DispatchSignal((step(0, 900, 9.0, known=2), step(0, 3600, 1.0), step(30, 900, 4.0)))
    assert signal.window(T0, 4, 900.0)[0].tolist() == [9.0, 1.0, 4.0, 1.0]
    assert signal.window(T0 - timedelta(minutes=15), 2, 900.0)[1].tolist() == [False, True]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    parts=st.lists(
        st.tuples(st.integers(-90, 300), st.sampled_from([60, 300, 900, 3600]), st.floats(-1e5, 1e5), st.integers(0, 3)),
        max_size=6,
    ),
    dt_s=st.sampled_from([300.0, 900.0, 3600.0]),
)
def test_each_moment_has_its_newest_value(parts, dt_s):
    """Against a plain look at every minute."""
    steps = tuple(step(*part) for part in parts)
    target, tracked = DispatchSignal(steps).window(T0, 4, dt_s)
    for k in range(4):
        values = []
        for minute in range(round(dt_s / 60)):
            moment = T0 + timedelta(seconds=k * dt_s, minutes=minute)
            here = [s for s in steps if s.starts_at <= moment < s.starts_at + timedelta(seconds=s.dt_s)]
            values.append(max(here, key=lambda s: (s.known_at, s.starts_at)).net_import_w if here else None)
        assert tracked[k] == (None not in values)
        if tracked[k]:
            candidates = np.mean(values)
            same_rank = len({(s.known_at, s.starts_at) for s in steps}) < len(steps)
            assert same_rank or target[k] == pytest.approx(candidates, abs=1e-6)
        else:
            assert target[k] == 0.0
