"""What days say of a policy: evidence enough, an interval wholly below the floor, drift that is confirmed; and residuals."""

import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from dispatch_cases import device, record

from core.decisions import Decision, Reason, SetPoint
from serving.shadow.judge import DRIFT, FLOOR, findings, live_score
from serving.shadow.residuals import Residuals, add_residual
from serving.shadow.view import standings
from stores.postgres.policy_days import COMMANDED, SHADOW, PolicyDay

LAST = date(2026, 3, 20)
ROW = replace(record(), performance_score=0.8)
"""Its floor is 0.4."""


def a_day(k, score, *, room=10.0, decided=1.0, drifted=(), role=COMMANDED, policy="best", **details):
    """k days before the last."""
    return PolicyDay(
        site_id="s", day=LAST - timedelta(days=k), role=role, policy_id=f"id-{policy}", policy=policy, score=score,
        j_eur=score * room, idle_eur=0.0, best_eur=room, decided_share=decided, violations=0,
        details={"drift": {"drifted": list(drifted)}, **details},
    )  # fmt: skip


def kinds(days, row=ROW):
    return [finding.kind for finding in findings(row, days)]


def test_below_the_floor_over_its_days():
    assert kinds([a_day(k, 0.2) for k in range(5)]) == [FLOOR]
    assert kinds([a_day(k, 0.5) for k in range(14)]) == []


def test_too_few_days_say_nothing():
    assert kinds([a_day(k, 0.0) for k in range(4)]) == []


@given(st.integers(0, 6), st.floats(0.5, 1.0), st.floats(1.0, 30.0))
@settings(max_examples=30, deadline=None)
def test_one_bad_day_does_not_demote(bad, others, room):
    days = [a_day(k, -3.0 if k == bad else others, room=room if k == bad else 10.0) for k in range(7)]
    assert kinds(days) == []


def test_days_that_it_hardly_decided_do_not_count_nor_those_on_which_the_floor_does_not_apply():
    assert kinds([a_day(k, 0.0, decided=0.5) for k in range(10)]) == []
    assert kinds([a_day(k, 0.0, why_no_floor="a signal") for k in range(10)]) == []
    assert kinds([a_day(k, 0.0, room=0.001) for k in range(10)]) == []


def test_old_days_leave_the_window():
    good_of_late = [a_day(k, 0.9) for k in range(14)] + [a_day(k, 0.0) for k in range(14, 40)]
    bad_of_late = [a_day(k, 0.1) for k in range(14)] + [a_day(k, 0.9) for k in range(14, 40)]
    assert kinds(good_of_late) == []
    assert kinds(bad_of_late) == [FLOOR]


def test_a_floor_of_its_own_and_none():
    days = [a_day(k, 0.5) for k in range(7)]
    assert kinds(days, record(watch={"floor": 0.7})) == [FLOOR]
    assert kinds([a_day(k, -1.0) for k in range(7)], record(watch={"floor": 0.0})) == []
    assert kinds(days[:2], record(watch={"floor": 0.7, "floor_least_days": 2, "floor_window_days": 2})) == [FLOOR]


DRIFTED = {"device_id": "p1", "quantity": "soc_pct", "shift": 1.2, "statistic": 20.0, "spread": 0.2, "residuals": 96}


def test_drift_must_be_confirmed_on_the_next_scored_day():
    assert kinds([a_day(0, 0.9, drifted=[DRIFTED]), a_day(1, 0.9)]) == []
    assert kinds([a_day(0, 0.9), a_day(1, 0.9, drifted=[DRIFTED])]) == []
    assert kinds([a_day(0, 0.9, drifted=[DRIFTED])]) == []
    (found,) = findings(ROW, [a_day(0, 0.9, drifted=[DRIFTED]), a_day(3, 0.9, drifted=[DRIFTED])])
    assert found.kind == DRIFT
    assert "soc_pct of p1 by +1.20" in found.reason
    assert kinds([a_day(0, 0.9, drifted=[DRIFTED])], record(watch={"drift_confirm_days": 1})) == [DRIFT]


