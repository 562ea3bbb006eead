"""How long packs last under each policy: the replayed weeks lived through again and again, with the money of a year beside it.

SoC and temperature of a scenario's weeks are repeated in order; each day goes through rainflow counting and the chemistry's
ageing model (core.ageing), so that what a cycle takes depends on what was lost before. SoC is a share of the capacity that is
left: a tired pack moves less energy with the same swing. Money is that of the replay, not reduced as capacity goes; the report
says so. Not here: the ageing formulas (core.battery.ageing_models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import ageing
from core.battery.ageing_models import MODELS
from core.battery.stress import Stress, stress
from core.devices import Chemistry
from serving.evaluation.account import days_of

FloatArray = NDArray[np.float64]
YEAR_D, MONTHS, LONGEST_YEARS = 365, 12, 30
STRETCH_D = 7
"""Each replayed day is lived so many times in a row: 30 years are 1,565 steps. The laws of growth do not mind the order."""
END_OF_LIFE_PCT = 20.0
"""Capacity that a pack may lose, percent of new, counted from where the replay found it."""
DEAD_PCT = 20.0
"""SoH below which the formulas say nothing."""
MORE_LIFE, LESS_PROFIT = 0.25, 0.05
"""The target: so much more life than the naive schedule for at most so much less profit."""


def live(results: Sequence[Mapping[str, Any]], years: Sequence[int]) -> dict[str, Any]:
    """Life of one policy in one scenario from its weeks (in order of time): SoH after each of the years, mean of the packs."""
    first = results[0]["trace"]
    soh: dict[int, list[float]] = {year: [] for year in years}
    lives = []
    for p, device in enumerate(first["devices"]):
        path = _capacity_path(results, p, Chemistry(device["chemistry"]), float(device["soh_pct"]), max(*years, LONGEST_YEARS))
        for year in years:
            soh[year].append(float(path[_steps(year)]))
        below = np.flatnonzero(path <= path[0] - END_OF_LIFE_PCT)
        lives.append(float(below[0]) * STRETCH_D / YEAR_D if len(below) else float(LONGEST_YEARS))
    return {
        "soh_pct": {str(year): float(np.mean(values)) for year, values in soh.items()},
        "life_years": float(np.mean(lives)),
        **_money(results),
    }


def _money(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of a year: energy by the day, the peak's charge by the billing month."""
    accounts = [result["account"] for result in results]
    a_year = YEAR_D / sum(len(_days(result, 0)) for result in results)
    months = max(1, sum(int(item.get("billing_months", 1)) for item in accounts))
    peak = sum(float(item.get("peak_eur", 0.0)) for item in accounts)
    cash = sum(item["cash_eur"] + item["energy_eur"] for item in accounts) - peak
    profit = cash * a_year + peak / months * MONTHS
    wear = sum(float(item.get("wear_eur", 0.0)) for item in accounts) * a_year
    return {"profit_eur_per_year": profit, "wear_eur_per_year": wear, "net_of_wear_eur_per_year": profit - wear}


def _steps(years: int) -> int:
    return round(years * YEAR_D / STRETCH_D)


def _days(result: Mapping[str, Any], p: int) -> list[tuple[FloatArray, FloatArray]]:
    trace = result["trace"]
    return days_of(np.asarray(trace["soc_pct"][p]), np.asarray(trace["temperature_c"][p]), float(trace["dt_s"]))


def _capacity_path(results: Sequence[Mapping[str, Any]], p: int, chemistry: Chemistry, soh_pct: float, years: int) -> FloatArray:
    """SoH in percent after each stretch, (stretches + 1,)."""
    model = MODELS[chemistry]
    stresses: list[Stress] = []
    for result in results:
        for soc, temperature in _days(result, p):
            day = stress(np.clip(soc, 0, 100)[None, :] / 100.0, temperature[None, :], float(result["trace"]["dt_s"]))
            stresses.append(day.repeated(np.array([float(STRETCH_D)])))
    state = ageing.state_at(chemistry, np.array([soh_pct]))
    path = np.empty(_steps(years) + 1)
    health = model.health(state)
    path[0] = 100.0 * float(health.capacity[0])
    for k in range(_steps(years)):
        state = model.advance(state, stresses[k % len(stresses)].of_new(health.capacity))
        health = model.health(state)
        path[k + 1] = 100.0 * float(health.capacity[0])
        if path[k + 1] < DEAD_PCT:
            path[k + 2 :] = path[k + 1]
            break
    return path


def lives_of(
    config_years: Sequence[int],
    results: Mapping[tuple[str, Any], Mapping[str, Any]],
    policies: Sequence[str],
    scenario: str,
    naive: str,
) -> dict[str, Any]:
    """Every policy of a scenario, the Pareto front of money against life, and whether the target is met."""
    found: dict[str, Any] = {}
    packs: list[dict[str, Any]] = []
    for policy in policies:
        own = sorted(
            (block, result) for (name, block), result in results.items()
            if name == policy and block[0] == scenario and result["status"] == "ok"
        )  # fmt: skip
        seeds = sorted({block[2] for block, _ in own})
        kept = [result for block, result in own if block[2] == seeds[0]] if seeds else []
        if kept:
            found[policy] = live(kept, config_years)
            packs = packs or [
                {"device_id": device.get("device_id", ""), "chemistry": device["chemistry"], "soh_pct": device["soh_pct"],
                 "until_soh_pct": device["soh_pct"] - END_OF_LIFE_PCT}
                for device in kept[0]["trace"]["devices"]
            ]  # fmt: skip
    front = pareto({name: (item["profit_eur_per_year"], item["life_years"]) for name, item in found.items()})
    return {"policies": found, "pareto": front, "target": target(found, naive), "packs": packs}


def pareto(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names that no other one beats in both numbers; the dear end first."""
    kept = [
        name for name, (a, b) in points.items()
        if not any(x >= a and y >= b and (x > a or y > b) for x, y in points.values())
    ]  # fmt: skip
    return sorted(kept, key=lambda name: (-points[name][0], -points[name][1], name))


def target(lives: Mapping[str, Mapping[str, Any]], schedule: str) -> dict[str, Any] | None:
    """Who lives MORE_LIFE longer than the naive schedule on at least 1 - LESS_PROFIT of its profit; None without the schedule."""
    naive = lives.get(schedule)
    if naive is None:
        return None
    rows = {
        name: {
            "more_life": item["life_years"] / naive["life_years"] - 1.0,
            "profit_share": _share(item, naive, "profit_eur_per_year"),
            "net_share": _share(item, naive, "net_of_wear_eur_per_year"),
        }
        for name, item in lives.items()
        if name != schedule
    }
    met = sorted(
        name for name, row in rows.items()
        if row["more_life"] >= MORE_LIFE and row["profit_share"] is not None and row["profit_share"] >= 1.0 - LESS_PROFIT
        and name not in ("perfect_foresight", "idle")
    )  # fmt: skip
    return {"naive": schedule, "more_life": MORE_LIFE, "less_profit": LESS_PROFIT, "met_by": met, "policies": rows}


def _share(item: Mapping[str, Any], naive: Mapping[str, Any], name: str) -> float | None:
    """Of the naive schedule's money; None where it earned none."""
    of = naive.get(name)
    return float(item[name]) / float(of) if of is not None and of > 0 else None
