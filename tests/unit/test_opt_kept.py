"""Solvers that are kept and updated: the same answers as new ones, whatever they solved before; a new pattern is a new set-up."""

from dataclasses import replace

import numpy as np
import pytest

from core.errors import SolverError
from optimizer import solvers
from optimizer.assembly import SiteQP
from optimizer.exclusivity import both, enforce
from optimizer.kept import KeptOsqp, KeptPiqp
from optimizer.mpc import MpcSolver
from optimizer.solvers import SOLVERS, solve_osqp, solve_piqp


def same_kind(make_random_site, seed, steps=24, devices=2):
    """Random problems of one pattern: all with or without a terminal target alike."""
    problem = make_random_site(seed, steps, devices, negative=seed % 2 == 0)
    packs = tuple(replace(d, terminal_energy_wh=0.5 * d.capacity_wh) for d in problem.devices)
    return replace(problem, devices=packs, grid=replace(problem.grid, curtailable=True))


@pytest.mark.parametrize(("name", "tolerance"), [("piqp", 1e-6), ("osqp", 1e-5)])
def test_what_was_solved_before_does_not_matter(make_random_site, name, tolerance):
    problem = same_kind(make_random_site, 99)
    cold = SiteQP(problem)
    expected = SOLVERS[name](cold)
    kept = SiteQP(same_kind(make_random_site, 0))
    SOLVERS[name](kept)
    first = kept.kept[name]
    for seed in range(1, 10):
        kept.update(same_kind(make_random_site, seed))
        SOLVERS[name](kept)
    kept.update(problem)
    found = SOLVERS[name](kept)
    assert kept.kept[name] is first
    scale = max(1.0, abs(cold.objective(expected.x)))
    assert abs(kept.objective(found.x) - cold.objective(expected.x)) <= tolerance * scale
    assert np.abs(kept.a @ found.x - kept.b).max() < 1e-4
    if name == "piqp":
        np.testing.assert_allclose(found.x, expected.x, atol=1e-6, rtol=1e-6)
        np.testing.assert_allclose(found.equality_duals, expected.equality_duals, atol=1e-6)
        np.testing.assert_allclose(found.inequality_duals, expected.inequality_duals, atol=1e-5)
        np.testing.assert_allclose(found.bound_duals, expected.bound_duals, atol=1e-5)


def no_target(problem):
    return replace(problem, devices=tuple(replace(d, terminal_energy_wh=None) for d in problem.devices))


def no_curtailment(problem):
    return replace(problem, grid=replace(problem.grid, curtailable=False))


def curtailment(problem):
    return replace(problem, grid=replace(problem.grid, curtailable=True, pv_w=problem.grid.pv_w + 1e3))


def no_taper(problem):
    n = problem.steps
    packs = tuple(replace(d, charge_taper_w=np.full(n, np.inf), charge_taper_w_per_wh=np.zeros(n)) for d in problem.devices)
    return replace(problem, devices=packs)


def no_temperature_limit(problem):
    return replace(problem, devices=tuple(replace(d, temperature_min_c=-np.inf) for d in problem.devices))


@pytest.mark.parametrize("name", ["piqp", "osqp"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda p: p, no_target),
        (no_target, lambda p: p),
        (lambda p: p, no_taper),
        (no_taper, lambda p: p),
        (lambda p: p, no_temperature_limit),
        (no_curtailment, curtailment),
    ],
)
def test_another_pattern_is_set_up_anew(make_random_site, name, before, after):
    qp = SiteQP(before(same_kind(make_random_site, 3)))
    SOLVERS[name](qp)
    first = qp.kept[name]
    problem = after(same_kind(make_random_site, 4))
    qp.update(problem)
    found, fresh = SOLVERS[name](qp), SiteQP(problem)
    expected = SOLVERS[name](fresh)
    assert qp.kept[name] is not first or (name == "osqp" and after is curtailment)  # its pattern has fixed columns
    assert qp.objective(found.x) == pytest.approx(fresh.objective(expected.x), rel=1e-5, abs=1e-5)
    assert np.abs(qp.a @ found.x - qp.b).max() < 1e-4


