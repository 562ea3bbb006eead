"""Tables of `pulsebms evaluate` and `pulsebms compare` on a terminal, readable at 80 columns. Not here: HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

WIDE = 110
"""Columns from which the less important ones are shown too."""
NAME = 20
"""Longer names go on in the next line."""


def show_ranking(console: Console, document: Mapping[str, Any]) -> None:
    """A table for each information set, and below it in words who has no score or must not have one."""
    wide = console.width >= WIDE
    for information, part in document["benchmarks"].items():
        gap = part.get("foresight_gap_pct")
        said = "" if gap is None else f"; the gap of perfect foresight is {gap:.1f} %"
        table = _table(f"{information}, {part['blocks']} weeks{said}")
        _add(table, "policy", name=True)
        for head in ("score", "interval", "less MPC, points", "J, EUR", *(("cycles", "p99 ms") if wide else ())):
            _add(table, head)
        broken = any(row.get("violated") for row in part["ranking"])
        if broken:
            _add(table, "limits passed")
        notes = []
        for row in part["ranking"]:
            if not row["eligible"]:
                notes.append(f"{row['policy']}: {'no score' if row['score'] is None else 'ineligible'}: {row.get('why_not', '')}")
            if row["score"] is None:
                table.add_row(escape(row["policy"]), "-")
                continue
            interval, paired = row["score_interval"], row["against_mpc"]
            cells = [
                escape(row["policy"]), f"{row['score']:.3f}",
                "" if interval is None else "{low:.3f}-{high:.3f}".format(**interval),
                "" if paired is None else points(paired["points"], part.get("weeks", 2)), f"{row['j_eur']:.2f}",
            ]  # fmt: skip
            if wide:
                cells += [f"{row['full_cycles']:.1f}", f"{1e3 * row['latency_p99_s']:.1f}"]
            if broken:
                cells.append(str(sum(row["violated"].values())) if row["violated"] else "")
            table.add_row(*cells)
        console.print(table)
        for note in notes:
            console.print(note, style="red", markup=False, highlight=False)


def show_comparison(console: Console, found: Mapping[str, Any], a: str, b: str) -> None:
    """Policy a less policy b, a table for each information set."""
    for information, part in found.items():
        if "why_not" in part or part["together"] is None:
            console.print(f"{information}: {part.get('why_not', 'nothing to earn')}", markup=False)
            continue
        table = _table(f"{information}: {a} less {b}; points of what perfect foresight earns beyond idle")
        _add(table, "scenario", name=True)
        for head in ("points", "EUR", "won / lost"):
            _add(table, head)
        for name, one in [*part["by_scenario"].items(), ("all", part["together"])]:
            if one is not None:
                weeks = f"{one['weeks_won']} / {one['weeks_lost']}"
                table.add_row(escape(name), points(one["points"]), f"{one['eur']:+.2f}", weeks)
        console.print(table)


def points(interval: Mapping[str, float], weeks: int = 2) -> str:
    """A difference with its interval, which one week does not have."""
    return f"{interval['value']:+.1f}" if weeks < 2 else escape("{value:+.1f} [{low:+.1f}, {high:+.1f}]".format(**interval))


def _table(title: str) -> Table:
    return Table(title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _add(table: Table, head: str, *, name: bool = False) -> None:
    if name:
        table.add_column(head, max_width=NAME, overflow="fold")
    else:
        table.add_column(head, justify="right", no_wrap=True)
