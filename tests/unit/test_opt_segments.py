"""Wear by depth: throughput wear when all layers cost the same, convex otherwise, alike in QP, oracle and replay."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from optimizer import oracle
from optimizer.assembly import SiteQP
from optimizer.exclusivity import enforce
from optimizer.mpc import MpcSolver
from optimizer.problem import SegmentCost
from optimizer.replay import replay
from optimizer.segments import DEPTH_EXPONENT, depth_costs, wear_segments
from optimizer.solvers import SOLVERS, solve_piqp


def layered(device, count=3, price=0.04, exponent=2.03):
    edges = np.arange(1, count) / count
    layers, deepest = wear_segments(device.capacity_wh, device.energy_wh - device.energy_min_wh, price, edges, exponent)
    return replace(device, wear_segments=layers, wear_eur_per_kwh=deepest)


def with_layers(problem, **more):
    return replace(problem, devices=tuple(layered(device, **more) for device in problem.devices))


@pytest.mark.parametrize("seed", range(4))
def test_layers_of_one_price_are_throughput_wear(make_random_site, seed):
    problem = make_random_site(seed, 24, 2)
    flat = replace(
        problem,
        devices=tuple(
            replace(
                d,
                wear_segments=tuple(
                    SegmentCost(
                        width_wh=0.2 * d.capacity_wh, stored_wh=share * d.capacity_wh, wear_eur_per_kwh=d.wear_eur_per_kwh
                    )
                    for share in (0.2, 0.1)
                ),
            )
            for d in problem.devices
        ),
    )
    plain, layers = SiteQP(problem), SiteQP(flat)
    assert layers.objective(solve_piqp(layers).x) == pytest.approx(plain.objective(solve_piqp(plain).x), rel=1e-7, abs=1e-7)
    power = np.random.default_rng(seed).normal(0, 10e3, (2, 24))
    one, other = (replay(p, power, np.zeros(24)) for p in (problem, flat))
    assert other.wear_eur == pytest.approx(one.wear_eur, rel=1e-12)
    assert other.objective_eur == pytest.approx(one.objective_eur, rel=1e-12)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize(("steps", "devices", "count"), [(12, 1, 2), (24, 2, 3), (32, 1, 5)])
def test_qp_oracle_and_replay_agree(make_random_site, steps, devices, count, negative):
    for seed in range(3):
        problem = with_layers(make_random_site(100 * steps + seed, steps, devices, negative=negative), count=count)
        qp = SiteQP(problem)
        relaxed = solve_piqp(qp)
        assert qp.objective(relaxed.x) == pytest.approx(oracle.solve(problem).objective_eur, rel=1e-6, abs=1e-6)
        x = enforce(qp, solve_piqp, relaxed).solution.x
        power = np.array([1000 * (x[qp.device(i, "d")] - x[qp.device(i, "c")]) for i in range(devices)])
        run = replay(problem, power, 1000 * x[qp.grid("u")])
        assert run.objective_eur == pytest.approx(qp.objective(x), rel=2e-6, abs=2e-6)
        assert run.wear_eur > 0


@pytest.mark.parametrize("solver", ["piqp", "osqp", "cvxpy"])
def test_every_solver_takes_layers(make_random_site, solver):
    problem = with_layers(make_random_site(7, 24, 2))
    qp = SiteQP(problem)
    assert qp.objective(SOLVERS[solver](qp).x) == pytest.approx(oracle.solve(problem).objective_eur, rel=1e-4)
    qp.update(with_layers(make_random_site(8, 24, 2)))
    assert qp.objective(SOLVERS[solver](qp).x) == pytest.approx(oracle.solve(qp.problem).objective_eur, rel=1e-4, abs=1e-4)


def wear_of(make_site, make_device, energies_kwh, price=0.1, count=5):
    """Wear of a path of stored energies (from 50 kWh, no losses), an hour a step."""
    n = len(energies_kwh)
    ones = np.ones(n)
    device = layered(make_device(n, eta_charge=ones, eta_discharge=ones, energy_min_wh=0.0), count=count, price=price)
    path = np.concatenate([[50.0], energies_kwh])
    site = make_site(np.zeros(n), device, dt_s=3600.0, sell_eur_per_kwh=np.zeros(n))
    return replay(site, -1e3 * np.diff(path)[None, :], np.zeros(n)).wear_eur


def test_a_deep_cycle_costs_more_than_shallow_ones_of_the_same_throughput(make_site, make_device):
    deep = wear_of(make_site, make_device, [10, 50])
    shallow = wear_of(make_site, make_device, [30, 50, 30, 50])
    # By hand: layers of 20 kWh; full with 40 kWh below 50 kWh are two and a half of them
    costs = depth_costs(0.1, [0.2, 0.4, 0.6, 0.8])
    assert shallow == pytest.approx(4 * 20 * costs[0])
    assert deep == pytest.approx(2 * 20 * (costs[0] + costs[1]))
    assert deep > 2.0 * shallow


def test_a_cycle_inside_another_pays_for_its_own_depth(make_site, make_device):
    """Rainflow: 50 -> 10 -> 50 with 30 -> 40 -> 30 on the way down is the deep cycle and a shallow one."""
    nested = wear_of(make_site, make_device, [30, 40, 30, 10, 50])
    deep, shallow = wear_of(make_site, make_device, [10, 50]), wear_of(make_site, make_device, [40, 50])
    assert nested == pytest.approx(deep + shallow)


def test_a_full_cycle_costs_what_throughput_does():
    costs = depth_costs(0.04, [0.1, 0.3, 0.7])
    assert np.dot(costs, np.diff([0, 0.1, 0.3, 0.7, 1.0])) == pytest.approx(0.04)
    assert (np.diff(costs) > 0).all()
    assert depth_costs(0.04, [0.5], exponent=1.0) == pytest.approx([0.04, 0.04])
    assert DEPTH_EXPONENT == 2.03


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), mix=st.floats(0.05, 0.95), count=st.integers(2, 6))
def test_wear_is_convex_in_the_power(seed, mix, count):
    """Shi et al. 2017: along the line between two plans in one direction per step the cost lies below the chord."""
    from tests.unit.conftest import plain_device, plain_site  # a hypothesis test cannot take function fixtures

    n, g = 12, np.random.default_rng(seed)
    device = layered(plain_device(n, eta_charge=np.full(n, 0.95), eta_discharge=np.full(n, 0.95)), count=count)
    site = plain_site(np.zeros(n), device, sell_eur_per_kwh=np.zeros(n))
    direction = np.where(g.random(n) < 0.5, 1.0, -1.0)
    one, other = (direction * g.uniform(0, 20e3, n) for _ in range(2))

    def wear(power):
        return replay(site, power[None, :], np.zeros(n)).wear_eur

    assert wear(mix * one + (1 - mix) * other) <= mix * wear(one) + (1 - mix) * wear(other) + 1e-9


def test_layers_make_a_plan_shallower(make_site, make_device):
    """A spread that pays for shallow cycling only; throughput wear of the same full cycle would not move at all."""
    price = np.r_[np.full(8, 0.10), np.full(8, 0.17), np.full(8, 0.10), np.full(8, 0.17)]
    device = make_device(32, terminal_value_eur_per_kwh=0.13, wear_eur_per_kwh=0.04)
    flat = MpcSolver().plan(make_site(price, device, sell_eur_per_kwh=price))
    deep = MpcSolver().plan(make_site(price, layered(device, count=10, price=0.04), sell_eur_per_kwh=price))
    assert np.abs(flat.devices[0].power_w).max() < 1.0
    used = np.ptp(deep.devices[0].energy_wh)
    assert 5e3 < used < 60e3
    assert deep.status == "optimal"


@pytest.mark.parametrize("energy", [-2e3, 4e3, 95e3, 110e3])
def test_energy_outside_its_limits_has_layers_too(make_site, make_device, energy):
    device = make_device(16, energy_wh=energy, energy_low_wh=energy, energy_high_wh=energy, leak_wh=5.0)
    problem = make_site(np.r_[np.full(8, 0.05), np.full(8, 0.3)], layered(device))
    plan = MpcSolver().plan(problem)
    assert plan.objective_eur == pytest.approx(oracle.solve(problem).objective_eur, rel=1e-5, abs=1e-5)


def test_what_is_stored_is_in_the_cheap_layers():
    layers, deepest = wear_segments(100e3, 45e3, 0.04, [0.2, 0.4, 0.6])
    assert [part.stored_wh for part in layers] == [pytest.approx(20e3), pytest.approx(20e3), pytest.approx(5e3)]
    assert [part.width_wh for part in layers] == [pytest.approx(20e3)] * 3
    assert deepest == depth_costs(0.04, [0.2, 0.4, 0.6])[-1]
    assert all(part.stored_wh == 0 for part in wear_segments(100e3, -5.0, 0.04, [0.5])[0])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width_wh": 0.0}, r"wear_segments\[1\].width_wh: got 0.0"),
        ({"stored_wh": 2e4}, r"wear_segments\[1\].stored_wh: got 20000.0, expected 0 to 10000 Wh"),
        ({"stored_wh": float("nan")}, r"wear_segments\[1\].stored_wh"),
        ({"wear_eur_per_kwh": 0.005}, r"wear_segments\[1\].wear_eur_per_kwh: got 0.005, expected 0.01 to 0.05"),
        ({"wear_eur_per_kwh": 0.06}, r"wear_segments\[1\].wear_eur_per_kwh"),
    ],
)
def test_layers_that_cannot_be_are_named(make_site, make_device, change, named):
    good = SegmentCost(width_wh=10e3, stored_wh=0.0, wear_eur_per_kwh=0.01)
    with pytest.raises(InputError, match=f"device pack: {named}"):
        make_site(np.ones(4), make_device(4, wear_eur_per_kwh=0.05, wear_segments=(good, replace(good, **change))))


def test_edges_and_exponents_that_cannot_be_are_named():
    with pytest.raises(InputError, match="edges"):
        depth_costs(0.04, [0.5, 0.4])
    with pytest.raises(InputError, match="exponent"):
        depth_costs(0.04, [0.5], exponent=0.9)
    with pytest.raises(InputError, match="edges"):
        wear_segments(1e3, 0.0, 0.04, [1.0])


def test_layers_change_the_shape(make_random_site):
    problem = make_random_site(3, 12, 2)
    qp = SiteQP(problem)
    with pytest.raises(ValueError, match="shape"):
        qp.update(with_layers(problem))
    mpc = MpcSolver()
    mpc.plan(problem)
    assert mpc.plan(with_layers(problem)).solver == "piqp"
