"""The pack: charge and energy balance, monotone curves, bounds that hold over long steps, and the twin that agrees with it."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.battery.cells import BY_SOC, BY_TEMPERATURE, CELLS, ROW, capacity_ah, capacity_wh, energy_curve_wh
from core.battery.ecm import simulate
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.limits import ConstraintRow, clamp, tightest
from core.pack import (
    Pack,
    circuit_resistance_ohm,
    condition_from_state,
    ecm_parameters,
    elements,
    open_circuit_v,
    step_resistance_ohm,
)
from core.twin import predict, predict_many

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHEMISTRIES = list(Chemistry)


def config(chemistry=Chemistry.NMC, **changes):
    given = {
        "device_id": "d", "site_id": "s", "name": "d", "chemistry": chemistry, "nominal_capacity_ah": 100,
        "nominal_voltage_v": 360, "max_charge_power_w": 40_000, "max_discharge_power_w": 45_000, "series_cells": 100,
        "parallel_cells": 20,
    }  # fmt: skip
    return DeviceConfig(**(given | changes))


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_ocv_rises_and_parameters_have_sources(chemistry):
    cell = CELLS[chemistry]
    assert cell.ocv_table().shape == (101,)
    assert (np.diff(cell.ocv_table()) >= 0).all()
    assert cell.source
    assert (BY_SOC[ROW[chemistry]][:, [0, 2]] > 0).all()
    assert (BY_SOC[ROW[chemistry]][:, 3:] >= 0).all()
    assert (np.diff(BY_TEMPERATURE[ROW[chemistry]], axis=0) <= 0).all(), "nothing resists less in the cold"
    assert BY_TEMPERATURE[ROW[chemistry]][65] == pytest.approx(1.0)


def run(device, power, soh=100.0, *, soc=0.5, dt_s=60.0, temperature=25.0, ambient=20.0, **changed):
    """History (N, 9) of one pack under a power profile, without self-discharge; `changed` replaces parameters by column."""
    parameters = ecm_parameters(device, soh)[None, :].copy()
    parameters[0, 9] = 0.0
    for column, value in changed.items():
        parameters[0, int(column[1:])] = value
    history = np.empty((1, len(power), 9))
    state = np.array([[soc, 0.0, 0.0, temperature]])
    ambients = np.full((1, len(power)), ambient)
    simulate(state, np.asarray(power)[None, :], parameters, ambients, BY_SOC, BY_TEMPERATURE, dt_s, history)
    return history[0], parameters[0]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(CHEMISTRIES), st.integers(0, 9999), st.floats(60, 100), st.floats(0.1, 0.9), st.floats(-10, 45))
def test_charge_and_energy_balance(chemistry, seed, soh, soc, temperature):
    """SoC changes by the charge that flowed; terminal energy is OCV energy less loss, the losses warm the pack."""
    device = config(chemistry)
    power = np.random.default_rng(seed).uniform(-25_000, 25_000, 30)
    history, parameters = run(device, power, soh, soc=soc, temperature=temperature)
    got_w, current, loss_w, after = history[:, 0], history[:, 2], history[:, 3], history[:, 5]
    before = np.concatenate([[soc], after[:-1]])
    eta = np.where(current < 0, parameters[6], 1.0)
    np.testing.assert_allclose((before - after) * parameters[0] * 3600, current * eta * 60, rtol=1e-9, atol=1e-6)
    warm = np.concatenate([[temperature], history[:-1, 8]])
    u_before = np.array([open_circuit_v(parameters, z, t) for z, t in zip(before, warm, strict=True)])
    u_after = np.array([open_circuit_v(parameters, z, t) for z, t in zip(after, warm, strict=True)])
    stored_w = 0.5 * (u_before + u_after) * current  # the curve is linear between its points, a step often lies between two
    lost_w = np.where(current < 0, (1 - parameters[6]) * -current * 0.5 * (u_before + u_after), 0.0)
    np.testing.assert_allclose(got_w, stored_w - (loss_w - lost_w), rtol=1e-9, atol=1e-6)
    entropy = np.array([np.interp(z, np.linspace(0, 1, 101), BY_SOC[ROW[chemistry]][:, 1]) for z in before])
    turned_w = current * (warm + 273.15) * device.series_cells * entropy
    rise = 60 / parameters[7] * (loss_w - turned_w - parameters[8] * (warm - 20.0))
    np.testing.assert_allclose(history[:, 8] - warm, rise, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CHEMISTRIES), st.floats(2_000, 20_000), st.floats(0.35, 0.65), st.floats(60, 100))
def test_a_round_trip_never_gains(chemistry, power_w, soc, soh):
    """Out for half an hour, back to the same SoC: the terminals took more than they gave, and rest brings nothing back."""
    history, _ = run(config(chemistry), [power_w] * 30 + [-power_w] * 60, soh, soc=soc)
    back = 30 + int(np.argmax(history[30:, 5] >= soc))
    assert history[back, 5] >= soc
    assert -history[: back + 1, 0].sum() > 0


def test_self_discharge_is_slow_and_only_down():
    device = config()
    pack = Pack(device, soc_pct=50, soh_pct=100, temperature_c=20, ambient_c=20)
    pack.step(0.0, 30 * 86_400)
    assert pack.soc_pct == pytest.approx(50 - CELLS[Chemistry.NMC].self_discharge_pct_per_month, abs=0.01)


def test_old_and_cold_packs_lose_more():
    def loss(soh, temperature):
        pack = Pack(config(), soc_pct=50, soh_pct=soh, temperature_c=temperature, ambient_c=temperature)
        before = pack.state(NOW).voltage_v
        pack.step(10_000, 60)
        return before - pack.state(NOW).voltage_v

    assert loss(60, 25) > 1.5 * loss(100, 25)
    assert loss(100, 0) > 1.3 * loss(100, 25)


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_the_voltage_relaxes_to_the_ocv(chemistry):
    pack = Pack(config(chemistry), soc_pct=60, soh_pct=90, temperature_c=25, ambient_c=25)
    pack.step(15_000, 1800)
    loaded = pack.state(NOW).voltage_v
    relaxed = []
    for _ in range(8):
        pack.step(0.0, 3600)
        relaxed.append(pack.state(NOW).voltage_v)
    at_rest = open_circuit_v(ecm_parameters(config(chemistry), 90), pack.soc_pct / 100, pack.temperature_c)
    assert loaded < relaxed[0]
    assert relaxed[-1] == pytest.approx(at_rest, abs=0.1)


def test_wrong_units_are_named():
    with pytest.raises(InputError, match="soh_pct"):
        Pack(config(), soc_pct=50, soh_pct=0.8, temperature_c=25, ambient_c=20)
    with pytest.raises(InputError, match="soc_pct"):
        Pack(config(), soc_pct=500, soh_pct=80, temperature_c=25, ambient_c=20)
    pack = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
    with pytest.raises(InputError, match="finite"):
        pack.step(float("nan"), 60)


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
@pytest.mark.parametrize("wish_w", [1e9, -1e9])
def test_a_power_beyond_all_means_stays_a_number(chemistry, wish_w):
    pack = Pack(config(chemistry), soc_pct=50, soh_pct=60, temperature_c=-20, ambient_c=-20)
    for _ in range(20):
        got = pack.step(wish_w, 60)
        assert np.isfinite([got, pack.soc_pct, pack.temperature_c, pack.state(NOW).voltage_v]).all()
        assert 0 <= pack.soc_pct <= 100


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
@pytest.mark.parametrize("measured", [False, True])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), soc=st.floats(8, 92), soh=st.floats(50, 100), temperature=st.floats(2, 40))
def test_bounds_hold_over_a_quarter_of_an_hour(chemistry, measured, seed, soc, soh, temperature):
    """As tests/unit/test_limits.py, with steps of 900 s, from the true state and from what telemetry shows of it."""
    device = config(chemistry)
    limits = tightest(device, [ConstraintRow(row_id="r", device_id="d", max_cell_temperature_c=50)], NOW)
    pack = Pack(device, soc_pct=soc, soh_pct=soh, temperature_c=temperature, ambient_c=temperature)
    rng = np.random.default_rng(seed)
    for _ in range(24):
        state = pack.state(NOW)
        condition = condition_from_state(device, state, 900, ambient_c=temperature) if measured else pack.condition(900)
        hot = pack.temperature_c
        power_w, _ = clamp(rng.normal(0, 40_000), limits, condition, 900)
        for _ in range(15):  # a minute at a time: no limit may be passed inside the step either
            pack.step(power_w, 60)
            now = pack.state(NOW)
            assert -limits.charge_current_a - 0.5 <= now.current_a <= limits.discharge_current_a + 0.5
            assert limits.soc_min_pct - 0.05 <= now.soc_pct <= limits.soc_max_pct + 0.05
            assert now.temperature_c <= max(limits.temperature_max_c, hot, temperature) + 0.1
            if abs(power_w) > 1:
                assert limits.voltage_min_v - 0.5 <= now.voltage_v <= limits.voltage_max_v + 0.5


def test_a_charge_and_a_discharge_meet_their_own_part_of_the_curve():
    condition = Pack(config(Chemistry.LFP), soc_pct=12, soh_pct=90, temperature_c=25, ambient_c=25).condition(900)
    assert condition.ocv_slope_v_per_pct > 2 * condition.charge_ocv_slope_v_per_pct
    assert condition.resistance_ohm != condition.charge_resistance_ohm
    same = replace(condition, charge_ocv_slope_v_per_pct=None, charge_resistance_ohm=None).matrix()
    assert same[0, -2:] == pytest.approx([condition.ocv_slope_v_per_pct, condition.resistance_ohm])


def test_resistances_grow_with_the_pulse():
    parameters = ecm_parameters(config(), 80)
    at = elements(parameters, 0.5, 25.0)
    pulses = [circuit_resistance_ohm(parameters, 0.5, 25.0, dt) for dt in (1e-6, 10, 60, 1e6)]
    assert pulses == sorted(pulses)
    assert pulses[0] == pytest.approx(at.r0_ohm, rel=1e-5)
    assert pulses[-1] == pytest.approx(at.r0_ohm + at.r1_ohm)
    assert step_resistance_ohm(parameters, 0.5, 25.0, 900) >= circuit_resistance_ohm(parameters, 0.5, 25.0, 900)


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_the_twin_predicts_what_the_pack_does(chemistry):
    pack = Pack(config(chemistry), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
    power = 6000 * np.sin(np.arange(96) * 2 * np.pi / 24)
    made = predict(config(chemistry), pack.state(NOW), power, dt_s=900, start=NOW, ambient_c=20.0)
    for k in range(96):
        pack.step(power[k], 900)
        assert pack.soc_pct == pytest.approx(made.soc_profile_pct[k], abs=0.1)
        assert pack.temperature_c == pytest.approx(made.temperature_profile_c[k], abs=0.2)
    assert ((made.efficiency_profile > 0.8) & (made.efficiency_profile <= 1)).all()
    assert all(value > 0 for value in made.degradation.values())


def test_predictions_at_once_are_predictions_one_by_one():
    rng = np.random.default_rng(3)
    configs = [config(c, device_id=c.value) for c in CHEMISTRIES for _ in range(2)]
    states = [Pack(c, soc_pct=40 + i, soh_pct=70 + i, temperature_c=20, ambient_c=20).state(NOW) for i, c in enumerate(configs)]
    power = rng.uniform(-9000, 9000, (len(configs), 24))
    together = predict_many(configs, states, power, dt_s=3600, start=NOW, ambient_c=15.0)
    for c, s, p, made in zip(configs, states, power, together, strict=True):
        alone = predict(c, s, p, dt_s=3600, start=NOW, ambient_c=15.0)
        np.testing.assert_array_equal(alone.voltage_profile_v, made.voltage_profile_v)
        assert alone.degradation == pytest.approx(made.degradation)


def test_a_profile_must_be_whole_hours_of_numbers():
    state = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    for bad in (np.zeros(3), np.array([]), np.full(4, np.nan)):
        with pytest.raises(InputError, match="twin of d"):
            predict(config(), state, bad, dt_s=900, start=NOW, ambient_c=20.0)


def test_capacity():
    assert capacity_ah(config(), 80) == 80
    assert capacity_wh(config(), 80) == pytest.approx(80 * 100 * np.trapezoid(CELLS[Chemistry.NMC].ocv_table(), dx=0.01))
    curve = energy_curve_wh(config(), 80)
    assert curve.shape == (101,)
    assert curve[0] == 0
    assert (np.diff(curve) > 0).all()
