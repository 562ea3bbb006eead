"""Plans: what the solver does with odd states, odd prices, limits that cannot be kept, and solvers that fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core.errors import InputError, SolverError
from optimizer import mpc as mpc_module
from optimizer import solvers
from optimizer.mpc import MpcSolver
from optimizer.replay import replay

DAY = np.r_[np.full(8, 0.05), np.full(8, 0.30)]


def plan_of(problem, **settings):
    plan = MpcSolver(**settings).plan(problem)
    run = replay(problem, np.array([part.power_w for part in plan.devices]), plan.curtail_w)
    assert run.hard_violations == ()
    assert run.objective_eur == pytest.approx(plan.objective_eur, rel=1e-12, abs=1e-12)  # the order of a sum
    return plan


def test_charges_when_cheap_and_discharges_when_dear(make_site):
    plan = plan_of(make_site(DAY))
    assert plan.status == "optimal"
    power = plan.devices[0].power_w
    assert power[:8].sum() == pytest.approx(-40e3 / 0.95 / 0.25, rel=1e-4)
    assert power[:8].max() < 1.0
    assert power[8:].min() > -1.0
    assert plan.devices[0].soc_pct.min() == pytest.approx(10.0, abs=0.01)


def test_a_price_flip_flips_the_plan(make_site):
    plan = plan_of(make_site(DAY[::-1]))
    assert plan.devices[0].power_w[:8].min() > -1.0
    assert plan.devices[0].power_w[:8].sum() > 100e3


@pytest.mark.parametrize(("energy", "sign"), [(95e3, 1.0), (4e3, -1.0), (110e3, 1.0), (-2e3, -1.0)])
def test_energy_outside_its_limits_comes_back_as_fast_as_power_allows(make_site, make_device, energy, sign):
    prices = DAY if sign > 0 else DAY[::-1]  # the price says the opposite at first
    device = make_device(16, energy_wh=energy, energy_low_wh=energy, energy_high_wh=energy)
    plan = plan_of(make_site(prices, device))
    assert plan.devices[0].power_w[0] * sign > 0
    limit = 90e3 if sign > 0 else 10e3
    rate = 50e3 * 0.25 * (1 / 0.95 if sign > 0 else 0.95)
    steps = int(np.ceil(abs(energy - limit) / rate))
    assert sign * (plan.devices[0].energy_wh[steps - 1] - limit) <= 1.0
    if abs(energy - limit) > rate:
        assert "limit not kept" in plan.status
        assert plan.devices[0].power_w[0] * sign == pytest.approx(50e3, rel=1e-4)


def test_recovers_through_a_taper(make_site, make_device):
    slope = 50e3 * 0.75 / 3e3
    taper = {"charge_taper_w": np.full(16, 12.5e3 + slope * 90e3), "charge_taper_w_per_wh": np.full(16, slope)}
    plan = plan_of(make_site(DAY, make_device(16, energy_wh=97e3, energy_high_wh=97e3, energy_low_wh=97e3, **taper)))
    assert plan.devices[0].power_w[0] > 10e3
    assert plan.devices[0].energy_wh[1] <= 90.001e3


def test_a_hot_pack_is_not_driven_hotter(make_site, make_device):
    heat = {
        "temperature_c": 46.0,
        "temperature_a": 0.9,
        "temperature_charge_k_per_w": np.full(16, 1e-4),
        "temperature_discharge_k_per_w": np.full(16, 1e-4),
        "temperature_drift_c": np.full(16, 2.5),
        "temperature_max_c": np.full(16, 40.0),
    }
    plan = plan_of(make_site(DAY, make_device(16, **heat)))
    part = plan.devices[0]
    hot = part.temperature_c > 40.0 + 1e-3
    assert hot[0]
    assert np.abs(part.power_w[hot]).max() < 1.0
    assert part.temperature_c[hot.sum() :].max() <= 40.0 + 1e-3
    assert np.abs(part.power_w).max() > 1e3
    assert "temperature" in plan.status
    assert part.reasons[0] == "thermal_limit"


def test_voltage_limits_power(make_site, make_device):
    volts = {"voltage_v_per_w": np.full(16, 1e-3), "voltage_max_v": 420.0, "voltage_min_v": 390.0}
    power = plan_of(make_site(DAY, make_device(16, **volts))).devices[0].power_w
    assert power.min() >= -20e3 - 1.0
    assert power.max() <= 10e3 + 1.0


def test_cycle_depth_counts_what_the_cycle_has_used(make_site, make_device):
    device = make_device(16, cycle_depth_wh=40e3, energy_low_wh=30e3, energy_high_wh=60e3)
    part = plan_of(make_site(DAY, device)).devices[0]
    used = max(60e3, part.energy_wh.max()) - min(30e3, part.energy_wh.min())
    assert used == pytest.approx(40e3, abs=5)  # all of it, and no more: the 30 kWh of the past count
    assert "cycle_depth" in part.binding[-1]


def test_a_load_beyond_the_grid_limit_gets_the_least_violation(make_site):
    load = np.where(np.arange(16) == 12, 100e3, 5e3)
    plan = plan_of(make_site(DAY, load_w=load, import_limit_w=np.full(16, 40e3)))
    assert plan.grid_import_w[12] == pytest.approx(50e3, rel=1e-4)
    assert "grid import" in plan.status
    assert np.delete(plan.grid_import_w, 12).max() <= 40e3 + 1.0


def test_the_peak_already_incurred_is_free(make_site):
    load = np.full(16, 20e3)
    priced = {"load_w": load, "peak_price_eur_per_kw": 10.0}
    none = plan_of(make_site(DAY, **priced))
    incurred = plan_of(make_site(DAY, peak_incurred_w=60e3, **priced))
    assert none.grid_import_w.max() <= 20e3 + 1.0
    assert 20e3 < incurred.grid_import_w.max() <= 60e3 + 1.0
    assert incurred.peak_w == pytest.approx(60e3)


def test_tracking_follows_the_target(make_site):
    target = np.r_[np.full(8, 15e3), np.full(8, -5e3)]
    plan = plan_of(make_site(DAY, load_w=np.full(16, 5e3), target_w=target, tracking_weight=10.0))
    np.testing.assert_allclose(plan.grid_import_w - plan.grid_export_w, target, atol=50)
    assert set(plan.devices[0].reasons) == {"tracking"}


def test_negative_prices_curtail_pv_where_they_may(make_site):
    pv = np.full(16, 30e3)
    grid = {"pv_w": pv, "curtailment_cost_eur_per_kwh": 0.001}
    price = np.full(16, -0.10)
    curtailed = plan_of(make_site(price, curtailable=True, **grid))
    assert curtailed.curtail_w.max() == pytest.approx(30e3, rel=1e-4)
    assert plan_of(make_site(price, curtailable=False, **grid)).curtail_w.max() == 0.0
    assert plan_of(make_site(-price, curtailable=True, **grid)).curtail_w.max() < 1.0


def test_wear_beyond_the_spread_keeps_the_pack_idle(make_site, make_device):
    device = make_device(16, wear_eur_per_kwh=0.2, terminal_value_eur_per_kwh=0.15)
    part = plan_of(make_site(DAY, device)).devices[0]
    assert np.abs(part.power_w).max() < 1.0
    assert set(part.reasons) == {"idle_spread_below_wear"}


def test_plans_of_equal_cost_do_not_flutter(make_site, make_device):
    """Flat price, a target to reach: any timing costs the same; the last plan's stays, although the data move a little."""
    n, mpc = 24, MpcSolver()
    start = make_site(np.full(n, 0.2), make_device(n, terminal_energy_wh=70e3))
    last = mpc.plan(start).devices[0].power_w
    g = np.random.default_rng(0)
    for _ in range(5):
        device = make_device(n, terminal_energy_wh=70e3, reference_w=last, move_weight=1e-3)
        plan = mpc.plan(make_site(np.full(n, 0.2) + g.normal(0, 1e-7, n), device))
        assert np.abs(plan.devices[0].power_w - last).max() < 100.0


