"""Ageing: equal to the reference package where it has the chemistry, independent of the step, sane everywhere.

Reference values: NREL's BLAST-Lite 1.1.1 (package `blast-lite`, BSD-3), models Lfp_Gr_SonyMurata3Ah, Nmc111_Gr_Kokam75Ah and
Nca_Gr_Panasonic3Ah, run once with is_conserve_energy_throughput=False on the same series; only the numbers are kept here.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ageing import LOSS_AT_END_PCT, advance, degradation, forecast, state_at
from core.battery.ageing_models import MODELS, STATE
from core.battery.cells import RESISTANCE_PER_LOST_PCT
from core.battery.stress import stress
from core.battery.trajectories import power_law, scaled_power_law, sigmoid
from core.devices import Chemistry

CHEMISTRIES = list(Chemistry)
ONE_DAY = {  # capacity and resistance of a new cell after one day: SoC 0.5 + 0.3 sin, 30 °C, hourly
    Chemistry.LFP: (0.9977494538541793, 1.0000854882504284),
    Chemistry.NMC: (0.9975609677017521, 1.0005646055715742),
    Chemistry.NCA: (0.997565951525084, None),
}
ONE_YEAR = {  # calendar loss, cyclic loss, resistance growth after the mixed year below
    Chemistry.LFP: (1 - 0.9685339245084968, 1 - 0.9992711996474132, 0.0157296065895587),
    Chemistry.NMC: (1 - 0.9871298832137942, 1 - 0.9956709795828182, 0.1225341161752873),
    Chemistry.NCA: (1 - 0.9655001122057677, 1 - 0.9925789348048079, None),
}


def mixed_year():
    """Hourly SoC and temperature: cycles of 20 to 80 % depth, four days of rest a month, seasons, nights."""
    hours = np.arange(0, 365 * 24 + 1, dtype=float)
    day, hour = hours // 24, hours % 24
    depth = 0.25 + 0.15 * np.sin(2 * np.pi * day / 91)
    swing = np.where(day % 28 >= 24, 0.0, depth * np.sin(2 * np.pi * hour / 24))
    soc = 0.5 + 0.1 * np.sin(2 * np.pi * day / 365) + swing
    return soc, 20 + 10 * np.sin(2 * np.pi * (hours / 24 - 110) / 365) + 3 * np.sin(2 * np.pi * hour / 24)


@pytest.mark.parametrize("chemistry", ONE_DAY)
def test_one_day_is_the_reference_packages(chemistry):
    soc = 0.5 + 0.3 * np.sin(2 * np.pi * np.arange(25) / 24)
    model = MODELS[chemistry]
    health = model.health(advance(chemistry, model.new(1), soc[None], np.full((1, 25), 30.0), 3600.0))
    capacity, resistance = ONE_DAY[chemistry]
    assert 1 - health.capacity[0] == pytest.approx(1 - capacity, rel=1e-5)
    if resistance is not None:
        assert health.resistance[0] - 1 == pytest.approx(resistance - 1, rel=0.01)


@pytest.mark.parametrize("chemistry", ONE_YEAR)
def test_a_mixed_year_is_the_reference_packages(chemistry):
    """Within 3 % of each loss. The reference joins days differently: it drops the hour between two windows, steps its power laws
    by their slope, ours by the exact inverse, and gives every cycle of a day the day's range, ours nested ones their own."""
    soc, temperature = mixed_year()
    model = MODELS[chemistry]
    state = model.new(1)
    for day in range(365):
        hours = slice(24 * day, 24 * day + 25)
        state = advance(chemistry, state, soc[None, hours], temperature[None, hours], 3600.0)
    health = model.health(state)
    calendar, cyclic, resistance = ONE_YEAR[chemistry]
    assert health.calendar_loss[0] == pytest.approx(calendar, rel=0.03)
    assert health.cyclic_loss[0] == pytest.approx(cyclic, rel=0.03)
    if resistance is not None:
        assert health.resistance[0] - 1 == pytest.approx(resistance, rel=0.03)
    else:
        assert health.resistance[0] - 1 == pytest.approx(100 * RESISTANCE_PER_LOST_PCT * (1 - health.capacity[0]))


