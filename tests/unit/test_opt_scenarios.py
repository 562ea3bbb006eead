"""Two-stage plans: the deterministic plan when scenarios agree, one first step for all, a cheaper tail for more weight on it."""

from dataclasses import replace

import cvxpy as cp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InputError, SolverError
from optimizer import scenarios
from optimizer.assembly import SiteQP
from optimizer.mpc import MpcSolver
from optimizer.problem import SoftCosts
from optimizer.replay import project, replay
from optimizer.scenarios import ScenarioSolver, commit, cvar
from optimizer.solvers import solve_piqp

N = 16


def strict(problem):
    """One optimum: every device's throughput and state of charge cost something curved."""
    devices = tuple(replace(d, wear_quadratic=1e-3, soc_stress_eur_per_h=0.05) for d in problem.devices)
    return replace(problem, devices=devices)


def spread(problem, count, seed=0, size=0.4):
    """Scenarios of load, PV and price around a problem; all begin alike."""
    g = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        load = problem.grid.load_w * (1 + size * np.abs(g.normal(size=problem.steps)))
        pv = problem.grid.pv_w * g.uniform(1 - size, 1, problem.steps)
        price = g.normal(0, 0.1 * size, problem.steps)
        grid = replace(problem.grid, load_w=load, pv_w=pv, buy_eur_per_kwh=problem.grid.buy_eur_per_kwh + price,
                       sell_eur_per_kwh=problem.grid.sell_eur_per_kwh + price)  # fmt: skip
        found.append(replace(problem, grid=grid))
    return found


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_scenarios_that_agree_give_the_deterministic_plan(make_random_site, count, weight):
    for seed in range(3):
        problem = strict(make_random_site(seed, N, 2))
        alone = solve_piqp(qp := SiteQP(problem))
        found = ScenarioSolver(cvar_weight=weight).solve([problem] * count)
        best = qp.objective(alone.x)
        assert found.objective_eur == pytest.approx(best, rel=1e-6, abs=1e-6)
        assert found.expected_eur == pytest.approx(best, rel=1e-5, abs=1e-5)
        first = 1000 * np.array([(alone.x[qp.device(i, "d")] - alone.x[qp.device(i, "c")])[0] for i in range(2)])
        assert found.first_w[:, 0] == pytest.approx(first, abs=1.0)
        assert found.bills_eur == pytest.approx(np.full(count, found.bills_eur[0]), abs=1e-4)
        assert found.tail_eur == pytest.approx(found.bills_eur[0], abs=1e-4)


def test_unequal_weights_of_equal_scenarios_change_nothing(make_random_site):
    problem = strict(make_random_site(4, N, 1))
    equal = ScenarioSolver(cvar_weight=0.3).solve([problem] * 3)
    other = ScenarioSolver(cvar_weight=0.3).solve([problem] * 3, np.array([0.7, 0.2, 0.1]))
    assert other.objective_eur == pytest.approx(equal.objective_eur, rel=1e-6)


def test_without_recourse_one_decision_costs_more_than_foresight_and_less_than_any_fixed_plan(make_random_site):
    """Wait-and-see <= two-stage <= best plan for the mean, executed everywhere (Birge and Louveaux, 1997, chapter 4)."""
    for seed in range(4):
        problem = strict(make_random_site(seed, N, 1))
        cases = spread(problem, 4, seed)
        foresight = np.mean([qp.objective(solve_piqp(qp).x) for qp in map(SiteQP, cases)])
        found = ScenarioSolver().solve(cases)
        fixed = ScenarioSolver(shared_steps=N).solve(cases)
        assert foresight <= found.objective_eur + 1e-6
        assert found.objective_eur <= fixed.objective_eur + 1e-6


def test_the_expectation_is_the_mean_of_the_scenarios(make_random_site):
    """Weight 0 against the sum of the scenarios' own objectives with the first step found: no other does better."""
    problem = strict(make_random_site(7, N, 1))
    cases = spread(problem, 3, 1)
    found = ScenarioSolver().solve(cases)

    def mean_with(first_w):
        total = 0.0
        for case in cases:
            qp = SiteQP(case)
            for name, flow in (("c", max(-first_w, 0)), ("d", max(first_w, 0))):
                qp.xl[qp.device(0, name)[0]] = qp.xu[qp.device(0, name)[0]] = flow / 1000
            total += qp.objective(solve_piqp(qp).x) / len(cases)
        return total

    best = float(found.first_w[0, 0])
    assert mean_with(best) == pytest.approx(found.objective_eur, rel=1e-5, abs=1e-5)
    for change in (-2000.0, 2000.0):
        limit = float(problem.devices[0].charge_max_w[0])
        assert mean_with(float(np.clip(best + change, -limit, limit))) >= found.objective_eur - 1e-6


