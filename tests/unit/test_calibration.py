"""Calibration factors: how they act on parameters, what refuses, and that the plan is made with them."""

from datetime import UTC, datetime

import numpy as np
import pytest

from core.battery.cells import energy_curve_wh
from core.battery.ecm import PARAMETERS
from core.calibration import ACTS_ON, FACTORS, NOMINAL, Calibration, Factors
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.limits import ConstraintRow, tightest
from core.pack import Pack, ecm_parameters
from core.predictions import Prediction
from core.twin import predict
from optimizer.linearise import Economics, device_data

NOW = datetime(2026, 1, 1, tzinfo=UTC)
N, DT_S = 48, 900.0
CONFIG = DeviceConfig(
    device_id="d", site_id="s", name="d", chemistry=Chemistry.NMC, nominal_capacity_ah=100, nominal_voltage_v=360,
    max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
)  # fmt: skip


def calibrated(**factors) -> Calibration:
    return Calibration(device_id="d", calibrated_at=NOW, score=0.9, factors=Factors(**factors))


def predicted(calibration=None, power=None) -> Prediction:
    state = Pack(CONFIG, soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    profile = 20e3 * np.sin(np.arange(N) / 5) if power is None else power
    return predict(CONFIG, state, profile, dt_s=DT_S, start=NOW, ambient_c=20.0, calibration=calibration)


def planned(prediction):
    state = Pack(CONFIG, soc_pct=55, soh_pct=80, temperature_c=25, ambient_c=20).state(NOW)
    limits = tightest(CONFIG, [ConstraintRow(row_id="r", device_id="d")], NOW)
    return device_data(
        CONFIG, limits, state, prediction, start=NOW, steps=N, dt_s=DT_S, ambient_c=np.full(N, 20.0),
        economics=Economics(wear_eur_per_kwh=0.01),
    )  # fmt: skip


@pytest.mark.parametrize("name", FACTORS)
def test_a_factor_multiplies_its_columns_and_no_other(name):
    row = ecm_parameters(CONFIG, 80.0)
    kept = row.copy()
    made = Factors(**{name: 1.7}).apply(row)
    np.testing.assert_array_equal(row, kept)
    for k, column in enumerate(PARAMETERS):
        assert made[k] == pytest.approx(row[k] * (1.7 if column in ACTS_ON[name] else 1.0)), column
    assert (made != row).any()
    rows = Factors(**{name: 1.7}).apply(np.stack([row, 2 * row]))
    np.testing.assert_allclose(rows[1], 2 * made)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_factor_that_cannot_be_is_refused(value):
    with pytest.raises(InputError, match="cooling_factor"):
        Factors(cooling=value)
    with pytest.raises(InputError, match="cooling_factor"):
        Factors.from_parameters({"cooling_factor": value})


@pytest.mark.parametrize("value", ["1.0", None, True])
def test_a_factor_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="resistance_factor"):
        Factors.from_parameters({"resistance_factor": value})


def test_factors_come_back_from_a_predictions_parameters():
    factors = Factors(resistance=1.4, capacity=0.93, cooling=2.0, heat_capacity=0.8)
    assert Factors.from_parameters({"r0_ohm": 0.1, **factors.as_parameters()}) == factors
    assert Factors.from_parameters({"r0_ohm": 0.1}) == NOMINAL
    made = predicted(calibrated(resistance=1.4, capacity=0.93, cooling=2.0, heat_capacity=0.8))
    assert Factors.from_parameters(made.parameters) == factors
    assert (made.calibration_date, made.calibration_score) == (NOW, 0.9)
    assert (predicted().calibration_date, predicted().calibration_score) == (None, None)


def test_a_pack_of_less_capacity_is_predicted_to_move_further():
    power = np.full(4, 3e3)
    plain = predicted(power=power).soc_profile_pct
    small = predicted(calibrated(capacity=0.8), power).soc_profile_pct
    assert (55 - small[-1]) / (55 - plain[-1]) == pytest.approx(1 / 0.8, rel=0.01)


def test_doubled_resistance_is_planned_with_twice_the_loss_heat_and_drop():
    plain, doubled = (
        planned(predicted()),
        planned(predicted(calibrated(resistance=2.0))),
    )
    # Where both packs have charge and room: at its end a pack takes less than the profile says.
    socs = [predicted(k).soc_profile_pct for k in (None, calibrated(resistance=2.0))]
    ends = np.stack([series for soc in socs for series in (soc, np.concatenate([[55.0], soc[:-1]]))])
    moving = (np.abs(predicted().power_profile_w) > 5e3) & (ends > 5).all(axis=0) & (ends < 95).all(axis=0)
    assert moving.sum() > 5
    loss, more = 1 - plain.eta_discharge[moving], 1 - doubled.eta_discharge[moving]
    assert (more > 1.5 * loss).all()
    assert more.mean() == pytest.approx(2 * loss.mean(), rel=0.25)
    # The pack also gets warmer, and so less resistive: a little less than double.
    heat = (doubled.temperature_discharge_k_per_w / plain.temperature_discharge_k_per_w)[moving]
    assert 1.5 < heat.min() <= heat.max() < 2.1
    assert (doubled.voltage_v_per_w > 1.15 * plain.voltage_v_per_w).all()
    assert (doubled.eta_charge < plain.eta_charge)[moving].all()


def test_capacity_and_cooling_reach_the_plan():
    plain, other = planned(predicted()), planned(predicted(calibrated(capacity=0.8, cooling=2.0)))
    assert plain.energy_curve_wh == tuple(energy_curve_wh(CONFIG, 80.0))
    np.testing.assert_allclose(other.energy_curve_wh, 0.8 * np.array(plain.energy_curve_wh))
    for name in ("capacity_wh", "energy_wh", "energy_min_wh", "energy_max_wh"):
        assert getattr(other, name) == pytest.approx(0.8 * getattr(plain, name))
    assert other.temperature_a == pytest.approx(plain.temperature_a**2)
