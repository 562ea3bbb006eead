"""The replay: equal to the QP's own objective, and it notices every way in which a plan can be wrong."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from optimizer.assembly import SiteQP
from optimizer.exclusivity import enforce
from optimizer.fleet import stack
from optimizer.replay import executable, project, replay
from optimizer.site_fleet.replay import replay as replay_fleet
from optimizer.solvers import solve_piqp


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_objective_of_the_qp(make_random_site, seed):
    problem = make_random_site(seed, [8, 24, 48][seed % 3], 1 + seed % 4, negative=seed % 2 == 1)
    qp = SiteQP(problem)
    x = enforce(qp, solve_piqp, solve_piqp(qp)).solution.x
    power = np.array([1000 * (x[qp.device(i, "d")] - x[qp.device(i, "c")]) for i in range(len(problem.devices))])
    run = replay(problem, power, 1000 * x[qp.grid("u")])
    assert run.objective_eur == pytest.approx(qp.objective(x), rel=1e-6, abs=1e-6)
    assert run.hard_violations == ()
    for i in range(len(problem.devices)):
        np.testing.assert_allclose(run.energy_wh[i], 1000 * x[qp.device(i, "e")], atol=0.05)
        np.testing.assert_allclose(run.temperature_c[i], x[qp.device(i, "T")], atol=1e-4)


def test_a_plan_worked_out_by_hand(make_site, make_device):
    """Charge 10 kW for an hour at 0.10, discharge 9 kW for an hour at 0.30; wear 1 ct/kWh; peak 12 EUR/kW."""
    device = make_device(2, wear_eur_per_kwh=0.01, terminal_value_eur_per_kwh=0.2)
    problem = make_site(
        [0.1, 0.3], device, dt_s=3600.0, load_w=np.array([5e3, 4e3]), pv_w=np.array([1e3, 0.0]), peak_price_eur_per_kw=12.0
    )
    run = replay(problem, np.array([[-10e3, 9e3]]), np.zeros(2))
    assert run.import_w.tolist() == [14e3, 0.0]
    assert run.export_w.tolist() == [0.0, 5e3]
    assert run.peak_w == 14e3
    assert run.energy_wh[0].tolist() == pytest.approx([59.5e3, 59.5e3 - 9e3 / 0.95])
    assert run.energy_cost_eur == pytest.approx(1.4 - 5 * 0.28)
    assert run.wear_eur == pytest.approx(0.19)
    stored = (59.5 - 9 / 0.95) * 0.2
    assert run.objective_eur == pytest.approx(run.energy_cost_eur + 0.19 + 12 * 14 - stored)


def test_soft_terms_worked_out_by_hand(make_site, make_device):
    """One step: 1 kWh above the limit, 2 K too hot, 3 V too high, 4 kWh too deep, 5 kWh from the target; all at their prices."""
    device = make_device(
        1,
        energy_wh=91e3,
        energy_low_wh=81e3,
        energy_high_wh=91e3,
        cycle_depth_wh=6e3,
        temperature_a=1.0,
        temperature_c=42.0,
        temperature_drift_c=np.zeros(1),
        temperature_max_c=np.full(1, 40.0),
        voltage_max_v=397.0,
        terminal_energy_wh=86e3,
        soc_stress_eur_per_h=8.0,
        reference_w=np.full(1, 1e3),
        move_weight=0.4,
    )
    problem = make_site([0.0], device, sell_eur_per_kwh=np.zeros(1))
    run = replay(problem, np.zeros((1, 1)), np.zeros(1))
    soft = (2.0 * 1 + 0.5) + (2.0 * 2 + 0.5 * 4) + (2.0 * 3 + 0.5 * 9) + 2.0 * 4 + 10.0 * 5
    assert run.objective_eur == pytest.approx(soft + 0.25 * 8.0 * 0.41**2 + 0.25 * 0.4)
    assert len(run.soft_violations) == 5
    assert run.hard_violations == ()


@pytest.mark.parametrize(
    ("change", "power_w", "names"),
    [
        ({}, 50_001.0, "power"),
        ({}, -50_001.0, "power"),
        ({}, float("nan"), "power"),
        ({"charge_max_w": np.array([10e3, 50e3])}, -11e3, "power"),
        ({"charge_taper_w": np.array([60e3, 60e3]), "charge_taper_w_per_wh": np.ones(2)}, -11e3, "taper"),
        ({"discharge_taper_w": np.array([-40e3, -40e3]), "discharge_taper_w_per_wh": np.ones(2)}, 11e3, "taper"),
        ({"energy_wh": 88e3}, -20e3, "energy"),
        ({"energy_wh": 11e3}, 20e3, "energy"),
    ],
)
def test_refuses_what_a_device_may_not_do(make_site, make_device, change, power_w, names):
    problem = make_site([0.1, 0.1], make_device(2, **change))
    run = replay(problem, np.array([[power_w, 0.0]]), np.zeros(2))
    assert any(names in text and "pack" in text for text in run.hard_violations)
    projected, _ = project(problem, np.nan_to_num(np.array([[power_w, 0.0]])), np.zeros(2))
    assert replay(problem, projected, np.zeros(2)).hard_violations == ()


def test_refuses_devices_that_break_the_meter_but_not_a_load_that_does(make_site, make_device):
    load = np.array([20e3, 40e3])
    problem = make_site([0.1, 0.1], make_device(2), load_w=load, import_limit_w=np.full(2, 30e3))
    alone = replay(problem, np.zeros((1, 2)), np.zeros(2))
    assert alone.hard_violations == ()
    assert alone.soft_violations == ("grid import (W) by 1e+04",)
    assert any("grid import" in text for text in replay(problem, np.array([[-11e3, 0.0]]), np.zeros(2)).hard_violations)
    assert any("grid import" in text for text in replay(problem, np.array([[0.0, -1e3]]), np.zeros(2)).hard_violations)
    projected, _ = project(problem, np.array([[-11e3, -1e3]]), np.zeros(2))
    assert projected.tolist() == [[-10e3, 0.0]]


def test_projection_curtails_before_it_takes_back_discharge(make_site, make_device):
    given_ = {"pv_w": np.array([8e3]), "export_limit_w": np.array([10e3])}
    projected, curtail = project(make_site([0.1], make_device(1), curtailable=True, **given_), np.array([[20e3]]), np.zeros(1))
    assert curtail.tolist() == [8e3]
    assert projected.tolist() == [[10e3]]
    projected, curtail = project(make_site([0.1], make_device(1), **given_), np.array([[20e3]]), np.zeros(1))
    assert curtail.tolist() == [0.0]
    assert projected.tolist() == [[2e3]]


def test_refuses_curtailment_of_pv_that_is_not_there(make_site):
    problem = make_site([0.1], pv_w=np.array([5e3]), curtailable=True)
    assert replay(problem, np.zeros((1, 1)), np.array([5e3])).hard_violations == ()
    assert "curtailment" in replay(problem, np.zeros((1, 1)), np.array([6e3])).hard_violations[0]
    assert "curtailment" in replay(make_site([0.1], pv_w=np.array([5e3])), np.zeros((1, 1)), np.array([1e3])).hard_violations[0]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 10.0), share=st.floats(0.0, 1.0))
def test_whatever_is_projected_passes(make_random_site, seed, scale, share):
    """Any powers, from any state of charge, outside the limits too."""
    problem = make_random_site(seed, 12, 3)
    first = problem.devices[0]
    energy = share * first.capacity_wh
    first = replace(
        first,
        energy_wh=energy,
        energy_low_wh=min(energy, first.energy_low_wh),
        energy_high_wh=max(energy, first.energy_high_wh),
    )
    problem = replace(problem, devices=(first, *problem.devices[1:]))
    g = np.random.default_rng(seed)
    wanted = scale * 100e3 * g.normal(size=(3, 12))
    power, curtail = project(problem, wanted, 1e5 * g.random(12))
    assert replay(problem, power, curtail).hard_violations == ()
    assert (np.abs(power) <= np.abs(wanted) + 1e-6).all()
    assert (power * wanted >= 0).all()
    again, _ = project(problem, power, curtail)
    np.testing.assert_allclose(again, power, atol=1e-6)


@pytest.mark.parametrize("energy", [90.001e3, 97e3])
def test_a_state_outside_its_limits_goes_no_further(make_site, make_device, energy):
    """Of 100 kWh, at most 90: charging on from just outside is no recovery."""
    site = make_site(np.full(8, 0.1), make_device(8, energy_wh=energy, energy_high_wh=energy, energy_low_wh=energy))
    charging, resting = np.full((1, 8), -20e3), np.zeros((1, 8))
    assert any("energy" in text for text in replay(site, charging, np.zeros(8)).hard_violations)
    assert replay(site, resting, np.zeros(8)).hard_violations == ()
    assert replay(site, *project(site, charging, np.zeros(8))).hard_violations == ()


def bent(make_device, n, **changes):
    """Heat, voltage and depth that power can push beyond their limits."""
    ones = np.ones(n)
    device = make_device(
        n,
        temperature_charge_k_per_w=1e-4 * ones,
        temperature_discharge_k_per_w=1e-4 * ones,
        temperature_max_c=30.0 * ones,
        voltage_v=350.0 * ones,
        voltage_v_per_wh=1e-3 * ones,
        voltage_v_per_w=2e-4 * ones,
        voltage_min_v=380.0,
        voltage_max_v=420.0,
        cycle_depth_wh=20e3,
    )
    return replace(device, **changes)


FREE = {"temperature_max_c": np.full(8, np.inf), "voltage_min_v": -np.inf, "voltage_max_v": np.inf, "cycle_depth_wh": np.inf}
TOO_MUCH = [
    ("temperature", "temperature_max_c", 40e3),
    ("voltage", "voltage_min_v", 45e3),
    ("voltage", "voltage_max_v", -45e3),
    ("cycle depth", "cycle_depth_wh", 15e3),
]


@pytest.mark.parametrize(("names", "limit", "power_w"), TOO_MUCH)
def test_a_limit_that_rest_would_keep_is_hard(make_site, make_device, names, limit, power_w):
    free = {name: value for name, value in FREE.items() if name != limit}
    problem = make_site(np.full(8, 0.1), bent(make_device, 8, **free))
    power = np.full((1, 8), power_w)
    assert [text for text in replay(problem, power, np.zeros(8)).hard_violations if names in text]
    projected, _, run = executable(problem, power, np.zeros(8))
    assert run.hard_violations == ()
    assert np.abs(projected).max() > 100.0
    assert replay(problem, np.zeros((1, 8)), np.zeros(8)).hard_violations == ()


@pytest.mark.parametrize(
    ("limit", "start", "power_w"),
    [
        ("temperature_max_c", {"temperature_c": 45.0}, 40e3),
        ("voltage_min_v", {"energy_wh": 20e3}, 8e3),
        ("voltage_max_v", {"energy_wh": 75e3}, -8e3),
        ("cycle_depth_wh", {"energy_low_wh": 20e3}, 8e3),
    ],
)
def test_a_limit_that_the_state_has_already_broken_stays_soft(make_site, make_device, limit, start, power_w):
    free = {name: value for name, value in FREE.items() if name != limit}
    problem = make_site(np.full(8, 0.1), bent(make_device, 8, **free, **start))
    run = replay(problem, np.array([[power_w] + [0.0] * 7]), np.zeros(8))
    assert run.hard_violations == ()
    assert run.soft_violations


def test_a_limit_that_rest_will_break_is_soft_from_then_on(make_site, make_device):
    """The room heats up by itself beyond the limit in the last steps."""
    free = {name: value for name, value in FREE.items() if name != "temperature_max_c"}
    drift = np.r_[np.full(4, 2.5), np.full(4, 6.0)]
    problem = make_site(np.full(8, 0.1), bent(make_device, 8, **free, temperature_drift_c=drift))
    assert replay(problem, np.zeros((1, 8)), np.zeros(8)).hard_violations == ()
    late = np.array([[0.0] * 6 + [10e3, 10e3]])
    assert replay(problem, late, np.zeros(8)).hard_violations == ()
    assert replay(problem, np.array([[60e3, *[0.0] * 7]]), np.zeros(8)).hard_violations


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), hot=st.floats(20.0, 45.0), share=st.floats(0.1, 0.9))
def test_any_powers_become_executable(make_random_site, seed, hot, share):
    problem = make_random_site(seed, 16, 2)
    g = np.random.default_rng(seed)
    devices = tuple(
        replace(
            d,
            energy_wh=share * d.capacity_wh,
            energy_low_wh=min(d.energy_low_wh, share * d.capacity_wh),
            energy_high_wh=max(d.energy_high_wh, share * d.capacity_wh),
            temperature_max_c=hot + g.normal(0.0, 2.0, 16),
            voltage_max_v=g.uniform(700.0, 840.0),
            voltage_min_v=g.uniform(660.0, 700.0),
        )
        for d in problem.devices
    )
    problem = replace(problem, devices=devices)
    _, _, run = executable(problem, 200e3 * g.normal(size=(2, 16)), 1e5 * g.random(16))
    assert run.hard_violations == ()


def test_the_replay_of_fleets_judges_alike(make_random_site):
    """Both replays, written apart, on plans good and bad."""
    with ThreadPoolExecutor(1) as pool:
        for seed in range(30):
            problem = make_random_site(seed, 16, 3)
            g = np.random.default_rng(seed)
            power = g.normal(size=(3, 16)) * np.array([[10e3], [40e3], [120e3]])[g.permutation(3)]
            if seed % 3 == 0:
                power, _, _ = executable(problem, power, np.zeros(16))
            one = replay(problem, power, np.zeros(16))
            many = replay_fleet(problem.grid, stack(problem.devices), problem.dt_s, problem.soft, power, np.zeros(16), pool, 1)
            assert many.objective_eur == pytest.approx(one.objective_eur, rel=1e-9)
            for kind in ("power", "taper", "energy", "temperature", "voltage", "cycle depth", "grid"):
                ours = any(kind in text and "beyond the taper" not in text for text in one.hard_violations)
                if kind == "taper":
                    ours = any(kind in text for text in one.hard_violations)
                assert ours == any(text.startswith(kind) for text in many.hard_violations), (seed, kind, one, many)
