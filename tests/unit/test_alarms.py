"""What alarm flags do: the table, the rule for flags that are not in it, and the gate that obeys."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.devices import PackState
from serving.dispatch.alarms import ACTION_OF_FLAG, AlarmAction, action_of, flags_with, restricted


def state(*flags):
    return PackState(
        device_id="p",
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
        soc_pct=50,
        soh_pct=80,
        temperature_c=25,
        voltage_v=370,
        current_a=0,
        power_w=0,
        internal_resistance_ohm=0.05,
        alarm_flags=flags,
    )


@pytest.mark.parametrize(
    ("flag", "action"),
    [
        ("high_temp_warning", AlarmAction.NOTED),  # the contract's own example
        ("voltage_imbalance", AlarmAction.NOTED),
        ("no_such_thing_warning", AlarmAction.NOTED),
        ("no_such_thing", AlarmAction.STOP),
        ("", AlarmAction.STOP),
        ("overtemperature", AlarmAction.STOP),
        (" Smoke_Detected ", AlarmAction.EMERGENCY_SHUTDOWN),
        ("thermal_runaway", AlarmAction.EMERGENCY_SHUTDOWN),
        ("overvoltage", AlarmAction.NO_CHARGE),
        ("undervoltage", AlarmAction.NO_DISCHARGE),
    ],
)
def test_the_table_and_the_rule(flag, action):
    assert action_of(flag) is action


def test_each_flag_is_in_the_table_once_and_spelt_as_it_is_compared():
    assert all(flag == flag.strip().lower() for flag in ACTION_OF_FLAG)
    assert set(ACTION_OF_FLAG.values()) == set(AlarmAction)
    assert not any(flag.endswith("_warning") for flag in ACTION_OF_FLAG)


@given(st.text())
def test_no_unknown_flag_latches_a_device(flag):
    if flag.strip().lower() not in ACTION_OF_FLAG:
        assert action_of(flag) in (AlarmAction.STOP, AlarmAction.NOTED)


@pytest.mark.parametrize(
    ("flags", "charging", "discharging"),
    [
        ((), "", ""),
        (("high_temp_warning",), "", ""),
        (("overvoltage",), "alarm (no_charge): overvoltage", ""),
        (("undervoltage",), "", "alarm (no_discharge): undervoltage"),
        (("overvoltage", "what_is_this"), "alarm: what_is_this", "alarm: what_is_this"),
        (("smoke_detected",), "alarm: smoke_detected", "alarm: smoke_detected"),
    ],
)
def test_what_flags_forbid(flags, charging, discharging):
    assert restricted(-100.0, state(*flags)) == charging
    assert restricted(100.0, state(*flags)) == discharging


def test_flags_are_found_by_what_they_do():
    flags = ["b_fault", "a_fault", "smoke_detected", "x_warning"]
    assert flags_with(flags, AlarmAction.STOP) == ["a_fault", "b_fault"]
    assert flags_with(flags, AlarmAction.EMERGENCY_SHUTDOWN) == ["smoke_detected"]
