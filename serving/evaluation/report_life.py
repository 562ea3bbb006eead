"""The part of a report that says how long packs last and what that costs. Not here: the numbers (serving.evaluation.life)."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from serving.evaluation.life import DEAD_PCT, END_OF_LIFE_PCT, LONGEST_YEARS
from serving.evaluation.report_html import image, note, number, table
from serving.evaluation.report_plots import pareto_png


def life_part(life: Mapping[str, Any]) -> list[str]:
    """Tables, pictures and what they mean."""
    found = [
        "<h2>Life</h2>",
        note(
            "The replayed weeks are lived through again and again: each day's cycles are counted by rainflow and go, with time, "
            "state of charge and temperature, through the chemistry's ageing formulas. SoH is capacity as a percentage of the "
            "<i>new</i> pack's. A life is counted from where the replay found the pack until it has lost <b>another "
            f"{END_OF_LIFE_PCT:g} points</b> of SoH: a pack that starts at 80 % is counted until 60 %, one that starts at 92 % "
            "until 72 %. That is a measure for comparing policies, not a promise that a pack is fit for use until then; "
            f"resistance, which rises too, does not end it. Longer than {LONGEST_YEARS} years is not counted."
        ),
        note(
            "<b>Profit</b> is cash: what a year's bill becomes cheaper by, the peak's charge included, plus the change of stored "
            "energy at the mean price. Neither wear nor a new pack is taken off. <b>Net of wear</b> takes off what throughput "
            "costs at the pack's wear price (replacement over the throughput of a life). Both are those of the pack as it is "
            "today; they are not reduced as capacity goes."
        ),
    ]
    for scenario, part in life.items():
        if part["policies"]:
            found += _scenario(scenario, part)
    return found


def _scenario(scenario: str, part: Mapping[str, Any]) -> list[str]:
    packs = ", ".join(
        f"{escape(pack['device_id'])} ({pack['chemistry']}) from {pack['soh_pct']:.0f} % until {pack['until_soh_pct']:.0f} %"
        for pack in part["packs"]
    )
    goal = part["target"]
    against = {} if goal is None else goal["policies"]
    years = list(next(iter(part["policies"].values()))["soh_pct"])
    rows = []
    for policy, item in sorted(part["policies"].items(), key=lambda pair: -pair[1]["profit_eur_per_year"]):
        beside = against.get(policy)
        rows.append(
            [
                escape(policy), number(item["profit_eur_per_year"], 0), number(item["net_of_wear_eur_per_year"], 0),
                *(_soh(item["soh_pct"][year]) for year in years), _years(item["life_years"]),
                "" if beside is None else f"{100 * beside['more_life']:+.0f} %",
                "" if beside is None else _percent(beside["profit_share"]),
                "" if beside is None else _percent(beside["net_share"]), "yes" if policy in part["pareto"] else "",
            ]
        )  # fmt: skip
    after = [f"SoH % after {year} year{'' if year == '1' else 's'}" for year in years]
    head = ["policy", "profit, EUR a year", "net of wear", *after, "life, years"]
    if goal is not None:
        head += [f"{what} against {goal['naive']}" for what in ("life", "profit", "net of wear")]
    else:
        head += ["", "", ""]
    found = [f"<h3>{escape(scenario)}</h3>", note(f"Counted: {packs}."), table([*head, "on the front"], rows)]
    found.append(image(pareto_png(part["policies"], part["pareto"]), "money against life"))
    if goal is not None:
        met = ", ".join(goal["met_by"]) or "nobody"
        found.append(
            note(
                f"{100 * goal['more_life']:.0f} % more life than {escape(goal['naive'])} at no more than "
                f"{100 * goal['less_profit']:.0f} % less profit: {escape(met)}."
            )
        )
    return found


def _years(years: float) -> str:
    return f"{LONGEST_YEARS} or more" if years >= LONGEST_YEARS else f"{years:.1f}"


def _soh(soh_pct: float) -> str:
    return f"{soh_pct:.1f}" if soh_pct >= DEAD_PCT else f"below {DEAD_PCT:g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * (share - 1):+.1f} %"
