"""The online correction: better on what it is made for, nothing with little data, and never a look ahead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.forecast import corrected, corrected_at, fit_errors, residual_paths


def ar1(phi, count, seed=0, mean=0.0):
    g = np.random.default_rng(seed)
    noise, errors = g.normal(size=count), np.zeros(count)
    for k in range(1, count):
        errors[k] = phi * errors[k - 1] + noise[k]
    return errors + mean


@pytest.mark.parametrize("phi", [0.5, 0.8, 0.95])
def test_finds_the_share_that_is_left(phi):
    model = fit_errors(ar1(phi, 24 * 28), 3600.0, 12)
    assert model.phi == pytest.approx(phi, abs=0.1)
    np.testing.assert_allclose(model.gain_by_hour[:3], phi ** np.arange(1, 4), atol=0.15)


@pytest.mark.parametrize(("phi", "least"), [(0.9, 0.45), (0.7, 0.2)])
def test_errors_that_last_become_smaller(phi, least):
    """The first hour's error falls by about 1 - sqrt(1 - phi^2): 56 % and 29 %."""
    forecast = np.full(24 * 60, 50.0)
    actual = forecast + ar1(phi, len(forecast), seed=1)
    origins = range(24 * 14, len(forecast) - 24, 7)
    before = np.mean([abs(actual[t] - forecast[t]) for t in origins])
    after = np.mean([abs(actual[t] - corrected_at(actual, forecast, t, 24, 3600.0)[0]) for t in origins])
    assert after < (1 - least) * before


def test_errors_that_are_chance_are_left_alone():
    g = np.random.default_rng(2)
    corrections = [np.abs(corrected(np.zeros(24), g.normal(size=24 * 14), 3600.0)).max() for _ in range(50)]
    assert np.mean(corrections) < 0.15  # of a standard deviation


def test_a_constant_error_is_taken_off():
    assert corrected(np.zeros(24), np.full(24 * 28, 5.0), 3600.0) == pytest.approx(np.full(24, 5.0), rel=0.05)


@pytest.mark.parametrize("count", [0, 1])
def test_without_data_nothing_is_corrected(count):
    assert corrected(np.arange(8.0), np.full(count, 9.0), 900.0).tolist() == list(range(8))


def test_little_data_corrects_little():
    errors = ar1(0.9, 96 * 28, seed=3)
    gains = [fit_errors(errors[:count], 900.0, 8).gain_by_hour[0] for count in (4, 96, 96 * 28)]
    assert gains[0] < 0.1
    assert gains[0] < gains[1] < gains[2]


def test_leads_count_from_the_last_known_error():
    errors = ar1(0.9, 24 * 28, seed=4)
    late = corrected(np.zeros(6), errors, 3600.0, lag_steps=2)
    assert late == pytest.approx(corrected(np.zeros(8), errors, 3600.0)[2:])


def test_quarter_hours_of_one_hour_share_a_gain():
    model = fit_errors(ar1(0.95, 96 * 10, seed=5), 900.0, 16)
    gains = model.gain(np.arange(1, 17))
    assert len(set(gains[:4])) == len(set(gains[4:8])) == 1
    assert gains[0] > gains[4] > 0
    assert model.gain(np.array([17])) == 0.0  # beyond what it was fitted for


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    now=st.integers(0, 200),
    noise=st.floats(-1e6, 1e6, allow_nan=False),
    dt_s=st.sampled_from([300.0, 900.0, 3600.0]),
)
def test_never_looks_ahead(seed, now, noise, dt_s):
    g = np.random.default_rng(seed)
    forecast, actual = g.normal(size=240), g.normal(size=240)
    first = corrected_at(actual, forecast, now, 24, dt_s)
    later = actual.copy()
    later[now:] += noise
    beyond = forecast.copy()
    beyond[now + 24 :] += noise
    assert corrected_at(later, beyond, now, 24, dt_s).tolist() == first.tolist()
    assert np.isfinite(first).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(errors=st.lists(st.floats(-1e9, 1e9, allow_nan=False), max_size=300), dt_s=st.sampled_from([60.0, 900.0, 3600.0]))
def test_any_errors_give_gains_between_none_and_all(errors, dt_s):
    model = fit_errors(np.array(errors), dt_s, 24)
    assert 0.0 <= model.phi <= 1.0
    assert ((model.gain_by_hour >= 0.0) & (model.gain_by_hour <= 1.0)).all()
    assert np.isfinite(corrected(np.zeros(24), np.array(errors), dt_s)).all()


def test_residual_paths_are_what_the_correction_missed():
    errors = ar1(0.8, 24 * 10, seed=6)
    model = fit_errors(errors, 3600.0, 24)
    paths = residual_paths(errors, model, np.array([100, 124]), 24, lag_steps=1)
    leads = 2 + np.arange(24)
    assert paths[1] == pytest.approx(errors[124 + leads] - model.expected(errors[124], leads))
    with pytest.raises(IndexError):
        residual_paths(errors, model, np.array([len(errors) - 24]), 24)
