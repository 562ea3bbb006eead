"""The load chain: what is counted, plans over it against all futures tried out, packs as one store, and the policy's floor."""

import itertools
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from chain_cases import CHAIN, DT_S, artefact, load_of, observation, record
from learned_cases import NOW

from core.artefact import ArtefactError
from core.devices import Chemistry
from core.errors import InputError
from core.series import Series
from core.signal import DispatchSignal, SignalStep
from optimizer.peak_plan import PeakStore, chained, closed, expected_eur, final, foresight
from optimizer.peak_walk import walk
from policies.base import PolicyUnableError
from policies.check import check_policy
from policies.learned.artefact import open_artefact
from policies.learned.bounds import bounds_of
from policies.learned.chain_policy import LoadChainPolicy
from policies.learned.chain_store import share_power, shared, store_of
from policies.learned.load_chain import chain_of, count_chain, edges_of, local_clock
from policies.mpc import MpcPolicy
from serving.dispatch.gate import gate
from serving.dispatch.policy_factory import policy_of

TINY = PeakStore(
    charge_kw=1.0, discharge_kw=1.0, capacity_kwh=2.0, eta_charge=1.0, eta_discharge=1.0, wear_eur_per_kwh=0.01,
    peak_eur_per_kw=0.5, top_kw=6.0, socs=3, peaks=7, levels=1,
)  # fmt: skip
"""All its moves and loads of whole kW lie on the points of its tables: nothing is interpolated."""


def test_a_chain_recovers_the_one_that_made_the_load():
    g = np.random.default_rng(0)
    true = np.array([[0.8, 0.15, 0.05], [0.3, 0.6, 0.1], [0.1, 0.2, 0.7]])
    count = 400_000
    kind, hour, _ = local_clock(datetime(2020, 1, 1, tzinfo=UTC), count, DT_S, ZoneInfo("UTC"))
    state, draws = np.zeros(count, dtype=int), g.random(count)
    edges = np.cumsum(true, axis=1)
    for t in range(1, count):
        state[t] = np.searchsorted(edges[state[t - 1]], draws[t])
    load = np.array([10.0, 20.0, 40.0])[state]
    found = count_chain(load, kind, hour, np.array([5.0, 20.0]))
    assert found.moves.sum(axis=-1) == pytest.approx(1.0)
    assert found.usual_kw == pytest.approx(10.0)
    assert np.abs(found.moves - true).max() < 0.06
    assert found.loads(kind[:1], hour[:1])[0] == pytest.approx([10.0, 20.0, 40.0], abs=0.2)


def test_a_chain_of_little_data_still_holds_probabilities():
    kind, hour, load = load_of(96 * 14)
    found = count_chain(load, kind, hour, edges_of(load, kind, hour))
    assert found.moves.sum(axis=-1) == pytest.approx(1.0)
    assert (found.moves >= 0).all()
    assert (np.diff(found.edges_kw) > 0).all()


def test_a_load_that_never_varies_is_refused():
    kind, hour, _ = load_of(96 * 14)
    with pytest.raises(ValueError, match="nothing to count"):
        edges_of(np.full(len(kind), 5.0), kind, hour)


@pytest.mark.parametrize("zone", ["Europe/Amsterdam", "America/New_York", "UTC"])
@pytest.mark.parametrize("start", [datetime(2026, 3, 28, 10, 30, tzinfo=UTC), datetime(2026, 10, 24, 23, 15, tzinfo=UTC)])
def test_the_local_clock_follows_the_zone_over_a_change(zone, start):
    count = 96 * 9
    kind, hour, ends = local_clock(start, count, 900.0, ZoneInfo(zone))
    for k in range(count):
        at = (start + timedelta(seconds=900 * k)).astimezone(ZoneInfo(zone))
        after = (start + timedelta(seconds=900 * (k + 1))).astimezone(ZoneInfo(zone))
        assert (kind[k], hour[k], ends[k]) == (int(at.weekday() < 5), at.hour, at.month != after.month)


