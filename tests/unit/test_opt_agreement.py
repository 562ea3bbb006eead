"""Four ways to the same optimum: PIQP, OSQP and Clarabel on the assembled matrices, and the problem restated in cvxpy."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer import oracle
from optimizer.assembly import SiteQP
from optimizer.solvers import SOLVERS, solve_piqp


def compare(problem, names, relative=1e-4):
    stated = oracle.solve(problem)
    qp = SiteQP(problem)
    for name in names:
        x = SOLVERS[name](qp).x
        assert qp.objective(x) == pytest.approx(stated.objective_eur, rel=relative, abs=relative), name
        assert np.abs(qp.a @ x - qp.b).max() < 2e-3
        assert max((qp.g @ x - qp.gu).max(), (qp.gl - qp.g @ x).max()) < 2e-3
    return stated


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(("steps", "devices"), [(8, 1), (24, 2), (48, 1)])
def test_all_solvers_find_the_optimum_of_the_restated_problem(make_random_site, steps, devices, negative):
    for seed in range(3):
        compare(make_random_site(100 * steps + seed, steps, devices, negative=negative), SOLVERS)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 16), devices=st.integers(1, 3), negative=st.booleans())
def test_any_random_site_agrees(make_random_site, seed, steps, devices, negative):
    compare(make_random_site(seed, steps, devices, negative=negative), ("piqp", "cvxpy"), relative=1e-6)


@pytest.mark.full
@pytest.mark.parametrize("devices", [1, 2, 3, 4])
def test_long_horizons_agree(make_random_site, devices):
    for seed in range(4):
        compare(make_random_site(seed, 96, devices, negative=seed % 2 == 0), SOLVERS)


@pytest.mark.parametrize("share", [0.02, 0.97])
def test_states_outside_their_limits_agree(make_random_site, share):
    for seed in range(3):
        problem = make_random_site(seed, 16, 2)
        first = problem.devices[0]
        energy = share * first.capacity_wh
        outside = replace(
            first,
            energy_wh=energy,
            energy_low_wh=min(energy, first.energy_low_wh),
            energy_high_wh=max(energy, first.energy_high_wh),
            temperature_c=60.0,
        )
        compare(replace(problem, devices=(outside, problem.devices[1])), ("piqp", "cvxpy"), relative=1e-6)


def test_update_equals_a_fresh_assembly(make_random_site):
    kept = SiteQP(make_random_site(1, 24, 3))
    for seed in (2, 3):
        problem = make_random_site(seed, 24, 3, negative=True)
        kept.update(problem)
        fresh = SiteQP(problem)
        for name in ("p", "q", "b", "gl", "gu", "xl", "xu"):
            np.testing.assert_array_equal(getattr(kept, name), getattr(fresh, name), err_msg=name)
        for name in ("a", "g"):
            assert (getattr(kept, name) != getattr(fresh, name)).nnz == 0
        assert kept.constant == fresh.constant


def test_update_refuses_another_shape(make_random_site):
    with pytest.raises(ValueError, match="shape"):
        SiteQP(make_random_site(1, 24, 2)).update(make_random_site(1, 24, 3))


@pytest.mark.parametrize("solver", ["piqp", "osqp"])
def test_a_solver_repeats_itself_to_the_last_bit(make_random_site, solver):
    problem = make_random_site(5, 24, 2)
    first, second = (SOLVERS[solver](SiteQP(problem)) for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    assert first.iterations == second.iterations


def test_matrices_are_scaled(make_random_site):
    qp = SiteQP(make_random_site(4, 96, 4))
    for matrix in (qp.a, qp.g):
        entries = np.abs(matrix.data[matrix.data != 0])
        assert entries.max() < 100
        assert entries.min() > 1e-3
    assert solve_piqp(qp).iterations < 60
