"""One self-contained HTML file of an evaluation, for a reader who knows batteries but not this code.

Here: tables and text. Not here: pictures (serving.evaluation.report_plots), numbers (serving.evaluation.results).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from serving.evaluation.report_plots import pareto_png, week_png
from serving.evaluation.results import Results
from serving.evaluation.score import Block
from stores.datasets.prices import write_atomically

_KNOWN = {
    "published": "Day-ahead prices are known from 13:00 of the day before, as on the real market.",
    "hourly_reveal": "A price is known only when its hour begins; later ones are expected.",
    "five_minute": "5-minute prices that nobody forecasts; a price is known when its interval begins.",
}
_STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1b1b1b}
table{border-collapse:collapse;margin:.6em 0 1.4em;font-size:14px}
td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}
th{border-bottom:2px solid #888}td:first-child,th:first-child{text-align:left}
.bad{color:#a40000}.base{color:#666}
h1{font-size:1.6em}h2{margin-top:2em;border-bottom:1px solid #ccc}img{max-width:100%}p.note{color:#444;max-width:75ch}
"""


def write_report(path: Path, document: Mapping[str, Any], results: Results) -> None:
    """Write the report, all of it or nothing. Raises OSError."""
    write_atomically(path, html_of(document, results).encode())


def html_of(document: Mapping[str, Any], results: Results) -> str:
    """The page."""
    config = document["config"]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>Evaluation {escape(document['name'])}</title><style>{_STYLE}</style>",
        f"<h1>Evaluation {escape(document['name'])}</h1>",
        _note(
            f"Each policy decided {config['days']} days at a time on packs simulated by {escape(config['plant'])} "
            "(not the model that it plans with), through the same safety gate as in operation. "
            "Money J is what the meter's bill becomes cheaper by, less wear, plus the energy left at the end at the week's mean "
            "price. Score 0 is an idle pack, 1 is perfect foresight on the same packs. Brackets are "
            f"{100 * config['level']:g} % intervals: the weeks are drawn again and again, for both sides of a comparison alike. "
            "A policy that passed a limit of a pack or of the meter is ineligible whatever it earned. "
            "Scores under different knowledge of prices are never compared."
        ),
    ]
    for information, part in document["benchmarks"].items():
        parts += _benchmark(document["name"], information, part)
    parts += _life(document)
    parts += _pages(document, results)
    return "\n".join([*parts, "</html>"])


def _benchmark(name: str, information: str, part: Mapping[str, Any]) -> list[str]:
    title = f"{name}/{information}"
    found = [f"<h2>{escape(title)}</h2>", _note(_KNOWN[information])]
    if not part["ranking"]:
        return [*found, _note(part["why"])]
    found.append(
        _note(
            f"{part['blocks']} weeks; perfect foresight earns {part['room_eur']:.2f} EUR beyond idle in them, and its own "
            f"programme promised {_number(part['foresight_gap_pct'], 1)} % more than it earned on these packs: the true optimum "
            "lies in between."
            + (f" {len(part['spike_blocks'])} weeks of price spikes are also counted apart." if part["spike_blocks"] else "")
        )
    )
    rows = []
    for row in part["ranking"]:
        if row["score"] is None:
            rows.append([_name(row), "-", "", "", "", "", _bad(row.get("why_not", ""))])
            continue
        against = row["against_mpc"]
        rows.append(
            [
                _name(row), f"{row['score']:.4f}", _range(row["score_interval"], 3), _triple(row["iqm"], 3),
                "" if against is None else _triple(against["points"], 2),
                "" if against is None else f"{against['weeks_won']} / {against['weeks_lost']}",
                _bad(f"ineligible: {row['why_not']}") if not row["eligible"] else "",
            ]
        )  # fmt: skip
    found.append("<h3>Ranking</h3>")
    found.append(
        _table(["policy", "score", "interval", "middle half of weeks", "less MPC, points", "weeks won / lost", ""], rows)
    )
    scored = [row for row in part["ranking"] if row["score"] is not None]
    found.append("<h3>Money, wear, latency</h3>")
    found.append(
        _table(
            ["policy", "J, EUR", "cash", "wear", "energy left", "full cycles a week", "SoH loss, % a week", "peak, kW",
             "gate cut, kWh", "decided itself", "decision p50 / p99, ms"],
            [
                [_name(row), _number(row["j_eur"], 2), _number(row["cash_eur"], 2), _number(row["wear_eur"], 2),
                 _number(row["energy_eur"], 2), _number(row["full_cycles"], 2), _number(row["soh_loss_pct"], 4),
                 _number(row["peak_w"] / 1000.0, 1), _number(row["cut_kwh"], 1), f"{100 * row['decided_share']:.1f} %",
                 f"{1e3 * row['latency_p50_s']:.1f} / {1e3 * row['latency_p99_s']:.1f}"]
                for row in scored
            ],
        )
    )  # fmt: skip
    if part["spike_blocks"]:
        found.append("<h3>Without and in weeks of spikes</h3>")
        found.append(
            _table(
                ["policy", "score without", "score in spikes"],
                [[_name(r), _number(r["score_without_spikes"], 4), _number(r["score_of_spikes"], 4)] for r in scored],
            )
        )
    names = sorted({name for row in scored for name in row["by_scenario"]})
    found.append("<h3>Score by scenario</h3>")
    found.append(
        _table(["policy", *names], [[_name(row), *(_cell(row["by_scenario"].get(name)) for name in names)] for row in scored])
    )
    troubled = [row for row in scored if row["violated"] or row["unable"]]
    if troubled:
        found.append("<h3>Limits passed, and why a policy did not decide</h3>")
        found.append(
            _table(
                ["policy", "limits passed (steps)", "did not decide"],
                [[_name(r), _bad(_counts(r["violated"])), escape(_counts(r["unable"]))] for r in troubled],
            )
        )
    return found


