"""What cannot be a problem is refused when it is made, by name."""

from dataclasses import replace

import numpy as np
import pytest

from core.errors import InputError


def bad(array, k, value):
    changed = np.array(array, dtype=float)
    changed[k] = value
    return changed


@pytest.mark.parametrize("name", ["buy_eur_per_kwh", "sell_eur_per_kwh", "load_w", "pv_w", "import_limit_w", "target_w"])
def test_nan_at_the_meter_is_named(make_site, name):
    with pytest.raises(InputError, match=rf"grid: {name}\[3\]"):
        make_site(
            **{"buy": np.ones(8), name: bad(np.ones(8), 3, np.nan)}
            if name != "buy_eur_per_kwh"
            else {"buy": bad(np.ones(8), 3, np.nan)}
        )


@pytest.mark.parametrize(
    "name", ["charge_max_w", "discharge_max_w", "eta_charge", "temperature_drift_c", "voltage_v", "charge_taper_w"]
)
def test_nan_of_a_device_is_named(make_site, make_device, name):
    device = make_device(8, device_id="west-2")
    with pytest.raises(InputError, match=rf"device west-2: {name}\[5\]"):
        make_site(np.ones(8), replace(device, **{name: bad(getattr(device, name), 5, np.nan)}))


@pytest.mark.parametrize("name", ["energy_wh", "temperature_c", "capacity_wh", "leak_wh", "wear_eur_per_kwh"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scalars_must_be_finite(make_site, make_device, name, value):
    with pytest.raises(InputError, match=rf"device pack: {name}"):
        make_site(np.ones(8), replace(make_device(8), **{name: value}))


def test_infinite_power_is_refused(make_site, make_device):
    with pytest.raises(InputError, match="charge_max_w"):
        make_site(np.ones(4), make_device(4, charge_max_w=np.full(4, np.inf)))


def test_series_that_are_too_short_are_named(make_site, make_device):
    with pytest.raises(InputError, match=r"grid: load_w: got '7 values', expected 8 values"):
        make_site(np.ones(8), load_w=np.ones(7))
    with pytest.raises(InputError, match="device pack: charge_max_w"):
        make_site(np.ones(8), make_device(7))
    with pytest.raises(InputError, match="horizon"):
        make_site(np.ones(0))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"energy_min_wh": 90e3, "energy_max_wh": 10e3}, "energy_min_wh and energy_max_wh"),
        ({"capacity_wh": 0.0}, "capacity_wh"),
        ({"charge_max_w": np.array([1.0, -1.0])}, r"charge_max_w\[1\]"),
        ({"eta_charge": np.array([0.95, 1.2])}, r"eta_charge\[1\]"),
        ({"eta_discharge": np.array([0.0, 0.95])}, r"eta_discharge\[0\]"),
    ],
)
def test_contradictions_are_named(make_site, make_device, change, field):
    with pytest.raises(InputError, match=f"device pack: {field}"):
        make_site(np.ones(2), make_device(2, **change))


@pytest.mark.parametrize("dt_s", [0.0, -900.0, np.nan, np.inf])
def test_a_step_has_a_length(make_site, dt_s):
    with pytest.raises(InputError, match="dt_s"):
        make_site(np.ones(2), dt_s=dt_s)


def test_negative_pv_and_limits_are_refused(make_site):
    for name in ("pv_w", "import_limit_w", "export_limit_w"):
        with pytest.raises(InputError, match=rf"{name}\[1\]"):
            make_site(np.ones(2), **{name: np.array([1.0, -1.0])})
