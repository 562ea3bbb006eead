"""A shadow lives on virtual packs: its own decisions move them, the real ones do not, and each day begins at what is measured."""

import json
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

import failing_policies
from dispatch_cases import INTERVAL_S, device
from shadow_cases import NOON, task

from core.calibration import Factors
from serving.dispatch.meter import Meter
from serving.shadow.turn import DECIDED, rested, take_turn
from serving.shadow.twin_pack import TwinPack
from serving.shadow.virtual import as_seen, brought_to, kept_site

STEP = timedelta(seconds=INTERVAL_S)


class Seeing:
    """A policy that keeps what it saw."""

    def __init__(self, watt=0.0):
        self.watt, self.seen, self.name = watt, [], "shadow"

    def __call__(self, record, files):
        return self

    def decide(self, observation):
        self.seen.append(observation)
        return failing_policies.Failing(record_of(self.watt)).decide(observation)


def record_of(watt):
    return task(watt=watt).record


def through_json(turn):
    return json.loads(json.dumps(turn.state, allow_nan=False))


def turns(policy, count, **arguments):
    """`count` turns in a row, each from what the one before has kept."""
    kept, made = None, []
    for k in range(count):
        made.append(take_turn(task(NOON + k * STEP, kept, **arguments), policy))
        kept = through_json(made[-1])
    return made


def soc(turn):
    return turn.soc_pct["p1"]


def test_its_own_decisions_move_it_and_it_sees_that():
    policy = Seeing(watt=10_000.0)
    made = turns(policy, 4)
    assert all(turn.outcome == DECIDED for turn in made)
    assert soc(made[3]) < soc(made[2]) < soc(made[0]) < 50.0
    for before, seen in zip(made, policy.seen[1:], strict=False):
        assert seen.states["p1"].soc_pct == pytest.approx(soc(before), abs=1e-3), "the real pack still stands at 50 %"


def test_predictions_start_where_the_shadow_is_and_follow_its_plan():
    policy = Seeing(watt=-10_000.0)
    turns(policy, 3)
    first, last = policy.seen[0], policy.seen[-1]
    assert last.predictions["p1"].soc_pct == last.states["p1"].soc_pct
    assert last.predictions["p1"].prediction_timestamp == last.starts_at
    assert last.predictions["p1"].power_profile_w[0] == -10_000.0, "its own plan, held"
    assert first.predictions["p1"].power_profile_w[0] == 0.0
    assert last.last_plan["p1"].power_w[0] == -10_000.0


def test_a_live_prediction_that_is_missing_is_missing_for_it_too():
    given_task = task()
    without = replace(given_task.observation, predictions={}, missing_predictions={"p1": "missing"})
    policy = Seeing()
    take_turn(replace(given_task, observation=without), policy)
    assert policy.seen[0].predictions == {}
    assert policy.seen[0].missing_predictions == {"p1": "missing"}


def test_alarms_of_the_real_pack_stop_the_shadow():
    given_task = task(watt=5000.0)
    state = replace(given_task.observation.states["p1"], protection={"overcurrent": True})
    alarmed = replace(given_task, observation=replace(given_task.observation, states={"p1": state}))
    turn = take_turn(alarmed, failing_policies.make)
    assert turn.power_w == {"p1": 0.0}
    assert "overcurrent" in turn.detail


def test_a_new_day_is_anchored_to_what_is_measured():
    kept = through_json(turns(Seeing(10_000.0), 4)[-1])
    tomorrow = NOON + timedelta(hours=12)
    policy = Seeing()
    turn = take_turn(task(tomorrow, kept, soc_pct=70.0), policy)
    assert policy.seen[0].states["p1"].soc_pct == pytest.approx(70.0)
    assert soc(turn) == pytest.approx(70.0, abs=0.01)
    same_day = take_turn(task(tomorrow - STEP, kept, soc_pct=70.0), Seeing())
    assert soc(same_day) < 50.0, "until midnight its own way goes on, at rest since its last turn"


def test_the_gate_holds_at_the_virtual_state():
    made = turns(Seeing(19_000.0), 16)
    assert 5.0 <= soc(made[-1]) < 15.0, "min_soc of the virtual pack; the real one is half full"
    assert made[-1].outcome == "cut"


def test_what_the_gate_cuts_too_far_is_no_decision():
    nearly_empty = task(soc_pct=5.5, watt=20_000.0)
    turn = take_turn(nearly_empty, failing_policies.make)
    assert (turn.outcome, turn.power_w) == ("cut", {})
    assert "the gate cut" in turn.detail


def test_the_meter_of_the_site_is_checked():
    given_task = task(watt=-10_000.0, meter=Meter(load_w=95_000.0, pv_w=0.0, ended_at=NOON))
    turn = take_turn(given_task, failing_policies.make)
    assert turn.power_w["p1"] == pytest.approx(-5000.0)


