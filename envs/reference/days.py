"""Days of a cell under a power profile: what the equivalent circuit is fitted to, and other days on which it is tested.

Here: the days' definition and their simulation by the DFN. Not here: the fit (benchmarks.fit_cells), the comparison's verdict
(serving.twin_compare).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.devices import Chemistry
from envs.reference.cell import ReferenceCell, cell_model
from envs.reference.parameters import ModelName

FloatArray = NDArray[np.float64]
DT_S = 900.0
STEPS = 96
SAMPLE_S = 60.0
SOC_BAND = (0.08, 0.92)
"""Days keep inside this band."""
MAX_C_RATE_PER_H = 0.5


@dataclass(frozen=True, slots=True)
class Day:
    """A day's seed, ambient temperature and SoC at its start (0-1)."""

    seed: int
    ambient_c: float
    soc: float


FIT_DAYS = (Day(0, 5, 0.5), Day(1, 15, 0.5), Day(2, 25, 0.3), Day(3, 25, 0.7), Day(4, 35, 0.5), Day(5, 40, 0.5))
UNSEEN_DAYS = (
    Day(20, 2, 0.5), Day(21, 10, 0.5), Day(22, 20, 0.5), Day(23, 25, 0.5), Day(24, 25, 0.3), Day(25, 30, 0.5), Day(26, 38, 0.7),
    Day(27, 25, 0.7),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDay:
    """A day of one cell: power per quarter hour (96,), voltage, temperature and SoC (0-1) at the end of each minute (1440,)."""

    day: Day
    soh_pct: float
    power_w: FloatArray
    voltage_v: FloatArray
    temperature_c: FloatArray
    soc: FloatArray
    derated_steps: int


def profile(day: Day, energy_wh: float) -> FloatArray:
    """Mean power of each quarter hour, W, discharge positive; shape (96,).

    Two charges and discharges a day with noise on top, at most 0.5 C. What would leave SOC_BAND is cut while the day runs.
    """
    rng = np.random.default_rng(day.seed)
    hours = np.arange(STEPS) * DT_S / 3600.0
    share = -0.3 * np.sin(2 * np.pi * hours / 12.0 + rng.uniform(0, 2 * np.pi)) + 0.08 * rng.standard_normal(STEPS)
    return np.asarray(np.clip(share, -MAX_C_RATE_PER_H, MAX_C_RATE_PER_H) * energy_wh)


def _within_band(cell: ReferenceCell, power_w: float) -> float:
    """The power less what would take the cell out of SOC_BAND within the step (by its present voltage)."""
    w_per_soc = cell.balance.capacity_ah * cell.voltage_v / (DT_S / 3600.0)
    low, high = SOC_BAND
    return min(max(power_w, min(0.0, (cell.soc - high) * w_per_soc)), max(0.0, (cell.soc - low) * w_per_soc))


def simulate_day(
    chemistry: Chemistry, day: Day, *, model: ModelName = "DFN", soh_pct: float = 100.0, compiled: bool = True
) -> CellDay:
    """The day as the reference cell lives it; derated steps carry the power that flowed."""
    shared = cell_model(chemistry, model, compiled)
    balance, contact_ohm = shared.aged(soh_pct)
    energy_wh = balance.capacity_ah * float(np.mean(shared.electrodes.ocv_table(101)))
    cell = ReferenceCell(
        shared, balance=balance, contact_ohm=contact_ohm, soc=day.soc, temperature_c=day.ambient_c, ambient_c=day.ambient_c
    )
    steps = [cell.step(_within_band(cell, power_w), DT_S, SAMPLE_S) for power_w in profile(day, energy_wh)]
    return CellDay(
        day=day,
        soh_pct=soh_pct,
        power_w=np.array([s.power_w for s in steps]),
        voltage_v=np.concatenate([s.voltage_v for s in steps]),
        temperature_c=np.concatenate([s.temperature_c for s in steps]),
        soc=np.concatenate([s.soc for s in steps]),
        derated_steps=sum(s.share < 1 for s in steps),
    )
