"""Policies that hang, crash, raise or talk nonsense cost their deadline and nothing else; the next one decides."""

import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the policy process imports the policies by name

import failing_policies
from dispatch_cases import observation, record

from core.devices import Chemistry
from core.errors import InputError
from serving.dispatch import ranking
from serving.dispatch.eligibility import MPC_NEEDS, Needs, why_not
from serving.dispatch.inputs import PRICE
from serving.dispatch.meter import Meter
from serving.dispatch.policy_factory import Built
from serving.dispatch.ranking import PolicyBench
from serving.dispatch.runner import InlineRunner, PolicyFailedError, ProcessRunner, Why

LONG_S = 60.0
SHORT_S = 0.4


@pytest.fixture(scope="module")
def shared():
    runner = ProcessRunner(factory=failing_policies.make)
    yield runner
    runner.close()


@pytest.fixture
def bench(shared):
    return PolicyBench(shared)


def failed(runner, mode, deadline_s=LONG_S):
    with pytest.raises(PolicyFailedError) as caught:
        runner.decide(record(mode=mode), observation(), deadline_s)
    return caught.value


def test_it_decides_in_another_process_that_is_kept(shared):
    first = shared.decide(record(), observation(), LONG_S)
    second = shared.decide(record(), observation(), LONG_S)
    assert first.inputs["pid"] == second.inputs["pid"] != os.getpid()
    assert second.inputs["calls"] == first.inputs["calls"] + 1, "the policy of an unchanged row is kept: its solver stays warm"
    changed = shared.decide(record(watt=5.0), observation(), LONG_S)
    assert changed.inputs["calls"] == 1, "a changed row is another policy"


@pytest.mark.parametrize("mode", ["hang", "hang_in_c", "stand_still"])
def test_one_that_hangs_is_ended_at_its_deadline_and_the_next_runs(shared, mode):
    before = shared.decide(record(), observation(), LONG_S).inputs["pid"]
    assert failed(shared, mode, SHORT_S).why is Why.DEADLINE
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)  # the one that hung is gone: none piles up
    assert shared.decide(record(), observation(), LONG_S).inputs["pid"] != before
    assert not [thread for thread in threading.enumerate() if thread.name == "policy-pipe"]


@pytest.mark.parametrize(
    ("mode", "why", "said"),
    [
        ("crash", Why.DIED, "its process failed"),
        ("raise", Why.RAISED, "ZeroDivisionError: 1 / 0"),
        ("unable", Why.UNABLE, "not today"),
        ("bad_row", Why.REFUSED, "bad_row"),
        ("unsendable", Why.RAISED, "cannot be sent"),
        ("nan_point", Why.NOT_FINITE, "power_w of p1"),
        ("nan_plan", Why.NOT_FINITE, "every number finite"),
        ("other_site", Why.REFUSED, "elsewhere"),
    ],
)
def test_each_failure_has_its_name_and_the_next_decision_works(shared, mode, why, said):
    error = failed(shared, mode)
    assert (error.why, said in str(error)) == (why, True), str(error)
    assert shared.decide(record(), observation(), LONG_S).source == "best"


def test_in_process_the_same_failures_have_the_same_names():
    runner = InlineRunner(Built(failing_policies.make))
    for mode, why in (("raise", Why.RAISED), ("unable", Why.UNABLE), ("bad_row", Why.REFUSED), ("nan_plan", Why.NOT_FINITE)):
        assert failed(runner, mode).why is why


def names(passed_over):
    return [(item.name, item.why.value) for item in passed_over]


def test_the_next_in_rank_decides_and_why_the_better_ones_did_not_is_told(bench):
    rows = [record("a", mode="hang"), record("b", mode="nan_point"), record("c", watt=1000.0), record("d")]
    gated, passed_over = bench.decide(rows, seen(), deadline_s=SHORT_S * 5)
    assert gated.decision.source == "c"
    assert names(passed_over) == [("a", "deadline"), ("b", "not_finite")]


def seen(**changes):
    """What an MPC row is eligible for."""
    return observation(**changes)


def test_all_fail_then_the_rule_then_hold_then_stop(bench):
    rows = [record("a", mode="raise"), record("b", mode="unable")]
    gated, passed_over = bench.decide(rows, seen(), deadline_s=LONG_S)
    assert gated.decision.source == "rule"
    assert names(passed_over) == [("a", "raised"), ("b", "unable")]

    class Broken:
        name = "rule"

        def decide(self, observation):
            raise RuntimeError("no rule")

    bench.rule = Broken()
    gated, passed_over = bench.decide(rows, seen(), deadline_s=LONG_S)
    assert gated.decision.source == "stop"
    assert names(passed_over)[2:] == [("rule", "raised"), ("hold", "unable")]
    assert [point.power_w for point in gated.decision.set_points] == [0.0]