@pytest.mark.parametrize(
    ("mode", "outcome", "said"),
    [
        ("raise", "raised", "ZeroDivisionError: 1 / 0"),
        ("unable", "unable", "not today"),
        ("bad_row", "refused", "bad_row"),
        ("nan_point", "not_finite", "power_w"),
        ("nan_plan", "not_finite", "finite"),
        ("other_site", "refused", "elsewhere"),
    ],
)
def test_a_failure_is_marked_and_the_packs_rest(mode, outcome, said):
    turn = take_turn(task(mode=mode), failing_policies.make)
    assert turn.outcome == outcome
    assert said in turn.detail
    assert turn.power_w == {}
    assert soc(turn) == pytest.approx(50.0, abs=0.01)
    assert take_turn(task(NOON + STEP, through_json(turn)), failing_policies.make).outcome == DECIDED


def test_one_that_gave_no_answer_rests_for_the_interval():
    turn = rested(task(), "deadline", "no decision within 1.0 s")
    assert (turn.outcome, turn.power_w) == ("deadline", {})
    assert turn.state["until"] == (NOON + STEP).isoformat()


def test_missed_ticks_are_rest():
    kept = through_json(turns(Seeing(10_000.0), 1)[0])
    policy = Seeing()
    take_turn(task(NOON + 9 * STEP, kept), policy)
    at_once = kept["packs"]["p1"]["memory"][0][0]
    assert policy.seen[0].states["p1"].soc_pct == pytest.approx(100 * at_once, abs=0.05)


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"day": "x"},
        {"day": "2026-03-01", "until": NOON.isoformat(), "packs": {"p1": {}}, "plan": {}},
        {"day": "2026-03-01", "until": NOON.isoformat(), "packs": {"p1": {"memory": [[1], [2]], "ambient_c": 20}}, "plan": {}},
        {"day": "2026-03-01", "until": NOON.isoformat(), "packs": [], "plan": {}},
    ],
)
def test_a_state_of_another_version_is_begun_anew(kept):
    turn = take_turn(task(kept=kept), failing_policies.make)
    assert turn.outcome == DECIDED
    assert soc(turn) == pytest.approx(50.0, abs=0.01)


def test_the_day_s_extremes_are_its_own_and_the_real_ones_of_before():
    site = brought_to(None, task().day, task().observation)
    site.move({"p1": 10_000.0}, INTERVAL_S, 20.0)
    seen = as_seen(site, task(NOON + STEP).observation, {"p1": (20.0, 60.0)})
    assert (seen.states["p1"].cycle_low_pct, seen.states["p1"].cycle_high_pct) == (20.0, 60.0)
    alone = as_seen(site, task(NOON + STEP).observation, {})
    assert alone.states["p1"].cycle_high_pct == pytest.approx(50.0)
    assert alone.states["p1"].cycle_low_pct == pytest.approx(site.packs["p1"].soc_pct)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-15_000, 15_000), max_size=12), st.lists(st.floats(-15_000, 15_000), max_size=12), st.floats(0.7, 1.3))
def test_a_pack_put_away_and_taken_up_goes_on_as_if_nothing_was(before, after, capacity):
    def pack():
        return TwinPack(
            device(), soc_pct=50.0, soh_pct=80.0, temperature_c=25.0, ambient_c=20.0, factors=Factors(capacity=capacity)
        )

    one, other = pack(), pack()
    for power_w in before:
        one.step(power_w, 900.0, 20.0)
        other.step(power_w, 900.0, 20.0)
    other = TwinPack.taken_up(device(), json.loads(json.dumps(other.put_away())))
    for power_w in after:
        assert one.step(power_w, 900.0, 21.0) == other.step(power_w, 900.0, 21.0)
    assert one.state(NOON) == other.state(NOON)


def test_calibration_moves_the_virtual_pack():
    small, full = (
        TwinPack(device(), soc_pct=50.0, soh_pct=80.0, temperature_c=25.0, ambient_c=20.0, factors=Factors(capacity=share))
        for share in (0.8, 1.0)
    )
    for pack in (small, full):
        pack.step(10_000.0, 900.0, 20.0)
    assert 50.0 - small.soc_pct == pytest.approx((50.0 - full.soc_pct) / 0.8, rel=0.01)


def test_a_pack_that_the_site_lost_is_forgotten_and_a_new_one_anchored():
    kept = through_json(turns(Seeing(10_000.0), 2)[-1])
    assert kept_site(kept, {}).packs == {}
    turn = take_turn(task(NOON + 2 * STEP, kept, pack=device("p2")), Seeing())
    assert turn.soc_pct["p2"] == pytest.approx(50.0, abs=0.01)
