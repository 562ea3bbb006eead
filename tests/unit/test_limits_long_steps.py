"""Bounds over steps of a quarter of an hour: constant power within them keeps every limit at the end of the step."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, clamp, power_bounds, tightest
from core.pack import Pack

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def config(chemistry):
    return DeviceConfig(
        device_id="d", site_id="s", name="d", chemistry=chemistry, nominal_capacity_ah=100, nominal_voltage_v=360,
        max_charge_power_w=40_000, max_discharge_power_w=45_000, series_cells=100, parallel_cells=20,
    )  # fmt: skip


def limits_of(chemistry, **columns):
    return tightest(config(chemistry), [ConstraintRow(row_id="r", device_id="d", **columns)], NOW)


@pytest.mark.parametrize("chemistry", list(Chemistry))
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000), soc=st.floats(5, 95), soh=st.floats(50, 100), temperature=st.floats(0, 44),
    ambient=st.floats(0, 40),
)  # fmt: skip
def test_a_pack_under_the_clamp_keeps_its_limits_at_the_end_of_long_steps(chemistry, seed, soc, soh, temperature, ambient):
    limits = limits_of(chemistry, max_cell_temperature_c=45, min_cell_temperature_c=-5)
    pack = Pack(config(chemistry), soc_pct=soc, soh_pct=soh, temperature_c=temperature, ambient_c=ambient)
    rng = np.random.default_rng(seed)
    for _ in range(24):
        before, hot = pack.soc_pct, pack.temperature_c
        power_w, _ = clamp(rng.normal(0, 40_000), limits, pack.condition(900), 900)
        pack.step(power_w, 900)
        state = pack.state(NOW)
        assert -limits.charge_current_a * 1.01 <= state.current_a <= limits.discharge_current_a * 1.01
        assert min(before, limits.soc_min_pct) - 0.1 <= state.soc_pct <= max(before, limits.soc_max_pct) + 0.1
        if abs(power_w) > 1:
            assert limits.voltage_min_v - 1.0 <= state.voltage_v <= limits.voltage_max_v + 1.0
            assert state.temperature_c <= max(limits.temperature_max_c, hot, ambient) + 0.3


@pytest.mark.parametrize("chemistry", list(Chemistry))
def test_a_long_step_leaves_less_room_than_a_short_one(chemistry):
    """5 % below the limit: a minute at full power fits, a quarter of an hour does not."""
    limits = limits_of(chemistry, max_charge_current_a=500, max_discharge_current_a=500, max_c_rate_per_h=9)
    pack = Pack(config(chemistry), soc_pct=91.5, soh_pct=90, temperature_c=25, ambient_c=20)
    short, long = (power_bounds(limits, pack.condition(dt_s), dt_s) for dt_s in (60.0, 900.0))
    assert long.charge_w[0] < 0.7 * short.charge_w[0]
    assert long.charge_w[0] > 0


@pytest.mark.parametrize(("soc", "side"), [(94.0, -1.0), (6.0, 1.0)])
def test_the_soc_limit_is_reached_but_not_passed(soc, side):
    limits = limits_of(Chemistry.NMC, max_charge_current_a=500, max_discharge_current_a=500, max_c_rate_per_h=9)
    pack = Pack(config(Chemistry.NMC), soc_pct=soc, soh_pct=90, temperature_c=25, ambient_c=20)
    power_w, _ = clamp(side * 1e6, limits, pack.condition(900), 900)
    pack.step(power_w, 900)
    limit = limits.soc_max_pct if side < 0 else limits.soc_min_pct
    assert -side * (pack.soc_pct - limit) <= 0.1
    assert abs(pack.soc_pct - soc) > 0.2


def test_a_hot_pack_may_do_less_over_a_long_step():
    limits = limits_of(Chemistry.NMC, max_cell_temperature_c=40, max_charge_current_a=500, max_discharge_current_a=500)
    limits = replace(limits, c_rate_per_h=9.0)
    pack = Pack(config(Chemistry.NMC), soc_pct=60, soh_pct=60, temperature_c=34.9, ambient_c=30)
    short, long = (power_bounds(limits, pack.condition(dt_s), dt_s) for dt_s in (60.0, 3600.0))
    assert long.discharge_w[0] < short.discharge_w[0]
    pack.step(float(long.discharge_w[0]), 3600)
    assert pack.temperature_c <= 40.3