def test_two_packs_share_by_wear(make_site, make_device):
    tired = make_device(16, device_id="tired", wear_eur_per_kwh=0.05)
    fresh = make_device(16, device_id="fresh", wear_eur_per_kwh=0.005)
    load = np.r_[np.zeros(8), np.full(8, 20e3)]
    plan = plan_of(make_site(DAY, tired, fresh, load_w=load, sell_eur_per_kwh=np.zeros(16)))
    throughput = {part.device_id: np.abs(part.power_w).sum() for part in plan.devices}
    assert throughput["fresh"] > 5 * throughput["tired"]


def test_a_site_without_devices_has_a_plan(make_site):
    problem = replace(make_site(DAY, load_w=np.full(16, 1e3)), devices=())
    plan = MpcSolver().plan(problem)
    assert plan.devices == ()
    assert plan.grid_import_w.tolist() == [1e3] * 16


def test_shadow_prices_are_derivatives(make_random_site):
    problem = make_random_site(3, 24, 2)
    base = plan_of(problem)
    for k in (2, 10, 20):
        load = problem.grid.load_w.copy()
        load[k] += 10.0
        more = plan_of(replace(problem, grid=replace(problem.grid, load_w=load)))
        slope = (more.objective_eur - base.objective_eur) / (0.01 * problem.dt_h)
        assert base.meter_price_eur_per_kwh[k] == pytest.approx(slope, rel=0.01)
    first = problem.devices[0]
    richer = plan_of(replace(problem, devices=(replace(first, energy_wh=first.energy_wh + 10), problem.devices[1])))
    assert (base.objective_eur - richer.objective_eur) / 0.01 == pytest.approx(
        base.devices[0].energy_value_eur_per_kwh[0], rel=0.01
    )


