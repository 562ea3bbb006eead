"""The equivalent circuit beside the reference cell on the same days, and the figures it is accepted by.

Here: a circuit's day, its error, the acceptance. Not here: the fit (benchmarks.fit_cells), printing and plotting (serving.cli).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC, BY_TEMPERATURE, CELLS, ROW, resistance_growth
from core.battery.ecm import SUBSTEP_S, simulate
from core.battery.fit_record import FitError
from core.devices import Chemistry
from envs.reference.days import CellDay

FloatArray = NDArray[np.float64]
ACCEPTED: Mapping[Chemistry, FitError] = {
    chemistry: FitError(voltage_mv=8.0 if chemistry is Chemistry.LFP else 5.0, soc_pct=0.1, temperature_k=0.2)
    for chemistry in Chemistry
}
"""Root mean square errors over all unseen days that a fitted circuit may have, per cell."""


@dataclass(frozen=True, slots=True)
class CircuitDay:
    """A day of one cell by the circuit; shapes (1440,), values at the end of each minute."""

    voltage_v: FloatArray
    soc: FloatArray
    temperature_c: FloatArray


@dataclass(frozen=True, slots=True)
class CircuitCell:
    """A cell's row of parameters and its tables, as core.battery.ecm takes them."""

    parameters: FloatArray
    by_soc: FloatArray
    by_temperature: FloatArray


def fitted_cell(chemistry: Chemistry, soh_pct: float = 100.0) -> CircuitCell:
    """The shipped circuit at the size of the published cell.

    Coulomb efficiency 1 and no self-discharge: the DFN has no side reactions, so it cannot judge them.
    """
    cell = CELLS[chemistry]
    fit = cell.fit
    parameters = np.array(
        [
            fit.capacity_ah * soh_pct / 100.0,
            1.0,
            resistance_growth(soh_pct) / fit.capacity_ah,
            0.0,
            fit.tau1_s,
            fit.tau_lag_s,
            1.0,
            fit.heat_capacity_j_per_k_ah * fit.capacity_ah,
            fit.cooling_w_per_k_ah * fit.capacity_ah,
            0.0,
            1.0,
        ]
    )
    row = ROW[chemistry]
    return CircuitCell(parameters, BY_SOC[row : row + 1], BY_TEMPERATURE[row : row + 1])


def circuit_day(cell: CircuitCell, reference: CellDay) -> CircuitDay:
    """What the circuit makes of the power that flowed on a reference day."""
    minutes = len(reference.voltage_v)
    power = np.repeat(reference.power_w, minutes // len(reference.power_w))[None, :]
    state = np.array([[reference.day.soc, 0.0, 0.0, reference.day.ambient_c]])
    history = np.empty((1, minutes, 9))
    ambient = np.full((1, minutes), float(reference.day.ambient_c))
    simulate(state, power, cell.parameters[None, :], ambient, cell.by_soc, cell.by_temperature, SUBSTEP_S, history)
    return CircuitDay(voltage_v=history[0, :, 1], soc=history[0, :, 5], temperature_c=history[0, :, 8])


def error(made: Sequence[CircuitDay], reference: Sequence[CellDay]) -> FitError:
    """Root mean square error over all minutes of all days."""

    def rms(name: str) -> float:
        gaps = [getattr(a, name) - getattr(b, name) for a, b in zip(made, reference, strict=True)]
        return float(np.sqrt(np.mean(np.square(np.concatenate(gaps)))))

    return FitError(voltage_mv=1e3 * rms("voltage_v"), soc_pct=100.0 * rms("soc"), temperature_k=rms("temperature_c"))


def accepted(chemistry: Chemistry, found: FitError) -> bool:
    """Whether an error on unseen days is within the acceptance figures."""
    most = ACCEPTED[chemistry]
    return found.voltage_mv <= most.voltage_mv and found.soc_pct <= most.soc_pct and found.temperature_k <= most.temperature_k
