"""Reasons and prices: each limit's price is what one more unit of it saves, and each situation has its name."""

import json
from dataclasses import replace

import numpy as np
import pytest

from core.decisions import Reason
from core.errors import InputError, SolverError
from optimizer import solvers
from optimizer.mpc import MpcSolver
from optimizer.reasons import Binding
from optimizer.shadow import UNITS

DAY = np.r_[np.full(8, 0.05), np.full(8, 0.30)]
N = 16


def plan_of(problem):
    return MpcSolver().plan(problem)


def price(plan, name, k=None):
    """Price of a limit of the first device, summed over the slots or of one."""
    slots = plan.devices[0].limits if k is None else [plan.devices[0].limits[k]]
    return sum(binding.price_eur or 0.0 for slot in slots for binding in slot if binding.name == name)


def saved(before, after):
    return before.objective_eur - after.objective_eur


CASES = {
    "soc_max": ({"energy_max_wh": 70e3}, {"energy_max_wh": 70.01e3}, 0.01),
    "soc_min": ({"energy_min_wh": 30e3}, {"energy_min_wh": 29.99e3}, 0.01),
    "charge_power": ({"charge_max_w": np.full(N, 15e3)}, {"charge_max_w": np.full(N, 15.01e3)}, 0.01),
    "discharge_power": ({"discharge_max_w": np.full(N, 15e3)}, {"discharge_max_w": np.full(N, 15.01e3)}, 0.01),
    "terminal_energy": ({"terminal_energy_wh": 60e3}, {"terminal_energy_wh": 59.99e3}, 0.01),
    "voltage_max": (
        {"voltage_v_per_w": np.full(N, 1e-3), "voltage_max_v": 415.0},
        {"voltage_v_per_w": np.full(N, 1e-3), "voltage_max_v": 415.01},
        0.01,
    ),
    "voltage_min": (
        {"voltage_v_per_w": np.full(N, 1e-3), "voltage_min_v": 385.0},
        {"voltage_v_per_w": np.full(N, 1e-3), "voltage_min_v": 384.99},
        0.01,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_price_is_what_one_more_unit_saves(make_site, make_device, name):
    tight, loose, amount = CASES[name]
    curved = {"wear_quadratic": 1e-3}  # one optimum, so that the derivative exists
    before = plan_of(make_site(DAY, make_device(N, **curved, **tight)))
    after = plan_of(make_site(DAY, make_device(N, **curved, **loose)))
    assert saved(before, after) > 1e-5
    assert price(before, name) == pytest.approx(saved(before, after) / amount, rel=0.02)


def test_price_of_temperature(make_site, make_device):
    heat = {
        "temperature_a": 0.9,
        "temperature_charge_k_per_w": np.full(N, 1e-4),
        "temperature_discharge_k_per_w": np.full(N, 1e-4),
        "wear_quadratic": 1e-3,
    }
    before = plan_of(make_site(DAY, make_device(N, temperature_max_c=np.full(N, 33.0), **heat)))
    after = plan_of(make_site(DAY, make_device(N, temperature_max_c=np.full(N, 33.01), **heat)))
    assert price(before, "temperature_max") == pytest.approx(saved(before, after) / 0.01, rel=0.02)


def test_prices_of_the_meter(make_site, make_device):
    device = make_device(N, wear_quadratic=1e-3)
    for name, field in (("grid_import", "import_limit_w"), ("grid_export", "export_limit_w")):
        before = plan_of(make_site(DAY, device, **{field: np.full(N, 15e3)}))
        after = plan_of(make_site(DAY, device, **{field: np.full(N, 15.01e3)}))
        assert price(before, name) == pytest.approx(saved(before, after) / 0.01, rel=0.02)
        assert Reason.GRID_LIMIT not in before.devices[0].reasons or name == "grid_export"


def test_the_peaks_price_is_shared_by_the_slots_that_make_it(make_site, make_device):
    load = np.where(np.arange(N) >= 12, 40e3, 5e3)
    peak = {"peak_price_eur_per_kw": 5.0, "load_w": load}
    plan = plan_of(make_site(DAY, make_device(N, wear_quadratic=1e-3), **peak))
    assert price(plan, "peak") == pytest.approx(5.0, rel=1e-3)
    assert plan.devices[0].reasons[13] is Reason.PEAK_SHAVING


def test_cycle_depth_has_a_price(make_site, make_device):
    base = {"wear_quadratic": 1e-3, "energy_low_wh": 50e3, "energy_high_wh": 50e3}
    before = plan_of(make_site(DAY, make_device(N, cycle_depth_wh=20e3, **base)))
    after = plan_of(make_site(DAY, make_device(N, cycle_depth_wh=20.01e3, **base)))
    # Its price sits in the highest and in the lowest steps; each side names it in full unless the past holds that extreme.
    slots = [next((b.price_eur for b in slot if b.name == "cycle_depth"), 0.0) for slot in before.devices[0].limits]
    energy, worth = before.devices[0].energy_wh, saved(before, after) / 0.01
    low = sum(value for value, e in zip(slots, energy, strict=True) if e < 45e3)
    high = sum(value for value, e in zip(slots, energy, strict=True) if e > 45e3)
    assert max(low, high) == pytest.approx(worth, rel=0.02)
    assert min(low, high) <= 1.02 * worth


def test_prices_hold_on_random_sites(make_random_site):
    """Any limit that has a price and is moved by a little changes the objective by that price."""
    for seed in range(6):
        problem = make_random_site(seed, 24, 1)
        plan, device = plan_of(problem), problem.devices[0]
        step = 2.0
        for name, field in (("charge_power", "charge_max_w"), ("discharge_power", "discharge_max_w")):
            more = plan_of(replace(problem, devices=(replace(device, **{field: getattr(device, field) + step}),)))
            assert saved(plan, more) == pytest.approx(price(plan, name) * step / 1000, abs=2e-5), (seed, name)


def test_a_limit_that_is_only_touched_is_named(make_site, make_device):
    """Full at the start and never asked to charge: the limit holds and costs nothing."""
    full = make_device(N, energy_wh=90e3, energy_high_wh=90e3, energy_low_wh=90e3, terminal_value_eur_per_kwh=0.2)
    idle = plan_of(make_site(np.full(N, 0.2), full))  # neither selling at 0.18 nor buying at 0.2 would pay
    held = {b.name: b.price_eur for b in idle.devices[0].limits[5]}
    # Touched, not pressed on: the price lies between the two one-sided derivatives, nothing and what selling it would lose.
    assert 0.0 <= held["soc_max"] <= 0.2 - 0.95 * 0.18
    assert str(Binding("soc_max", 0.0)) == "soc_max"


def test_reserve_is_what_plans_leave_free(make_site, make_device):
    load, buy = np.where(np.arange(N) >= 12, 60e3, 5e3), np.where(np.arange(N) >= 12, 0.1, DAY)
    limits = {"load_w": load, "import_limit_w": np.full(N, 30e3)}
    with_reserve = plan_of(make_site(buy, make_device(N), import_reserve_w=2e3, **limits))
    without = plan_of(make_site(buy, make_device(N), **limits))
    assert np.array_equal(with_reserve.devices[0].power_w, without.devices[0].power_w)
    binding = [k for k in range(12, N) if "grid_import" in without.devices[0].binding[k]]
    assert binding
    assert {without.devices[0].reasons[k] for k in binding} == {Reason.GRID_LIMIT}
    assert {with_reserve.devices[0].reasons[k] for k in binding} == {Reason.RESERVE}
    beyond = plan_of(make_site(buy, make_device(N), import_reserve_w=2e3, load_w=load + 60e3, import_limit_w=np.full(N, 30e3)))
    assert Reason.RESERVE not in beyond.devices[0].reasons[12:]


def test_an_idle_slot_below_the_peak_is_peak_shaving(make_site, make_device):
    load = np.full(N, 20e3)
    plan = plan_of(make_site(DAY, make_device(N, energy_wh=10e3, energy_low_wh=10e3, energy_high_wh=10e3),
                             load_w=load, peak_price_eur_per_kw=50.0))  # fmt: skip
    assert Reason.PEAK_SHAVING in plan.devices[0].reasons[:8]


def test_only_slots_with_a_target_are_tracked(make_site, make_device):
    target = np.where(np.arange(N) < 8, 15e3, 1e9)
    tracked = np.arange(N) < 8
    signal = {"load_w": np.full(N, 5e3), "target_w": target, "tracked": tracked, "tracking_weight": 10.0}
    plan = plan_of(make_site(DAY, **signal))
    np.testing.assert_allclose((plan.grid_import_w - plan.grid_export_w)[:8], 15e3, atol=50)
    assert set(plan.devices[0].reasons[:8]) == {Reason.TRACKING}
    assert Reason.TRACKING not in plan.devices[0].reasons[8:]
    assert plan.deviation_w[8:] == (None,) * 8
    assert max(abs(value) for value in plan.deviation_w[:8]) < 50
    free = plan_of(make_site(DAY, load_w=np.full(N, 5e3)))
    assert free.deviation_w == ()
    assert free.devices[0].power_w[8:].sum() > 0


def test_priority_against_cost_is_the_weight(make_site, make_device):
    """A deviation of D kW pays for itself where its price is 2 w D: the heavier, the nearer."""
    target = {"load_w": np.full(N, 5e3), "target_w": np.full(N, 5e3)}
    device = make_device(N, terminal_value_eur_per_kwh=0.15)
    far = [
        float(np.abs(plan_of(make_site(DAY, device, tracking_weight=weight, **target)).deviation_w).max())
        for weight in (1e-4, 1e-2, 1.0)
    ]
    assert far[0] > far[1] > far[2]
    # Not buying at 0.30 what costs 0.15 / 0.95 in the battery.
    assert far[2] == pytest.approx(1000 * (0.30 - 0.15 / 0.95) / 2, rel=0.02)


def test_a_negative_tracking_weight_is_refused(make_site):
    with pytest.raises(InputError, match="tracking_weight"):
        make_site(DAY, target_w=np.zeros(N), tracking_weight=-1.0)


def test_a_plan_without_duals_says_so(make_site, make_device, monkeypatch):
    mpc = MpcSolver(solver="piqp")
    before = mpc.plan(make_site(DAY))

    def refuse(qp):
        raise SolverError("out of order")

    monkeypatch.setitem(solvers.SOLVERS, "piqp", refuse)
    shifted = mpc.plan(make_site(DAY, make_device(N, energy_wh=float(before.devices[0].energy_wh[0]))))
    assert shifted.price_source == ""
    assert "nearness" in shifted.as_json()["shadow_prices"]
    found = [b for slot in shifted.devices[0].limits for b in slot]
    assert found
    assert all(b.price_eur is None for b in found)
    assert before.as_json()["shadow_prices"] == "duals of piqp"


def test_what_is_stored_names_limits_prices_and_units(make_random_site):
    stored = json.loads(json.dumps(plan_of(make_random_site(1, 24, 2)).as_json(), allow_nan=False))
    assert stored["limit_units"] == dict(UNITS)
    slots = stored["devices"][0]["binding"]
    assert len(slots) == 24
    named = [name for slot in slots for name, _ in slot]
    assert named
    assert set(named) <= set(UNITS)


def test_a_full_battery_that_waits_is_held_by_what_costs_something(make_site, make_device):
    """Full for hours: the limit is the reason where more room would have earned, and not where it would not."""
    full = {"energy_wh": 90e3, "energy_high_wh": 90e3, "energy_low_wh": 90e3}
    cheap_then_dear = np.r_[np.full(4, 0.05), np.full(4, 0.10), np.full(8, 0.30)]
    wants_more = plan_of(make_site(cheap_then_dear, make_device(N, wear_eur_per_kwh=0.001, **full)))
    assert set(wants_more.devices[0].reasons[:8]) == {Reason.SOC_LIMIT}
    flat = np.r_[np.full(8, 0.29), np.full(8, 0.30)]
    content = plan_of(make_site(flat, make_device(N, wear_eur_per_kwh=0.001, terminal_value_eur_per_kwh=0.29, **full)))
    assert Reason.SOC_LIMIT not in content.devices[0].reasons
    assert "soc_max" in content.devices[0].binding[3]