def test_lco_cycles_follow_the_published_law():
    """800 full cycles at 25 °C; Saxena et al. (2016): 3.25 SoC_mean (1 + 3.25 D - 2.25 D^2) (EFC / 100)^0.453 percent."""
    model = MODELS[Chemistry.LCO]
    day = stress(np.array([[0.0, 1.0, 0.0]]), np.full((1, 3), 25.0), 43_200.0)
    used = model.health(model.advance(model.new(1), day.repeated(np.array([800.0]))))
    assert 100 * used.cyclic_loss[0] == pytest.approx(3.25 * 0.5 * 2.0 * 8**0.453, rel=1e-6)
    rested = stress(np.full((1, 3), 0.5), np.full((1, 3), 25.0), 43_200.0).repeated(np.array([3652.5]))
    stored = model.health(model.advance(model.new(1), rested))
    f = 4.14e-10 * 3652.5 * 86_400
    assert stored.calendar_loss[0] == pytest.approx(1 - 0.0575 * np.exp(-121 * f) - 0.9425 * np.exp(-f), rel=1e-9)
    assert stored.cyclic_loss[0] == 0


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_two_steps_of_constant_use_are_one(chemistry):
    model = MODELS[chemistry]
    day = stress((0.5 + 0.3 * np.sin(np.arange(97) / 96 * 2 * np.pi))[None], np.full((1, 97), 28.0), 900.0)
    whole = model.advance(model.new(1), day.repeated(np.array([300.0])))
    parts = model.new(1)
    for days in (1.0, 19.0, 180.0, 100.0):
        parts = model.advance(parts, day.repeated(np.array([days])))
    np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=1e-12)
    assert parts.shape == (1, len(STATE))


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_packs_at_once_are_packs_one_by_one(chemistry):
    rng = np.random.default_rng(1)
    soh, soc, warmth = rng.uniform(60, 100, 7), rng.uniform(0, 100, (7, 97)), rng.uniform(0, 45, (7, 97))
    together = forecast(chemistry, soh, soc, warmth, 900.0)
    for k, found in enumerate(together):
        assert degradation(chemistry, soc[k], warmth[k], 900.0, soh[k]) == pytest.approx(found, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
@pytest.mark.parametrize("soh", [99.0, 90.0, 80.0, 60.0])
def test_the_state_behind_a_soh_has_that_capacity(chemistry, soh):
    health = MODELS[chemistry].health(state_at(chemistry, np.array([soh])))
    assert 100 * health.capacity[0] == pytest.approx(soh, abs=0.05)
    assert health.resistance[0] > 1


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_heat_depth_and_a_high_charge_wear(chemistry):
    hours = np.arange(25)
    base = {"soc": 60 + 20 * np.sin(hours / 4), "warm": np.full(25, 20.0)}

    def wear(**changes):
        given = base | changes
        return degradation(chemistry, given["soc"], given["warm"], 3600.0, 85.0)

    still = degradation(chemistry, np.full(25, 60.0), base["warm"], 3600.0, 85.0)
    assert still["cycle_life_consumed"] == 0
    assert wear()["cycle_life_consumed"] > 0
    assert wear(warm=np.full(25, 40.0))["calendar_life_consumed"] > wear()["calendar_life_consumed"]
    assert wear(soc=60 + 35 * np.sin(hours / 4))["cycle_life_consumed"] > wear()["cycle_life_consumed"]
    full = degradation(chemistry, np.full(25, 95.0), base["warm"], 3600.0, 85.0)
    assert full["calendar_life_consumed"] > still["calendar_life_consumed"]


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 9999), soh=st.floats(2, 100), steps=st.integers(1, 120))
def test_every_forecast_is_a_number_and_no_gain(chemistry, seed, soh, steps):
    rng = np.random.default_rng(seed)
    soc = np.clip(rng.uniform(-5, 105) + rng.normal(0, rng.uniform(0, 30), steps + 1).cumsum(), -5, 105)
    found = degradation(chemistry, soc, rng.uniform(-25, 65, steps + 1), 900.0, soh)
    assert set(found) == {
        "capacity_fade_percent", "resistance_growth_percent", "cycle_life_consumed", "calendar_life_consumed",
    }  # fmt: skip
    assert all(np.isfinite(value) and value >= -1e-9 for value in found.values())
    lost = found["cycle_life_consumed"] + found["calendar_life_consumed"]
    assert found["capacity_fade_percent"] <= lost * LOSS_AT_END_PCT / 100 + 1e-9
    if chemistry is not Chemistry.NMC:  # the scarcer of lithium and material
        assert found["capacity_fade_percent"] == pytest.approx(lost * LOSS_AT_END_PCT / 100, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-6, 0.1), st.floats(0.2, 1.5), st.floats(0.0, 500.0), st.floats(0.0, 500.0))
def test_growth_laws_are_the_law_they_name(k, p, first, more):
    x, dx, rate = np.array([first]), np.array([more]), np.array([k])
    np.testing.assert_allclose(power_law(k * x**p, dx, rate, p), k * (x + dx) ** p, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(scaled_power_law((k * x) ** p, dx, rate, p), (k * (x + dx)) ** p, rtol=1e-6, atol=1e-12)

    def law(at):
        return 0.3 * np.tanh(0.5 * (k * at) ** p)

    one = np.array([p])
    if law(x)[0] < 0.29:
        np.testing.assert_allclose(sigmoid(law(x), dx, np.array([0.3]), rate, one), law(x + dx), rtol=1e-5, atol=1e-9)
    assert sigmoid(np.array([0.4]), dx, np.array([0.3]), rate, one)[0] == 0.4


def test_cycles_are_counted_with_their_own_depth():
    soc = np.array([[0.2, 0.8, 0.5, 0.7, 0.2], [0.4, 0.4, 0.4, 0.4, 0.4]])
    found = stress(soc, np.full((2, 5), 25.0), 3600.0)
    by_depth = {round(d, 3): w for d, w in zip(found.depth[0], found.weight[0], strict=True) if w > 0}
    assert set(by_depth) == {0.2, 0.6}
    assert found.weight[0].sum() == pytest.approx(1)
    assert found.cycles[0] == pytest.approx(0.8)
    assert (found.weight[1] == 0).all()
    assert found.cycles[1] == 0
