"""Predictions of many devices at once are those of each alone."""

from datetime import UTC, datetime

import numpy as np
import pytest

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.pack import Pack
from core.twin import predict, predict_many

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERIES = ("power_profile_w", "voltage_profile_v", "temperature_profile_c", "soc_profile_pct", "efficiency_profile")


def fleet(count=6):
    configs, states = [], []
    for i in range(count):
        chemistry = list(Chemistry)[i % 4]
        configs.append(
            DeviceConfig(
                device_id=f"d{i}",
                site_id="s",
                name="d",
                chemistry=chemistry,
                nominal_capacity_ah=60.0 + 20 * i,
                nominal_voltage_v=360,
                max_charge_power_w=40e3,
                max_discharge_power_w=40e3,
                series_cells=90 + i,
                parallel_cells=9,
            )
        )
        pack = Pack(configs[-1], soc_pct=30 + 8 * i, soh_pct=60 + 6 * i, temperature_c=15 + 3 * i, ambient_c=20)
        states.append(pack.state(NOW))
    return configs, states


def profiles(count=6, steps=24):
    return np.random.default_rng(1).uniform(-15e3, 15e3, (count, steps))


def test_each_is_predicted_as_if_alone():
    (configs, states), power = fleet(), profiles()
    ambient = 20 + np.random.default_rng(2).normal(size=power.shape)
    together = predict_many(configs, states, power, dt_s=900.0, start=NOW, ambient_c=ambient)
    assert [made.device_id for made in together] == [f"d{i}" for i in range(6)]
    for i, made in enumerate(together):
        alone = predict(configs[i], states[i], power[i], dt_s=900.0, start=NOW, ambient_c=ambient[i])
        for name in SERIES:
            np.testing.assert_array_equal(getattr(made, name), getattr(alone, name), err_msg=name)
        assert made.degradation == alone.degradation
        assert made.parameters == alone.parameters
        assert (made.horizon_hours, made.dt_s, made.steps) == (6, 900.0, 24)
        assert made.prediction_timestamp == NOW


@pytest.mark.parametrize("ambient", [18.0, np.full(24, 18.0), np.full((6, 24), 18.0)])
def test_ambient_may_be_a_number_a_series_or_one_each(ambient):
    (configs, states), power = fleet(), profiles()
    expected = predict_many(configs, states, power, dt_s=900.0, start=NOW, ambient_c=18.0)
    found = predict_many(configs, states, power, dt_s=900.0, start=NOW, ambient_c=ambient)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.temperature_profile_c, other.temperature_profile_c)


def test_the_inputs_stay_as_they_are():
    (configs, states), power = fleet(), profiles()
    kept = power.copy()
    predict_many(configs, states, power, dt_s=900.0, start=NOW, ambient_c=20.0)
    np.testing.assert_array_equal(power, kept)
    assert states[0].soc_pct == 30


def test_the_device_that_is_wrong_is_named():
    (configs, states), power = fleet(), profiles()
    power[4, 7] = np.nan
    with pytest.raises(InputError, match="twin of d4: power_profile"):
        predict_many(configs, states, power, dt_s=900.0, start=NOW, ambient_c=20.0)
    with pytest.raises(InputError, match="6 devices, 6 states, 5 profiles"):
        predict_many(configs, states, profiles(5), dt_s=900.0, start=NOW, ambient_c=20.0)
    with pytest.raises(InputError, match=r"twin of d0: horizon_hours: got 5\.75"):
        predict_many(configs, states, profiles(steps=23), dt_s=900.0, start=NOW, ambient_c=20.0)
