"""The counterfactual: the same day, the same twin, the same account for all; idle is 0, nobody passes perfect foresight."""

import json
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from failing_policies import make
from shadow_cases import day, prices, schedule, site, task

from core.calibration import Factors
from serving.shadow.scoring import LEAST_ROOM_EUR, packs_of, score_schedules
from serving.shadow.turn import take_turn

WINTER, SPRING, AUTUMN = date(2026, 1, 14), date(2026, 3, 29), date(2026, 10, 25)


def cycle(steps, watt=20_000.0):
    """Charge in the cheapest quarter of the day, discharge in the dearest."""
    order = np.argsort(prices(steps), kind="stable")
    power = np.zeros(steps)
    power[order[:12]], power[order[-12:]] = -watt, watt
    return power


def test_idle_is_zero_and_a_good_day_lies_between():
    found = score_schedules(day(WINTER, np.zeros(96), cycle(96), -cycle(96)))
    idle, good, bad = found.scored
    assert (idle.score, idle.raw) == (0.0, 0.0)
    assert 0.2 < good.score < 1.0
    assert bad.raw < 0.0
    assert bad.score == 0.0
    assert found.best_eur > found.idle_eur + 1.0
    assert good.account.j_eur == pytest.approx(good.account.cash_eur - good.account.wear_eur + good.account.energy_eur)


def test_the_same_day_gives_the_same_numbers_to_the_last_digit():
    one, other = (score_schedules(day(WINTER, cycle(96))) for _ in range(2))
    assert json.dumps([s.details() for s in one.scored]) == json.dumps([s.details() for s in other.scored])
    assert one.best_eur == other.best_eur


def test_a_schedule_s_score_does_not_depend_on_who_else_is_scored():
    alone = score_schedules(day(WINTER, cycle(96))).scored[0]
    beside = score_schedules(day(WINTER, np.zeros(96), cycle(96))).scored[1]
    assert alone.score == beside.score


def test_roles_are_scored_alike():
    given = day(WINTER, cycle(96))
    commanded = schedule(96, list(given.states), cycle(96), role="commanded", name="active")
    found = score_schedules(replace(given, schedules=(*given.schedules, commanded)))
    assert found.scored[0].account == found.scored[1].account


@pytest.mark.parametrize(("on", "quarters"), [(SPRING, 92), (AUTUMN, 100)])
def test_days_of_23_and_25_hours(on, quarters):
    found = score_schedules(day(on, np.zeros(quarters), cycle(quarters)))
    assert found.scored[0].score == 0.0
    assert 0.2 < found.scored[1].score <= 1.0


def test_energy_left_is_valued_and_energy_taken_is_paid_for():
    emptied = np.zeros(96)
    emptied[70:76] = 20_000.0
    filled = np.zeros(96)
    filled[:6] = -20_000.0
    out, into = score_schedules(day(WINTER, emptied, filled)).scored
    assert out.account.energy_eur < 0 < into.account.energy_eur
    assert out.account.cash_eur > 0 > into.account.cash_eur


def test_the_gate_keeps_what_was_recorded_within_limits():
    (found,) = score_schedules(day(WINTER, np.full(96, 50_000.0))).scored
    assert found.account.violations == 0
    assert found.account.cut_kwh > 100.0
    assert min(found.end_soc_pct.values()) >= 4.9


def test_a_day_with_nothing_to_earn_has_no_score():
    found = score_schedules(day(WINTER, cycle(96, watt=1000.0), price=0.1))
    assert found.best_eur - found.idle_eur < LEAST_ROOM_EUR
    assert found.scored[0].score is None
    assert found.scored[0].account.j_eur < 0.0, "and still costs wear"


def test_emptying_the_packs_earns_nothing_by_itself():
    """Fees lie between market and meter: energy taken from the stock is paid for as what it replaced."""
    emptied = np.zeros(96)
    emptied[40:60] = 10_000.0
    (found,) = score_schedules(day(WINTER, emptied, price=0.1)).scored
    assert found.account.throughput_kwh > 40.0
    assert found.account.cash_eur + found.account.energy_eur < 0.0, "losses, and nothing else"


def test_what_is_bought_and_sold_costs_as_before():
    given, config = day(WINTER, cycle(96)), site()
    now = given.world.site.tariff.buy_sell(given.world.week(given.world.price))
    before = config.tariff.buy_sell(prices(96))
    np.testing.assert_allclose(now, before, atol=1e-12)


def test_the_twin_of_the_day_carries_its_calibration():
    power = np.zeros(96)
    power[40:48] = 10_000.0
    full, small = (
        score_schedules(day(WINTER, power, factors=Factors(capacity=share))).scored[0].end_soc_pct["pack-lfp"]
        for share in (1.0, 0.8)
    )
    assert small < full - 1.0


def test_several_packs_behind_one_meter():
    given = day(WINTER, cycle(96, 15_000.0), config=site(packs=2))
    (found,) = score_schedules(given).scored
    assert set(found.end_soc_pct) == {"pack-lfp", "pack-nmc"}
    assert 0.0 < found.score <= 1.0


def test_what_a_shadow_lived_through_is_what_is_replayed():
    """The live virtual SoC and the replay's are the same, interval by interval: one twin, one gate, one anchor."""
    given = day(WINTER, np.zeros(96), config=site(load={"annual_kwh": 0}))
    (device,) = given.world.devices
    rng = np.random.default_rng(5)
    wanted = rng.uniform(-20_000, 20_000, 96)
    kept, live, power = None, [], []
    for k in range(96):
        at = given.world.start + timedelta(minutes=15 * k)
        asked = task(at, kept, pack=device, watt=float(wanted[k]))
        states = {device.device_id: given.states[device.device_id]}
        asked = replace(
            asked,
            day=WINTER,
            observation=replace(
                asked.observation, site=given.world.site, limits=given.world.limits, states=states,
                ambient_c=replace_ambient(asked.observation.ambient_c),
            ),
        )  # fmt: skip
        turn = take_turn(asked, make)
        kept = turn.state
        live.append(turn.soc_pct[device.device_id])
        power.append(turn.power_w.get(device.device_id, 0.0))
    again = schedule(96, [device.device_id], np.array(power))
    (found,) = score_schedules(replace(given, schedules=(again,))).scored
    assert found.end_soc_pct[device.device_id] == pytest.approx(live[-1], abs=0.02)
    assert found.account.cut_kwh < 0.05
    assert len(packs_of(given)) == 1


def replace_ambient(series):
    return type(series)(series.name, series.start, series.dt_s, np.full(len(series), 18.0))
