"""The MPC policy between observation and decision: signal, reserve, corrected forecasts, scenarios, and what goes on record."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.errors import InputError, SolverError
from core.limits import power_bounds, tightest
from core.pack import Pack, condition_from_state
from core.policy_record import PolicyRecord
from core.series import Series
from core.signal import DispatchSignal, SignalStep
from core.site import Grid
from core.twin import predict
from optimizer import scenarios
from optimizer.mpc import MpcSolver
from policies.base import Observation
from policies.mpc import NEVER, MpcPolicy
from serving.plan_view import summary
from serving.site_loader import read_site_file

SITE = read_site_file(Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml")
NOW = datetime(2026, 3, 10, 10, tzinfo=UTC)
N = 24
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def observation():
    """The demo's site at noon with hourly steps, 20 kW of load, 10 kW of PV by day, all prices known."""
    devices = tuple(pack.device_config(SITE.site_id) for pack in SITE.packs)
    limits, states, predictions = {}, {}, {}
    for pack, device in zip(SITE.packs, devices, strict=True):
        rows = [spec.row(pack.device_id, str(k)) for k, spec in enumerate(pack.constraints)]
        limits[pack.device_id] = tightest(device, rows, NOW)
        simulated = Pack(device, soc_pct=50.0, soh_pct=pack.soh_pct, temperature_c=22.0, ambient_c=20.0)
        states[pack.device_id] = simulated.state(NOW)
        predictions[pack.device_id] = predict(device, states[pack.device_id], np.zeros(N), dt_s=3600.0, start=NOW, ambient_c=20.0)
    hours = np.arange(N)
    return Observation(
        site=SITE,
        starts_at=NOW,
        interval_s=3600,
        devices=devices,
        limits=limits,
        states=states,
        predictions=predictions,
        price_eur_per_kwh=Series("price", NOW, 3600.0, 0.1 + 0.08 * np.sin(2 * np.pi * (hours + 3) / 24)),
        load_w=Series("load_w", NOW, 3600.0, np.full(N, 2e4)),
        pv_w=Series("pv_w", NOW, 3600.0, np.where(hours < 8, 1e4, 0.0)),
        ambient_c=Series("ambient_c", NOW, 3600.0, np.full(N, 20.0)),
    )


def policy(**config):
    record = PolicyRecord(
        policy_id="p",
        name="mpc",
        site_id=SITE.site_id,
        policy_type="MPC",
        status="active",
        horizon_hours=N,
        update_interval_seconds=3600,
        performance_score=None,
        model_version=None,
        config=config,
    )
    return MpcPolicy(record)


def errors(days, seed=0, size=3e3, end=NOW, phi=0.8):
    """Past errors of `days` days, hourly."""
    g = np.random.default_rng(seed)
    values = np.zeros(round(days * 24))
    for k in range(1, len(values)):
        values[k] = phi * values[k - 1] + size * np.sqrt(1 - phi**2) * g.normal()
    return Series("errors", end - timedelta(hours=len(values)), 3600.0, values)


def net_w(plan):
    return plan.grid_import_w - plan.grid_export_w


def signal(*values, start=NOW):
    return DispatchSignal(tuple(SignalStep(start + timedelta(hours=k), 3600.0, v, NOW) for k, v in enumerate(values)))


def test_a_signal_is_tracked_where_it_asks(observation):
    plan = policy().plan(replace(observation, signal=signal(15e3, 12e3, start=NOW + timedelta(hours=1))))
    np.testing.assert_allclose(net_w(plan)[1:3], [15e3, 12e3], atol=300)
    assert [value is None for value in plan.deviation_w[:4]] == [True, False, False, True]
    assert "off the signal" in plan.detail(plan.devices[0], 1)