def test_more_weight_on_the_tail_costs_less_there_and_no_less_on_average(make_random_site):
    improved = 0
    for seed in range(6):
        problem = make_random_site(seed, N, 1)
        # All that counts is what is paid: then both are exact consequences of optimality.
        plain = {"wear_quadratic": 0.0, "soc_stress_eur_per_h": 0.0, "move_weight": 0.0, "reference_w": None}
        device = replace(problem.devices[0], terminal_energy_wh=None, temperature_max_c=np.full(N, 80.0), **plain)
        wide = np.full(N, 1e7)
        grid = replace(problem.grid, peak_price_eur_per_kw=2.0, peak_incurred_w=0.0, tracking_weight=0.0,
                       import_limit_w=wide, export_limit_w=wide)  # fmt: skip
        soft = SoftCosts(energy_eur_per_kwh=50.0, voltage_eur_per_v=50.0)  # above what a lower peak is worth
        cases = spread(replace(problem, devices=(device,), grid=grid, soft=soft), 6, seed, size=0.8)
        found = [ScenarioSolver(cvar_weight=weight, cvar_level=0.8).solve(cases) for weight in (0.0, 0.5, 0.95)]
        assert found[0].expected_eur <= found[1].expected_eur + 1e-4
        assert found[1].expected_eur <= found[2].expected_eur + 1e-4
        assert found[1].tail_eur <= found[0].tail_eur + 1e-4
        assert found[2].tail_eur <= found[1].tail_eur + 1e-4
        improved += found[2].tail_eur < found[0].tail_eur - 1e-3
    assert improved >= 1


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    devices=st.integers(1, 3),
    count=st.integers(1, 4),
    weight=st.sampled_from([0.0, 0.7]),
    shared=st.integers(1, 3),
    negative=st.booleans(),
)
def test_the_first_steps_can_be_executed_in_every_scenario(make_random_site, seed, devices, count, weight, shared, negative):
    problem = make_random_site(seed, 8, devices, negative=negative)
    cases = spread(problem, count, seed, size=1.0)
    found = ScenarioSolver(shared_steps=shared, cvar_weight=weight).solve(cases)
    assert found.first_w.shape == (devices, shared)
    for case in cases:
        rest = np.hstack([found.first_w, np.zeros((devices, 8 - shared))])
        power, curtail = project(case, rest, np.zeros(8))
        assert power[:, :shared] == pytest.approx(found.first_w, abs=1e-6)
        assert replay(case, power, curtail).hard_violations == ()


def test_the_reported_plan_begins_with_the_first_step(make_random_site):
    for seed in range(4):
        problem = make_random_site(seed, N, 2, negative=seed % 2 == 0)
        cases = [problem, *spread(problem, 3, seed)]
        first = ScenarioSolver().solve(cases).first_w
        plan = MpcSolver().plan(problem, first)
        assert plan.solver == "piqp"
        assert np.array([part.power_w[:1] for part in plan.devices]) == pytest.approx(first, abs=1e-3)
        free = MpcSolver().plan(problem)
        assert plan.objective_eur >= free.objective_eur - 1e-5


def test_a_first_step_given_does_not_stay_for_the_next_plan(make_site):
    mpc = MpcSolver()
    problem = make_site(np.r_[np.full(8, 0.05), np.full(8, 0.30)])
    free = mpc.plan(problem)
    held = mpc.plan(problem, np.array([[-1e3]]))
    assert held.devices[0].power_w[0] == pytest.approx(-1e3, abs=1e-6)
    again = mpc.plan(problem)
    assert again.objective_eur == pytest.approx(free.objective_eur, rel=1e-7)


def test_overlap_in_the_first_step_ends_in_one_direction(make_site, make_device):
    """At -0.5 EUR/kWh the relaxation burns energy by charging and discharging at once."""
    device = make_device(N, energy_wh=89e3, energy_high_wh=89e3, energy_low_wh=89e3, eta_charge=np.full(N, 0.7))
    buy = np.r_[np.full(4, -0.5), np.full(12, 0.2)]
    problem = make_site(buy, device, sell_eur_per_kwh=buy - 0.02)
    cases = [problem, replace(problem, grid=replace(problem.grid, load_w=np.full(N, 3e3)))]
    solver = ScenarioSolver()
    found = solver.solve(cases)
    stacked = scenarios._Stacked(solver._qps, cases, np.full(2, 0.5), 1, 0.0, 0.9)
    relaxed, lower, _ = stacked.solve()
    assert min(relaxed[stacked.first("c")[0, 0]], relaxed[stacked.first("d")[0, 0]]) > 1.0
    assert found.objective_eur > lower
    assert MpcSolver().plan(problem, found.first_w).devices[0].power_w[0] == pytest.approx(found.first_w[0, 0], abs=1e-3)


