"""The picture of `twin compare`: power, voltage, SoC and temperature of unseen days, and the circuit's error.

Not here: what is compared (serving.cli.twin_compare).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.devices import Chemistry
from envs.reference.compare import CircuitDay, error
from envs.reference.days import CellDay

REFERENCE_COLOUR, CIRCUIT_COLOUR = "#444444", "#d1495b"


def plot_days(chemistry: Chemistry, reference: Sequence[CellDay], made: Sequence[CircuitDay], path: Path) -> None:
    """Write a PNG; one column a day."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    errors = [error([b], [a]).voltage_mv for a, b in zip(reference, made, strict=True)]
    order = np.argsort(errors)
    chosen = sorted({int(order[0]), int(order[len(order) // 2]), int(order[-1])}, key=lambda k: errors[k])
    figure, axes = plt.subplots(5, len(chosen), figsize=(4.6 * len(chosen), 11), sharex=True, squeeze=False)
    for column, k in enumerate(chosen):
        a, b = reference[k], made[k]
        hours = np.arange(1, len(a.voltage_v) + 1) / 60.0
        power = np.repeat(a.power_w, len(a.voltage_v) // len(a.power_w))
        panels = axes[:, column]
        panels[0].step(hours, power, where="pre", color="#2e86ab", lw=1)
        panels[0].axhline(0, color="#cccccc", lw=0.8)
        pairs = ((a.voltage_v, b.voltage_v), (100 * a.soc, 100 * b.soc), (a.temperature_c, b.temperature_c))
        for panel, (true, circuit) in zip(panels[1:4], pairs, strict=True):
            panel.plot(hours, true, color=REFERENCE_COLOUR, lw=1.6, label="DFN")
            panel.plot(hours, circuit, color=CIRCUIT_COLOUR, lw=1.0, ls="--", label="circuit")
        panels[4].plot(hours, 1e3 * (b.voltage_v - a.voltage_v), color=CIRCUIT_COLOUR, lw=0.9)
        panels[4].axhline(0, color="#cccccc", lw=0.8)
        panels[0].set_title(f"day {a.day.seed}, {a.day.ambient_c:g} °C: {errors[k]:.2f} mV RMS", fontsize=10)
        panels[4].set_xlabel("hour")
        panels[4].set_xlim(0, 24)
        panels[4].set_xticks(range(0, 25, 6))
    for panel, name in zip(
        axes[:, 0],
        ("power, W\n(discharge +)", "voltage, V", "SoC, %", "temperature, °C", "voltage error, mV\n(circuit - DFN)"),
        strict=True,
    ):
        panel.set_ylabel(name)
    axes[1, 0].legend(loc="lower left", fontsize=8)
    figure.suptitle(f"{chemistry.value} cell: equivalent circuit against DFN on days the fit never saw", fontsize=12)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