def test_weight_zero_ignores_the_signal(observation):
    free = policy().plan(observation)
    ignored = policy(tracking_weight=0.0).plan(replace(observation, signal=signal(*[15e3] * N)))
    assert np.array_equal(net_w(ignored), net_w(free))
    light = policy(tracking_weight=1e-4).plan(replace(observation, signal=signal(*[15e3] * N)))
    heavy = policy(tracking_weight=1.0).plan(replace(observation, signal=signal(*[15e3] * N)))
    off = [float(np.abs(np.array(plan.deviation_w, dtype=float)).sum()) for plan in (light, heavy)]
    assert off[0] > 10 * off[1]


def test_the_reserve_is_named_where_it_binds(observation):
    tight = SITE.model_copy(update={"grid": Grid(import_limit_w=40e3, export_limit_w=40e3, reserve_share=0.2)})
    plan = policy().plan(replace(observation, site=tight))
    assert plan.grid_import_w.max() <= 32e3 + 1
    assert "reserve" in {reason for part in plan.devices for reason in part.reasons}
    assert "grid_limit" not in {reason for part in plan.devices for reason in part.reasons}


def test_a_peak_price_never_makes_breaking_an_energy_limit_pay(observation):
    """Shaving one kilowatt is worth 60 EUR here: far beyond the plain penalty of energy outside its limits."""
    priced = SITE.model_copy(update={"grid": SITE.grid.model_copy(update={"peak_price_eur_per_kw": 60.0})})
    load = Series("load_w", NOW, 3600.0, np.where(np.arange(N) > 12, 9e4, 2e4))
    seen = replace(observation, site=priced, load_w=load)
    plan = policy().plan(seen)
    assert "energy" not in plan.status
    p = policy().problem(seen)
    assert p.soft.energy_eur_per_kwh > 60.0


def test_forecasts_are_corrected_by_their_latest_errors(observation):
    past = errors(20)
    assert abs(past.values[-1]) > 500
    plain = policy(correct_forecasts=False).problem(replace(observation, errors={"load_w": past}))
    assert plain.grid.load_w.tolist() == [2e4] * N
    corrected = policy().problem(replace(observation, errors={"load_w": past}))
    shift = corrected.grid.load_w - 2e4
    assert np.sign(shift[0]) == np.sign(past.values[-1])
    assert 0.4 * abs(past.values[-1]) < abs(shift[0]) < abs(past.values[-1])
    assert abs(shift[-1]) < abs(shift[0])
    plan = policy().plan(replace(observation, errors={"load_w": past}))
    assert plan.uncertainty["corrected"]["load_w"]["latest_w"] == pytest.approx(past.values[-1], abs=0.1)
    assert plan.status == "optimal"


def test_no_sun_at_night_and_no_negative_load(observation):
    past = replace(errors(20), values=np.full(480, -9e4))
    grid = policy().problem(replace(observation, errors={"load_w": past, "pv_w": replace(past, values=-past.values)})).grid
    assert grid.load_w.tolist() == [0.0] * N
    assert (grid.pv_w[8:] == 0).all()
    assert (grid.pv_w[:8] > 1e4).all()
    assert grid.pv_w.max() <= 1000 * SITE.pv.kwp


def test_errors_on_another_grid_correct_nothing_and_say_so(observation):
    past = errors(5, end=NOW - timedelta(seconds=7))
    plan = policy().plan(replace(observation, errors={"load_w": past}))
    assert "not corrected" in plan.uncertainty["corrected"]["load_w"]


def paying_for_peaks(observation, incurred_w):
    grid = observation.site.grid.model_copy(update={"peak_price_eur_per_kw": 3.0})
    return replace(observation, site=observation.site.model_copy(update={"grid": grid}), peak_incurred_w=incurred_w)


