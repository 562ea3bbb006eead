"""The parts of benchmarks/optimizer.py: how large each is, full and quick. Prints tables as they come. Not here: measuring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import common_case, fleets, negative_prices, sites
from benchmarks.common import Table, machine

HORIZONS = (96, 288)


def run_parts(parts: list[str], note: str, *, quick: bool, peers: Path | None, seed: int) -> Iterator[tuple[str, Any]]:
    """(name, figures) of each part, printed."""
    described = machine(note)
    print("Machine: " + ", ".join(f"{key} {value}" for key, value in described.items()), end="\n\n", flush=True)
    yield "machine", described
    if "fleets" in parts:
        yield from _fleets(quick=quick, seed=seed)
    if "sites" in parts:
        for table in sites.run(quick=quick, seed=seed):
            yield table.title, _shown(table)
    if "exclusivity" in parts:
        yield "exclusivity", _shown(negative_prices.run(8 if quick else 200, 96, limit_s=20.0 if quick else 60.0))
    if "common" in parts:
        yield "common case", _shown(common_case.run(peers, 2 if quick else 6))


def _fleets(*, quick: bool, seed: int) -> Iterator[tuple[str, Any]]:
    records = []
    counts = (1, 10, 100) if quick else (1, 10, 100, 1_000, 10_000)
    for steps in HORIZONS:
        memory = not quick and steps == HORIZONS[0]
        table, single = fleets.one_device(steps, devices=4 if quick else 16, moves=3 if quick else 6, seed=seed, memory=memory)
        yield f"one device, {steps} steps", _shown(table)
        budget_s, moves = (1.0, 2) if quick else (6.0, 3)
        tables, many = fleets.sizes(steps, counts, single, budget_s=budget_s, moves=moves, seed=seed)
        yield f"fleets, {steps} steps", [_shown(table) for table in tables]
        records += many
        yield "fleet records", fleets.as_json(records)


def _shown(table: Table) -> dict[str, Any]:
    print(table.markdown(), flush=True)
    return table.as_json()
