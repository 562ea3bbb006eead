"""Pictures of plans and of what happened. Numbers come in as arrays; nothing is read from a store here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from core.site import Grid
from optimizer.plan import Plan

mpl.use("Agg")
import matplotlib.dates as mdates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch

FloatArray = NDArray[np.float64]
LIMIT_STYLE = {"color": "0.35", "linestyle": "--", "linewidth": 1.0}


@dataclass(frozen=True, slots=True)
class Track:
    """One quantity over time: stamps and values of equal length."""

    stamps: Sequence[datetime]
    values: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPicture:
    """What the demo's picture shows; powers in W."""

    title: str
    price_eur_per_kwh: Track
    power_w: Mapping[str, Track]
    soc_pct: Mapping[str, Track]
    temperature_c: Mapping[str, Track]
    temperature_limit_c: float
    grid_import_w: Track
    grid_without_w: Track
    import_limit_w: float
    export_limit_w: float


def _legend(axis: Axes) -> None:
    """Above the axis: inside it would cover lines, the limits first."""
    axis.legend(loc="lower left", bbox_to_anchor=(0.0, 0.97), ncols=6, fontsize=8, frameon=False)


def _finish(axes: Sequence[Axes], path: Path) -> None:
    for axis in axes:
        axis.grid(visible=True, alpha=0.3)
        axis.margins(x=0)
    axes[-1].xaxis.set_major_formatter(mdates.DateFormatter("%d %b %H:%M"))  # type: ignore[no-untyped-call]
    axes[-1].set_xlabel("plant time (UTC)")
    figure = axes[0].figure
    figure.autofmt_xdate()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")  # type: ignore[union-attr]
    plt.close("all")


def plot_run(path: Path, picture: RunPicture) -> None:
    """Price, power per pack, SoC, temperature and grid import with its limits, as PNG."""
    _, axes = plt.subplots(5, 1, sharex=True, figsize=(12, 14))
    axes[0].step(picture.price_eur_per_kwh.stamps, picture.price_eur_per_kwh.values, where="post", color="tab:red")
    axes[0].axhline(0, color="0.7", linewidth=0.8)
    axes[0].set_ylabel("import price\nEUR/kWh")
    axes[0].set_title(picture.title)
    panels = (
        (axes[1], picture.power_w, 1e-3, "pack power kW\n(discharge > 0)"),
        (axes[2], picture.soc_pct, 1.0, "SoC %"),
        (axes[3], picture.temperature_c, 1.0, "temperature °C"),
    )
    for axis, tracks, scale, label in panels:
        for name, track in tracks.items():
            axis.plot(track.stamps, scale * track.values, label=name, linewidth=1.2)
        axis.set_ylabel(label)
    axes[3].axhline(picture.temperature_limit_c, **LIMIT_STYLE, label="tightest limit")
    _legend(axes[1])
    _legend(axes[3])
    axes[4].step(
        picture.grid_without_w.stamps,
        1e-3 * picture.grid_without_w.values,
        where="post",
        color="0.6",
        label="without batteries",
    )
    axes[4].step(
        picture.grid_import_w.stamps,
        1e-3 * picture.grid_import_w.values,
        where="post",
        color="tab:blue",
        label="with batteries",
    )
    axes[4].axhline(1e-3 * picture.import_limit_w, **LIMIT_STYLE, label="limits")
    axes[4].axhline(-1e-3 * picture.export_limit_w, **LIMIT_STYLE)
    axes[4].set_ylabel("grid import kW\n(export < 0)")
    _legend(axes[4])
    _finish(list(axes), path)


def plot_plan(path: Path, start: datetime, plan: Plan, buy_eur_per_kwh: FloatArray, grid: Grid) -> None:
    """A plan: price, power and SoC per device, the reason of each slot, shadow prices, net import with limits and signal."""
    stamps = [start + timedelta(seconds=k * plan.dt_s) for k in range(len(buy_eur_per_kwh))]
    rows = max(1, len(plan.devices))
    heights = [2, 2, 2, 0.6 + 0.25 * rows, 2, 2]
    _, axes = plt.subplots(6, 1, sharex=True, figsize=(12, 1.3 * sum(heights)), height_ratios=heights)
    axes[0].step(stamps, buy_eur_per_kwh, where="post", color="tab:red")
    axes[0].set_ylabel("import price\nEUR/kWh")
    axes[0].set_title(f"plan from {start:%Y-%m-%d %H:%M} UTC, {plan.solver}")
    for part in plan.devices:
        (line,) = axes[1].step(stamps, 1e-3 * part.power_w, where="post", label=part.device_id)
        axes[2].plot(stamps, part.soc_pct, label=part.device_id)
        axes[4].step(
            stamps, part.energy_value_eur_per_kwh, where="post", color=line.get_color(), label=f"stored, {part.device_id}"
        )
    axes[1].set_ylabel("power kW\n(discharge > 0)")
    axes[2].set_ylabel("SoC %\nat the end of the slot")
    _reasons(axes[3], stamps, plan)
    axes[4].step(stamps, plan.meter_price_eur_per_kwh, where="post", color="0.2", linestyle=":", label="at the meter")
    axes[4].set_ylabel("shadow price\nEUR/kWh")
    axes[5].step(stamps, 1e-3 * (plan.grid_import_w - plan.grid_export_w), where="post", color="tab:blue", label="net import")
    if plan.deviation_w:
        off = np.array([np.nan if value is None else value for value in plan.deviation_w])
        target_kw = 1e-3 * (plan.grid_import_w - plan.grid_export_w - off)
        axes[5].step(stamps, target_kw, where="post", color="tab:orange", linestyle="--", label="signal")
    axes[5].axhline(1e-3 * grid.import_limit_w, **LIMIT_STYLE, label="limits")
    axes[5].axhline(-1e-3 * grid.export_limit_w, **LIMIT_STYLE)
    axes[5].set_ylabel("grid import kW\n(export < 0)")
    if plan.devices:
        _legend(axes[1])
    for axis in axes[4:]:
        _legend(axis)
    _finish(list(axes), path)


def _reasons(axis: Axes, stamps: Sequence[datetime], plan: Plan) -> None:
    """A strip per device, a colour per reason."""
    found = sorted({reason.value for part in plan.devices for reason in part.reasons})
    colour = {name: plt.get_cmap("tab20")(k % 20) for k, name in enumerate(found)}
    width = timedelta(seconds=plan.dt_s)
    for row, part in enumerate(plan.devices):
        axis.broken_barh(
            [(float(mdates.date2num(stamp)), width / timedelta(days=1)) for stamp in stamps],  # type: ignore[no-untyped-call]
            (row - 0.4, 0.8),
            facecolors=[colour[reason.value] for reason in part.reasons],
        )
    axis.set_yticks(range(len(plan.devices)), [part.device_id for part in plan.devices], fontsize=8)
    axis.set_ylabel("reason")
    handles = [Patch(color=colour[name], label=name) for name in found]
    if handles:
        axis.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.1), fontsize=7)
