"""One self-contained HTML file of an evaluation, for a reader who knows batteries but not this code.

Here: scores, money and weeks. Not here: life (serving.evaluation.report_life), pictures (serving.evaluation.report_plots),
numbers (serving.evaluation.results).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from serving.evaluation.report_html import bad, between, counts, image, name, note, number, table, triple
from serving.evaluation.report_life import life_part
from serving.evaluation.report_plots import week_png
from serving.evaluation.results import Results
from serving.evaluation.score import Block
from stores.datasets.prices import write_atomically

_KNOWN = {
    "published": "Day-ahead prices are known from 13:00 of the day before, as on the real market.",
    "hourly_reveal": "A price is known only when its hour begins; later ones are expected.",
    "five_minute": "5-minute prices that nobody forecasts; a price is known when its interval begins.",
}
_RANK = {information: k for k, information in enumerate(_KNOWN)}
_PLANT = {
    "SPMe": "an electrochemical model of the cells (SPMe, PyBaMM)",
    "DFN": "an electrochemical model of the cells (Doyle-Fuller-Newman, PyBaMM)",
    "ECM": "an equivalent circuit of the cells",
}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1b1b1b}
table{border-collapse:collapse;margin:.6em 0 1.4em;font-size:14px}
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}
th{border-bottom:2px solid #888}td:first-child,th:first-child{text-align:left}
.bad{color:#a40000}.base{color:#666}
h1{font-size:1.6em}h2{margin-top:2em;border-bottom:1px solid #ccc}img{max-width:100%}p.note{color:#444;max-width:75ch}
div.wide{overflow-x:auto}
@media print{section{break-before:page}h3,img,tr{break-inside:avoid}body{font-size:11px;margin:0}table{font-size:10px}
section img{max-height:29vh}}
"""


def write_report(path: Path, document: Mapping[str, Any], results: Results) -> None:
    """Write the report, all of it or nothing. Raises OSError."""
    write_atomically(path, html_of(document, results).encode())


def html_of(document: Mapping[str, Any], results: Results) -> str:
    """The page."""
    config = document["config"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Evaluation {escape(document['name'])}</title><style>{_STYLE}</style>",
        f"<h1>Evaluation {escape(document['name'])}</h1>",
        note(
            f"Each policy decided {config['days']} days at a time on packs simulated by {_PLANT[config['plant']]}, not the model "
            "that it plans with, through the same safety gate as in operation. Money J is what the meter's bill becomes cheaper "
            "by, less wear, plus the energy left at the end at the week's mean price. Score 0 is an idle pack, 1 is perfect "
            "foresight on the same packs. Brackets are "
            f"{100 * config['level']:g} % intervals: the weeks are drawn again and again, for both sides of a comparison alike. "
            "A policy that passed a limit of a pack or of the meter is ineligible whatever it earned. "
            "Scores under different knowledge of prices are never compared."
        ),
    ]
    for information, part in document["benchmarks"].items():
        parts += _benchmark(document["name"], information, part, int(config["days"]))
    parts += life_part(document["life"])
    parts += _pages(document, results)
    return "\n".join([*parts, "</html>"])


def _benchmark(evaluation: str, information: str, part: Mapping[str, Any], days: int) -> list[str]:
    span = "week" if days == 7 else f"stretch of {days} days"
    found = [f"<h2>{escape(f'{evaluation}/{information}')}</h2>", note(_KNOWN[information])]
    if not part["ranking"]:
        return [*found, note(part["why"])]
    found.append(
        note(
            f"{part['blocks']} {'weeks' if days == 7 else f'stretches of {days} days'}; perfect foresight earns "
            f"{part['room_eur']:.2f} EUR beyond idle in them, and its own "
            f"programme promised {number(part['foresight_gap_pct'], 1)} % more than it earned on these packs: the true optimum "
            "lies in between."
            + (" One week has no interval." if part["weeks"] < 2 else "")
            + (f" {len(part['spike_blocks'])} weeks of price spikes are also counted apart." if part["spike_blocks"] else "")
        )
    )
    scored = [row for row in part["ranking"] if row["score"] is not None]
    found += ["<h3>Ranking</h3>", _ranking(part["ranking"], part["weeks"]), "<h3>Money</h3>", _money(scored)]
    found += ["<h3>Use of the packs, decisions</h3>", _use(scored, span)]
    if part["spike_blocks"]:
        rows = [[name(r), number(r["score_without_spikes"], 4), number(r["score_of_spikes"], 4)] for r in scored]
        found += ["<h3>Without and in weeks of spikes</h3>", table(["policy", "score without", "score in spikes"], rows)]
    scenarios = sorted({scenario for row in scored for scenario in row["by_scenario"]})
    rows = [[name(row), *(_cell(row["by_scenario"].get(scenario)) for scenario in scenarios)] for row in scored]
    found += ["<h3>Score by scenario</h3>", table(["policy", *scenarios], rows), "<h3>Violations</h3>"]
    broken = [[name(r), bad(counts(r["violated"]))] for r in scored if r["violated"]]
    found.append(
        table(["policy", "limits passed on the plant (steps)"], broken) if broken
        else note("No policy that finished passed a limit of a pack (state of charge, temperature, voltage, current, power) or "
                  "of the meter.")
    )  # fmt: skip
    silent = [[name(r), escape(counts(r["unable"]))] for r in scored if r["unable"]]
    if silent:
        found.append(note("Where a policy could not decide, the threshold rule did, as in operation:"))
        found.append(table(["policy", "why, and how often"], silent))
    return found