def test_a_first_step_shrinks_until_every_meter_bears_it(make_site, make_device):
    problem = make_site(np.full(N, 0.1), import_limit_w=np.full(N, 60e3), export_limit_w=np.full(N, 60e3))
    busy = replace(problem, grid=replace(problem.grid, load_w=np.full(N, 45e3)))
    sunny = replace(problem, grid=replace(problem.grid, pv_w=np.full(N, 50e3)))
    nets = [np.full((1, N), -40e3)] * 3
    first = commit([problem, busy, sunny], nets, [np.zeros(N)] * 3, 1)
    assert first[0, 0] == pytest.approx(-15e3)
    up = commit([problem, busy, sunny], [-net for net in nets], [np.zeros(N)] * 3, 1)
    assert up[0, 0] == pytest.approx(10e3)


def test_conditional_value_at_risk():
    costs, w = np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 0.25)
    assert cvar(costs, w, 0.0) == pytest.approx(2.5)
    assert cvar(costs, w, 0.5) == pytest.approx(3.5)
    assert cvar(costs, w, 0.75) == pytest.approx(4.0)
    assert cvar(costs, w, 0.625) == pytest.approx((0.25 * 4 + 0.125 * 3) / 0.375)
    assert cvar(costs, np.array([0.1, 0.2, 0.3, 0.4]), 0.9) == pytest.approx(4.0)


def test_bad_input_is_named(make_site, make_device):
    with pytest.raises(InputError, match="cvar_weight"):
        ScenarioSolver(cvar_weight=1.0)
    with pytest.raises(InputError, match="cvar_level"):
        ScenarioSolver(cvar_level=1.0)
    problem = make_site(np.full(N, 0.1))
    with pytest.raises(InputError, match="at least one"):
        ScenarioSolver().solve([])
    with pytest.raises(InputError, match="shape"):
        ScenarioSolver().solve([problem, make_site(np.full(8, 0.1))])
    with pytest.raises(InputError, match="pack"):
        ScenarioSolver().solve([problem, make_site(np.full(N, 0.1), make_device(N, energy_wh=40e3))])
    with pytest.raises(InputError, match="weights"):
        ScenarioSolver().solve([problem, problem], np.array([0.5, 0.6]))
    with pytest.raises(InputError, match="shared_steps"):
        ScenarioSolver(shared_steps=17).solve([problem])


def test_an_iteration_limit_is_never_a_solution(make_random_site, monkeypatch):
    """What PIQP gives up on goes to Clarabel, and where that gives up too there is no solution."""
    cases = spread(strict(make_random_site(0, N, 1)), 3)
    known = ScenarioSolver(cvar_weight=0.3).solve(cases)
    monkeypatch.setattr(scenarios, "MAX_ITER", 3)
    found = ScenarioSolver(cvar_weight=0.3).solve(cases)
    assert found.objective_eur == pytest.approx(known.objective_eur, rel=1e-5, abs=1e-4)

    def give_up(*_, **__):
        raise cp.error.SolverError("gave up")

    monkeypatch.setattr(cp.Problem, "solve", give_up)
    with pytest.raises(SolverError, match=r"MAX_ITER.*gave up"):
        ScenarioSolver().solve([make_random_site(0, N, 1)])


def test_the_same_scenarios_give_the_same_plan(make_random_site):
    cases = spread(make_random_site(3, N, 2), 3)
    solver = ScenarioSolver(cvar_weight=0.5)
    first = solver.solve(cases)
    solver.solve(spread(make_random_site(5, N, 2), 3))
    assert np.array_equal(solver.solve(cases).first_w, first.first_w)


def test_a_tolerance_beyond_reach_gives_way_to_the_second(make_random_site, monkeypatch):
    cases = spread(strict(make_random_site(2, N, 1)), 3)
    exact = ScenarioSolver(cvar_weight=0.5).solve(cases)
    monkeypatch.setattr(scenarios, "TOLERANCES", ((0.0, 0.0, 0.0, 0.0), scenarios.TOLERANCES[1]))
    near = ScenarioSolver(cvar_weight=0.5).solve(cases)
    assert near.iterations > exact.iterations
    assert near.objective_eur == pytest.approx(exact.objective_eur, rel=1e-5, abs=1e-4)
