"""What cannot be a problem is refused when it is made, by name."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.pack import Pack
from optimizer.measured import check_measured


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


def test_a_device_that_is_there_twice_is_named(make_site, make_device):
    with pytest.raises(InputError, match="device_id: got 'pack', expected each device once"):
        make_site(np.ones(4), make_device(4), make_device(4))


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
    with pytest.raises(InputError, match=r"grid: load_w: got 'shape \(\)', expected an array of 8 values"):
        make_site(np.ones(8), load_w=5e3)
    with pytest.raises(InputError, match=r"grid: import_limit_w: got '8 values', expected an array of 8 values"):
        make_site(np.ones(8), import_limit_w=[5e3] * 8)
    with pytest.raises(InputError, match=r"device pack: eta_charge: got 'shape \(\)', expected an array"):
        make_site(np.ones(8), make_device(8, eta_charge=None))
    with pytest.raises(InputError, match="device pack: capacity_wh: got '10 kWh', expected a number"):
        make_site(np.ones(8), make_device(8, capacity_wh="10 kWh"))
    with pytest.raises(InputError, match=r"device pack: charge_max_w: got 'shape \(2, 8\)'"):
        make_site(np.ones(8), make_device(8, charge_max_w=np.ones((2, 8))))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"energy_min_wh": 90e3, "energy_max_wh": 10e3}, "energy_min_wh and energy_max_wh"),
        ({"capacity_wh": 0.0}, "capacity_wh"),
        ({"charge_max_w": np.array([1.0, -1.0])}, r"charge_max_w\[1\]"),
        ({"eta_charge": np.array([0.95, 1.2])}, r"eta_charge\[1\]"),
        ({"eta_discharge": np.array([0.0, 0.95])}, r"eta_discharge\[0\]"),
        ({"capacity_wh": -100e3}, r"capacity_wh: got -100000\.0"),
        ({"energy_low_wh": 60e3, "energy_high_wh": 40e3}, "energy_low_wh and energy_high_wh: got '60000 and 40000'"),
        ({"cycle_depth_wh": -1.0}, "cycle_depth_wh"),
        ({"leak_wh": -1.0}, "leak_wh"),
        ({"wear_quadratic": -1e-3}, "wear_quadratic"),
        ({"soc_stress_eur_per_h": -0.1}, "soc_stress_eur_per_h"),
        ({"move_weight": -1e-4}, "move_weight"),
        ({"temperature_a": 1.2}, "temperature_a"),
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


@pytest.mark.parametrize("name", ["peak_price_eur_per_kw", "peak_incurred_w", "tracking_weight"])
def test_prices_that_would_pay_for_a_peak_without_end_are_refused(make_site, name):
    with pytest.raises(InputError, match=f"grid: {name}: got -1.0"):
        make_site(np.ones(2), **{name: -1.0})


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_soft_limits_cost_something(make_site, value):
    problem = make_site(np.ones(2))
    with pytest.raises(InputError, match="soft limits: voltage_quadratic"):
        replace(problem, soft=replace(problem.soft, voltage_quadratic=value))


def pack(chemistry, soc_pct, **changes):
    config = DeviceConfig(
        device_id="west-2", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip
    made = Pack(config, soc_pct=soc_pct, soh_pct=80, temperature_c=25, ambient_c=20)
    made.step(changes.pop("power_w", 0.0), 60)
    return config, replace(made.state(datetime(2026, 1, 1, tzinfo=UTC)), **changes)


@pytest.mark.parametrize("chemistry", list(Chemistry))
@pytest.mark.parametrize("soc", [20.0, 50.0, 80.0, 100.0])
@pytest.mark.parametrize("power_w", [0.0, 15e3, -15e3])
def test_half_full_is_50_and_not_one_half(chemistry, soc, power_w):
    config, state = pack(chemistry, soc, power_w=power_w)
    check_measured(config, state)
    with pytest.raises(
        InputError, match=rf"device west-2: soc_pct: got {soc / 100}.*percent, not a share of 1: .* near those at"
    ):
        check_measured(config, replace(state, soc_pct=soc / 100))


@pytest.mark.parametrize("chemistry", list(Chemistry))
@pytest.mark.parametrize("soc", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("power_w", [0.0, -15e3])
def test_a_pack_that_is_empty_may_say_so(chemistry, soc, power_w):
    config, state = pack(chemistry, soc)
    check_measured(config, state)
    charged, state = pack(chemistry, soc, power_w=power_w)
    check_measured(charged, replace(state, soc_pct=min(state.soc_pct, 1.0)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("soc_pct", -1.0),
        ("soc_pct", 101.0),
        ("soc_pct", np.nan),
        ("temperature_c", np.nan),
        ("voltage_v", np.inf),
        ("current_a", np.nan),
    ],
)
def test_a_state_that_cannot_be_is_named(name, value):
    config, state = pack(Chemistry.NMC, 50.0)
    with pytest.raises(InputError, match=f"device west-2: {name}"):
        check_measured(config, replace(state, **{name: value}))


@pytest.mark.parametrize("name", ["nominal_capacity_ah", "series_cells", "max_charge_power_w"])
def test_a_negative_capacity_is_named(name):
    config, state = pack(Chemistry.NMC, 50.0)
    with pytest.raises(InputError, match=f"device west-2: {name}: got -1"):
        check_measured(replace(config, **{name: -1}), state)