def test_a_plan_is_json_and_has_no_nan(make_random_site):
    plan = plan_of(make_random_site(7, 24, 3, negative=True))
    text = json.dumps(plan.as_json(), allow_nan=False)
    assert json.loads(text)["devices"][2]["device_id"] == "pack-2"


def fail(monkeypatch, *names):
    def refuse(qp):
        raise SolverError("out of order")

    for name in names:
        if name == mpc_module.STRUCTURED:
            monkeypatch.setattr(mpc_module, "solve_structured", refuse)
        else:
            monkeypatch.setitem(solvers.SOLVERS, name, refuse)


def test_piqp_stands_in_for_a_solver_that_fails(make_site, monkeypatch):
    fail(monkeypatch, "osqp")
    mpc = MpcSolver(solver="osqp")
    plan = mpc.plan(make_site(DAY))
    assert plan.solver == "piqp"
    assert "osqp: out of order" in plan.status
    assert mpc.fallback_counts["osqp"] == 1


def test_each_size_of_site_has_its_solver(make_random_site, monkeypatch):
    """One pack: structured. A few: the joint QP. Many: the fleet's. And PIQP where the first fails."""
    assert plan_of(make_random_site(3, 12, 1)).solver == "structured"
    assert plan_of(make_random_site(3, 12, 2)).solver == "piqp"
    monkeypatch.setattr(mpc_module, "LARGE_SITE", 2)
    problem = make_random_site(3, 12, 4)
    joint, fleet = plan_of(problem, solver="piqp"), plan_of(problem)
    assert fleet.solver == "site_fleet"
    assert fleet.objective_eur == pytest.approx(joint.objective_eur, rel=5e-4)  # its accuracy has tests of its own
    fail(monkeypatch, "structured")
    plan = plan_of(make_random_site(3, 12, 1))
    assert plan.solver == "piqp"
    assert "structured: out of order" in plan.status


def test_structured_and_piqp_agree_through_the_whole_chain(make_random_site):
    for seed in range(12):
        problem = make_random_site(seed, 24, 1, negative=seed % 2 == 1)
        ours, piqp = plan_of(problem, solver="structured"), plan_of(problem, solver="piqp")
        assert ours.objective_eur == pytest.approx(piqp.objective_eur, rel=1e-4, abs=1e-4)


def test_the_last_plan_shifted_stands_in_for_all_solvers(make_site, make_device, monkeypatch):
    mpc = MpcSolver()
    before = mpc.plan(make_site(DAY)).devices[0]
    fail(monkeypatch, "structured", "piqp")
    now = make_device(16, energy_wh=float(before.energy_wh[0]) + 2e3)
    plan = mpc.plan(make_site(np.r_[DAY[1:], 0.3], now))
    assert plan.solver == "shifted"
    assert "piqp: out of order" in plan.status
    np.testing.assert_allclose(plan.devices[0].power_w[:3], before.power_w[1:4], atol=1.0)
    assert plan.devices[0].power_w[-1] == 0.0
    assert plan.devices[0].energy_wh.max() <= 90e3 + 1e-6
    assert np.isfinite(plan.devices[0].energy_value_eur_per_kwh).all()
    mpc.plan(make_site(DAY, now))
    assert mpc.fallback_counts["piqp"] == 2


