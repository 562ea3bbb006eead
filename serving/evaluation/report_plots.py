"""Pictures of an evaluation as PNG in base64: a week's price, power and SoC; money against life."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

DPI = 80
_YEARS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0)


def week_png(trace: Mapping[str, Any]) -> str:
    """From above: price, packs' power (discharge up), the meter where more than packs is behind it, SoC, temperature."""
    count, dt_d = len(trace["grid_w"]), trace["dt_s"] / 86_400.0
    days, ends = np.arange(count) * dt_d, np.arange(count + 1) * dt_d
    packs_w, grid_w = np.asarray(trace["power_w"]), np.asarray(trace["grid_w"])
    metered = bool(np.abs(grid_w + packs_w.sum(axis=0)).max(initial=0.0) > 1.0)
    figure = Figure(figsize=(10.0, 7.0 if metered else 6.0), layout="constrained")
    axes = list(figure.subplots(5 if metered else 4, 1, sharex=True))
    axes[0].step(days, np.asarray(trace["price_eur_per_kwh"]) * 1000.0, where="post", color="tab:red")
    axes[0].set_ylabel("price\nEUR/MWh")
    if metered:
        meter = axes.pop(2)
        meter.step(days, grid_w / 1000.0, where="post", color="0.3", label="with packs")
        meter.step(days, (grid_w + packs_w.sum(axis=0)) / 1000.0, where="post", color="0.7", linewidth=0.9, label="without")
        meter.set_ylabel("meter, kW\n(+ imports)")
        meter.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    for k, device in enumerate(trace["devices"]):
        axes[1].step(days, packs_w[k] / 1000.0, where="post", label=device["device_id"])
        axes[2].plot(ends, trace["soc_pct"][k])
        axes[3].plot(ends, trace["temperature_c"][k])
    axes[1].axhline(0.0, color="0.7", linewidth=0.8)
    axes[1].set_ylabel("packs, kW\n(+ discharge)")
    axes[2].set_ylabel("state of\ncharge, %")
    axes[2].set_ylim(0.0, 100.0)
    axes[3].set_ylabel("temperature\n°C")
    axes[3].set_xlabel("days")
    if len(trace["devices"]) > 1:
        axes[1].legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    for axis in figure.axes:
        axis.grid(visible=True, alpha=0.3)
        axis.set_xlim(0.0, ends[-1])
    figure.align_ylabels()
    return _png(figure)


def pareto_png(policies: Mapping[str, Mapping[str, Any]], front: Sequence[str]) -> str:
    """Profit of a year against years of life (logarithmic); policies on the front are joined, others crosses."""
    rows = max(8, len(policies))
    figure = Figure(figsize=(8.5, 1.2 + 0.24 * rows), layout="constrained")
    axis = figure.subplots()
    for k, (name, item) in enumerate(sorted(policies.items(), key=lambda pair: -pair[1]["profit_eur_per_year"])):
        marker = "o" if name in front else "x"
        axis.plot(item["life_years"], item["profit_eur_per_year"], marker, color=mpl.colormaps["tab20"](k % 20), label=name)
    joined = [(policies[name]["life_years"], policies[name]["profit_eur_per_year"]) for name in front]
    axis.plot([x for x, _ in joined], [y for _, y in joined], "-", color="0.5", alpha=0.5, zorder=0)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, title="dearest first")
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(FixedLocator(_YEARS))
    axis.xaxis.set_major_formatter(FixedFormatter([f"{year:g}" for year in _YEARS]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("life, years")
    axis.set_ylabel("profit, EUR a year")
    axis.grid(visible=True, alpha=0.3)
    axis.margins(x=0.08, y=0.1)
    return _png(figure)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()
