"""The detector: what is no drift raises nothing, what is one is found in bounded time, and its memory is all that it needs."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.shadow.drift import ALLOWANCE, CAP, CLIP, LEAST_SPREAD, MATERIAL, REFERENCE, THRESHOLD, Cusum, cusum_of, watch_day

residuals = st.lists(st.floats(-50, 50), max_size=300)


def learned(reference=0.0, spread=0.1):
    return Cusum(least_spread=0.1, reference=reference, spread=spread)


def fed(detector, values):
    for value in values:
        detector.see(value)
    return detector


@given(residuals)
def test_sums_are_never_negative_and_never_beyond_their_cap(values):
    detector = learned()
    for value in values:
        detector.see(value)
        assert 0.0 <= detector.above <= CAP * THRESHOLD
        assert 0.0 <= detector.below <= CAP * THRESHOLD


@given(residuals)
def test_mirrored_residuals_mirror_the_sums(values):
    up, down = fed(learned(), values), fed(learned(), [-value for value in values])
    assert (up.above, up.below) == (down.below, down.above)


@given(residuals, st.integers(0, 300))
def test_a_night_between_changes_nothing(values, cut):
    whole = fed(Cusum(least_spread=0.1), values)
    kept = json.loads(json.dumps(fed(Cusum(least_spread=0.1), values[:cut]).as_json()))
    assert fed(cusum_of(kept, "soc_pct"), values[cut:]) == whole


@given(st.floats(-20, 20), st.integers(REFERENCE, 1000))
def test_a_constant_bias_is_no_drift(bias, count):
    assert not fed(Cusum(least_spread=0.1), [bias] * count).alarm


@given(st.floats(ALLOWANCE + 0.1, CLIP), st.sampled_from([-1.0, 1.0]))
def test_a_shift_is_found_within_its_bound(spreads, sign):
    detector = learned(spread=0.2)
    steps = math.ceil(THRESHOLD / (spreads - ALLOWANCE)) + 1
    assert fed(detector, [sign * spreads * 0.2] * steps).alarm


@given(st.floats(-1e9, 1e9))
def test_no_single_reading_alarms(value):
    assert not learned().see(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_residual(value):
    detector = fed(Cusum(least_spread=0.1), [0.1] * 10)
    before = detector.as_json()
    detector.see(value)
    assert detector.as_json() == before


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_a_month_of_noise_raises_nothing(seed):
    days, states = np.random.default_rng(seed).normal(0.3, 0.25, (30, 96)), {}
    for day in days:
        drifted, states = watch_day({"p1": {"soc_pct": day.tolist()}}, states)
        assert drifted == []


def autocorrelated(seed, days, *, phi=0.9, sd=0.3):
    """Residuals that hang together from interval to interval, as those of a model do."""
    noise = np.random.default_rng(seed).normal(0.0, 1.0, 96 * days)
    values = np.zeros(len(noise))
    for k in range(1, len(noise)):
        values[k] = phi * values[k - 1] + math.sqrt(1.0 - phi * phi) * noise[k]
    return (sd * values).reshape(days, 96)


@pytest.mark.parametrize("seed", range(8))
def test_residuals_that_hang_together_are_not_confirmed_within_a_month(seed):
    states, in_a_row = {}, 0
    for day in autocorrelated(seed, 30):
        drifted, states = watch_day({"p1": {"soc_pct": day.tolist()}}, states)
        in_a_row = in_a_row + 1 if drifted else 0
        assert in_a_row < 2


@pytest.mark.parametrize("seed", range(8))
def test_nor_do_they_hide_a_shift(seed):
    states, found = {}, []
    for k, day in enumerate(autocorrelated(seed, 8)):
        drifted, states = watch_day({"p1": {"soc_pct": (day + (1.5 if k >= 5 else 0.0)).tolist()}}, states)
        found.append(bool(drifted))
    assert found[5:] == [True] * 3


def test_an_alarm_ends_in_bounded_time_after_its_cause():
    detector = fed(learned(), [10.0] * 1000)
    assert detector.alarm
    assert not fed(detector, [0.0] * math.ceil(THRESHOLD * (CAP - 1) / ALLOWANCE)).alarm


def test_the_reference_withstands_wild_samples():
    g = np.random.default_rng(1)
    values = g.normal(0.0, 0.3, REFERENCE)
    values[::10] = 40.0
    detector = fed(Cusum(least_spread=0.1), values)
    assert abs(detector.reference) < 0.15
    assert 0.15 < detector.spread < 0.6


def day_of(shift, count=96, seed=0):
    return {"p1": {"soc_pct": (np.random.default_rng(seed).normal(0.0, 0.2, count) + shift).tolist()}}


def test_days_learn_then_watch_then_find():
    drifted, states = watch_day(day_of(0.0), {})
    assert drifted == []
    for seed in (1, 2, 3):
        drifted, states = watch_day(day_of(0.0, seed=seed), json.loads(json.dumps(states)))
        assert drifted == []
    (found,), states = watch_day(day_of(1.5, seed=4), states)
    assert (found.device_id, found.quantity) == ("p1", "soc_pct")
    assert found.shift == pytest.approx(1.5, abs=0.2)
    assert found.statistic > THRESHOLD


def test_a_shift_that_matters_to_nobody_is_not_reported():
    _, states = watch_day({"p1": {"soc_pct": [0.0] * REFERENCE}}, {})
    small = 0.9 * MATERIAL["soc_pct"]
    assert small > 3 * LEAST_SPREAD["soc_pct"]
    drifted, states = watch_day({"p1": {"soc_pct": [small] * 96}}, states)
    assert drifted == []
    assert states["p1"]["soc_pct"]["above"] > THRESHOLD, "seen, and not material"


def test_a_day_that_only_learns_says_nothing_and_a_pack_without_residuals_keeps_its_memory():
    drifted, states = watch_day(day_of(9.0, count=REFERENCE + 50), {})
    assert drifted == []
    assert watch_day({}, states) == ([], states)


@pytest.mark.parametrize("kept", [None, {"other": 1}])
def test_a_memory_that_is_not_one_begins_anew(kept):
    assert cusum_of(kept, "temperature_c") == Cusum(least_spread=LEAST_SPREAD["temperature_c"])