def test_plans_stay_below_the_peak_by_what_forecasts_miss(observation):
    """At this time of day load came 10 kW above its forecast now and then, at night it never did: the margin is the day's."""
    hours = np.arange(20 * 24)
    values = np.where((hours % 24 == 10) & (hours // 24 % 3 == 0), 1e4, 0.0)  # the record begins at 10 o'clock
    past = {
        "load_w": Series("errors", NOW - 20 * DAY, 3600.0, np.roll(values, -10)),
        "pv_w": Series("errors", NOW - 20 * DAY, 3600.0, 0 * values),
    }
    seen = replace(paying_for_peaks(observation, 5e4), errors=past)
    plan = policy(correct_forecasts=False).plan(seen)
    assert 9e3 < plan.uncertainty["corrected"]["peak_margin_w"] < 1.01e4
    assert policy(correct_forecasts=False).problem(seen).grid.peak_incurred_w == pytest.approx(4e4, abs=500)
    assert policy(correct_forecasts=False, peak_chance=0.5).problem(seen).grid.peak_incurred_w == 5e4
    assert policy(correct_forecasts=False, peak_chance=1.0).problem(seen).grid.peak_incurred_w == 5e4
    night = {
        name: replace(series, start=series.start + timedelta(hours=12), values=series.values) for name, series in past.items()
    }
    at_night = replace(seen, errors={name: replace(series, start=series.start - DAY) for name, series in night.items()})
    assert policy(correct_forecasts=False).problem(at_night).grid.peak_incurred_w == 5e4


def test_a_small_peak_leaves_no_room_and_none_without_price_or_record(observation):
    past = {"load_w": errors(20, size=3e4)}
    seen = replace(paying_for_peaks(observation, 1e3), errors=past)
    assert policy().problem(seen).grid.peak_incurred_w == 0.0
    assert policy().problem(replace(seen, errors={})).grid.peak_incurred_w == 1e3
    assert policy().problem(replace(seen, site=observation.site)).grid.peak_incurred_w == 1e3
    assert policy(uncertainty="scenarios").problem(seen).grid.peak_incurred_w == 1e3


def test_a_plan_that_scenarios_are_missing_for_keeps_the_margin_too(observation):
    seen = replace(paying_for_peaks(observation, 5e4), errors={"load_w": errors(2.5)})
    plan, plain = (policy(**config).plan(seen) for config in ({"uncertainty": "scenarios"}, {}))
    assert plan.status.startswith("deterministic: ")
    assert plan.uncertainty["corrected"]["peak_margin_w"] == plain.uncertainty["corrected"]["peak_margin_w"] > 0
    assert np.array_equal(net_w(plan), net_w(plain))
    assert any("below the month's highest" in line for line in summary(plan))


def both_errors(days=12):
    return {"load_w": errors(days, 1), "pv_w": errors(days, 2)}


def test_scenarios_decide_the_first_step(observation):
    seen = replace(observation, errors=both_errors())
    plan = policy(uncertainty="scenarios", scenario_count=6, cvar_weight=0.3).plan(seen)
    assert plan.status == "optimal"
    assert plan.uncertainty["mode"] == "scenarios"
    assert plan.uncertainty["count"] == len(plan.uncertainty["days_ago"]) == len(plan.uncertainty["bills_eur"]) == 6
    assert plan.uncertainty["quantities"] == ["load_w", "pv_w"]
    assert plan.uncertainty["tail_eur"] >= np.mean(plan.uncertainty["bills_eur"]) - 1e-6
    json.dumps(plan.as_json(), allow_nan=False)


def test_scenarios_are_the_same_for_the_same_time_only(observation):
    seen = replace(observation, errors=both_errors(20))
    first, again = (policy(uncertainty="scenarios", scenario_count=4).plan(seen) for _ in range(2))
    assert first.uncertainty == again.uncertainty
    assert np.array_equal(net_w(first), net_w(again))


def test_without_errors_to_speak_of_scenarios_are_the_deterministic_plan(observation):
    nothing = Series("errors", NOW - 10 * DAY, 3600.0, np.zeros(240))
    seen = replace(observation, errors={"load_w": nothing, "pv_w": nothing})
    risky = policy(uncertainty="scenarios", cvar_weight=0.5).plan(seen)
    plain = policy().plan(observation)
    assert risky.uncertainty["count"] == 8
    assert risky.objective_eur == pytest.approx(plain.objective_eur, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ({}, "no record of errors of load_w, pv_w"),
        ({"load_w": errors(12)}, "no record of errors of pv_w"),
        ({"load_w": errors(2.5), "pv_w": errors(12)}, "errors of load_w reach back 2.5 days"),
    ],
)
def test_too_little_history_is_said_and_the_plan_is_deterministic(observation, history, says):
    seen = replace(observation, errors=history)
    plan = policy(uncertainty="scenarios").plan(seen)
    assert plan.status.startswith("deterministic: ")
    assert says in plan.status
    assert plan.uncertainty["mode"] == "deterministic"
    assert np.array_equal(net_w(plan), net_w(policy().plan(seen)))


def test_unknown_prices_are_uncertain_from_where_they_end(observation):
    past = both_errors() | {"price_eur_per_kwh": errors(12, 3, size=0.03)}
    until = NOW + timedelta(hours=14)
    seen = replace(observation, errors=past, price_known_until=until)
    p = policy(uncertainty="scenarios")
    outlook = p._outlook(seen)
    problem = p._problem(seen, outlook)
    cases, drawn = outlook.scenarios(problem, 5)
    assert drawn["quantities"] == ["load_w", "price_eur_per_kwh", "pv_w"]
    for case in cases:
        assert case.grid.buy_eur_per_kwh[:14].tolist() == problem.grid.buy_eur_per_kwh[:14].tolist()
        assert (case.grid.buy_eur_per_kwh[14:] != problem.grid.buy_eur_per_kwh[14:]).all()
        assert (case.grid.buy_eur_per_kwh >= case.grid.sell_eur_per_kwh).all()
    known = replace(seen, price_known_until=None)
    assert "price" not in str(p.plan(known).uncertainty["quantities"])


def test_scenarios_never_see_the_future(observation):
    """What the past errors lead to depends on nothing but them: the same, whatever follows in the record of another day."""
    seen = replace(observation, errors=both_errors())
    p = policy(uncertainty="scenarios", scenario_count=4)
    plan = p.plan(seen)
    older = {name: Series("errors", series.start - 3 * DAY, 3600.0, np.r_[np.full(72, 1e6), series.values])
             for name, series in seen.errors.items()}  # fmt: skip
    days = p.plan(replace(seen, errors=older)).uncertainty["days_ago"]
    assert all(day <= 14 for day in days)
    assert all(day <= 11 for day in plan.uncertainty["days_ago"])


def test_scenarios_that_cannot_be_solved_leave_the_deterministic_plan(observation, monkeypatch):
    def refuse(self):
        raise SolverError("out of order")

    monkeypatch.setattr(scenarios._Stacked, "solve", refuse)
    plan = policy(uncertainty="scenarios").plan(replace(observation, errors=both_errors()))
    assert plan.status == "deterministic: no plan on scenarios: out of order"
    assert plan.solver == "piqp"


@pytest.mark.parametrize(
    ("key", "value"),
    [("tracking_weight", -1), ("uncertainty", "maybe"), ("scenario_count", 1), ("cvar_weight", 1.0), ("cvar", 0.5)],
)
def test_a_bad_setting_is_named(key, value):
    with pytest.raises(InputError, match=rf"config\.{key}"):
        policy(**{key: value})


def test_the_decision_carries_reasons_details_and_inputs(observation):
    decision = policy().decide(replace(observation, signal=signal(15e3), inputs={"a": {"source": "b", "age_s": 1.0}}))
    assert {point.reason for point in decision.set_points} & {"tracking"}
    assert any("off the signal" in point.detail for point in decision.set_points)
    assert decision.inputs == {"a": {"source": "b", "age_s": 1.0}}
    assert decision.plan["deviation_w"][1] is None
    json.dumps(decision.plan, allow_nan=False)


def test_wear_may_count_for_less(observation):
    full, half = (policy(wear_weight=w).problem(observation).devices for w in (1.0, 0.5))
    assert [d.wear_eur_per_kwh for d in half] == pytest.approx([0.5 * d.wear_eur_per_kwh for d in full])
    assert all(d.wear_eur_per_kwh > 0 for d in half)
    none = policy(wear_weight=0.0).problem(observation).devices
    assert [d.wear_eur_per_kwh for d in none] == [d.wear_eur_per_kwh for d in policy(wear=False).problem(observation).devices]


def test_wear_by_depth_is_a_choice(observation):
    plain, layered = policy().problem(observation), policy(wear_depth_edges=[0.3, 0.6]).problem(observation)
    assert all(device.wear_segments is None for device in plain.devices)
    assert [len(device.wear_segments) for device in layered.devices] == [2] * len(layered.devices)  # and the deepest one
    plan = policy(wear_depth_edges=[0.3, 0.6]).plan(observation)
    assert plan.solver == "piqp"
    assert policy(wear=False, wear_depth_edges=[0.3]).problem(observation).devices[0].wear_segments is None


@pytest.mark.parametrize("edges", [[0.5, 0.3], [0.0, 0.5], [30, 60]])
def test_depths_must_be_rising_shares(edges):
    with pytest.raises(InputError, match=r"config\.wear_depth_edges.*shares between 0 and 1"):
        policy(wear_depth_edges=edges)


def test_no_limit_is_bought_however_dear_the_peak(observation):
    """A peak price that would pay for heat, voltage or depth: the penalties rise with it."""
    for price in (8.0, 80.0, 300.0):
        dear = replace(
            observation,
            site=SITE.model_copy(update={"grid": SITE.grid.model_copy(update={"peak_price_eur_per_kw": price})}),
            load_w=Series("load_w", NOW, 3600.0, np.where((np.arange(N) > 5) & (np.arange(N) < 10), 9e4, 2e4)),
        )
        plan = policy(solver="piqp").plan(dear)
        assert "limit not kept" not in plan.status, plan.status


def test_a_last_plan_stands_in_by_the_time_that_has_passed(observation, monkeypatch):
    asked = []
    chosen = policy()
    solve = MpcSolver.plan

    def seen(self, problem, first_w=None, *, shift_steps=1):
        asked.append(shift_steps)
        return solve(self, problem, first_w, shift_steps=shift_steps)

    monkeypatch.setattr(MpcSolver, "plan", seen)
    chosen.plan(observation)
    chosen._planned_at = NOW - timedelta(hours=3)
    chosen.plan(observation)
    chosen._planned_at = NOW + timedelta(hours=1)
    chosen.plan(observation)
    assert asked == [1, 3, NEVER]


def test_the_depth_counts_what_the_last_day_has_used(observation):
    """However often it is planned anew: the pack was at 80 % an hour ago, and may swing by 40 %."""
    limits = {key: replace(value, cycle_depth_pct=40.0, soc_min_pct=5.0) for key, value in observation.limits.items()}
    states = {key: replace(state, cycle_low_pct=50.0, cycle_high_pct=80.0) for key, state in observation.states.items()}
    plan = policy().plan(replace(observation, limits=limits, states=states))
    assert min(part.soc_pct.min() for part in plan.devices) >= 40.0 - 0.2
    fresh = policy().plan(replace(observation, limits=limits))
    assert min(part.soc_pct.min() for part in fresh.devices) < 35.0
    for key, state in states.items():
        device = next(d for d in observation.devices if d.device_id == key)
        at_the_end = replace(state, soc_pct=40.5)
        bounds = power_bounds(limits[key], condition_from_state(device, at_the_end, 900.0, ambient_c=20.0), 900.0)
        assert bounds.discharge_w[0] < 0.05 * limits[key].discharge_power_w + 2500.0
