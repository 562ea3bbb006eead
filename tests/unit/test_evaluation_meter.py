"""Peaks that cost money, PV that may be held back: in the bill, for whoever rests, in what policies see, in foresight."""

import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from evaluation_cases import WEEK, Fixed, config, price_file, site_file

from core.site import Grid, Pv
from serving.evaluation.account import account
from serving.evaluation.baselines import Contender, Idle
from serving.evaluation.config import Faults, SinglePack
from serving.evaluation.foresight import Foresight, _best_of, pack_model
from serving.evaluation.job import Job, run_job
from serving.evaluation.life import live
from serving.evaluation.meter import energy_bill_eur, held_back_w, metered_w, peak_charge_eur
from serving.evaluation.plant import make_packs
from serving.evaluation.replay import replay
from serving.evaluation.world import make_world

PRICE = 6.0
"""EUR per kW of the month's peak."""


def world_of(folder, week=WEEK, scenario=None, days=1, **changes):
    made = config(folder, days=days, scenario={"pack": None, "site": site_file(folder, **changes), **(scenario or {})})
    price_file(folder, days=60)
    return made, make_world(made, made.scenarios[0], week, 0, folder, folder)


def run(world, policy):
    packs = make_packs(world.site, world.devices, world.start_soc_pct, 18.0, "ECM")
    return replay(policy, world, packs, Faults())


def site(**changes):
    return (
        SinglePack.model_validate({"chemistry": "NMC"})
        .site()
        .model_copy(
            update={"grid": Grid(import_limit_w=50_000, export_limit_w=20_000, **changes), "pv": Pv(kwp=30, curtailable=True)}
        )
    )


@settings(max_examples=200, deadline=None)
@given(st.floats(-100_000, 50_000), st.floats(0, 60_000), st.floats(-0.3, 0.3), st.floats(0, 0.1), st.sampled_from([0.0, PRICE]))
def test_what_is_held_back_is_the_cheapest_for_the_step(grid_w, pv_w, sell, spread, peak_price):
    buy = sell + spread
    made = site(peak_price_eur_per_kw=peak_price)
    held = float(held_back_w(made, np.array(grid_w), np.array(pv_w), np.array(buy), np.array(sell)))
    assert 0.0 <= held <= pv_w
    tried = np.linspace(0.0, pv_w, 101)
    limit = made.grid.import_limit_w if peak_price == 0 else max(grid_w, 0.0)
    tried = tried[(grid_w + tried <= max(limit, grid_w)) & (grid_w + tried >= min(-made.grid.export_limit_w, grid_w + pv_w))]

    def bill(held_w):
        kwh = (grid_w + held_w) / 1000.0
        return np.where(kwh > 0, kwh * buy, kwh * sell)

    if len(tried):
        assert bill(held) <= bill(tried).min() + 1e-6


def test_without_leave_nothing_is_held_back():
    made = site().model_copy(update={"pv": Pv(kwp=30, curtailable=False)})
    assert held_back_w(made, np.array([-5e4]), np.array([3e4]), np.array([-0.1]), np.array([-0.2])).tolist() == [0.0]


def test_negative_prices_no_longer_cost_who_may_curtail(tmp_path):
    found = {}
    for may in (False, True):
        _, world = world_of(tmp_path, pv={"kwp": 200, "curtailable": may})
        world = replace(world, price=np.where(world.pv_w > 20_000, -0.1, world.price))
        idle_w, held_w = metered_w(world, np.zeros(world.steps))
        found[may] = energy_bill_eur(world, idle_w)
        trace = run(world, Idle())
        np.testing.assert_allclose(trace.grid_w, idle_w)
        done = account(trace, world)
        assert done.cash_eur == 0.0, "who rests earns nothing in either case"
        assert (done.curtailed_kwh > 0) == may == bool(held_w.any())
        assert done.curtailed_kwh == pytest.approx(held_w.sum() * world.dt_s / 3.6e6)
    assert found[True] < found[False]


def test_perfect_foresight_charges_what_would_be_held_back(tmp_path):
    """At negative export prices surplus is worth nothing: storing it costs less than buying it later."""
    made, world = world_of(tmp_path, pv={"kwp": 200, "curtailable": True})
    world = replace(world, price=np.where(world.pv_w > 20_000, -0.01, np.maximum(world.price, 0.1)))
    best = run(world, Foresight(world, [pack_model(world, world.devices[0])]))
    mpc = run(world, Contender(name="mpc").policy(made, world.dt_s))
    j = {name: account(trace, world) for name, trace in (("best", best), ("mpc", mpc), ("idle", run(world, Idle())))}
    assert j["best"].j_eur > j["idle"].j_eur
    assert j["best"].j_eur >= j["mpc"].j_eur - 0.01
    assert j["best"].curtailed_kwh < j["idle"].curtailed_kwh
    assert j["best"].violations == j["mpc"].violations == 0


def test_the_peak_before_the_replay_is_that_of_load_and_pv_in_the_month(tmp_path):
    _, free = world_of(tmp_path)
    assert free.peak_incurred_w == 0.0, "where it costs nothing nobody asks"
    _, world = world_of(tmp_path, grid={"peak_price_eur_per_kw": PRICE})
    days = 5  # from the first of March, in the history that the world holds
    before = slice(world.first - 24 * days, world.first)
    assert world.peak_incurred_w == pytest.approx((world.load_w - world.pv_w)[before].max())
    _, first = world_of(tmp_path, week=date(2023, 4, 1), grid={"peak_price_eur_per_kw": PRICE})
    assert first.peak_incurred_w == 0.0
    _, told = world_of(tmp_path, grid={"peak_price_eur_per_kw": PRICE}, scenario={"peak_incurred_kw": 12.5})
    assert told.peak_incurred_w == 12_500.0
    assert told.sha256() != world.sha256()


