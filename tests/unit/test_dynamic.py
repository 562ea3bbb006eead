"""Dynamic programming over stored energy: against the definition, against a linear programme, invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from core.errors import InputError
from optimizer import dynamic
from optimizer.dynamic import followed, lattice, non_increasing, operate, perfect_foresight, rolling

PLANT = lattice(capacity_wh=2e6, power_w=1e6, round_trip=0.9025, wear_eur_per_kwh=0.005, dt_s=3600.0, charge_steps=19)
SMALL = lattice(capacity_wh=2e6, power_w=1e6, round_trip=0.81, wear_eur_per_kwh=0.005, dt_s=3600.0, charge_steps=3)
prices = st.lists(st.integers(0, 400).map(lambda thousandths: thousandths / 1000), min_size=1, max_size=12)


def linear_programme(price, plant):
    """Most that can be earned from an empty store with continuous energy, by HiGHS."""
    n, kwh = len(price), plant.step_wh / 1000
    up, down = plant.charge_steps * kwh, plant.discharge_steps * kwh
    cost = np.concatenate([price / plant.eta_charge, -plant.eta_discharge * (price - plant.wear_eur_per_kwh)])
    low = np.tril(np.ones((n, n)))
    rows = np.vstack([np.hstack([low, -low]), np.hstack([-low, low])])
    room = np.concatenate([np.full(n, plant.intervals * kwh), np.zeros(n)])
    return -linprog(cost, A_ub=rows, b_ub=room, bounds=[(0, up)] * n + [(0, down)] * n).fun


def test_lattice_of_the_reference_plant():
    assert (PLANT.intervals, PLANT.charge_steps, PLANT.discharge_steps) == (40, 19, 21)
    assert PLANT.step_wh == pytest.approx(50e3)


@pytest.mark.parametrize("field", ["capacity_wh", "power_w", "round_trip", "dt_s"])
def test_a_plant_that_cannot_be_is_named(field):
    good = {"capacity_wh": 2e6, "power_w": 1e6, "round_trip": 0.9, "wear_eur_per_kwh": 0.0, "dt_s": 3600.0, "charge_steps": 4}
    with pytest.raises(InputError, match=field):
        lattice(**(good | {field: -1.0}))


@settings(max_examples=60, deadline=None)
@given(prices)
def test_lattice_optimum_is_that_of_the_linear_programme(price):
    price = np.array(price)
    earned, _ = operate(price, perfect_foresight(price, SMALL), SMALL)
    assert earned.sum() == pytest.approx(linear_programme(price, SMALL), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.3, 0.4), min_size=1, max_size=14))
def test_marginals_never_rise_with_energy(price):
    ahead = np.array(price)[None, :]
    found = rolling(ahead, np.array([len(price)]), SMALL)
    assert (np.diff(found, axis=1) <= 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(prices)
def test_merge_equals_the_definition_where_nothing_is_wasted(price):
    n = SMALL.intervals
    after = non_increasing(np.random.default_rng(len(price)).uniform(0, 0.3, n))
    before = np.zeros(n)
    dynamic.merge(price[0], after, before, *SMALL.vector()[:5])
    kwh = SMALL.step_wh / 1000
    values, exact, move = np.concatenate([[0], np.cumsum(after) * kwh]), np.zeros(n + 1), np.zeros(n + 1, np.int64)
    dynamic.backup(price[0], values, exact, move, *SMALL.vector())
    assert np.allclose(np.diff(exact) / kwh, before, atol=1e-9)


def test_waste_pays_at_prices_far_below_zero():
    price = np.array([-0.5, -0.5, -0.5, -0.5, -0.5, -0.5])
    earned, _ = operate(price, perfect_foresight(price, SMALL), SMALL)
    filled_once = 2000.0 / SMALL.eta_charge * 0.5 * SMALL.intervals * SMALL.step_wh / 2e6
    assert earned.sum() > filled_once


def test_a_plan_that_sees_everything_is_perfect_foresight():
    g = np.random.default_rng(1)
    price = g.uniform(0.02, 0.2, 60)
    ahead = np.array([np.concatenate([price[t + 1 :], np.zeros(t + 1)])[:59] for t in range(60)])
    known = 59 - np.arange(60)
    best, _ = operate(price, perfect_foresight(price, PLANT), PLANT)
    planned, level = operate(price, rolling(ahead, known, PLANT), PLANT)
    assert planned.sum() == pytest.approx(best.sum(), abs=1e-9)
    assert level.min() >= 0
    assert level.max() <= PLANT.intervals


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0), min_size=40, max_size=40), st.floats(-0.5, 0.5), st.integers(0, 40))
def test_whatever_the_marginals_the_store_stays_within_bounds(marginals, price, start):
    _, level = operate(np.full(5, price), np.tile(marginals, (5, 1)), PLANT, start)
    assert level.min() >= 0
    assert level.max() <= PLANT.intervals
    moves = np.diff(np.concatenate([[start], level]))
    assert moves.max() <= PLANT.charge_steps
    assert moves.min() >= -PLANT.discharge_steps


def test_terminal_value_keeps_energy():
    ahead, known = np.full((1, 3), 0.10), np.array([3])
    assert rolling(ahead, known, PLANT)[0, 0] == pytest.approx(0.95 * 0.095)
    assert rolling(ahead, known, PLANT, np.array([0.5]))[0, -1] > 0.1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-100, 400).map(lambda thousandths: thousandths / 1000), min_size=1, max_size=10), st.integers(0, 99))
def test_followed_is_what_operating_from_each_level_earns(price, seed):
    price = np.array(price)
    n, kwh = SMALL.intervals, SMALL.step_wh / 1000
    said = non_increasing(np.random.default_rng(seed).uniform(0, 0.3, (len(price), n)))
    found = followed(price, said, SMALL)
    for t in range(len(price)):
        earned = [operate(price[t + 1 :], said[t + 1 :], SMALL, start)[0].sum() for start in range(n + 1)]
        assert found[t] == pytest.approx(np.diff(earned) / kwh, abs=1e-9)


def test_followed_by_foresight_is_foresight():
    price = np.array([0.05, 0.2, 0.01, 0.3, 0.02, 0.02, 0.15])
    best = perfect_foresight(price, SMALL)
    assert followed(price, best, SMALL) == pytest.approx(best)
