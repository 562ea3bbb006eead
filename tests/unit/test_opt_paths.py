"""Scenario paths: past days at the same time of day, quantities together, reproducible, and nothing when there is too little."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.series import Series
from optimizer.forecast import fit_errors
from optimizer.paths import MIN_DAYS, Past, TooShortError, draw, on_grid

NOW = datetime(2026, 3, 10, 10, tzinfo=UTC)


def series(count, dt_s, late_s=0.0):
    end = NOW - timedelta(seconds=late_s)
    return Series("errors", end - timedelta(seconds=count * dt_s), dt_s, np.arange(float(count)))


def test_errors_come_onto_the_plans_grid():
    values, lag = on_grid(series(96, 900.0), NOW, 3600.0)
    assert (len(values), lag) == (24, 0)
    assert values[-1] == np.mean([92, 93, 94, 95])
    values, lag = on_grid(series(96, 900.0, late_s=900.0), NOW, 900.0)
    assert (len(values), lag, values[-1]) == (96, 1, 95.0)
    values, lag = on_grid(series(96, 900.0, late_s=900.0), NOW, 3600.0)  # the running hour is not whole: the one before counts
    assert (len(values), lag, values[-1]) == (23, 1, np.mean([89, 90, 91, 92]) + 0.0)
    assert len(on_grid(series(3, 900.0), NOW, 3600.0)[0]) == 0
    with pytest.raises(InputError):
        on_grid(series(96, 900.0, late_s=7.0), NOW, 900.0)


def test_paths_are_past_days_at_the_same_time_of_day():
    hourly = np.arange(24.0 * 10)
    paths, days = draw({"load_w": Past(hourly, 0, None)}, NOW, 24, 3600.0, 4)
    for path, ago in zip(paths["load_w"], days, strict=True):
        origin = len(hourly) - 1 - 24 * ago
        assert path.tolist() == hourly[origin + 1 : origin + 25].tolist()
    assert len(set(days)) == 4


def test_quantities_keep_their_day():
    g = np.random.default_rng(0)
    load = g.normal(size=24 * 12)
    paths, _ = draw({"load_w": Past(load, 0, None), "pv_w": Past(-2 * load, 0, None)}, NOW, 24, 3600.0, 5)
    assert paths["pv_w"] == pytest.approx(-2 * paths["load_w"])


def test_the_correction_is_taken_off():
    errors = np.random.default_rng(1).normal(size=24 * 15).cumsum() * 0.1
    model = fit_errors(errors, 3600.0, 24)
    with_model, _ = draw({"x": Past(errors, 0, model)}, NOW, 24, 3600.0, 8)
    without, _ = draw({"x": Past(errors, 0, None)}, NOW, 24, 3600.0, 8)
    assert np.abs(with_model["x"][:, 0]).mean() < 0.5 * np.abs(without["x"][:, 0]).mean()


def test_a_draw_is_repeatable_and_changes_with_time():
    past = {"x": Past(np.random.default_rng(2).normal(size=24 * 28), 0, None)}
    first, again = (draw(past, NOW, 24, 3600.0, 6)[1] for _ in range(2))
    assert first == again
    assert len({draw(past, NOW + timedelta(hours=k), 24, 3600.0, 6)[1] for k in range(6)}) > 1


def test_no_more_scenarios_than_days():
    assert len(draw({"x": Past(np.zeros(24 * 6 + 1), 0, None)}, NOW, 24, 3600.0, 50)[1]) == 6


@pytest.mark.parametrize("lag", [0, 1, 30])
def test_too_short_a_record_says_how_long_it_must_be(lag):
    horizon = 24
    nearest = int(np.ceil((horizon + lag) / 24))
    enough = 24 * (nearest + MIN_DAYS - 1) + 1
    draw({"x": Past(np.zeros(enough), lag, None)}, NOW, horizon, 3600.0, 8)
    with pytest.raises(TooShortError, match="errors of x reach back"):
        draw({"x": Past(np.zeros(enough - 1), lag, None)}, NOW, horizon, 3600.0, 8)


def test_nothing_to_draw_from():
    with pytest.raises(TooShortError, match="no quantity"):
        draw({}, NOW, 24, 3600.0, 8)
    with pytest.raises(TooShortError, match="divide a day"):
        draw({"x": Past(np.zeros(999), 0, None)}, NOW, 24, 1000.0, 8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.integers(0, 400),
    lag=st.integers(0, 40),
    steps=st.integers(1, 60),
    wanted=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_every_path_lies_in_the_record(count, lag, steps, wanted, seed):
    errors = np.random.default_rng(seed).normal(size=count)
    try:
        paths, days = draw({"x": Past(errors, lag, None)}, NOW, steps, 3600.0, wanted)
    except TooShortError:
        return
    assert paths["x"].shape == (len(days), steps)
    assert 1 <= len(days) <= wanted or wanted < MIN_DAYS
    for path, ago in zip(paths["x"], days, strict=True):
        first = count - 1 - 24 * ago + lag + 1
        assert path.tolist() == errors[first : first + steps].tolist()
