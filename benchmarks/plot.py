"""Cost of a fleet's step against its size, from the figures of a run: python -m benchmarks.plot FIGURES.json PICTURE.png

Filled markers were measured on the whole fleet, hollow ones on a sample and scaled up. Not here: measuring.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "cvxpy rebuilt + OSQP": "#7f7f7f",
    "cvxpy DPP + OSQP": "#bcbd22",
    "cvxpy DPP + Clarabel": "#e377c2",
    "OSQP direct 1e-4": "#8c564b",
    "Clarabel direct": "#9467bd",
    "QOCO": "#ff7f0e",
    "PIQP": "#1f77b4",
    "structured, scalar": "#2ca02c",
    "structured, SIMD": "#d62728",
}
"""Solvers shown, one colour each; the others would lie on top of these."""


def draw(records: list[dict[str, Any]], picture: Path) -> None:
    """One panel a horizon."""
    by_steps: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["solver"] in COLOURS:
            by_steps[record["steps"]][record["solver"]].append(record)
    figure, panels = plt.subplots(1, len(by_steps), figsize=(6.4 * len(by_steps), 5.2), sharey=True, squeeze=False)
    for panel, (steps, solvers) in zip(panels[0], sorted(by_steps.items()), strict=True):
        for name, colour in COLOURS.items():
            points = sorted(solvers.get(name, []), key=lambda r: r["devices"])
            if not points:
                continue
            sizes, costs = [r["devices"] for r in points], [r["warm_cpu_s"] for r in points]
            panel.plot(sizes, costs, color=colour, linewidth=1.4, label=name)
            for r in points:
                whole = r["measured"] == r["devices"]
                panel.plot(
                    r["devices"], r["warm_cpu_s"], "o", color=colour, markersize=6, markerfacecolor=colour if whole else "white"
                )
        panel.set(xscale="log", yscale="log", xlabel="devices, each behind its own meter", title=f"{steps} steps, warm")
        panel.grid(visible=True, which="major", linewidth=0.4)
    panels[0][0].set_ylabel("CPU seconds for a step of the whole fleet")
    panels[0][0].legend(fontsize=8, loc="upper left")
    figure.text(0.5, 0.005, "filled: every device solved; hollow: a sample solved, scaled up", ha="center", fontsize=8)
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: python -m benchmarks.plot FIGURES.json PICTURE.png")
    draw(json.loads(Path(sys.argv[1]).read_text())["fleet records"], Path(sys.argv[2]))