def brute(store, buy, load, moves, ends, worth, seen):
    """Cost to go by trying out every power at every turn: recursion over real levels and peaks, without tables."""

    def act(t, b, soc, peak):
        costs = []
        for kw in (0.0, 1.0, -1.0):
            after = soc + kw / store.capacity_kwh
            if 0.0 <= after <= 1.0:
                net = load[t][b] + kw
                here = net * buy[t] + store.wear_eur_per_kwh * max(-kw, 0.0)
                costs.append(here + closing(t, b, after, max(peak, net)))
            else:
                costs.append(np.inf)
        return np.array(costs)

    def closing(t, b, soc, peak):
        if ends[t]:
            return store.peak_eur_per_kw * peak + value(t + 1, b, soc, 0.0)
        return value(t + 1, b, soc, peak)

    def value(t, before, soc, peak):
        if t == len(buy):
            return store.peak_eur_per_kw * peak - worth * store.capacity_kwh * soc
        chance = moves[t][before]
        if seen:
            return sum(chance[b] * act(t, b, soc, peak).min() for b in range(len(chance)))
        return sum(chance[b] * act(t, b, soc, peak) for b in range(len(chance))).min()

    return value


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_best_of_all_that_could_be_done(seen, seed):
    g = np.random.default_rng(seed)
    steps, plant = 4, TINY.plant()
    buy, load = g.uniform(-0.1, 0.5, steps), g.integers(1, 5, (steps, 2)).astype(float)
    moves = g.uniform(0.1, 1.0, (steps, 2, 2))
    moves /= moves.sum(axis=-1, keepdims=True)
    ends = np.array([False, seed % 2 == 0, False, False])
    last = np.repeat(np.asarray(final(plant, 0.2, 0.0))[None], 2, axis=0)
    found = chained(plant, buy, buy, load, moves, ends, last, 1, seen)
    value = brute(TINY, buy, load, moves, ends, 0.2, seen)
    for b, i, peak in itertools.product(range(2), range(3), (0, 2, 5)):
        assert found[0, b, i, peak] == pytest.approx(value(0, b, i / 2, float(peak)), abs=1e-9)


def test_to_see_a_load_before_deciding_is_worth_something_and_never_costs():
    plant, steps = TINY.plant(), 6
    buy, load = np.full(steps, 0.1), np.tile([1.0, 4.0], (steps, 1))
    moves = np.full((steps, 2, 2), 0.5)
    last = np.repeat(np.asarray(final(plant, 0.1, 0.0))[None], 2, axis=0)
    none = np.zeros(steps, dtype=bool)
    seen, blind = (chained(plant, buy, buy, load, moves, none, last, 1, how)[0] for how in (True, False))
    assert (seen <= blind + 1e-9).all()
    assert (seen < blind - 1e-3).any()


def test_where_the_load_is_certain_both_plans_are_foresight():
    g = np.random.default_rng(2)
    store = replace(TINY, socs=9, peaks=13, levels=4, eta_charge=0.95, eta_discharge=0.95)
    plant, steps = store.plant(), 60
    buy, load = g.uniform(0.05, 0.4, steps), g.uniform(1, 5, steps)
    ends = np.arange(steps) == 30
    known = foresight(plant, buy, buy, load, ends)
    last = np.repeat(np.asarray(final(plant, 0.0, 0.0))[None], 3, axis=0)
    moves = np.full((steps, 3, 3), 1 / 3)
    for seen in (True, False):
        found = chained(plant, buy, buy, np.repeat(load[:, None], 3, axis=1), moves, ends, last, 1, seen)
        for k in range(steps):
            wanted = found[k + 1][1] if not ends[k] else closed(plant, found[k + 1][1], 0.0)
            assert wanted == pytest.approx(known[k], abs=1e-9)


