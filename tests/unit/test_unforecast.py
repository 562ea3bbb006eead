"""Energy values where prices come without a forecast: the same live as in training, blind to the future, over the MPC's floor."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.artefact import ArtefactError
from core.decisions import Reason
from core.series import Series
from optimizer.dynamic import lattice
from policies.base import PolicyUnableError
from policies.check import check_policy
from policies.learned.artefact import open_artefact
from policies.learned.hybrid import HybridPolicy
from policies.learned.layout import CLOCK_LAYOUT, RESIDUAL_LAYOUT, UNFORECAST_LAYOUT
from policies.learned.unforecast import INPUTS, unforecast_value
from policies.learned.value import EnergyValuePolicy
from serving.dispatch.gate import gate
from serving.dispatch.policy_factory import policy_of
from tests.unit.learned_cases import CHEMISTRIES, NOW, mlp, observation, record
from training.artefacts import make_artefact
from training.value_data import Correction, ValueTask
from training.value_market import Market, split_by_half

DT_S = 900.0
DAYS = 40
PLANT = {"capacity_wh": 2e6, "power_w": 1e6, "round_trip": 0.9025, "wear_eur_per_kwh": 0.005, "charge_steps": 4}
START = (NOW - timedelta(days=20)).replace(hour=0)
ROW_OF_NOW = 20 * 96 + 40


def prices(seed=0):
    g = np.random.default_rng(seed)
    t = np.arange(DAYS * 96)
    return 0.08 + 0.04 * np.sin(2 * np.pi * (t / 96 - 0.3)) + 0.02 * g.normal(size=len(t))


def task(values, phi=0.9, days=7, layout=UNFORECAST_LAYOUT):
    market = Market(
        name="m", start=START, dt_s=DT_S, price_eur_per_kwh=values, forecasts_eur_per_kwh=np.zeros((len(values), 0)), sha256=""
    )
    return ValueTask(
        market=market, split=split_by_half(market, 4), plant=lattice(**PLANT, dt_s=DT_S), information="no_forecast",
        correction=Correction(phi=phi, days=days), clock_hours=layout == CLOCK_LAYOUT,
    )  # fmt: skip


def artefact(share=0.75, phi=0.9, days=7, seed=0, **changes):
    said = {
        "kind": "energy_value",
        "layout": UNFORECAST_LAYOUT,
        "chemistries": CHEMISTRIES,
        "parameters": {"share": share, "dt_s": DT_S, "horizon_steps": 96, "correction_phi": phi, "correction_days": days},
        "plant": PLANT,
    } | changes
    inputs = INPUTS.get(said["layout"], 61)
    return make_artefact({"value0": mlp(inputs, lattice(**PLANT, dt_s=DT_S).intervals, seed)}, **said)


def seen_at(row, values, soc_pct=50.0):
    """What a site sees when the step of that row begins; later prices are as a dispatcher continues them."""
    base, at = observation(soc_pct), START + timedelta(seconds=DT_S * row)
    known = np.concatenate([values[: row + 1], np.resize(values[row - 95 : row + 1], 96 * 3)])
    hold = [Series(name, at, DT_S, np.full(400, value)) for name, value in (("load_w", 2e4), ("pv_w", 0.0), ("ambient_c", 20.0))]
    return replace(
        base, starts_at=at, interval_s=int(DT_S), price_eur_per_kwh=Series("price", START, DT_S, known), load_w=hold[0],
        pv_w=hold[1], ambient_c=hold[2], price_known_until=at + timedelta(seconds=DT_S),
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(10 * 96, DAYS * 96 - 200), phi=st.sampled_from([0.0, 0.9]), days=st.sampled_from([1, 3, 7]),
    share=st.sampled_from([0.0, 0.5, 1.0]), layout=st.sampled_from(list(INPUTS)),
)  # fmt: skip
def test_a_site_sees_what_training_saw(row, phi, days, share, layout):
    values = prices()
    made = artefact(phi=phi, days=days, layout=layout)
    trained, live = task(values, phi, days, layout), unforecast_value(made, share)
    rows = (row, row + 1)
    plan = trained.plan((row, row + 97))[:1]  # the end of a range would shorten the horizon
    said = trained.value(made.network("value0"), rows, trained.features(rows), None)
    found = live.marginals(seen_at(row, values), START + timedelta(seconds=DT_S * row))
    np.testing.assert_allclose(found, (share * said + (1 - share) * plan)[0], atol=2e-6)


@pytest.mark.parametrize("layout", list(INPUTS))
def test_prices_after_the_step_leave_no_trace(layout):
    row, values = 12 * 96 + 37, prices()
    seen = seen_at(row, values)
    later = seen.price_eur_per_kwh.values.copy()
    later[row + 1 :] += 5.0
    changed = replace(seen, price_eur_per_kwh=replace(seen.price_eur_per_kwh, values=later))
    live = unforecast_value(artefact(layout=layout), 0.5)
    np.testing.assert_array_equal(live.marginals(seen, seen.starts_at), live.marginals(changed, seen.starts_at))


def test_the_contract_holds_alone_and_as_hybrid():
    seen, made = seen_at(ROW_OF_NOW, prices()), artefact()
    again = open_artefact(made.files, sha256=made.sha256)
    for make, reload in (
        (lambda: EnergyValuePolicy(record(made), made), lambda _: EnergyValuePolicy(record(made), again)),
        (lambda: HybridPolicy(quarter(made), made), lambda _: HybridPolicy(quarter(made), again)),
    ):
        checked = check_policy(
            make, [seen], project=lambda decision, given: gate(decision, given).decision, deadline_s=60.0, reload=reload
        )
        assert checked.decided >= 4


def quarter(made):
    return replace(record(made), update_interval_seconds=int(DT_S))


def test_hybrid_decides_by_the_mix_and_rests_on_the_mpc():
    row, values = ROW_OF_NOW, prices()
    seen = seen_at(row, values)
    made = artefact(0.75)
    policy = policy_of(replace(quarter(made), policy_type="HYBRID"), made.files)
    decision = policy.decide(seen)
    assert decision.inputs["hybrid"]["decided_by"] == "worth of energy, step by step"
    mixed = EnergyValuePolicy(record(made), made, 0.75).decide(seen)
    assert [p.power_w for p in decision.set_points] == [p.power_w for p in mixed.set_points]
    short = replace(seen, price_eur_per_kwh=Series("price", seen.starts_at, DT_S, seen.price_eur_per_kwh.values[row:]))
    floor = policy.decide(short)
    assert floor.inputs["hybrid"]["decided_by"] == "MPC"
    assert "7 days before" in floor.inputs["hybrid"]["why"]
    shut = artefact(0.0)
    assert HybridPolicy(quarter(shut), shut).decide(seen).inputs["hybrid"]["decided_by"] == "MPC"


def test_a_very_dear_step_is_sold_and_a_cheap_one_bought():
    row, values = 12 * 96 + 40, prices()
    made = artefact()
    for price, reason in ((1.5, Reason.PRICE_HIGH), (-0.5, Reason.PRICE_LOW)):
        values[row] = price
        decision = EnergyValuePolicy(record(made), made, 0.0).decide(seen_at(row, values))
        assert {point.reason for point in decision.set_points} == {reason}


def test_what_it_lacks_is_told():
    seen, made = seen_at(12 * 96 + 40, prices()), artefact()
    policy = EnergyValuePolicy(record(made), made)
    with pytest.raises(PolicyUnableError, match="present step of 900 s"):
        policy.decide(replace(seen, interval_s=300))
    with pytest.raises(PolicyUnableError, match="price of the step is not known"):
        policy.decide(replace(seen, price_known_until=seen.starts_at))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "energy-value/1"}, "kind and layout"),
        ({"plant": {"round_trip": 0.9}}, "capacity_wh"),
        ({"plant": PLANT | {"round_trip": 1.5}}, "round_trip"),
        ({"parameters": {"share": 0.5, "dt_s": DT_S, "horizon_steps": 96, "correction_phi": 0.9}}, "correction_days"),
        (
            {"parameters": {"share": 0.5, "dt_s": DT_S, "horizon_steps": 96, "correction_phi": 0.9, "correction_days": 9}},
            "1 to 7",
        ),
        ({"plant": PLANT | {"charge_steps": 5}}, "shape of the network"),
    ],
)
def test_an_artefact_that_does_not_fit_is_named(changes, message):
    with pytest.raises(ArtefactError, match=message):
        unforecast_value(artefact(**changes))


def test_a_network_that_needs_forecasts_is_refused_in_those_words():
    made = artefact(layout=RESIDUAL_LAYOUT)
    for kind in ("RL", "HYBRID"):
        plain = record(made) if kind == "HYBRID" else replace(record(made), config={"artefact": made.sha256})
        with pytest.raises(ArtefactError, match="which no site keeps"):
            policy_of(replace(plain, policy_type=kind), made.files)


def test_midnight_and_the_first_step_of_a_day():
    values = prices()
    made = artefact()
    for row in (12 * 96, 12 * 96 + 95):
        seen = seen_at(row, values)
        assert np.isfinite(unforecast_value(made, 0.5).marginals(seen, seen.starts_at)).all()