def test_night_does_not_change_the_pattern(make_random_site):
    """Slots without PV have nothing to curtail: their columns are fixed, others at the next step."""
    problem = same_kind(make_random_site, 5)
    dark = replace(problem.grid, pv_w=np.where(np.arange(24) < 8, 0.0, problem.grid.pv_w))
    qp = SiteQP(replace(problem, grid=dark))
    solve_piqp(qp)
    first = qp.kept["piqp"]
    later = replace(problem, grid=replace(problem.grid, pv_w=np.where(np.arange(24) >= 16, 0.0, problem.grid.pv_w)))
    qp.update(later)
    found, fresh = solve_piqp(qp), SiteQP(later)
    assert qp.kept["piqp"] is first
    assert qp.objective(found.x) == pytest.approx(fresh.objective(solve_piqp(fresh).x), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("solve", [solve_piqp, solve_osqp])
@pytest.mark.parametrize("seed", range(4))
def test_fixed_columns_keep_their_place(make_random_site, solve, seed):
    """Directions fixed in a kept object, at zero and at another value, and freed again."""
    g = np.random.default_rng(seed)
    qp = SiteQP(same_kind(make_random_site, seed))
    free = solve(qp)
    first = next(iter(qp.kept.values()))
    xl, xu = qp.xl.copy(), qp.xu.copy()
    charge, discharge = qp.device(0, "c"), qp.device(1, "d")
    shut = np.concatenate([charge[g.random(24) < 0.5], discharge[g.random(24) < 0.5]])
    qp.xu[shut] = 0.0
    held = charge[~np.isin(charge, shut)][:3]
    qp.xl[held] = qp.xu[held] = 0.2 * xu[held]
    found = solve(qp)
    assert next(iter(qp.kept.values())) is first
    fresh = SiteQP(qp.problem)
    fresh.xl, fresh.xu = qp.xl, qp.xu
    expected = solve(fresh)
    tolerance = 1e-6 if solve is solve_piqp else 1e-4
    assert qp.objective(found.x) == pytest.approx(fresh.objective(expected.x), rel=tolerance, abs=tolerance)
    np.testing.assert_allclose(found.x[shut], 0.0, atol=1e-3 if solve is solve_osqp else 0.0)
    np.testing.assert_allclose(found.x[held], 0.2 * xu[held], atol=1e-3 if solve is solve_osqp else 1e-12)
    qp.xl, qp.xu = xl, xu
    again = solve(qp)
    assert qp.objective(again.x) == pytest.approx(qp.objective(free.x), rel=tolerance, abs=tolerance)


def test_the_search_for_directions_sets_nothing_up(make_random_site):
    problem = make_random_site(9, 48, 1, negative=True)
    problem = replace(problem, devices=(replace(problem.devices[0], wear_eur_per_kwh=0.0),))
    qp = SiteQP(problem)
    relaxed = solve_piqp(qp)
    assert len(both(qp, relaxed.x)) > 0
    first = qp.kept["piqp"]
    assert not enforce(qp, solve_piqp, relaxed).tight
    assert qp.kept["piqp"] is first


def test_a_solver_that_failed_starts_anew(make_random_site, monkeypatch):
    problem = same_kind(make_random_site, 7)
    qp = SiteQP(problem)
    first = solve_osqp(qp)
    monkeypatch.setattr(solvers, "OSQP_MAX_ITER", 2)
    qp.update(same_kind(make_random_site, 8))
    with pytest.raises(SolverError, match="maximum iterations"):
        solve_osqp(qp)
    assert "osqp" not in qp.kept
    monkeypatch.undo()
    qp.update(problem)
    np.testing.assert_array_equal(solve_osqp(qp).x, first.x)


def test_osqp_starts_from_the_last_solution(make_random_site):
    """Solving the same again takes next to nothing; the next step's problem fewer iterations than from nothing."""
    qp = SiteQP(same_kind(make_random_site, 6, steps=48, devices=1))
    cold = solve_osqp(qp).iterations
    assert solve_osqp(qp).iterations < 0.2 * cold


@pytest.mark.parametrize("kept", [KeptPiqp, KeptOsqp])
def test_another_shape_does_not_fit(make_random_site, kept):
    qp = SiteQP(same_kind(make_random_site, 1))
    made = kept(qp)
    assert made.fits(qp)
    assert not made.fits(SiteQP(same_kind(make_random_site, 1, steps=25)))
    assert not made.fits(SiteQP(same_kind(make_random_site, 1, devices=3)))


def test_shifted_by_a_step(make_random_site):
    qp = SiteQP(same_kind(make_random_site, 1, steps=6))
    ahead = qp.ahead()
    energy, balance, peak = qp.device(1, "e"), qp.equality_rows(None, "balance"), qp.grid("peak")
    assert ahead.columns[energy].tolist() == [*energy[1:], energy[-1]]
    assert ahead.equalities[balance].tolist() == [*balance[1:], balance[-1]]
    assert ahead.columns[peak].tolist() == peak.tolist()
    tops = qp.rows(0, "soc_max")
    assert ahead.inequalities[tops].tolist() == [*tops[1:], tops[-1]]


def test_a_plan_after_other_plans_is_the_plan(make_random_site):
    mpc = MpcSolver()
    for seed in range(5):
        mpc.plan(same_kind(make_random_site, seed))
    problem = same_kind(make_random_site, 20)
    cold = MpcSolver().plan(problem)
    warm = mpc.plan(problem)
    assert warm.objective_eur == pytest.approx(cold.objective_eur, rel=1e-7, abs=1e-7)
    for one, other in zip(warm.devices, cold.devices, strict=True):
        np.testing.assert_allclose(one.power_w, other.power_w, atol=1.0)
