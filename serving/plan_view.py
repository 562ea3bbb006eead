"""A plan as tables for a terminal of 100 columns: every slot with its reason and what binds, then every input with its age.

Here: layout. Not here: reading, solving (serving.cli.plan_cli), the picture (serving.plots).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from optimizer.plan import DevicePlan, Plan

FloatArray = NDArray[np.float64]
WIDTH = 100
MOST_BINDING = 2
"""Limits shown in a slot, the dearest first; the record holds all."""
_NOT_SHOWN = {"source", "age_s", "set_by"}


def plan_console() -> Console:
    """The terminal's width; 100 columns where the output goes elsewhere."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def device_table(plan: Plan, part: DevicePlan, start: datetime, buy_eur_per_kwh: FloatArray) -> Table:
    """One row a slot; `buy_eur_per_kwh` is the import price, (N,)."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title=part.device_id, title_justify="left")
    for heading, right in (("time (UTC)", False), ("EUR/kWh", True), ("power W", True), ("SoC %", True), ("reason", False)):
        table.add_column(heading, justify="right" if right else "left", no_wrap=True)
    table.add_column("binding, with its price", overflow="fold")
    for k, power_w in enumerate(part.power_w):
        table.add_row(
            f"{start + timedelta(seconds=k * plan.dt_s):%m-%d %H:%M}",
            f"{buy_eur_per_kwh[k]:.4f}",
            f"{round(float(power_w)) + 0:d}",
            f"{part.soc_pct[k]:.1f}",
            part.reasons[k].value,
            _binding(plan, part, k),
        )
    return table


def _binding(plan: Plan, part: DevicePlan, k: int) -> str:
    held = part.limits[k]
    texts = [str(binding) for binding in held[:MOST_BINDING]]
    if len(held) > MOST_BINDING:
        texts.append(f"and {len(held) - MOST_BINDING} more")
    off = plan.deviation_w[k] if plan.deviation_w else None
    if off is not None:
        texts.append(f"{off:+.0f} W off the signal")
    return ", ".join(texts)


def inputs_table(inputs: Mapping[str, Any]) -> Table:
    """One row an input: where it came from, how old it is, what else is known of it."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), title="inputs", title_justify="left")
    table.add_column("input", overflow="fold")
    table.add_column("source", overflow="fold")
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("more", overflow="fold")
    for name, entry in inputs.items():
        facts = entry if isinstance(entry, Mapping) else {"source": str(entry)}
        more = ", ".join(f"{key} {_short(value)}" for key, value in facts.items() if key not in _NOT_SHOWN and value is not None)
        table.add_row(name, str(facts.get("source", "")), _age(facts.get("age_s")), more)
    return table


def _age(age_s: Any) -> str:  # noqa: ANN401 (whatever JSON held)
    if age_s is None:
        return "-"
    if age_s < 600:
        return f"{age_s:.0f} s"
    return f"{age_s / 60:.0f} min" if age_s < 36_000 else f"{age_s / 3600:.0f} h"


def _short(value: object) -> str:
    if isinstance(value, str):
        try:
            return f"{datetime.fromisoformat(value):%m-%d %H:%M}"
        except ValueError:
            return value
    return f"{value:g}" if isinstance(value, float) else str(value)


def summary(plan: Plan) -> list[str]:
    """What the plan costs, who solved it, where its prices come from, what was uncertain."""
    lines = [
        f"objective {plan.objective_eur:.4f} EUR over {len(plan.grid_import_w)} slots, solver {plan.solver} ({plan.status}), "
        f"{plan.solve_s * 1e3:.1f} ms",
        f"shadow prices: {plan.as_json()['shadow_prices']}; in EUR for one more unit of the limit in that slot",
    ]
    if plan.deviation_w:
        off = np.array([abs(value) for value in plan.deviation_w if value is not None])
        lines.append(f"signal: {len(off)} slots tracked, {off.mean():.0f} W off on average, {off.max():.0f} W at most")
    facts = plan.uncertainty
    for name, entry in facts.get("corrected", {}).items():
        lines.append(_corrected(name, entry))
    if facts.get("mode") == "scenarios":
        days = ", ".join(str(day) for day in facts["days_ago"])
        lines.append(
            f"scenarios: {facts['count']}, as {days} days ago; mean objective {facts['expected_eur']:.4f} EUR, dearest "
            f"{100 * (1 - facts['cvar_level']):.0f} % pay {facts['tail_eur']:.4f} EUR (weight {facts['cvar_weight']:g})"
        )
    return lines


def _corrected(name: str, entry: Mapping[str, Any] | str | float) -> str:
    """One note of `Plan.uncertainty`: what was corrected by how much, why not, or the margin below the month's peak."""
    if isinstance(entry, str):
        return f"forecast {name}: {entry}"
    if not isinstance(entry, Mapping):
        return f"peak: imports stay {entry:.0f} W below the month's highest so far, by what forecasts have missed ({name})"
    return (
        f"forecast {name}: corrected by {entry['first_step_w']:+.0f} W at first (latest error {entry['latest_w']:+.0f} W, "
        f"{entry['errors']} known)"
    )