def _ranking(ranking: Sequence[Mapping[str, Any]], weeks: int) -> str:
    rows = []
    for row in ranking:
        if row["score"] is None:
            rows.append([name(row), "-", "", "", "", "", bad(row.get("why_not", ""))])
            continue
        against = row["against_mpc"]
        rows.append(
            [
                name(row), f"{row['score']:.4f}", between(row["score_interval"], 3), triple(row["iqm"], 3),
                "" if against is None else triple(against["points"], 2) if weeks > 1 else number(against["points"]["value"], 2),
                "" if against is None else f"{against['weeks_won']} / {against['weeks_lost']}",
                bad(f"ineligible: {row['why_not']}") if not row["eligible"] else "",
            ]
        )  # fmt: skip
    head = ["policy", "score", "interval", "middle half of weeks", "less MPC, points", "weeks won / lost", ""]
    return table(head, rows)


def _money(scored: Sequence[Mapping[str, Any]]) -> str:
    """EUR over all weeks together; the peak's charge where there is one."""
    peaks = any(row["peak_eur"] for row in scored)
    rows = [
        [name(row), number(row["j_eur"], 2), number(row["cash_eur"], 2), *([number(row["peak_eur"], 2)] if peaks else []),
         number(row["wear_eur"], 2), number(row["energy_eur"], 2)]
        for row in scored
    ]  # fmt: skip
    head = ["policy", "J, EUR", "cash: bill cheaper by", *(["of it the peak's charge"] if peaks else []), "less wear"]
    return table([*head, "energy left"], rows)


def _use(scored: Sequence[Mapping[str, Any]], span: str) -> str:
    curtailed = any(row["curtailed_kwh"] for row in scored)
    rows = [
        [name(row), number(row["full_cycles"], 2), number(row["soh_loss_pct"], 4), number(row["peak_w"] / 1000.0, 1),
         *([number(row["curtailed_kwh"], 0)] if curtailed else []), number(row["cut_kwh"], 1),
         f"{100 * row['decided_share']:.1f} %", f"{1e3 * row['latency_p50_s']:.1f}", f"{1e3 * row['latency_p99_s']:.1f}"]
        for row in scored
    ]  # fmt: skip
    head = ["policy", f"full cycles in a {span}", f"SoH lost in a {span}, points", "highest import, kW"]
    head += [*(["PV held back, kWh"] if curtailed else []), "cut by the gate, kWh", "decided itself"]
    return table([*head, "decision p50, ms", "p99, ms"], rows)


def _pages(document: Mapping[str, Any], results: Results) -> list[str]:
    """A page for each policy: its best, median and worst week by its own score, under the first knowledge of prices."""
    found = []
    shares = _shares(results)
    for policy in dict.fromkeys(block["policy"] for block in document["blocks"]):
        own = sorted((_RANK[results[policy, block]["information"]], share, block) for (who, block), share in shares.items()
                     if who == policy)  # fmt: skip
        own = [item for item in own if item[0] == own[0][0]]
        if not own or policy == "idle":
            continue
        chosen = {"best": own[-1], "median": own[len(own) // 2], "worst": own[0]}
        found.append(f"<section><h2>Weeks of {escape(policy)}</h2>")
        shown: set[Block] = set()
        for which, (_, share, block) in chosen.items():
            if block in shown:
                continue
            shown.add(block)
            found.append(f"<h3>{which}: {escape(block[0])}, week of {block[1]}, score of the week {share:.3f}</h3>")
            found.append(image(week_png(results[policy, block]["trace"]), f"{which} week"))
        found.append("</section>")
    return found


def _shares(results: Results) -> dict[tuple[str, Block], float]:
    """Each week's own score."""
    found = {}
    for (policy, block), result in results.items():
        idle, best = results.get(("idle", block)), results.get(("perfect_foresight", block))
        if idle is None or best is None or any(item["status"] != "ok" for item in (result, idle, best)):
            continue
        room = best["account"]["j_eur"] - idle["account"]["j_eur"]
        if room > 0:
            found[policy, block] = (result["account"]["j_eur"] - idle["account"]["j_eur"]) / room
    return found


def _cell(part: Mapping[str, Any] | None) -> str:
    if part is None or part["score"] is None:
        return "-"
    text = f"{part['score']:.3f}"
    return bad(f"{text} ({part['violations']} violations)") if part["violations"] else text
