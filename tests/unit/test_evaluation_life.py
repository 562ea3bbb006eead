"""Life under a policy: more use is less life, years are years, and the target says who meets it."""

import numpy as np
import pytest

from core import ageing
from core.devices import Chemistry
from serving.evaluation.life import _steps, live, lives_of, target

DT_S = 3600.0


def result(depth_pct, days=2, chemistry="LFP", soh=90.0, cash=10.0):
    hours = np.arange(24 * days + 1)
    soc = 50.0 + 0.5 * depth_pct * np.sin(2 * np.pi * hours / 24)
    return {
        "status": "ok",
        "account": {"cash_eur": cash, "energy_eur": 0.0},
        "trace": {
            "dt_s": DT_S,
            "devices": [{"chemistry": chemistry, "soh_pct": soh}],
            "soc_pct": [soc.tolist()],
            "temperature_c": [np.full(len(hours), 25.0).tolist()],
        },
    }


@pytest.mark.parametrize("chemistry", [c.value for c in Chemistry])
def test_deeper_days_are_fewer_years(chemistry):
    idle, gentle, hard = (live([result(depth, chemistry=chemistry)], (1, 5)) for depth in (0.0, 20.0, 80.0))
    assert idle["life_years"] >= gentle["life_years"] >= hard["life_years"] > 0
    assert hard["soh_pct"]["1"] > hard["soh_pct"]["5"]
    assert gentle["soh_pct"]["5"] > hard["soh_pct"]["5"]


def test_it_is_the_day_by_day_sum():
    found = live([result(60.0, days=1)], (1,))["soh_pct"]["1"]
    state = ageing.state_at(Chemistry.LFP, np.array([90.0]))
    day = np.asarray(result(60.0, days=1)["trace"]["soc_pct"]) / 100.0
    for _ in range(_steps(1) * 7):
        state = ageing.advance(Chemistry.LFP, state, day, np.full(day.shape, 25.0), DT_S)
    expected = 100.0 * float(ageing.MODELS[Chemistry.LFP].health(state).capacity[0])
    assert found == pytest.approx(expected, abs=0.02)


def test_profit_is_that_of_a_year():
    assert live([result(10.0, days=2, cash=4.0)], (1,))["profit_eur_per_year"] == pytest.approx(730.0)


def test_the_target_is_met_by_more_life_for_little_money():
    lives = {
        "greedy": {"life_years": 8.0, "profit_eur_per_year": 100.0},
        "wise": {"life_years": 10.5, "profit_eur_per_year": 97.0},
        "lazy": {"life_years": 20.0, "profit_eur_per_year": 60.0},
        "idle": {"life_years": 30.0, "profit_eur_per_year": 0.0},
    }
    found = target(lives, "greedy")
    assert found["met_by"] == ["wise"]
    assert found["policies"]["wise"]["more_life"] == pytest.approx(0.3125)
    assert target(lives, "nobody") is None


def test_failed_weeks_are_left_out():
    results = {
        ("a", ("s", "w1", 0)): result(40.0, chemistry="NMC"),
        ("a", ("s", "w2", 0)): {"status": "failed"},
        ("b", ("s", "w1", 0)): result(80.0, chemistry="NMC"),
    }
    found = lives_of((1,), results, ["a", "b", "c"], "s", "b")
    assert set(found["policies"]) == {"a", "b"}
    assert found["pareto"] == ["a"]
    assert found["packs"] == [{"device_id": "", "chemistry": "NMC", "soh_pct": 90.0, "until_soh_pct": 70.0}]