def test_only_what_lies_above_the_incurred_peak_is_charged_month_by_month(tmp_path):
    _, world = world_of(
        tmp_path, week=date(2023, 3, 31), days=2, grid={"peak_price_eur_per_kw": PRICE}, scenario={"peak_incurred_kw": 20.0}
    )
    assert [int((world.months() == month).sum()) for month in sorted(set(world.months().tolist()))] == [24, 24]
    grid_w = np.full(48, 5_000.0)
    assert peak_charge_eur(world, grid_w) == pytest.approx(PRICE * 5.0), "March has had its 20 kW, April begins anew"
    grid_w[3], grid_w[30] = 26_000.0, 9_000.0
    assert peak_charge_eur(world, grid_w) == pytest.approx(PRICE * (6.0 + 9.0))
    assert account(run(world, Idle()), world).billing_months == 2


def test_a_policy_sees_the_peak_so_far_and_a_new_month_begins_at_nought(tmp_path):
    _, world = world_of(
        tmp_path, week=date(2023, 3, 31), days=2, grid={"peak_price_eur_per_kw": PRICE}, scenario={"peak_incurred_kw": 1.0}
    )
    policy = Fixed("look", 0.0, "fine")
    trace = run(world, policy)
    seen = [observation.peak_incurred_w for observation in policy.seen]
    assert seen[0] == 1_000.0
    for k in range(1, 24):
        assert seen[k] == max(1_000.0, trace.grid_w[:k].max())
    assert seen[24] == 0.0
    assert seen[30] == max(0.0, trace.grid_w[24:30].max())


def test_who_charges_at_the_peak_pays_for_it(tmp_path):
    _, world = world_of(
        tmp_path, grid={"peak_price_eur_per_kw": PRICE}, scenario={"peak_incurred_kw": 0.0, "start_soc_pct": 12.0}
    )
    rested, charged = (account(run(world, Fixed("f", watt, "fine")), world) for watt in (0.0, -2_500.0))
    assert rested.cash_eur == rested.peak_eur == 0.0
    assert charged.peak_eur < -PRICE, "some kilowatts more"
    assert charged.peak_w > rested.peak_w
    assert charged.peak_eur == pytest.approx(-PRICE * (charged.peak_w - rested.peak_w) / 1000.0)


def test_perfect_foresight_shaves_the_peak_as_far_as_it_pays(tmp_path):
    made, world = world_of(tmp_path, days=2, grid={"peak_price_eur_per_kw": PRICE}, scenario={"peak_incurred_kw": 0.0})
    earned = {}
    for name in ("idle", "threshold", "one_cycle", "mpc", "perfect_foresight"):
        result = run_job(
            Job(config=made, scenario=made.scenarios[0], week=WEEK, seed=0, contender=Contender(name=name), folder=tmp_path,
                data_dir=tmp_path)
        )  # fmt: skip
        earned[name] = result["account"]
        assert result["violations"] == {}
        if name == "perfect_foresight":
            assert result["promised_eur"] >= earned[name]["j_eur"]
            assert result["promised_eur"] < 1.15 * earned[name]["j_eur"]
    best = earned.pop("perfect_foresight")
    assert best["j_eur"] > max(item["j_eur"] for item in earned.values()), earned
    assert best["peak_eur"] > 0
    assert best["peak_w"] < earned["idle"]["peak_w"]
    blind = Foresight(world, [pack_model(world, world.devices[0])])
    cheap = replace(
        world, site=world.site.model_copy(update={"grid": world.site.grid.model_copy(update={"peak_price_eur_per_kw": 0.0})})
    )
    careless = account(run(world, Foresight(cheap, [pack_model(cheap, cheap.devices[0])])), world)
    assert account(run(world, blind), world).j_eur > careless.j_eur, "it knows what a peak costs"
    assert blind.caps_w


def test_the_search_finds_the_top_of_a_hill_and_takes_an_end_where_that_is_best():
    assert _best_of(lambda x: -((x - 30.0) ** 2), 0.0, 100.0, 20) == pytest.approx(30.0, abs=1.5)
    assert _best_of(lambda x: x, 0.0, 100.0, 12) == 100.0
    assert _best_of(lambda x: -x, 0.0, 100.0, 12) == 0.0
    assert _best_of(lambda _: 0.0, 5.0, 5.0, 12) == 5.0


def test_a_year_has_twelve_peaks_and_365_days():
    hours = np.arange(25)
    result = {
        "status": "ok",
        "account": {"cash_eur": 10.0, "peak_eur": 4.0, "energy_eur": 1.0, "wear_eur": 2.0, "billing_months": 1},
        "trace": {
            "dt_s": 3600.0, "devices": [{"chemistry": "LFP", "soh_pct": 90.0}], "soc_pct": [np.full(len(hours), 50.0).tolist()],
            "temperature_c": [np.full(len(hours), 20.0).tolist()],
        },
    }  # fmt: skip
    found = live([result, result], (1,))
    assert found["profit_eur_per_year"] == pytest.approx(7.0 * 365 + 4.0 * 12)
    assert found["wear_eur_per_year"] == pytest.approx(2.0 * 365)
    assert found["net_of_wear_eur_per_year"] == pytest.approx(5.0 * 365 + 4.0 * 12)
