"""Scores: bounds, order, pairs, intervals, and the same numbers twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.evaluation import score
from serving.evaluation.life import pareto

WEEKS = [f"2023-01-{d:02d}" for d in range(1, 13)]
finite = st.floats(-50, 50, allow_nan=False)


def frame(best, idle=None, scenarios=("a",), seeds=(0,), weeks=WEEKS):
    blocks = [(s, w, k) for s in scenarios for w in weeks for k in seeds]
    best = dict(zip(blocks, np.broadcast_to(best, len(blocks)).tolist(), strict=True))
    idle = dict.fromkeys(blocks, 0.0) if idle is None else dict(zip(blocks, idle, strict=True))
    return score.frame_of(blocks, idle, best, 0.95, 500)


def test_idle_is_nought_and_perfect_foresight_is_one():
    made = frame(np.arange(1.0, 13.0), idle=np.linspace(-1, -0.5, 12))
    assert score.performance_score(made, made.idle_eur) == 0.0
    assert score.performance_score(made, made.best_eur) == 1.0
    half = 0.5 * (made.idle_eur + made.best_eur)
    assert score.performance_score(made, half) == pytest.approx(0.5)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=12, max_size=12), st.lists(st.floats(0.1, 50), min_size=12, max_size=12))
def test_it_lies_within_nought_and_one_and_so_does_its_interval(j, best):
    made = frame(np.array(best))
    j = np.array(j)
    found = score.score_interval(made, j, made.draws())
    assert 0.0 <= found.low <= found.high <= 1.0
    assert 0.0 <= found.value <= 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=12, max_size=12), st.lists(finite, min_size=12, max_size=12))
def test_a_comparison_turned_round_is_the_same_with_the_other_sign(a, b):
    made = frame(np.full(12, 10.0))
    draws = made.draws()
    one, other = (score.compare(made, np.array(x), np.array(y), draws) for x, y in ((a, b), (b, a)))
    assert one.points.value == pytest.approx(-other.points.value)
    assert one.points.low == pytest.approx(-other.points.high)
    assert (one.weeks_won, one.weeks_lost) == (other.weeks_lost, other.weeks_won)


def test_a_steady_gain_has_an_interval_above_zero_and_noise_has_not():
    made = frame(np.full(12, 10.0))
    g = np.random.default_rng(1)
    noise = g.normal(0, 3, 12)
    steady = score.compare(made, noise + 0.5, noise, made.draws())
    assert steady.points.low == pytest.approx(5.0)
    assert steady.points.value == pytest.approx(5.0)
    wild = score.compare(made, g.normal(0, 3, 12), noise, made.draws())
    assert wild.points.low < 0 < wild.points.high


def test_weeks_are_drawn_with_all_their_seeds_within_their_scenario():
    made = frame(10.0, scenarios=("a", "b"), seeds=(0, 1), weeks=WEEKS[:3])
    draws = made.draws()
    assert draws.shape == (500, 12)
    for row in draws[:50]:
        drawn = [made.blocks[k] for k in row]
        assert sum(block[0] == "a" for block in drawn) == 6
        for name in ("a", "b"):
            pairs = [block for block in drawn if block[0] == name]
            for week in {block[1] for block in pairs}:
                seeds = [block[2] for block in pairs if block[1] == week]
                assert seeds.count(0) == seeds.count(1)


def test_the_same_numbers_give_the_same_digits_in_any_order():
    g = np.random.default_rng(2)
    blocks = [("a", w, 0) for w in WEEKS]
    idle, best = dict.fromkeys(blocks, 0.0), {b: float(v) for b, v in zip(blocks, g.uniform(1, 9, 12), strict=True)}
    j = {b: float(v) for b, v in zip(blocks, g.uniform(0, 1, 12), strict=True)}
    found = []
    for order in (blocks, blocks[::-1]):
        made = score.frame_of(order, idle, best, 0.95, 300)
        own = np.array([j[block] for block in made.blocks])
        found.append((score.score_interval(made, own, made.draws()), score.iqm_interval(made, own, made.draws())))
    assert found[0] == found[1]


def test_iqm_is_the_mean_of_the_middle_half():
    assert score.iqm(np.array([0.0, 1.0, 2.0, 100.0])) == pytest.approx(1.5)
    assert score.iqm(np.array([5.0])) == 5.0
    assert score.iqm(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)


def test_spike_weeks_stand_apart():
    best = np.full(12, 10.0)
    best[4] = 80.0
    made = frame(best)
    assert made.spikes().tolist() == [k == 4 for k in range(12)]
    j = np.where(made.spikes(), 0.0, 10.0)
    assert score.performance_score(made, j, ~made.spikes()) == 1.0
    assert score.performance_score(made, j, made.spikes()) == 0.0


def test_where_there_is_nothing_to_earn_there_is_no_score():
    made = frame(np.zeros(12))
    assert score.performance_score(made, np.ones(12)) is None
    assert score.compare(made, np.ones(12), np.zeros(12), made.draws()) is None


def test_the_front_holds_what_nobody_beats():
    points = {"a": (10.0, 5.0), "b": (9.0, 9.0), "c": (8.0, 8.0), "d": (1.0, 20.0), "e": (10.0, 4.0)}
    assert pareto(points) == ["a", "b", "d"]
