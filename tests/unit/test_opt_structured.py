"""The structured solver finds the optimum, proves it, and hands on what it cannot prove."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.structured_fleet import DT_S, random_scenario, stress, stressed
from core.errors import InputError, SolverError
from optimizer import oracle
from optimizer.assembly import SiteQP
from optimizer.fleet import stack
from optimizer.problem import SiteProblem
from optimizer.solvers import solve_piqp
from optimizer.structured import driver
from optimizer.structured.driver import SOURCES, BatchSolver
from optimizer.structured.kernel import NOT_FINITE, ROUTED, UNPROVEN
from optimizer.structured.meters import stack_meters

RELATIVE = 1e-4


def fleet_of(problems):
    return stack([p.devices[0] for p in problems]), stack_meters([p.grid for p in problems])


def site_of(fleet, meters, i):
    return SiteProblem(dt_s=DT_S, grid=meters.meter(i), devices=(fleet.device(i),))


def source(plan, i):
    return SOURCES[plan.source[i]]


@pytest.mark.parametrize("steps", [1, 2, 24])
def test_every_feature_agrees_with_the_oracle(make_random_site, steps):
    problems = [make_random_site(seed, steps, 1, negative=seed % 2 == 1) for seed in range(12)]
    plan = BatchSolver(threads=1).solve(*fleet_of(problems), DT_S)
    for i, problem in enumerate(problems):
        best = oracle.solve(problem).objective_eur
        assert plan.objective_eur[i] == pytest.approx(best, rel=RELATIVE, abs=RELATIVE)
        assert plan.objective_eur[i] - best <= plan.gap_eur[i] + 5e-5  # a target's band is not counted
    assert (plan.source == SOURCES.index("structured")).sum() >= 11


def test_duals_are_those_of_the_general_solver(make_random_site):
    problems = [make_random_site(seed, 24, 1) for seed in range(8)]
    plan = BatchSolver(threads=1).solve(*fleet_of(problems), DT_S)
    for i, problem in enumerate(problems):
        qp = SiteQP(problem)
        exact = solve_piqp(qp).equality_duals
        np.testing.assert_allclose(plan.energy_value_eur_per_kwh[i], exact[qp.equality_rows(0, "energy")], atol=5e-3)
        price = -exact[qp.equality_rows(None, "balance")] / problem.dt_h
        np.testing.assert_allclose(plan.meter_price_eur_per_kwh[i], price, atol=5e-3)


def test_stressed_instances_agree_with_the_general_solver():
    result = stress(320, steps=48, compare=60, threads=1)
    assert result.finite
    assert result.beyond == 0, result
    assert result.worst_share <= 0.0
    assert result.refused == 0, result
    assert result.apart < 1e-4, result
    assert result.sources["structured"] >= 0.97 * result.count
    assert result.sources["hold"] == result.sources["shifted"] == 0


@pytest.mark.full
def test_twenty_thousand_stressed_instances():
    """All of them replayed twice, and all that the structured solver solved compared with PIQP (minutes)."""
    result = stress(20_000, steps=96, compare=20_000)
    assert result.checked >= 19_000
    assert result.finite
    assert result.beyond == 0, result
    assert result.worst_share <= 0.0
    assert result.refused == 0, result
    assert result.apart < 1e-4, result
    assert result.sources["structured"] >= 0.98 * result.count
    assert result.sources["hold"] == 0


def test_limits_of_a_pack_of_megawatt_hours_are_dear_enough_to_keep():
    """One whose plan is cut, already outside another limit: penalties grow with it; those that rest breaks stay as they are."""
    fleet, meters = stressed(random_scenario(400, 96, seed=5, extra=0), seed=5).window(0)
    one = np.array([356])
    assert fleet.capacity_wh[356] > 3e6
    soft, kept = (
        BatchSolver(threads=1, harden=harden).solve(fleet.take(one), meters.take(one), DT_S) for harden in (False, True)
    )
    assert soft.cut[0]
    assert soft.gap_eur[0] > 1e-3 * abs(soft.objective_eur[0])
    assert kept.objective_eur[0] < soft.objective_eur[0]
    assert kept.gap_eur[0] < 1e-4 * abs(kept.objective_eur[0])


def test_a_warm_start_needs_fewer_iterations_and_finds_the_same():
    scenario = random_scenario(64, 48, seed=3, extra=4)
    kept = BatchSolver(threads=1)
    first = kept.solve(*scenario.window(0), DT_S)
    scenario.apply(0, first)
    warm = kept.solve(*scenario.window(1), DT_S)
    cold = BatchSolver(threads=1).solve(*scenario.window(1), DT_S)
    scale = np.maximum(1.0, np.abs(cold.objective_eur))
    assert (np.abs(warm.objective_eur - cold.objective_eur) / scale).max() < RELATIVE
    assert warm.iterations.mean() < 0.85 * cold.iterations.mean()


def test_the_same_steps_again_need_few_iterations():
    window = random_scenario(16, 48, seed=4, extra=0).window(0)
    solver = BatchSolver(threads=1)
    first = solver.solve(*window, DT_S)
    again = solver.solve(*window, DT_S, ahead=0)
    assert again.iterations.mean() < 0.7 * first.iterations.mean()


def test_lanes_and_threads_do_not_change_a_plan():
    fleet, meters = random_scenario(19, 24, seed=6, extra=0).window(0)
    one = BatchSolver(threads=1).solve(fleet, meters, DT_S)
    two = BatchSolver(threads=2).solve(fleet, meters, DT_S)
    np.testing.assert_array_equal(one.charge_w, two.charge_w)
    last = np.array([18])
    chosen = {name: getattr(meters, name)[last] for name in type(meters).__slots__}
    alone = BatchSolver(threads=1).solve(fleet.take(last), type(meters)(**chosen), DT_S)
    assert alone.objective_eur[0] == pytest.approx(one.objective_eur[18], rel=RELATIVE)


def spoil(fleet, name, i, value):
    """Past the checks of FleetData, as memory that went bad would."""
    getattr(fleet, name)[i] = value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("energy_wh", np.nan),
        ("voltage_v", np.inf),
        ("eta_charge", np.nan),
        ("temperature_c", -np.inf),
        ("charge_max_w", 1e300),
        ("temperature_drift_c", 1e200),
        ("wear_eur_per_kwh", np.nan),
    ],
)
def test_no_number_that_is_none_leaves(name, value):
    fleet, meters = random_scenario(16, 12, seed=8, extra=0).window(0)
    good = BatchSolver(threads=1).solve(fleet, meters, DT_S)
    spoil(fleet, name, 5, value)
    plan = BatchSolver(threads=1).solve(fleet, meters, DT_S)
    for array in (
        plan.charge_w, plan.discharge_w, plan.curtail_w, plan.energy_value_eur_per_kwh, plan.meter_price_eur_per_kwh,
        plan.objective_eur,
    ):  # fmt: skip
        assert np.isfinite(array).all()
    if not plan.priced[5]:
        assert source(plan, 5) == "hold"
        assert not np.any([plan.charge_w[5], plan.discharge_w[5]])
    assert source(plan, 5) != "structured"
    others = np.arange(16) != 5
    assert (plan.source[others] == SOURCES.index("structured")).all()
    np.testing.assert_allclose(plan.objective_eur[others], good.objective_eur[others], rtol=RELATIVE)


def fail(status):
    """A kernel that gives up on device 3."""
    real = driver.solve_range

    def wrapped(*arguments):
        real(*arguments)
        arguments[19][3] = status
        for profile in arguments[22]:
            profile[3] = np.nan

    return wrapped


@pytest.mark.parametrize("status", [NOT_FINITE, UNPROVEN])
def test_what_the_kernel_gives_up_on_goes_to_the_general_solver(monkeypatch, status):
    fleet, meters = random_scenario(8, 12, seed=9, extra=0).window(0)
    monkeypatch.setattr(driver, "solve_range", fail(status))
    solver = BatchSolver(threads=1)
    plan = solver.solve(fleet, meters, DT_S)
    assert source(plan, 3) == "piqp"
    assert solver.counts == {"structured": 7, "piqp": 1, "shifted": 0, "hold": 0}
    best = oracle.solve(site_of(fleet, meters, 3)).objective_eur
    assert plan.objective_eur[3] == pytest.approx(best, rel=RELATIVE, abs=RELATIVE)


def test_then_the_last_plan_shifted_and_then_hold(monkeypatch):
    def refuse(qp):
        raise SolverError("refused")

    fleet, meters = random_scenario(8, 12, seed=9, extra=0).window(0)
    solver = BatchSolver(threads=1)
    before = solver.solve(fleet, meters, DT_S)
    monkeypatch.setattr(driver, "solve_range", fail(NOT_FINITE))
    monkeypatch.setattr(driver, "solve_piqp", refuse)
    plan = solver.solve(fleet, meters, DT_S)
    assert source(plan, 3) == "shifted"
    np.testing.assert_allclose(plan.charge_w[3], np.append(before.charge_w[3, 1:], 0.0), atol=1e-6)
    again = solver.solve(fleet, meters, DT_S, ahead=0)
    np.testing.assert_allclose(again.charge_w[3], plan.charge_w[3], atol=1e-6)
    later = solver.solve(fleet, meters, DT_S, ahead=3)
    np.testing.assert_allclose(later.charge_w[3], np.append(plan.charge_w[3, 3:], np.zeros(3)), atol=1e-6)
    assert source(solver.solve(fleet, meters, DT_S, ahead=12), 3) == "hold"
    new = BatchSolver(threads=1).solve(fleet, meters, DT_S)
    assert source(new, 3) == "hold"
    assert not np.any([new.charge_w[3], new.discharge_w[3]])


def test_cases_for_the_general_solver_are_known_beforehand(make_random_site):
    problem = make_random_site(1, 12, 1)
    dear = replace(problem.grid, sell_eur_per_kwh=problem.grid.buy_eur_per_kwh + 0.05)
    device = problem.devices[0]
    outside = replace(device, energy_wh=0.05 * device.capacity_wh)
    fleet = stack([device, device, outside])
    plan = BatchSolver(threads=1).solve(fleet, stack_meters([problem.grid, dear, problem.grid]), DT_S)
    assert [source(plan, i) for i in range(3)] == ["structured", "piqp", "piqp"]
    assert plan.status.tolist() == [0, ROUTED, ROUTED]
    for i, grid in enumerate((problem.grid, dear, problem.grid)):
        exact = oracle.solve(SiteProblem(dt_s=DT_S, grid=grid, devices=(fleet.device(i),))).objective_eur
        if i != 1:
            assert plan.objective_eur[i] == pytest.approx(exact, rel=RELATIVE, abs=RELATIVE)


def test_overlap_is_told(make_random_site):
    problems = [make_random_site(seed, 24, 1, negative=True) for seed in range(16)]
    plan = BatchSolver(threads=1).solve(*fleet_of(problems), DT_S)
    both = (np.minimum(plan.charge_w, plan.discharge_w) > 1.0).any(axis=1)
    np.testing.assert_array_equal(plan.overlap, both)


def test_a_device_that_drops_out_leaves_the_others_their_plans():
    fleet, meters = stressed(random_scenario(24, 24, seed=11, extra=0), 12).window(0)
    solver = BatchSolver(threads=1)
    all_of_them = solver.solve(fleet, meters, DT_S)
    rest = np.delete(np.arange(24), 7)
    fewer = type(meters)(**{name: getattr(meters, name)[rest] for name in type(meters).__slots__})
    plan = solver.solve(fleet.take(rest), fewer, DT_S)
    scale = np.maximum(1.0, np.abs(plan.objective_eur))
    assert (np.abs(plan.objective_eur - all_of_them.objective_eur[rest]) / scale).max() < RELATIVE


def test_a_fleet_and_meters_that_do_not_fit_are_refused():
    fleet, _ = random_scenario(4, 12, extra=0).window(0)
    _, meters = random_scenario(5, 12, extra=0).window(0)
    with pytest.raises(InputError, match="one meter for each device"):
        BatchSolver().solve(fleet, meters, DT_S)
    with pytest.raises(InputError, match="dt_s"):
        BatchSolver().solve(fleet, random_scenario(4, 12, extra=0).window(0)[1], 0.0)
    with pytest.raises(InputError, match="ahead: got -1"):
        BatchSolver().solve(fleet, random_scenario(4, 12, extra=0).window(0)[1], DT_S, ahead=-1)


def test_a_wrong_meter_is_named():
    _, meters = random_scenario(3, 6, extra=0).window(0)
    values = {name: getattr(meters, name).copy() for name in type(meters).__slots__}
    values["load_w"][1, 4] = np.nan
    with pytest.raises(InputError, match=r"meter 1.*load_w\[4\]"):
        type(meters)(**values)
    for name, where in (("tracking_weight", (2, 5)), ("peak_price_eur_per_kw", (2,)), ("peak_incurred_w", (2,))):
        values = {key: getattr(meters, key).copy() for key in type(meters).__slots__}
        values[name][where] = -1.0
        with pytest.raises(InputError, match=rf"meter 2: {name}.*got -1\.0, expected a number >= 0"):
            type(meters)(**values)


def test_memory_per_device_is_bounded():
    scenario = random_scenario(64, 96, extra=0)
    window = scenario.window(0)
    solver = BatchSolver(threads=1)
    solver.solve(*window, DT_S)
    data = sum(getattr(d, n).nbytes for d in window for n in type(d).__slots__ if n != "device_ids")
    results = 5 * 8 * 64 * 96
    assert (solver.kept_bytes + data + results) / 64 <= 64e3


SECOND_PROCESS = """
from benchmarks.structured_fleet import DT_S, random_scenario
from optimizer.structured.driver import BatchSolver
from optimizer.structured.kernel import route, solve_range
BatchSolver(threads=1).solve(*random_scenario(1, 2, extra=0).window(0), DT_S)
for compiled in (solve_range, route):
    print(sum(compiled.stats.cache_hits.values()), sum(compiled.stats.cache_misses.values()))
"""


def test_compiled_code_is_found_on_disk_by_the_next_process():
    BatchSolver(threads=1).solve(*random_scenario(1, 2, extra=0).window(0), DT_S)
    root = Path(__file__).parents[2]
    second = subprocess.run(
        [sys.executable, "-c", SECOND_PROCESS], cwd=root, capture_output=True, text=True, check=True, timeout=120
    )
    assert second.stdout.split() == ["1", "0", "1", "0"]
