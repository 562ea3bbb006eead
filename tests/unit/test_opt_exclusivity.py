"""Nothing flows both ways: against an exact mixed-integer problem written down here, and against trying every direction."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import Bounds, LinearConstraint, milp

from optimizer import oracle
from optimizer.assembly import SiteQP
from optimizer.exclusivity import both, enforce, thresholds
from optimizer.hull import hull_rows
from optimizer.mpc import MpcSolver
from optimizer.solvers import SOLVERS, solve_piqp


def exact_milp(problem):
    """One plain battery per device: binaries on every step and at the meter. Returns the optimum in EUR."""
    n, h, grid, count = problem.steps, problem.dt_h, problem.grid, len(problem.devices)
    # columns: per device c d e y (each n), then b s yb (each n)
    width = 4 * n * count + 3 * n
    cost, low, high, integral = np.zeros(width), np.zeros(width), np.full(width, np.inf), np.zeros(width)
    rows = []
    right = []

    def row(entries, lower, upper):
        rows.append(entries)
        right.append((lower, upper))

    base = 4 * n * count
    for i, d in enumerate(problem.devices):
        c, dis, e, y = (4 * n * i + j * n for j in range(4))
        cost[c : c + n] = cost[dis : dis + n] = h * d.wear_eur_per_kwh
        cost[e + n - 1] -= d.terminal_value_eur_per_kwh
        low[e : e + n], high[e : e + n] = d.energy_min_wh / 1e3, d.energy_max_wh / 1e3
        high[y : y + n], integral[y : y + n] = 1.0, 1.0
        for k in range(n):
            up, down = d.charge_max_w[k] / 1e3, d.discharge_max_w[k] / 1e3
            entries = {e + k: 1.0, c + k: -h * d.eta_charge[k], dis + k: h / d.eta_discharge[k]}
            if k:
                entries[e + k - 1] = -1.0
            start = d.energy_wh / 1e3 if k == 0 else 0.0
            row(entries, start, start)
            row({c + k: 1.0, y + k: -up}, -np.inf, 0.0)
            row({dis + k: 1.0, y + k: down}, -np.inf, down)
    b, s, yb = base, base + n, base + 2 * n
    cost[b : b + n], cost[s : s + n] = h * grid.buy_eur_per_kwh, -h * grid.sell_eur_per_kwh
    high[yb : yb + n], integral[yb : yb + n] = 1.0, 1.0
    for k in range(n):
        entries = {b + k: 1.0, s + k: -1.0}
        for i in range(count):
            entries[4 * n * i + k], entries[4 * n * i + n + k] = -1.0, 1.0
        net = (grid.load_w[k] - grid.pv_w[k]) / 1e3
        row(entries, net, net)
        row({b + k: 1.0, yb + k: -grid.import_limit_w[k] / 1e3}, -np.inf, 0.0)
        row({s + k: 1.0, yb + k: grid.export_limit_w[k] / 1e3}, -np.inf, grid.export_limit_w[k] / 1e3)
    matrix = sp.lil_matrix((len(rows), width))
    for j, entries in enumerate(rows):
        for column, value in entries.items():
            matrix[j, column] = value
    lower, upper = np.array(right).T
    result = milp(cost, constraints=LinearConstraint(matrix.tocsc(), lower, upper), bounds=Bounds(low, high),
                  integrality=integral, options={"mip_rel_gap": 1e-9})  # fmt: skip
    assert result.status == 0, result.message
    return result.fun


def negative_site(make_site, make_device, seed, n=16, devices=1):
    g = np.random.default_rng(seed)
    buy = g.uniform(-0.6, 0.15, n)
    packs = [
        make_device(
            n,
            device_id=f"pack-{i}",
            energy_wh=g.uniform(15e3, 85e3),
            eta_charge=np.full(n, g.uniform(0.85, 0.97)),
            eta_discharge=np.full(n, g.uniform(0.85, 0.97)),
            wear_eur_per_kwh=g.uniform(0.0, 0.02),
            terminal_value_eur_per_kwh=g.uniform(0.0, 0.2),
        )
        for i in range(devices)
    ]
    return make_site(
        buy,
        *packs,
        sell_eur_per_kwh=buy - g.uniform(0.0, 0.05, n),
        load_w=g.uniform(0, 30e3, n),
        pv_w=g.uniform(0, 30e3, n),
        import_limit_w=np.full(n, 120e3),
        export_limit_w=np.full(n, 120e3),
    )


def check(problem):
    plan = MpcSolver().plan(problem)
    assert plan.status == "optimal"
    exact = exact_milp(problem)
    assert plan.objective_eur == pytest.approx(exact, rel=1e-6, abs=2e-6)


@pytest.mark.parametrize("seed", range(20))
def test_equals_an_exact_mixed_integer_problem(make_site, make_device, seed):
    check(negative_site(make_site, make_device, seed, devices=1 + seed % 2))


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 200))
def test_equals_an_exact_mixed_integer_problem_often(make_site, make_device, seed):
    check(negative_site(make_site, make_device, seed, n=24, devices=1 + seed % 2))


def test_these_instances_need_it(make_site, make_device):
    loose = 0
    for seed in range(20):
        qp = SiteQP(negative_site(make_site, make_device, seed, devices=1 + seed % 2))
        loose += len(both(qp, solve_piqp(qp).x)) > 0
    assert loose >= 10


@pytest.mark.parametrize("seed", range(4))
def test_quadratic_costs_equal_the_best_of_all_directions(make_site, make_device, seed):
    problem = negative_site(make_site, make_device, seed, n=6)
    curved = replace(problem.devices[0], wear_quadratic=2e-3, soc_stress_eur_per_h=0.5)
    problem = replace(problem, devices=(curved,))
    best = min(oracle.solve(problem, [np.array(way)]).objective_eur for way in product([True, False], repeat=6))
    qp = SiteQP(problem)
    exclusive = enforce(qp, solve_piqp, solve_piqp(qp))
    assert not len(both(qp, exclusive.solution.x))
    assert qp.objective(exclusive.solution.x) == pytest.approx(best, rel=2e-6, abs=2e-6)
    assert MpcSolver().plan(problem).objective_eur == pytest.approx(best, rel=2e-6, abs=2e-6)


def linear(problem):
    """The problem without its quadratic terms, which a mixed-integer linear problem cannot hold."""
    soft = replace(problem.soft, energy_quadratic=0.0, temperature_quadratic=0.0, voltage_quadratic=0.0)
    plain = {"wear_quadratic": 0.0, "soc_stress_eur_per_h": 0.0, "move_weight": 0.0}
    devices = tuple(replace(device, **plain) for device in problem.devices)
    return replace(problem, soft=soft, devices=devices, grid=replace(problem.grid, tracking_weight=0.0))


def full_milp(problem):
    """The assembled problem with a binary for every step of every device and of the meter, in HiGHS; EUR."""
    qp = SiteQP(problem)
    assert (qp.p == 0).all()
    first = np.concatenate([qp.device(i, "c") for i in range(len(problem.devices))] + [qp.grid("b")])
    second = np.concatenate([qp.device(i, "d") for i in range(len(problem.devices))] + [qp.grid("s")])
    m = len(first)

    def pick(columns):
        return sp.csr_matrix((np.ones(m), (np.arange(m), columns)), shape=(m, qp.size))

    one = sp.hstack([pick(first), -sp.diags(qp.xu[first])])
    other = sp.hstack([pick(second), sp.diags(qp.xu[second])])
    wide = [sp.hstack([part, sp.csr_matrix((part.shape[0], m))]) for part in (qp.a, qp.g)]
    result = milp(
        np.r_[qp.q, np.zeros(m)],
        constraints=LinearConstraint(
            sp.vstack([*wide, one, other], format="csc"),
            np.concatenate([qp.b, qp.gl, np.full(2 * m, -np.inf)]),
            np.concatenate([qp.b, qp.gu, np.zeros(m), qp.xu[second]]),
        ),
        bounds=Bounds(np.r_[qp.xl, np.zeros(m)], np.r_[qp.xu, np.ones(m)]),
        integrality=np.r_[np.zeros(qp.size), np.ones(m)],
        options={"mip_rel_gap": 1e-8, "time_limit": 120},
    )
    assert result.status == 0, result.message
    return result.fun + qp.constant


def equals_the_full_milp(problem):
    qp = SiteQP(problem)
    relaxed = solve_piqp(qp)
    exclusive = enforce(qp, solve_piqp, relaxed)
    found, best = qp.objective(exclusive.solution.x), full_milp(problem)
    assert not len(both(qp, exclusive.solution.x))
    assert abs(found - best) <= 1e-6 * max(1.0, abs(best))
    assert best - exclusive.gap_eur <= found + 1e-6 * max(1.0, abs(best))
    return exclusive.tight


QUICK = [4, 9, 10, 15, 28, 34]
"""Six in which the relaxation is not tight."""


@pytest.mark.parametrize("seed", QUICK)
def test_a_day_of_negative_prices_equals_the_full_mixed_integer_problem(make_random_site, seed):
    assert not equals_the_full_milp(linear(make_random_site(seed, 96, 1, negative=True)))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_two_hundred_days_of_negative_prices_equal_the_full_mixed_integer_problem(make_random_site):
    tight = [equals_the_full_milp(linear(make_random_site(seed, 96, 1, negative=True))) for seed in range(200)]
    assert 20 < 200 - sum(tight) < 180


@pytest.mark.parametrize("seed", range(3))
def test_two_devices_equal_the_full_mixed_integer_problem(make_random_site, seed):
    equals_the_full_milp(linear(make_random_site(seed, 24, 2, negative=True)))


@pytest.mark.parametrize("seed", range(8))
def test_the_hull_cuts_off_no_plan_that_is_exclusive(make_random_site, seed):
    """The best plan in random directions, from inside and outside the limits, keeps every cut of every step."""
    g = np.random.default_rng(seed)
    problem = make_random_site(seed, 24, 2, negative=seed % 2 == 0)
    if seed >= 4:
        outside = float(problem.devices[0].capacity_wh) * (0.03 if seed % 2 else 0.98)
        first = replace(problem.devices[0], energy_wh=outside)
        problem = replace(problem, devices=(first, problem.devices[1]))
    qp = SiteQP(problem)
    for i in range(2):
        charging = g.random(24) < 0.5
        qp.xu[qp.device(i, "c")[~charging]] = 0.0
        qp.xu[qp.device(i, "d")[charging]] = 0.0
    for _ in range(4):
        moved = SiteQP(problem)
        moved.xu = qp.xu
        moved.q = moved.q + np.where(moved.q != 0, g.normal(0, 0.1, qp.size), 0.0).clip(-0.9 * np.abs(moved.q), None)
        x = solve_piqp(moved).x
        matrix, high = hull_rows(qp, [(i, k) for i in range(2) for k in range(24)])
        assert matrix.shape[0] > 24 * 2 * 5
        assert (matrix @ x - high).max() < 1e-5


def test_the_hull_cuts_off_what_flows_both_ways(make_random_site):
    qp = SiteQP(linear(make_random_site(4, 96, 1, negative=True)))
    x = solve_piqp(qp).x
    steps = [(0, int(k)) for k in both(qp, x)]
    matrix, high = hull_rows(qp, steps)
    assert len(steps) > 0
    assert (matrix @ x - high).max() > 0.1


def test_overlap_is_only_where_the_dual_test_says(make_random_site):
    """Without temperature limits, whose lower one can make heat worth having."""
    seen = 0
    for seed in range(20):
        problem = linear(make_random_site(seed, 48, 1, negative=True))
        device = replace(problem.devices[0], temperature_min_c=-np.inf)
        qp = SiteQP(replace(problem, devices=(device,)))
        relaxed = solve_piqp(qp)
        price = -relaxed.equality_duals[qp.equality_rows(None, "balance")] / problem.dt_h
        conflict = both(qp, relaxed.x)
        conflict = conflict[conflict < 48]
        eta2 = device.eta_charge * device.eta_discharge
        assert (price <= -device.wear_eur_per_kwh * (1 + eta2) / (1 - eta2) + 1e-5)[conflict].all()
        np.testing.assert_allclose(thresholds(qp)[:48], -device.wear_eur_per_kwh * (1 + eta2) / (1 - eta2), rtol=1e-12)
        seen += len(conflict)
    assert seen > 10


@pytest.mark.parametrize("solver", ["piqp", "cvxpy"])
@pytest.mark.parametrize("seed", range(6))
def test_no_solution_flows_both_ways(make_random_site, solver, seed):
    qp = SiteQP(make_random_site(seed, 32, 2, negative=True))
    solve = SOLVERS[solver]
    upper = qp.xu.copy()
    exclusive = enforce(qp, solve, solve(qp))
    x = exclusive.solution.x
    assert not len(both(qp, x))
    np.testing.assert_array_equal(qp.xu, upper)


def test_free_energy_is_not_burnt_by_a_search(make_site, make_device):
    """Surplus PV at a price of nothing: overlap costs nothing, so fixing directions costs nothing either."""
    n = 12
    problem = make_site(
        np.zeros(n), make_device(n, energy_wh=90e3), sell_eur_per_kwh=np.zeros(n), pv_w=np.full(n, 20e3), curtailable=True
    )
    qp = SiteQP(problem)
    exclusive = enforce(qp, solve_piqp, solve_piqp(qp))
    assert not len(both(qp, exclusive.solution.x))
    assert exclusive.gap_eur < 1e-6


def test_equal_import_and_export_prices_are_netted(make_site, make_device):
    price = np.array([0.1, 0.3, 0.1, 0.3])
    qp = SiteQP(make_site(price, make_device(4), sell_eur_per_kwh=price, load_w=np.full(4, 10e3)))
    exclusive = enforce(qp, solve_piqp, solve_piqp(qp))
    assert exclusive.tight
    assert np.minimum(exclusive.solution.x[qp.grid("b")], exclusive.solution.x[qp.grid("s")]).max() < 1e-9


def test_export_dearer_than_import_cannot_be_had_at_once(make_site, make_device):
    """A subsidy on export: the relaxation would buy and sell the same energy; a meter cannot."""
    problem = make_site(np.full(4, 0.1), make_device(4), sell_eur_per_kwh=np.full(4, 0.15), load_w=np.full(4, 10e3))
    plan = MpcSolver().plan(problem)
    assert np.minimum(plan.grid_import_w, plan.grid_export_w).max() == 0.0
    assert plan.objective_eur == pytest.approx(exact_milp(problem), abs=1e-5)