def test_live_score_is_that_of_the_days_together():
    live = live_score([a_day(0, 1.0, room=30.0), a_day(1, 0.0, room=10.0)])
    assert live.interval.value == pytest.approx(0.75)
    assert (live.days, live.j_eur, live.room_eur) == (2, 30.0, 40.0)
    assert live_score([]) is None


@given(st.lists(st.tuples(st.floats(-2, 1), st.floats(0.1, 100)), min_size=1, max_size=8), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_days_changes_nothing(values, random):
    days = [a_day(k, score, room=room) for k, (score, room) in enumerate(values)]
    mixed = days.copy()
    random.shuffle(mixed)
    assert live_score(days) == live_score(mixed)
    assert 0.0 <= live_score(days).interval.low <= live_score(days).interval.high <= 1.0


def test_shadows_stand_beside_what_was_commanded_on_the_same_days():
    days = [a_day(k, 0.5) for k in range(3)] + [a_day(k, 0.8, role=SHADOW, policy="new") for k in range(1, 5)]
    first, second = standings(days)
    assert (first.role, first.policy, first.less_commanded_eur) == (COMMANDED, "best", None)
    assert (second.role, second.policy, second.common_days) == (SHADOW, "new", 2)
    assert second.less_commanded_eur == pytest.approx(3.0)
    assert second.live.days == 4


AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def decided(*, planned_w=5000.0, point_w=5000.0, soc_pct=48.0, plan_dt_s=900.0, offset_s=0.0):
    part = {"device_id": "p1", "power_w": [planned_w] * 4, "soc_pct": [soc_pct] * 4, "temperature_c": [22.0] * 4}
    plan = {"starts_at": (AT + timedelta(seconds=offset_s)).isoformat(), "dt_s": plan_dt_s, "devices": [part]}
    return Decision(
        site_id="s", starts_at=AT, interval_s=900, source="x", policy_id="id", plan=plan,
        set_points=(SetPoint(device_id="p1", power_w=point_w, reason=Reason.RULE),),
    )  # fmt: skip


def measured(power_w=5000.0, soc_pct=47.5, until_s=960.0):
    time_s = AT.timestamp() + np.arange(60.0, until_s + 1, 60.0)
    ones = np.ones(len(time_s))
    return {"time_s": time_s, "power": power_w * ones, "soc": soc_pct * ones, "temperature": 22.3 * ones}


def residual(decision, series):
    found = Residuals()
    add_residual(found, decision, device(), series)
    return found


def test_a_residual_is_measured_less_planned_at_the_interval_s_end():
    found = residual(decided(), measured())
    assert found.values == {"p1": {"soc_pct": [-0.5], "temperature_c": [pytest.approx(0.3)]}}
    assert (found.intervals, found.not_executed, found.not_measured) == (1, 0, 0)


@pytest.mark.parametrize(
    ("decision", "series", "counted"),
    [
        (decided(point_w=2000.0), measured(power_w=2000.0), (1, 1, 0)),  # the gate changed it
        (decided(), measured(power_w=2000.0), (1, 1, 0)),  # the pack did something else
        (decided(), measured(until_s=300.0), (1, 0, 1)),  # nothing was measured at the end
        (decided(plan_dt_s=700.0), measured(), (0, 0, 0)),  # a grid that does not line up
        (decided(offset_s=60.0), measured(), (0, 0, 0)),
        (decided(soc_pct=float("nan")), measured(soc_pct=float("nan")), (1, 0, 0)),
    ],
)
def test_what_is_no_residual(decision, series, counted):
    found = residual(decision, series)
    assert (found.intervals, found.not_executed, found.not_measured) == counted
    assert "soc_pct" not in found.values.get("p1", {})


def test_a_plan_of_finer_steps_counts_at_the_interval_s_end():
    assert residual(decided(plan_dt_s=300.0), measured()).values["p1"]["soc_pct"] == [-0.5]