def test_many_that_hang_take_two_deadlines_together_and_not_one_each(bench):
    rows = [record(f"p{k}", mode="hang") for k in range(6)]
    gated, passed_over = bench.decide(rows, seen(), deadline_s=SHORT_S)
    assert gated.decision.source == "rule"
    asked = [item for item in passed_over if item.text.startswith("no decision within")]
    assert len(asked) <= ranking.ALL_DEADLINES + 1
    assert {item.why for item in passed_over} == {Why.DEADLINE}


def test_a_decision_that_the_gate_cuts_by_more_than_half_is_not_the_policys(bench):
    gated, passed_over = bench.decide([record("a", watt=-1e6), record("b", watt=-1000.0)], seen(), deadline_s=LONG_S)
    assert gated.decision.source == "b"
    assert names(passed_over) == [("a", "cut")]


def test_the_deadline_is_a_fifth_of_the_interval_and_a_minute_at_most():
    assert ranking.deadline_of(60.0) == pytest.approx(12.0)
    assert ranking.deadline_of(900.0) == 60.0


class Shelf:
    def __init__(self, needs):
        self.needs_ = needs

    def needs(self, record):
        if isinstance(self.needs_, Exception):
            raise self.needs_
        return self.needs_


def learned(name="net"):
    return replace(record(name), policy_type="RL")


def test_a_learned_policy_without_an_artefact_is_not_eligible():
    assert "this controller carries no artefact" in why_not(learned(), seen(), PolicyBench().artefacts)


def test_a_wrong_hash_is_a_reason_of_its_own():
    wrong = InputError(source="artefact", field="sha256", value="ab", expected="cd")
    assert "sha256" in why_not(learned(), seen(), Shelf(wrong))


def test_eligibility_knows_chemistry_and_information():
    lfp_only = Shelf(Needs(chemistries=frozenset({Chemistry.LFP})))
    assert why_not(learned(), seen(), lfp_only) == "p1 is NMC; the policy covers LFP"
    knows_more = Shelf(Needs(information=frozenset({"price_of_tomorrow", PRICE})))
    assert why_not(learned(), seen(), knows_more) == "made to know price_of_tomorrow, which is not there"
    assert why_not(learned(), seen(), Shelf(Needs(information=frozenset({"telemetry", "predictions"})))) == ""


def test_an_mpc_needs_predictions_and_known_prices():
    assert MPC_NEEDS.predictions
    assert why_not(record(), seen(), Shelf(Needs())) == ""
    assert "prediction of p1: missing" in why_not(record(), seen(missing_predictions={"p1": "missing"}), Shelf(Needs()))
    gone = {PRICE: {"known_until": "2026-03-01T13:00:00+00:00"}}
    assert "day_ahead_price_eur_per_kwh is known until" in why_not(record(), seen(inputs=gone), Shelf(Needs()))


def test_ineligible_ones_cost_no_time_and_are_told(bench):
    gated, passed_over = bench.decide([learned(), record("mpc")], seen(), deadline_s=LONG_S)
    assert gated.decision.source == "mpc"
    assert names(passed_over) == [("net", "ineligible")]


def test_the_meter_is_checked_at_the_forecast_at_the_plan_and_at_what_was_measured(bench):
    sight = seen(load_w=10_000.0, import_limit_w=20_000.0, export_limit_w=5_000.0)
    gated, _ = bench.decide([record(watt=-9_000.0)], sight, deadline_s=LONG_S)
    assert gated.decision.set_points[0].power_w == pytest.approx(-9_000.0)
    high = Meter(load_w=14_000.0, pv_w=0.0, ended_at=sight.starts_at)
    gated, _ = bench.decide([record(watt=-9_000.0)], sight, meter=high, deadline_s=LONG_S)
    (point,) = gated.decision.set_points
    assert point.power_w == pytest.approx(-6_000.0)
    assert point.detail == "meter, measured load"
    assert gated.meter["net_load_measured_w"] == 14_000.0
    low = Meter(load_w=1_000.0, pv_w=None, ended_at=sight.starts_at)
    gated, _ = bench.decide([record(watt=9_000.0)], sight, meter=low, deadline_s=LONG_S)
    assert gated.decision.set_points[0].power_w == pytest.approx(6_000.0)
