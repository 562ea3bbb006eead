"""Learned policies on the demo's site: energy value, actor, HYBRID; and every policy through check_policy."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

sys.path.insert(0, str(Path(__file__).parent))

from learned_cases import NETWORK_H, SmallLayout, actor_artefact, observation, record, value_artefact

from core.artefact import ArtefactError
from core.devices import Chemistry
from core.errors import InputError
from policies.base import PolicyUnableError
from policies.check import PolicyContractError, check_policy
from policies.learned.actor import ActorPolicy
from policies.learned.artefact import open_artefact
from policies.learned.bounds import bounds_of
from policies.learned.hybrid import HybridPolicy
from policies.learned.market import Offers, merit_order
from policies.learned.value import EnergyValuePolicy, energy_value
from policies.mpc import MpcPolicy
from policies.rules import ThresholdRule
from policies.rules_cycle import OneCycleRule
from serving.dispatch.artefacts import needs_of_artefact
from serving.dispatch.gate import gate
from serving.dispatch.inputs import PRICE

DEADLINE_S = 60.0


def project(decision, seen):
    return gate(decision, seen).decision


@pytest.fixture(scope="module")
def seen():
    return observation()


def powers(decision):
    return {point.device_id: point.power_w for point in decision.set_points}


def reloaded(artefact):
    return open_artefact(artefact.files, sha256=artefact.sha256)


VALUE, ACTOR, RESIDUAL = value_artefact(0.5), actor_artefact(), actor_artefact("residual")
POLICIES = {
    "threshold": (ThresholdRule, lambda p: ThresholdRule()),
    "one cycle": (OneCycleRule, lambda p: OneCycleRule()),
    "MPC": (lambda: MpcPolicy(record()), lambda p: MpcPolicy(p.record)),
    "energy value": (
        lambda: EnergyValuePolicy(record(VALUE), VALUE),
        lambda p: EnergyValuePolicy(p.record, reloaded(p.artefact)),
    ),
    "actor": (
        lambda: ActorPolicy(record(ACTOR), ACTOR, SmallLayout()),
        lambda p: ActorPolicy(p.record, reloaded(ACTOR), SmallLayout()),
    ),
    "hybrid, terminal value": (
        lambda: HybridPolicy(record(VALUE), VALUE),
        lambda p: HybridPolicy(p.record, reloaded(VALUE)),
    ),
    "hybrid, residual": (
        lambda: HybridPolicy(record(RESIDUAL), RESIDUAL, SmallLayout()),
        lambda p: HybridPolicy(p.record, reloaded(RESIDUAL), SmallLayout()),
    ),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_keeps_the_contract(name, seen):
    make, reload = POLICIES[name]
    checked = check_policy(make, [seen], project=project, deadline_s=DEADLINE_S, reload=reload)
    assert checked.decided >= 6


class Breach:
    """A threshold rule that breaks one clause of the contract."""

    name = "breach"

    def __init__(self, how):
        self.how, self.calls = how, 0

    def decide(self, seen):
        decision = ThresholdRule().decide(seen)
        points = list(decision.set_points)
        self.calls += 1
        if self.how == "state":
            points[0] = replace(points[0], power_w=1000.0 * self.calls)
        if self.how == "missing":
            points = points[1:]
        if self.how == "raises":
            raise ZeroDivisionError("oops")
        if self.how == "unable":
            raise PolicyUnableError("no idea")
        if self.how == "site":
            return replace(decision, site_id="elsewhere")
        if self.how == "writes":
            seen.price_eur_per_kwh.values[0] += 1.0
        if self.how == "limits":
            points[0] = replace(points[0], power_w=1e7)
        return replace(decision, set_points=tuple(points))


@pytest.mark.parametrize(
    ("how", "said"),
    [("state", "built anew"), ("missing", "expected one for each"), ("raises", "ZeroDivisionError"), ("unable", "no idea"),
     ("site", "elsewhere"), ("writes", "changed"), ("limits", "after the gate")],
)  # fmt: skip
def test_check_policy_finds_each_breach(how, said):
    def uneven():
        made = Breach(how)
        made.calls = len(built)
        built.append(made)
        return made

    built = []
    projection = (lambda decision, _: decision) if how == "limits" else project
    with pytest.raises(PolicyContractError, match=said):
        check_policy(uneven, [observation()], project=projection, deadline_s=DEADLINE_S)


def test_check_policy_holds_the_deadline(seen):
    with pytest.raises(PolicyContractError, match="took"):
        check_policy(OneCycleRule, [seen], project=project, deadline_s=0.0)


def test_energy_that_is_worth_much_is_bought_and_kept(seen):
    dear, cheap = (EnergyValuePolicy(record(a), a) for a in (value_artefact(shift=[8.0] * 40), value_artefact(shift=[-8.0] * 40)))
    assert all(value < 0 for value in powers(dear.decide(seen)).values())
    assert all(value > 0 for value in powers(cheap.decide(seen)).values())


def test_energy_value_needs_its_week_of_prices():
    policy = EnergyValuePolicy(record(VALUE), VALUE)
    with pytest.raises(PolicyUnableError, match="7 days"):
        policy.decide(observation(history=False))


def test_hybrid_falls_back_to_the_mpc_and_says_why(seen):
    bare = observation(history=False)
    mpc = powers(MpcPolicy(record()).decide(bare))
    decision = HybridPolicy(record(VALUE), VALUE).decide(bare)
    assert powers(decision) == pytest.approx(mpc)
    assert decision.inputs["hybrid"]["decided_by"] == "MPC"
    assert "7 days" in decision.inputs["hybrid"]["why"]
    closed = value_artefact(share=0.0)
    decision = HybridPolicy(record(closed), closed).decide(seen)
    assert powers(decision) == pytest.approx(powers(MpcPolicy(record()).decide(seen)))
    assert "gate is 0" in decision.inputs["hybrid"]["why"]
    json.dumps(dict(decision.inputs), allow_nan=False)


def test_a_dear_end_makes_the_plan_end_full(seen):
    dear, cheap = value_artefact(shift=[8.0] * 40), value_artefact(shift=[-8.0] * 40)
    ends = []
    for artefact in (dear, cheap):
        decision = HybridPolicy(record(artefact), artefact).decide(seen)
        assert decision.inputs["hybrid"]["decided_by"] == "terminal value"
        ends.append(sum(device["soc_pct"][-1] for device in decision.plan["devices"]))
    assert ends[0] > ends[1] + 20


def test_residual_shifts_the_mpc_by_its_share(seen):
    mpc, hybrid = MpcPolicy(record()), HybridPolicy(record(RESIDUAL), RESIDUAL, SmallLayout())
    before, after = powers(mpc.decide(seen)), powers(hybrid.decide(seen))
    for device in seen.devices:
        shift = after[device.device_id] - before[device.device_id]
        assert abs(shift) <= 0.3 * max(device.max_charge_power_w, device.max_discharge_power_w) + 1e-6
    assert after != before


def test_what_does_not_fit_is_an_error_before_anything_decides():
    with pytest.raises(ArtefactError, match="layout"):
        energy_value(value_artefact(layout="energy-value/9"))
    with pytest.raises(ArtefactError, match="inputs"):
        energy_value(value_artefact(parameters={"share": 1.0, "horizon_steps": 24, "dt_s": 3600.0}))
    bad = value_artefact(share=2.0)
    with pytest.raises(ArtefactError, match="share"):
        HybridPolicy(record(bad), bad)
    with pytest.raises(ArtefactError, match="sha256"):
        HybridPolicy(record(ACTOR), VALUE)
    with pytest.raises(ArtefactError, match="layout"):
        ActorPolicy(record(ACTOR), actor_artefact(layout="small/2"), SmallLayout())
    with pytest.raises(ArtefactError, match="kind"):
        ActorPolicy(record(), RESIDUAL, SmallLayout())
    with pytest.raises(InputError, match="config"):
        HybridPolicy(record(VALUE, no_such_key=1), VALUE)


def test_a_chemistry_that_it_was_not_made_for_is_refused(seen):
    policy = EnergyValuePolicy(record(), value_artefact(chemistries=(Chemistry.LCO,)))
    with pytest.raises(PolicyUnableError, match="covers LCO"):
        policy.decide(seen)


offers = st.lists(
    st.tuples(
        st.lists(st.integers(-20, 60), min_size=3, max_size=3), st.lists(st.integers(0, 50), min_size=3, max_size=3),
        st.integers(0, 60),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(offers, st.integers(-100, 100), st.integers(0, 40), st.integers(0, 20))
def test_merit_order_is_the_optimum_of_the_step(drawn, load, sell, margin):
    threshold, width = np.array([t for t, _, _ in drawn], float), np.array([w for _, w, _ in drawn], float)
    lowest = -np.array([low for _, _, low in drawn], float)
    made = Offers(tuple(str(k) for k in range(len(drawn))), threshold, width, lowest)
    buy = sell + margin
    found = merit_order(made, float(load), float(buy), float(sell))
    # least cost of the same step as a linear programme: widths x_k in [0, w], import b, export s
    cost = np.concatenate([threshold.ravel(), [buy, -sell]])
    bounds = [(0, w) for w in width.ravel()] + [(0, None), (0, None)]
    best = linprog(cost, A_eq=[[*np.ones(width.size), 1.0, -1.0]], b_eq=[load - lowest.sum()], bounds=bounds).fun
    total = 0.0
    for power, low, its_threshold, its_width in zip(found, lowest, threshold, width, strict=True):
        left = power - low
        for k in np.argsort(its_threshold):
            part = min(left, its_width[k])
            total, left = total + its_threshold[k] * part, left - part
        assert left <= 1e-6
    net = load - found.sum()
    total += buy * max(net, 0.0) - sell * max(-net, 0.0)
    assert total == pytest.approx(best, abs=1e-4)


def test_serving_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import policies.learned.hybrid, policies.learned.value, policies.learned.actor, stores.mongo.artefacts, policies.check\n"
        "assert not [name for name in sys.modules if name.startswith('training')]"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0, done.stderr


def test_one_cycle_charges_cheap_and_discharges_dear():
    from datetime import timedelta

    rule = OneCycleRule()
    seen = observation()
    hours = range(24)
    price = {h: float(seen.price_eur_per_kwh.window(seen.starts_at + timedelta(hours=h), 1, 3600)[0]) for h in hours}
    for h in hours:
        later = replace(seen, starts_at=seen.starts_at + timedelta(hours=h))
        for power_w in powers(rule.decide(later)).values():
            if power_w:
                assert (power_w > 0) == (price[h] > np.median(list(price.values())))


def shifting(share=0.9, **parameters):
    made = actor_artefact("residual", parameters={"share": share, **parameters})
    return HybridPolicy(record(made), made, SmallLayout())


def test_a_residual_stays_within_bounds_as_in_training():
    """Beyond them the gate would cut most of it, and the dispatcher would pass the policy over."""
    for soc_pct in (9.5, 94.5):
        seen = observation(soc_pct=soc_pct)
        for policy in (shifting(), ActorPolicy(record(ACTOR), ACTOR, SmallLayout())):
            decision = policy.decide(seen)
            for device, (charge_w, discharge_w) in zip(seen.devices, bounds_of(seen, seen.devices), strict=True):
                assert -charge_w - 1e-6 <= powers(decision)[device.device_id] <= discharge_w + 1e-6


def test_a_residual_that_lacks_something_plans_once(seen, monkeypatch):
    policy, calls, plan = shifting(), [], MpcPolicy.decide
    monkeypatch.setattr(MpcPolicy, "decide", lambda self, given: calls.append(1) or plan(self, given))
    monkeypatch.setattr(SmallLayout, "vectors", lambda self, given: (_ for _ in ()).throw(PolicyUnableError("no history")))
    decision = policy.decide(seen)
    assert decision.inputs["hybrid"] | {"artefact": ""} == {
        "decided_by": "MPC",
        "share": 0.9,
        "why": "no history",
        "artefact": "",
    }
    assert len(calls) == 1


def test_a_residual_decides_only_where_it_was_trained_for(seen):
    said = shifting(base={"policy": "mpc"}).decide(seen).inputs["hybrid"]
    assert (said["decided_by"], "price is all that counts" in said["why"]) == ("MPC", True)
    said = shifting(environment={"information": "revealed"}).decide(seen).inputs["hybrid"]
    assert (said["decided_by"], "known ahead" in said["why"]) == ("MPC", True)
    revealed = replace(seen, price_known_until=seen.ends_at)
    assert shifting(environment={"information": "revealed"}).decide(revealed).inputs["hybrid"]["decided_by"] == "residual"


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": {"share": 1.0, "horizon_steps": None, "dt_s": 3600.0}},
        {"parameters": {"share": 1.0, "horizon_steps": NETWORK_H, "dt_s": "an hour"}},
        {"plant": {"round_trip": -1.0}},
    ],
)
def test_numbers_that_cannot_be_are_an_artefact_error(changes):
    with pytest.raises(ArtefactError, match="parameters"):
        energy_value(value_artefact(**changes))


@pytest.mark.parametrize(("information", "needed_s"), [("published", 6 * 3600.0), ("no_forecast", 0.0), ("revealed", 0.0)])
def test_prices_need_be_known_ahead_only_where_training_knew_them(information, needed_s):
    for parameters in ({"information": information}, {"environment": {"information": information}}):
        said = value_artefact(parameters={"share": 1.0, "horizon_steps": NETWORK_H, "dt_s": 3600.0, **parameters}).metadata
        for kind in ("RL", "HYBRID"):
            needs = needs_of_artefact(replace(record(), policy_type=kind), said)
            assert needs.known_s[PRICE] == needed_s
            assert needs.predictions is (kind == "HYBRID")