@pytest.mark.parametrize(("steps", "left"), [(3, 13), (15, 1), (16, 0), (10**9, 0)])
def test_a_last_plan_is_shifted_by_the_time_that_has_passed(make_site, monkeypatch, steps, left):
    mpc = MpcSolver()
    before = mpc.plan(make_site(DAY)).devices[0].power_w
    fail(monkeypatch, "structured", "piqp")
    if left == 0:
        with pytest.raises(SolverError, match="out of order"):
            mpc.plan(make_site(DAY), shift_steps=steps)
        return
    power, _ = mpc._shifted(make_site(DAY), steps)
    np.testing.assert_array_equal(power[0, :left], before[steps:])
    assert not power[0, left:].any()


def test_scenarios_and_layers_do_not_go_to_a_joint_problem_of_any_size(make_site, make_device, monkeypatch):
    monkeypatch.setattr(mpc_module, "LARGEST_QP", 1)
    devices = [make_device(16, device_id=f"pack-{i}") for i in range(2)]
    with pytest.raises(SolverError, match="at most 1 devices behind one meter, not 2"):
        MpcSolver().plan(make_site(DAY, *devices), np.zeros((2, 1)))


def test_a_flat_tariff_without_any_curvature_is_solved(make_random_site):
    """Nothing tells one plan from another: the case in which an interior point has least to hold on to."""
    for seed in range(12):
        problem = make_random_site(seed, 96, 1 + seed % 2)
        flat = np.full(96, 0.3)
        devices = tuple(
            replace(d, soc_stress_eur_per_h=0.0, wear_quadratic=0.0, move_weight=0.0, reference_w=None) for d in problem.devices
        )
        grid = replace(problem.grid, buy_eur_per_kwh=flat, sell_eur_per_kwh=flat - 0.05)
        assert plan_of(replace(problem, grid=grid, devices=devices), solver="piqp").solver == "piqp"


def test_a_shifted_plan_keeps_a_limit_that_has_come_down(make_site, make_device, monkeypatch):
    mpc = MpcSolver()
    mpc.plan(make_site(DAY))
    fail(monkeypatch, "structured", "piqp")
    plan = mpc.plan(make_site(DAY, make_device(16, charge_max_w=np.full(16, 5e3)), import_limit_w=np.full(16, 3e3)))
    assert plan.devices[0].power_w.min() >= -3e3
    assert plan.grid_import_w.max() <= 3e3


def test_nothing_to_fall_back_to_is_an_error_that_names_all(make_site, make_device, monkeypatch):
    fail(monkeypatch, "piqp", "cvxpy")
    mpc = MpcSolver(solver="cvxpy")
    with pytest.raises(SolverError, match=r"cvxpy: out of order; piqp: out of order"):
        mpc.plan(make_site(DAY))
    mpc = MpcSolver()
    monkeypatch.undo()
    mpc.plan(make_site(DAY))
    fail(monkeypatch, "structured", "piqp")
    with pytest.raises(SolverError):  # the last plan was for another device
        mpc.plan(make_site(DAY, make_device(16, device_id="other")))


@pytest.mark.parametrize(("solver", "setting"), [("piqp", "PIQP_MAX_ITER"), ("osqp", "OSQP_MAX_ITER")])
def test_an_iteration_limit_is_never_a_solution(make_site, monkeypatch, solver, setting):
    monkeypatch.setattr(solvers, setting, 3)
    mpc = MpcSolver(solver=solver)
    if solver == "osqp":
        plan = mpc.plan(make_site(DAY))
        assert plan.solver == "piqp"
        assert "maximum iterations" in plan.status
    else:
        with pytest.raises(SolverError, match="MAX_ITER"):
            mpc.plan(make_site(DAY))
    assert mpc.fallback_counts[solver] == 1


def test_a_solution_that_is_wrong_does_not_pass(make_site, monkeypatch):
    real = solvers.solve_piqp

    def wrong(qp):
        solution = real(qp)
        return replace(solution, x=np.where(np.arange(qp.size) == qp.grid("u")[0], 1e3, solution.x))

    def not_a_number(qp):
        return solvers._checked(replace(real(qp), x=np.full(qp.size, np.nan)))

    monkeypatch.setitem(solvers.SOLVERS, "osqp", not_a_number)
    plan = MpcSolver(solver="osqp").plan(make_site(DAY))
    assert plan.solver == "piqp"
    assert "not finite" in plan.status
    monkeypatch.setitem(solvers.SOLVERS, "osqp", wrong)
    assert plan_of(make_site(DAY), solver="osqp").curtail_w.max() == 0.0


def test_an_unknown_solver_is_named():
    with pytest.raises(InputError, match=r"gurobi.*cvxpy.*osqp.*piqp"):
        MpcSolver(solver="gurobi")
