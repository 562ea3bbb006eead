"""The replay on the twin: whatever is asked, what is left stays within every limit at every substep, or is rest."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from dispatch_cases import INTERVAL_S, NOW, device, limits, observation, state

from core.decisions import Decision, Reason, SetPoint
from core.devices import Chemistry
from core.pack import Pack, imbalance_v
from core.predictions import Prediction
from serving.dispatch.gate import gate
from serving.dispatch.replay import replay

CHEMISTRIES = list(Chemistry)


def replayed(config, sight, bound, power_w, predictions=None):
    return replay(
        [config],
        {config.device_id: sight},
        {config.device_id: bound},
        predictions or {},
        {config.device_id: power_w},
        interval_s=INTERVAL_S,
        ambient_c=20.0,
    )[config.device_id]


def walk(config, sight, power_w):
    """An independent run: the simulated pack itself, minute by minute; (soc, voltage, current, temperature) at each."""
    pack = Pack(config, soc_pct=sight.soc_pct, soh_pct=sight.soh_pct, temperature_c=sight.temperature_c, ambient_c=20.0)
    rows = []
    for _ in range(INTERVAL_S // 60):
        pack.step(power_w, 60.0)
        now = pack.state(NOW)
        rows.append((now.soc_pct, now.voltage_v, now.current_a, now.temperature_c))
    return np.array(rows)


@settings(max_examples=150, deadline=None)
@given(
    chemistry=st.sampled_from(CHEMISTRIES),
    soc_pct=st.floats(0.0, 100.0),
    temperature_c=st.floats(-25.0, 70.0),
    soh_pct=st.floats(60.0, 100.0),
    power_w=st.floats(-60_000.0, 60_000.0),
)
def test_what_is_left_is_within_every_limit_or_no_further_out_than_rest(chemistry, soc_pct, temperature_c, soh_pct, power_w):
    config = device(chemistry=chemistry)
    bound = limits(config, max_charge_current_a=90.0, max_discharge_current_a=90.0)
    sight = state(config, soc_pct, temperature_c, soh_pct)
    found = replayed(config, sight, bound, power_w)
    assert abs(found.power_w) <= abs(power_w)
    assert found.power_w * power_w >= 0
    assert bool(found.broken) == (found.power_w != power_w)
    rows, rest = walk(config, sight, found.power_w), walk(config, sight, 0.0)
    high_v, low_v = imbalance_v(config, sight)
    slack_v = 0.002 * bound.voltage_max_v
    assert (rows[:, 0] <= np.maximum(bound.soc_max_pct, rest[:, 0]) + 0.1).all()
    assert (rows[:, 0] >= np.minimum(bound.soc_min_pct, rest[:, 0]) - 0.1).all()
    assert (rows[:, 1] <= np.maximum(bound.voltage_max_v - high_v, rest[:, 1]) + slack_v).all()
    assert (rows[:, 1] >= np.minimum(bound.voltage_min_v + low_v, rest[:, 1]) - slack_v).all()
    assert (rows[:, 3] <= np.maximum(bound.temperature_max_c, rest[:, 3]) + 0.2).all()
    assert (np.abs(rows[:, 2]) <= 90.0 * 1.01).all()


@pytest.mark.parametrize(
    ("sight", "bound", "power_w", "broken"),
    [
        ({"soc_pct": 94.0}, {}, -15_000.0, "soc_max"),
        ({"soc_pct": 6.0}, {}, 15_000.0, "soc_min"),
        ({"soc_pct": 50.0}, {"max_charge_current": 10.0}, -15_000.0, "charge_current"),
        ({"soc_pct": 50.0}, {"max_discharge_current": 10.0}, 15_000.0, "discharge_current"),
        (
            {"soc_pct": 50.0, "temperature_c": 59.9},
            {"max_c_rate": 10.0, "max_discharge_current": 500.0},
            20_000.0,
            "temperature_max",
        ),
    ],
)
def test_each_limit_cuts_and_says_its_name(sight, bound, power_w, broken):
    config = device(max_charge_power_w=1e7, max_discharge_power_w=1e7)
    names = {"max_charge_current": "max_charge_current_a", "max_discharge_current": "max_discharge_current_a"}
    rows = {names.get(name, f"{name}_per_h"): value for name, value in bound.items()}
    found = replayed(config, state(config, **sight), limits(config, **rows), power_w)
    assert found.broken == broken
    assert abs(found.power_w) < abs(power_w)


def test_a_full_pack_may_discharge_and_one_outside_its_limits_comes_back():
    config = device()
    for soc_pct, power_w in ((99.0, 5_000.0), (1.0, -5_000.0)):
        assert replayed(config, state(config, soc_pct), limits(config), power_w).power_w == power_w
    for soc_pct, power_w in ((99.0, -5_000.0), (1.0, 5_000.0)):
        assert replayed(config, state(config, soc_pct), limits(config), power_w).power_w == 0.0


def test_a_higher_measured_resistance_is_believed():
    config = device(max_charge_power_w=1e6)
    bound = limits(config, max_c_rate_per_h=4.0, max_charge_current_a=300.0, max_soc_pct=100.0)
    sight = state(config, 70.0)
    healthy = replayed(config, sight, bound, -60_000.0).power_w
    worn = replace(sight, internal_resistance_ohm=4 * sight.internal_resistance_ohm)
    assert abs(replayed(config, worn, bound, -60_000.0).power_w) < abs(healthy)


def test_a_calibration_that_came_with_the_prediction_acts():
    config = device()
    steps = np.zeros(4)
    small = Prediction(
        device_id="p1",
        prediction_timestamp=NOW,
        horizon_hours=1,
        soc_pct=50.0,
        soh_pct=90.0,
        temperature_c=25.0,
        internal_resistance_ohm=0.05,
        power_profile_w=steps,
        voltage_profile_v=steps,
        temperature_profile_c=steps,
        soc_profile_pct=steps,
        efficiency_profile=steps,
        parameters={"capacity_factor": 0.5},
    )
    sight, bound = state(config, 70.0), limits(config, max_soc_pct=88.0)
    nominal = replayed(config, sight, bound, -15_000.0)
    calibrated = replayed(config, sight, bound, -15_000.0, {"p1": small})
    assert nominal.broken == ""
    assert calibrated.broken == "soc_max"
    assert abs(calibrated.power_w) < abs(nominal.power_w)


@settings(max_examples=60, deadline=None)
@given(
    soc_pct=st.floats(0.0, 100.0),
    temperature_c=st.floats(-25.0, 70.0),
    wanted=st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3),
    load_w=st.floats(0.0, 60_000.0),
)
def test_the_whole_gate_never_raises_power_turns_it_round_or_breaks_the_meter(soc_pct, temperature_c, wanted, load_w):
    configs = [device(f"p{k}") for k in range(3)]
    sights = {c.device_id: state(c, soc_pct, temperature_c) for c in configs}
    sight = observation(*configs, states=sights, load_w=load_w, import_limit_w=40_000.0, export_limit_w=10_000.0)
    decision = Decision(
        site_id="s",
        starts_at=NOW,
        interval_s=INTERVAL_S,
        source="any",
        set_points=tuple(
            SetPoint(device_id=c.device_id, power_w=w, reason=Reason.IDLE) for c, w in zip(configs, wanted, strict=True)
        ),
    )
    gated = gate(decision, sight)
    left = [point.power_w for point in gated.decision.set_points]
    assert np.isfinite(left).all()
    for before, after in zip(wanted, left, strict=True):
        assert abs(after) <= abs(before) + 1e-9
        assert before * after >= 0
    import_w = load_w - sum(left)
    assert import_w <= max(40_000.0, load_w - sum(max(0.0, watt) for watt in left)) + 1.0
    assert -import_w <= 10_000.0 + 1.0
    again = gate(gated.decision, sight)
    assert (
        sum(abs(a.power_w - b) for a, b in zip(again.decision.set_points, left, strict=True)) <= 0.06 * sum(map(abs, left)) + 2.0
    )
