"""A number that is not finite says nothing of the pack: its device rests, in any order of the cells, and nothing raises."""

import itertools
import sys
from dataclasses import replace
from math import inf, nan
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from dispatch_cases import device, limits, observation, state

from core.decisions import Decision, Reason, SetPoint
from serving.dispatch import ranking
from serving.dispatch.alarms import AlarmAction, beyond_limits, limit_findings, shutdown_reason
from serving.dispatch.gate import gate
from serving.dispatch.ranking import PolicyBench

CONFIG, OTHER = device("p1"), device("p2")
LIMITS = limits(CONFIG)
FINE = state(CONFIG)
SCALARS = ("soc_pct", "soh_pct", "temperature_c", "voltage_v", "current_a", "power_w", "internal_resistance_ohm")
CELLS = ("cell_voltages_v", "cell_temperatures_c")


def spoilt(field, value):
    return replace(FINE, **{field: (*getattr(FINE, field), value) if field in CELLS else value})


@pytest.mark.parametrize("field", [*SCALARS, *CELLS])
@pytest.mark.parametrize("value", [nan, inf, -inf])
def test_it_stops_by_the_table_and_latches_nothing(field, value):
    measured = spoilt(field, value)
    assert measured.not_finite == (field,)
    assert (AlarmAction.STOP, f"{field} is not finite") in limit_findings(measured, LIMITS, CONFIG)
    for power_w in (-1.0, 0.0, 1.0):
        assert f"{field} is not finite" in beyond_limits(power_w, measured, LIMITS, CONFIG)
    assert shutdown_reason(measured, LIMITS, CONFIG) == ""


@pytest.mark.parametrize(
    ("field", "cells", "name", "action"),
    [
        ("cell_temperatures_c", (25.0, nan, 75.0), "temperature_max", AlarmAction.EMERGENCY_SHUTDOWN),
        ("cell_temperatures_c", (25.0, nan, -30.0), "temperature_min", AlarmAction.STOP),
        ("cell_temperatures_c", (25.0, inf, 40.0), "temperature_delta", AlarmAction.STOP),
        ("cell_voltages_v", (3.7, nan, 4.22), "voltage_max", AlarmAction.NO_CHARGE),
        ("cell_voltages_v", (3.7, nan, 4.6), "voltage_max", AlarmAction.EMERGENCY_SHUTDOWN),
        ("cell_voltages_v", (3.7, -inf, 1.0), "voltage_min", AlarmAction.STOP),
    ],
)
def test_finite_cells_are_judged_in_any_order(field, cells, name, action):
    bounds = replace(
        LIMITS,
        cell_voltage_max_v=4.15,
        cell_voltage_min_v=3.0,
        temperature_max_c=60.0,
        temperature_min_c=-20.0,
        temperature_delta_k=10.0,
    )
    found = [limit_findings(replace(FINE, **{field: order}), bounds, CONFIG) for order in itertools.permutations(cells)]
    assert all(one == found[0] for one in found)
    assert (AlarmAction.STOP, f"{field} is not finite") in found[0]
    assert [a for a, text in found[0] if text.startswith(name)] == [action]


def test_only_rubbish_cells_leave_nothing_to_judge_but_the_stop():
    measured = replace(FINE, cell_temperatures_c=(nan, inf), cell_voltages_v=(nan,))
    assert {action for action, _ in limit_findings(measured, LIMITS, CONFIG)} == {AlarmAction.STOP}


def decision(**powers):
    return Decision(
        site_id="s",
        starts_at=observation().starts_at,
        interval_s=900,
        source="test",
        set_points=tuple(SetPoint(device_id=name, power_w=value, reason=Reason.PRICE_HIGH) for name, value in powers.items()),
    )


@pytest.mark.parametrize("field", [*SCALARS, *CELLS])
def test_the_gate_stops_that_device_alone(field):
    seen = observation(CONFIG, OTHER, states={"p1": spoilt(field, nan), "p2": state(OTHER)})
    points = {point.device_id: point for point in gate(decision(p1=5000.0, p2=5000.0), seen).decision.set_points}
    assert (points["p1"].power_w, points["p1"].reason) == (0.0, Reason.STOP)
    assert points["p2"].power_w == 5000.0


def test_a_device_whose_bounds_cannot_be_computed_gets_nothing_and_the_others_keep_theirs(monkeypatch):
    from serving.dispatch import gate as module

    compute = module.condition_from_state

    def failing(config, *arguments, **named):
        if config.device_id == "p1":
            raise ZeroDivisionError("float division by zero")
        return compute(config, *arguments, **named)

    monkeypatch.setattr(module, "condition_from_state", failing)
    gated = gate(decision(p1=5000.0, p2=5000.0), observation(CONFIG, OTHER))
    points = {point.device_id: point for point in gated.decision.set_points}
    assert (points["p1"].power_w, points["p1"].reason) == (0.0, Reason.STOP)
    assert points["p2"].power_w == 5000.0
    assert "cannot be computed" in gated.changes["p1"]


def test_the_last_resort_never_raises(monkeypatch):
    def raising(*_arguments):
        raise RuntimeError("the gate is broken")

    monkeypatch.setattr(ranking, "gate", raising)
    gated, passed_over = PolicyBench().decide([], observation(CONFIG, OTHER))
    assert gated.decision.source == "stop"
    assert [(point.device_id, point.power_w) for point in gated.decision.set_points] == [("p1", 0.0), ("p2", 0.0)]
    assert "the gate is broken" in gated.changes["p1"]
    assert [item.name for item in passed_over][1:] == ["rule", "hold"]
