"""Measurements beyond the limits act by the declared table, as flags do; noise does nothing."""

import sys
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dispatch_cases import device, limits, observation, state

from core.decisions import Decision, Reason, SetPoint
from serving.dispatch.alarms import LIMIT_RULES, AlarmAction, beyond_limits, limit_findings, shutdown_reason
from serving.dispatch.gate import gate

A = AlarmAction
CONFIG = device()
LIMITS = limits(CONFIG)
FINE = state(CONFIG)


def but(**changes):
    return replace(FINE, **changes)


def cells_c(*values):
    return but(cell_temperatures_c=values)


def with_cell_c(value):
    return cells_c(55.0, 56.0, value)


CASES = [
    # within noise, beyond it, gravely beyond it
    ("temperature_max", with_cell_c(60.3), with_cell_c(61.0), with_cell_c(71.0), A.STOP, A.EMERGENCY_SHUTDOWN),
    ("temperature_min", cells_c(-20.3), cells_c(-21.0), None, A.STOP, None),
    ("temperature_delta", cells_c(20.0, 30.3), cells_c(20.0, 31.0), None, A.STOP, None),
    ("voltage_max", but(voltage_v=421.0), but(voltage_v=424.0), but(voltage_v=434.0), A.NO_CHARGE, A.EMERGENCY_SHUTDOWN),
    ("voltage_min", but(voltage_v=249.5), but(voltage_v=247.0), but(voltage_v=200.0), A.NO_DISCHARGE, A.STOP),
    ("current", but(current_a=105.0), but(current_a=115.0), but(current_a=160.0), A.STOP, A.EMERGENCY_SHUTDOWN),
    ("power", but(power_w=21_000.0), but(power_w=23_000.0), None, A.STOP, None),
    ("soc_max", but(soc_pct=95.3), but(soc_pct=96.0), None, A.NO_CHARGE, None),
    ("soc_min", but(soc_pct=4.7), but(soc_pct=4.0), None, A.NO_DISCHARGE, None),
]


def test_every_rule_of_the_table_has_a_case_and_a_healthy_pack_breaks_none():
    assert [case[0] for case in CASES] == [rule.name for rule in LIMIT_RULES]
    assert limit_findings(FINE, LIMITS, CONFIG) == []
    assert {rule.name for rule in LIMIT_RULES if rule.grave < inf} == {case[0] for case in CASES if case[3] is not None}


@pytest.mark.parametrize(("name", "noise", "beyond", "grave", "action", "grave_action"), CASES, ids=[case[0] for case in CASES])
def test_what_each_limit_does(name, noise, beyond, grave, action, grave_action):
    def found(sight):
        return [act for act, text in limit_findings(sight, LIMITS, CONFIG) if text.startswith(f"{name} ")]

    assert found(noise) == []
    assert found(beyond) == [action]
    assert shutdown_reason(beyond, LIMITS, CONFIG) == ""
    if grave is not None:
        assert found(grave) == [grave_action]
        assert bool(shutdown_reason(grave, LIMITS, CONFIG)) == (grave_action is A.EMERGENCY_SHUTDOWN)


def test_the_highest_cell_counts_where_the_pack_looks_fine():
    sight = replace(FINE, cell_voltages_v=(3.7, 3.7, 4.25))
    assert limit_findings(sight, LIMITS, CONFIG)[0][0] is A.NO_CHARGE
    assert "voltage_max exceeded by 1.19 %" in beyond_limits(-100.0, sight, LIMITS, CONFIG)
    assert beyond_limits(100.0, sight, LIMITS, CONFIG) == ""


def test_flags_shut_down_also_without_limits_and_measurements_only_with_them():
    assert shutdown_reason(replace(FINE, alarm_flags=("fire_detected",)), None, CONFIG) == "alarm: fire_detected"
    assert shutdown_reason(with_cell_c(90.0), None, CONFIG) == ""
    assert "temperature_max exceeded by 30 K" in shutdown_reason(with_cell_c(90.0), LIMITS, CONFIG)


def test_the_gate_obeys_and_does_not_hold_it_against_the_policy():
    configs = [device("p1"), device("p2")]
    hot = replace(state(configs[0]), cell_temperatures_c=(62.0, 61.0))
    sight = observation(*configs, states={"p1": hot, "p2": state(configs[1])})
    decision = Decision(
        site_id="s",
        starts_at=sight.starts_at,
        interval_s=sight.interval_s,
        source="any",
        set_points=tuple(SetPoint(device_id=c.device_id, power_w=5_000.0, reason=Reason.IDLE) for c in configs),
    )
    gated = gate(decision, sight)
    assert [point.power_w for point in gated.decision.set_points] == [0.0, 5_000.0]
    assert gated.decision.set_points[0].detail == "limit: temperature_max exceeded by 2 K"
    assert gated.projected_w == 0.0
    assert gated.cut_by == {"p1": "state"}
