"""Limits: every column bounds something, contradictions are named, and no clamped pack breaks one."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.limits import CELL_WINDOW_V, Bound, ConstraintRow, clamp, power_bounds, tightest
from core.pack import Pack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHEMISTRIES = list(Chemistry)


def config(chemistry=Chemistry.NMC):
    return DeviceConfig(
        device_id="d", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip


def row(**changes):
    return ConstraintRow(row_id=changes.pop("row_id", "r"), device_id="d", **changes)


def base_condition():
    return Pack(config(), soc_pct=60, soh_pct=90, temperature_c=25, ambient_c=20).condition(900)


TIGHTER = {
    "max_cell_voltage_v": 3.80, "min_cell_voltage_v": 3.75, "max_pack_voltage_v": 380.0, "min_pack_voltage_v": 375.0,
    "max_charge_current_a": 1.0, "max_discharge_current_a": 1.0, "max_cell_temperature_c": 26.0,
    "min_cell_temperature_c": 24.0, "max_temperature_delta_k": 0.5, "max_soc_pct": 60.5, "min_soc_pct": 59.5,
    "max_charge_power_w": 10.0, "max_discharge_power_w": 10.0, "max_cycle_depth_pct": 0.1, "max_c_rate_per_h": 0.01,
}  # fmt: skip


def test_the_list_of_columns_is_complete():
    bounds = {f.name for f in fields(ConstraintRow)} - {"row_id", "device_id", "active", "effective_from", "effective_until"}
    assert set(TIGHTER) == bounds


@pytest.mark.parametrize(("column", "value"), list(TIGHTER.items()))
def test_every_column_bounds_power(column, value):
    loose = row(max_charge_current_a=500, max_discharge_current_a=500, max_c_rate_per_h=9)
    condition = replace(base_condition(), temperature_spread_k=0.45 if "delta" in column else 0.1)
    before = power_bounds(tightest(config(), [loose], NOW), condition, 900)
    after = power_bounds(tightest(config(), [loose, row(row_id="tight", **{column: value})], NOW), condition, 900)
    assert after.charge_w[0] < before.charge_w[0] - 1 or after.discharge_w[0] < before.discharge_w[0] - 1


def test_all_rows_in_force_apply_and_the_origin_is_named():
    rows = [
        row(row_id="a", max_soc_pct=80, min_soc_pct=10),
        row(row_id="b", max_soc_pct=90, min_soc_pct=20),
        row(row_id="off", max_soc_pct=50, active=False),
        row(row_id="later", max_soc_pct=50, effective_from=NOW + timedelta(seconds=1)),
        row(row_id="over", max_soc_pct=50, effective_until=NOW),
    ]
    limits = tightest(config(), rows, NOW)
    assert (limits.soc_min_pct, limits.soc_max_pct) == (20, 80)
    assert (limits.origins["soc_min_pct"], limits.origins["soc_max_pct"]) == ("b", "a")


def test_contradictions_and_no_row_are_refused():
    with pytest.raises(InputError, match=r"soc_min_pct and soc_max_pct.*\(b\).*\(a\)"):
        tightest(config(), [row(row_id="a", max_soc_pct=40), row(row_id="b", min_soc_pct=60)], NOW)
    with pytest.raises(InputError, match="none in force"):
        tightest(config(), [], NOW)
    with pytest.raises(InputError, match="charge_power_w"):
        tightest(config(), [row(max_charge_power_w=-1)], NOW)
    with pytest.raises(InputError, match="max_soc_pct"):
        tightest(config(), [row(max_soc_pct=float("nan"))], NOW)


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
def test_the_chemistrys_cell_window_always_holds(chemistry):
    limits = tightest(config(chemistry), [row(max_cell_voltage_v=5.0, min_cell_voltage_v=0.1)], NOW)
    assert (limits.cell_voltage_min_v, limits.cell_voltage_max_v) == CELL_WINDOW_V[chemistry]
    assert limits.voltage_max_v == pytest.approx(100 * CELL_WINDOW_V[chemistry][1])


def test_nan_in_the_state_is_never_a_limit():
    with pytest.raises(InputError, match="resistance_ohm"):
        power_bounds(tightest(config(), [row()], NOW), replace(base_condition(), resistance_ohm=float("nan")), 900)


@pytest.mark.parametrize("name", ["max_charge_power_w", "max_discharge_power_w", "nominal_capacity_ah", "nominal_voltage_v"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -5.0])
def test_a_number_of_the_device_that_is_none_is_refused(name, number):
    with pytest.raises(InputError, match=f"device_configurations of .*{name}"):
        tightest(replace(config(), **{name: number}), [row()], NOW)


def test_a_limit_that_is_no_number_is_refused():
    limits = replace(tightest(config(), [row()], NOW), charge_power_w=float("nan"))
    with pytest.raises(InputError, match="charge_power_w"):
        power_bounds(limits, base_condition(), 900)


def test_clamp_names_what_moved_it():
    limits = tightest(config(), [row()], NOW)
    assert clamp(1000.0, limits, base_condition(), 900) == (1000.0, None)
    power_w, bound = clamp(-1e6, limits, base_condition(), 900)
    assert power_w > -1e5
    assert bound is Bound.CURRENT


@pytest.mark.parametrize("chemistry", CHEMISTRIES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000), soc=st.floats(0, 100), soh=st.floats(50, 100), temperature=st.floats(-15, 55),
    ambient=st.floats(-10, 40),
)  # fmt: skip
def test_a_pack_under_the_clamp_never_leaves_its_limits(chemistry, seed, soc, soh, temperature, ambient):
    """Random wishes from extreme starts: what is inside stays inside, what is outside comes no further out."""
    limits = tightest(config(chemistry), [row(max_cell_temperature_c=45, min_cell_temperature_c=-5)], NOW)
    pack = Pack(config(chemistry), soc_pct=soc, soh_pct=soh, temperature_c=temperature, ambient_c=ambient)
    rng = np.random.default_rng(seed)
    soc_before, hot_before = soc, temperature
    for _ in range(60):
        power_w, _ = clamp(rng.normal(0, 40_000), limits, pack.condition(60), 60)
        pack.step(power_w, 60)
        state = pack.state(NOW)
        assert -limits.charge_current_a - 0.5 <= state.current_a <= limits.discharge_current_a + 0.5
        assert min(soc_before, limits.soc_min_pct) - 0.01 <= state.soc_pct <= max(soc_before, limits.soc_max_pct) + 0.01
        if abs(power_w) > 1:
            assert limits.voltage_min_v - 0.5 <= state.voltage_v <= limits.voltage_max_v + 0.5
            assert state.temperature_c <= max(limits.temperature_max_c, hot_before, ambient) + 0.1
        soc_before, hot_before = state.soc_pct, state.temperature_c