def _life(document: Mapping[str, Any]) -> list[str]:
    found = [
        "<h2>Life</h2>",
        _note(
            "The replayed weeks lived through for years: rainflow counting and the chemistry's ageing formulas, day by day. Life "
            "ends when 20 % of the new capacity is gone. Profit is cash of a year, without a charge for wear and at the "
            "capacity of today."
        ),
    ]
    for scenario, part in document["life"].items():
        if not part["policies"]:
            continue
        years = list(next(iter(part["policies"].values()))["soh_pct"])
        rows = [
            [escape(name), _number(item["profit_eur_per_year"], 0), *(_number(item["soh_pct"][year], 1) for year in years),
             _number(item["life_years"], 1), "yes" if name in part["pareto"] else ""]
            for name, item in sorted(part["policies"].items(), key=lambda pair: -pair[1]["profit_eur_per_year"])
        ]  # fmt: skip
        head = ["policy", "profit, EUR a year", *(f"SoH % after {year} years" for year in years), "life, years", "on the front"]
        found += [f"<h3>{escape(scenario)}</h3>", _table(head, rows)]
        found.append(_image(pareto_png(part["policies"], part["pareto"]), "money against life"))
        goal = part["target"]
        if goal is not None:
            met = ", ".join(goal["met_by"]) or "nobody"
            found.append(
                _note(
                    f"{100 * goal['more_life']:.0f} % more life than {goal['naive']} at no more than "
                    f"{100 * goal['less_profit']:.0f} % less profit: {met}."
                )
            )
    return found


def _pages(document: Mapping[str, Any], results: Results) -> list[str]:
    """Best, median and worst week of each policy, by its own score, in the first scenario in which it finished."""
    found = []
    shares = _shares(results)
    for policy in dict.fromkeys(block["policy"] for block in document["blocks"]):
        own = sorted((share, block) for (name, block), share in shares.items() if name == policy)
        if not own or policy == "idle":
            continue
        chosen = {"best": own[-1], "median": own[len(own) // 2], "worst": own[0]}
        found.append(f"<h2>Weeks of {escape(policy)}</h2>")
        shown: set[Block] = set()
        for which, (share, block) in chosen.items():
            if block in shown:
                continue
            shown.add(block)
            found.append(f"<h3>{which}: {escape(block[0])}, week of {block[1]}, score of the week {share:.3f}</h3>")
            found.append(_image(week_png(results[policy, block]["trace"]), f"{which} week"))
    return found


def _shares(results: Results) -> dict[tuple[str, Block], float]:
    """Each week's own score."""
    found = {}
    for (policy, block), result in results.items():
        idle, best = results.get(("idle", block)), results.get(("perfect_foresight", block))
        if result["status"] != "ok" or idle is None or best is None or "ok" not in (idle["status"], best["status"]):
            continue
        if idle["status"] != "ok" or best["status"] != "ok":
            continue
        room = best["account"]["j_eur"] - idle["account"]["j_eur"]
        if room > 0:
            found[policy, block] = (result["account"]["j_eur"] - idle["account"]["j_eur"]) / room
    return found


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def _name(row: Mapping[str, Any]) -> str:
    name = escape(row["policy"])
    return f"<span class=base>{name}</span>" if row["baseline"] else f"<b>{name}</b>"


def _bad(text: str) -> str:
    return f"<span class=bad>{escape(text)}</span>" if text else ""


def _note(text: str) -> str:
    return f"<p class=note>{text}</p>"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _range(interval: Mapping[str, float] | None, digits: int) -> str:
    return "-" if interval is None else f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}"


def _triple(interval: Mapping[str, float] | None, digits: int) -> str:
    return "-" if interval is None else f"{interval['value']:.{digits}f} [{_range(interval, digits)}]"


def _cell(part: Mapping[str, Any] | None) -> str:
    if part is None or part["score"] is None:
        return "-"
    text = f"{part['score']:.3f}"
    return _bad(f"{text} ({part['violations']} violations)") if part["violations"] else text


def _counts(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{name}: {count}" for name, count in counts.items())


def _image(png_base64: str, what: str) -> str:
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{png_base64}">'