def test_nobody_saves_more_than_foresight():
    g = np.random.default_rng(3)
    store = replace(TINY, socs=11, peaks=25, levels=4)
    plant, steps = store.plant(), 200
    buy, load = g.uniform(0.05, 0.4, steps), g.uniform(1, 5, steps)
    ends = np.arange(steps) % 50 == 49
    known = foresight(plant, buy, buy, load, ends)

    def saved(tables, share):
        begun, sure = np.array([0.5, 0.0, 0.0]), np.ones((steps, 1))
        found = walk(plant, buy, buy, load, ends, load[:, None], sure, known[:, None], load, tables, share, 0.0, begun)
        return float(found[0].sum())

    best = saved(known, 1.0)
    greedy = np.repeat(np.asarray(final(plant, 0.1, 0.0))[None], steps, axis=0)
    assert best > saved(greedy, 0.0)
    assert best >= saved(greedy, 0.5) - 1e-9


def test_what_a_meter_may_not_take_is_not_planned():
    plant = replace(TINY, import_kw=4.0, peak_eur_per_kw=0.0).plant()
    table = np.asarray(final(plant, 5.0, 0.0))[None]
    powers = np.array([0.0, 1.0])
    free, full = (
        expected_eur(plant, powers, 0.0, 0.0, 0.1, 0.1, np.array([load]), np.ones(1), table, False) for load in (2.0, 4.0)
    )
    assert free[1] < free[0]
    assert full[1] > full[0]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e6)), min_size=1, max_size=6),
    st.floats(0, 1e6),
)
def test_shared_power_is_all_of_it_within_each_packs_bounds(packs, total):
    most, weight = (np.array(column) for column in zip(*packs, strict=True))
    found = share_power(total, most, weight)
    assert (found >= 0).all()
    assert (found <= most * (1 + 1e-12) + 1e-9).all()
    assert found.sum() == pytest.approx(min(total, most.sum()), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("power_w", [-1e6, -30e3, 0.0, 5e3, 1e6])
def test_packs_keep_their_bounds_whatever_the_plan_wants(power_w):
    seen = observation()
    packs = seen.devices
    bounds = bounds_of(seen, packs)
    found = shared(seen, packs, power_w, bounds)
    assert (found <= bounds[:, 1] + 1e-6).all()
    assert (found >= -bounds[:, 0] - 1e-6).all()
    assert (np.sign(found) * np.sign(power_w) >= 0).all()


def test_packs_are_one_store_with_the_energy_between_their_limits():
    seen = observation()
    store, level = store_of(seen, seen.devices, dt_s=DT_S, highest_kw=50.0, wear_weight=1.0)
    packs = {pack.device_id: pack for pack in seen.site.packs}
    rated = sum(packs[d.device_id].max_discharge_power_w for d in seen.devices) / 1000
    assert 0 < store.discharge_kw <= rated
    assert 0.4 < level < 0.6
    assert 0.8 < store.eta_charge < 1
    assert 0.8 < store.eta_discharge < 1
    nominal = sum(d.nominal_energy_wh for d in seen.devices) / 1000
    assert 0.4 * nominal < store.capacity_kwh < 0.9 * nominal
    again, _ = store_of(seen, seen.devices, dt_s=DT_S, highest_kw=50.0, wear_weight=1.0)
    assert again == store


MADE = artefact()


def project(decision, seen):
    return gate(decision, seen).decision


@pytest.mark.parametrize("share", [1.0, 0.5, 0.0])
def test_the_policy_keeps_the_contract(share):
    made = artefact(share)
    checked = check_policy(
        lambda: LoadChainPolicy(record(made), made), [observation()], project=project, deadline_s=60.0,
        reload=lambda policy: LoadChainPolicy(policy.record, open_artefact(policy.artefact.files)),
    )  # fmt: skip
    assert checked.decided >= 6


def said(policy, seen):
    return policy.decide(seen).inputs["hybrid"]


def test_a_load_that_is_about_to_pass_the_peak_is_met_by_the_packs():
    policy = LoadChainPolicy(record(MADE), MADE)
    decision = policy.decide(observation(load_kw=34.0, peak_kw=34.0))
    assert decision.inputs["hybrid"]["decided_by"] == "load chain"
    assert sum(point.power_w for point in decision.set_points) > 5e3
    assert decision.source == policy.name


def test_power_is_not_bought_above_the_peak():
    policy = LoadChainPolicy(record(MADE), MADE)
    for load_kw in (20.0, 24.0, 27.0):
        bought = -sum(point.power_w for point in policy.decide(observation(load_kw=load_kw, peak_kw=28.0)).set_points)
        assert load_kw * 1e3 + bought < 40e3


def test_a_plan_is_kept_while_it_is_the_same_and_decides_the_same():
    policy = LoadChainPolicy(record(MADE), MADE)
    policy.decide(observation(load_kw=26.0))
    kept = policy._kept
    later = {"starts_at": NOW + timedelta(minutes=45), "load_kw": 34.0, "peak_kw": 34.0}
    price = observation().price_eur_per_kwh
    dearer = Series(price.name, price.start, price.dt_s, price.values + 0.01 * (np.arange(len(price)) % 5))
    for change, same in (
        ({}, True),
        ({"price_eur_per_kwh": dearer}, False),
        ({"price_known_until": NOW.replace(hour=22)}, False),
    ):
        seen = observation(**later, **change)
        fresh = LoadChainPolicy(record(MADE), MADE)
        warm, cold = (one._planned(seen) for one in (policy, fresh))
        np.testing.assert_array_equal(warm[1], cold[1])
        assert (warm[0], *warm[2:]) == (cold[0], *cold[2:])
        assert (policy._kept is kept) is same
        assert policy._kept.begin == (NOW if same else seen.starts_at)


def test_an_older_load_says_less_of_now():
    policy = LoadChainPolicy(record(MADE), MADE)
    now, old = said(policy, observation(load_kw=45.0)), said(policy, observation(load_kw=45.0, lag_steps=8))
    assert (now["load_lag_steps"], old["load_lag_steps"]) == (0, 8)
    assert old["expected_load_kw"] < now["expected_load_kw"] - 5


def test_half_a_gate_lies_between_the_mpc_and_the_chain():
    half = artefact(0.5)
    seen = observation(load_kw=45.0, peak_kw=28.0)
    mixed = LoadChainPolicy(record(half), half).decide(seen)
    alone = LoadChainPolicy(record(MADE), MADE).decide(seen)
    mpc = MpcPolicy(record(None)).decide(seen)
    assert mixed.inputs["hybrid"]["decided_by"] == "load chain and MPC"
    of = [{p.device_id: p.power_w for p in one.set_points} for one in (mixed, alone, mpc)]
    for key in of[0]:
        assert of[0][key] == pytest.approx(0.5 * of[1][key] + 0.5 * of[2][key], abs=1e-6)


def signal():
    return DispatchSignal((SignalStep(NOW, 900.0, 1e4, NOW),))


FLOORS = [
    ({"peak_price": 0.0}, {}, "no price"),
    ({"interval_s": 3600}, {}, "steps of 900 s"),
    ({"signal": signal()}, {}, "dispatch signal"),
    ({"errors": {}}, {}, "no load_w is on record"),
    ({"lag_steps": 13}, {}, "allowed 10800 s"),
    ({"load_kw": 500.0}, {}, "far from what was counted"),
    ({}, {"parameters": {"net_of_pv": False}}, "the site has PV"),
    ({}, {"chemistries": (Chemistry.LFP,)}, "the artefact covers LFP"),
    ({}, {"share": 0.0}, "gate is 0"),
    ({"price_known_until": NOW}, {}, "no price is known"),
]


@pytest.mark.parametrize(("seen", "made", "why"), FLOORS)
def test_where_the_chain_cannot_the_mpc_decides_and_says_why(seen, made, why):
    built = artefact(**made)
    policy, shown = LoadChainPolicy(record(built), built), observation(**seen)
    if "interval_s" in seen:
        policy = LoadChainPolicy(replace(record(built), update_interval_seconds=3600), built)
    decision = policy.decide(shown)
    note = decision.inputs["hybrid"]
    assert note["decided_by"] == "MPC"
    assert why in note["why"]
    mpc = MpcPolicy(replace(policy.record, config={})).decide(shown)
    assert [p.power_w for p in decision.set_points] == pytest.approx([p.power_w for p in mpc.set_points])


def test_an_interval_between_two_steps_is_not_the_chains():
    with pytest.raises(PolicyUnableError, match="does not begin on a step"):
        LoadChainPolicy(record(MADE), MADE)._check(observation(starts_at=NOW + timedelta(minutes=5)))


def test_without_a_week_of_prices_the_mpc_decides():
    seen = observation()
    price = seen.price_eur_per_kwh
    start = NOW - timedelta(days=2)
    short = Series(price.name, start, 3600.0, price.values[round((start - price.start).total_seconds() / 3600) :])
    note = said(LoadChainPolicy(record(MADE), MADE), replace(seen, price_eur_per_kwh=short))
    assert note["decided_by"] == "MPC"
    assert "week before" in note["why"]


def test_a_pack_without_a_prediction_rests_and_the_others_are_planned():
    seen = observation(load_kw=34.0, peak_kw=34.0)
    out = seen.devices[0].device_id
    decision = LoadChainPolicy(record(MADE), MADE).decide(replace(seen, missing_predictions={out: "missing"}))
    points = {p.device_id: p for p in decision.set_points}
    assert (points[out].power_w, points[out].reason) == (0.0, "stop")
    assert sum(p.power_w for p in points.values()) > 0


def test_an_artefact_gives_back_its_chain():
    found = chain_of(open_artefact(MADE.files))
    for name in ("usual_kw", "above_kw", "moves", "edges_kw"):
        assert getattr(found, name) == pytest.approx(getattr(CHAIN, name), rel=1e-5, abs=1e-5)
    assert found.moves.sum(axis=-1) == pytest.approx(1.0, abs=1e-12)


def broken(name, change):
    tensors = CHAIN.tensors()
    tensors[name] = change(tensors[name])
    return artefact(tensors=tensors)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: artefact(layout="load-chain/0"), "expected 'load_chain', 'load-chain/1'"),
        (lambda: artefact(parameters={"share": 1.5}), "parameters.share"),
        (lambda: artefact(parameters={"dt_s": 60.0}), "parameters.dt_s"),
        (lambda: artefact(parameters={"net_of_pv": "yes"}), "parameters.net_of_pv"),
        (lambda: broken("moves", lambda a: a[:, :12].copy()), "moves: got the shape"),
        (lambda: broken("moves", lambda a: 0.5 * a), "sum to 1"),
        (lambda: broken("usual_w", lambda a: np.full_like(a, np.nan)), "not finite"),
        (lambda: broken("edges_w", lambda a: a[::-1].copy()), "each above the one before"),
        (lambda: artefact(tensors={"edges_w": CHAIN.tensors()["edges_w"]}), "no 'usual_w'"),
    ],
)
def test_an_artefact_that_does_not_fit_is_named(made, words):
    built = made()
    with pytest.raises(ArtefactError, match=words.replace("(", r"\(")):
        policy_of(record(built), built.files)


def test_the_factory_makes_it_from_a_hybrid_row_alone():
    assert isinstance(policy_of(record(MADE), MADE.files), LoadChainPolicy)
    with pytest.raises(InputError, match="HYBRID"):
        policy_of(replace(record(MADE), policy_type="RL"), MADE.files)
    with pytest.raises(InputError, match="solver"):
        policy_of(record(MADE, solvr="piqp"), MADE.files)
