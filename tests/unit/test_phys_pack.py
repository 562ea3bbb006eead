"""The pack: charge and energy balance, monotone curves, and the twin that agrees with it."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.battery.cells import CELLS, capacity_ah, capacity_wh
from core.battery.ecm import simulate
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.pack import Pack, ecm_parameters
from core.twin import predict

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def config(chemistry=Chemistry.NMC):
    return DeviceConfig(
        device_id="d", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip


@pytest.mark.parametrize("chemistry", list(Chemistry))
def test_ocv_rises_and_parameters_have_sources(chemistry):
    cell = CELLS[chemistry]
    assert len(cell.ocv_v) == 21
    assert (np.diff(cell.ocv_table()) >= 0).all()
    assert cell.source


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(list(Chemistry)), st.integers(0, 9999), st.floats(60, 100))
def test_charge_and_energy_balance(chemistry, seed, soh):
    """SoC changes by the charge that flowed; terminal energy is OCV energy less heat, up to what the RC pair holds."""
    device = config(chemistry)
    rng = np.random.default_rng(seed)
    power = rng.uniform(-12_000, 12_000, (1, 30))
    parameters = ecm_parameters(device, soh)[None, :].copy()
    parameters[0, 9] = 0.0  # no self-discharge
    state, history = np.array([[0.5, 0.0, 25.0]]), np.empty((1, 30, 8))
    ocv = CELLS[chemistry].ocv_table()[None, :]
    simulate(state, power, ocv, parameters, np.full((1, 30), 20.0), 60.0, history)
    current, soc = history[0, :, 2], np.concatenate([[0.5], history[0, :, 5]])
    eta = np.where(current < 0, parameters[0, 6], 1.0)
    np.testing.assert_allclose(-np.diff(soc) * parameters[0, 0] * 3600, current * eta * 60, rtol=1e-9, atol=1e-6)
    before = np.concatenate([[device.series_cells * np.interp(0.5, np.linspace(0, 1, 21), ocv[0])], history[0, :-1, 4]])
    lost = np.where(current < 0, (1 - parameters[0, 6]) * -current * before, 0.0)
    np.testing.assert_allclose(history[0, :, 0], current * before - (history[0, :, 3] - lost), rtol=1e-9, atol=1e-6)


def test_old_and_cold_packs_lose_more():
    def loss(soh, temperature):
        pack = Pack(config(), soc_pct=50, soh_pct=soh, temperature_c=temperature, ambient_c=temperature)
        before = pack.state(NOW).voltage_v
        pack.step(10_000, 60)
        return before - pack.state(NOW).voltage_v

    assert loss(60, 25) > 1.5 * loss(100, 25)
    assert loss(100, 0) > 1.5 * loss(100, 25)


def test_wrong_units_are_named():
    with pytest.raises(InputError, match="soh_pct"):
        Pack(config(), soc_pct=50, soh_pct=0.8, temperature_c=25, ambient_c=20)
    with pytest.raises(InputError, match="soc_pct"):
        Pack(config(), soc_pct=500, soh_pct=80, temperature_c=25, ambient_c=20)
    pack = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
    with pytest.raises(InputError, match="finite"):
        pack.step(float("nan"), 60)


@pytest.mark.parametrize("chemistry", list(Chemistry))
def test_the_twin_predicts_what_the_pack_does(chemistry):
    pack = Pack(config(chemistry), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
    power = 8000 * np.sin(np.arange(96) / 6)
    made = predict(config(chemistry), pack.state(NOW), power, dt_s=900, start=NOW, ambient_c=20.0)
    for k in range(96):
        pack.step(power[k], 900)
        assert pack.soc_pct == pytest.approx(made.soc_profile_pct[k], abs=0.1)
        assert pack.temperature_c == pytest.approx(made.temperature_profile_c[k], abs=0.2)
    assert ((made.efficiency_profile > 0.8) & (made.efficiency_profile <= 1)).all()
    assert all(value > 0 for value in made.degradation.values())


def test_a_profile_must_be_whole_hours_of_numbers():
    state = Pack(config(), soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    for bad in (np.zeros(3), np.array([]), np.full(4, np.nan)):
        with pytest.raises(InputError, match="twin of d"):
            predict(config(), state, bad, dt_s=900, start=NOW, ambient_c=20.0)


def test_capacity():
    assert capacity_ah(config(), 80) == 80
    assert capacity_wh(config(), 80) == pytest.approx(80 * 100 * np.trapezoid(CELLS[Chemistry.NMC].ocv_table(), dx=0.05))
