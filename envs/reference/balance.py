"""The electrode balance: which stoichiometries are 0 and 100 % state of charge, new and aged.

A cell's capacity Q is what flows between the two cut-off voltages at rest:

    Up(y100) - Un(x100) = Vmax,    Up(y100 + Q/Qp) - Un(x100 - Q/Qn) = Vmin

after Mohtat et al., J. Power Sources 427 (2019) 101 (eSOH). A new cell has its lithium given and Q follows (PyBaMM's solver); an
aged cell has Q given: half of the loss is active material of both electrodes, the rest lithium inventory, the two modes that
Birkl et al., J. Power Sources 341 (2017) 373 find in most cells. Not here: the resistance of an aged cell (envs.reference.cell).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from envs.reference.parameters import require_pybamm

FloatArray = NDArray[np.float64]
ACTIVE_MATERIAL_SHARE = 0.5
"""Share of the capacity loss by which the active material of both electrodes shrinks."""
_GRID = np.linspace(1e-4, 1.0 - 1e-4, 20_001)
_REFERENCE_K = 298.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """Stoichiometries at 0 and 100 % SoC, capacity, and what is left of each electrode's active material."""

    x0: float
    x100: float
    y0: float
    y100: float
    capacity_ah: float
    active_share: float

    def stoichiometries(self, soc: float) -> tuple[float, float]:
        """(x, y) at a state of charge 0-1."""
        return self.x0 + soc * (self.x100 - self.x0), self.y0 + soc * (self.y100 - self.y0)


class Electrodes:
    """Open-circuit potentials and capacities of the two electrodes of a parameter set at 25 °C."""

    def __init__(self, values: Any) -> None:
        pybamm = require_pybamm()
        parameters = pybamm.LithiumIonParameters()
        grid = pybamm.Vector(_GRID)

        def table(symbol: Any) -> FloatArray:
            found = np.asarray(values.process_symbol(symbol).evaluate(), dtype=np.float64).ravel()
            return found if len(found) > 1 else np.full(len(_GRID), float(found[0]))

        def number(symbol: Any) -> float:
            return float(values.evaluate(symbol))

        self._negative_v = table(parameters.n.prim.U(grid, _REFERENCE_K))
        self._positive_v = table(parameters.p.prim.U(grid, _REFERENCE_K))
        self._negative_v_per_k = table(parameters.n.prim.dUdT(grid))
        self._positive_v_per_k = table(parameters.p.prim.dUdT(grid))
        self.negative_ah = number(parameters.n.Q_init)
        self.positive_ah = number(parameters.p.Q_init)
        self.lower_v, self.upper_v = (number(parameters.voltage_low_cut), number(parameters.voltage_high_cut))
        x0, x100, y100, y0 = pybamm.lithium_ion.ElectrodeSOHSolver(values).get_min_max_stoichiometries()
        self.new = Balance(
            x0=float(x0),
            x100=float(x100),
            y0=float(y0),
            y100=float(y100),
            capacity_ah=self.negative_ah * float(x100 - x0),
            active_share=1.0,
        )

    def open_circuit_v(self, x: float, y: float) -> float:
        """Cell voltage at rest, 25 °C."""
        return float(np.interp(y, _GRID, self._positive_v) - np.interp(x, _GRID, self._negative_v))

    def ocv_table(self, points: int) -> FloatArray:
        """OCV of the new cell at 0 ... 100 % SoC, 25 °C; shape (points,)."""
        return np.array([self.open_circuit_v(*self.new.stoichiometries(z)) for z in np.linspace(0.0, 1.0, points)])

    def entropy_table(self, points: int) -> FloatArray:
        """dOCV/dT of the new cell, V/K; shape (points,)."""
        found = []
        for z in np.linspace(0.0, 1.0, points):
            x, y = self.new.stoichiometries(z)
            found.append(np.interp(y, _GRID, self._positive_v_per_k) - np.interp(x, _GRID, self._negative_v_per_k))
        return np.array(found)

    def aged(self, soh: float) -> Balance:
        """The balance of a cell that kept the share `soh` (0-1) of its capacity.

        Raises ValueError when no lithium inventory gives that capacity between the cut-off voltages.
        """
        if soh >= 1.0:
            return self.new
        active = 1.0 - ACTIVE_MATERIAL_SHARE * (1.0 - soh)
        q_n, q_p = active * self.negative_ah, active * self.positive_ah
        q = soh * self.new.capacity_ah

        def full_y(x100: float) -> float:
            return float(brentq(lambda y: self.open_circuit_v(x100, y) - self.upper_v, _GRID[0], _GRID[-1]))

        def empty_surplus_v(x100: float) -> float:
            return self.open_circuit_v(x100 - q / q_n, full_y(x100) + q / q_p) - self.lower_v

        lowest, highest = q / q_n + _GRID[0], _GRID[-1]
        candidates = np.linspace(lowest, highest, 200)
        surplus = []
        for x in candidates:
            try:
                surplus.append(empty_surplus_v(x))
            except ValueError:  # this full negative electrode cannot reach the upper voltage at all
                surplus.append(np.nan)
        signs = np.sign(surplus)
        crossings = np.flatnonzero(signs[:-1] * signs[1:] < 0)
        if not len(crossings):
            raise ValueError(f"no electrode balance of this set keeps {100 * soh:.0f} % of the capacity")
        k = int(crossings[0])
        x100 = float(brentq(empty_surplus_v, candidates[k], candidates[k + 1]))
        y100 = full_y(x100)
        return Balance(x0=x100 - q / q_n, x100=x100, y0=y100 + q / q_p, y100=y100, capacity_ah=q, active_share=active)
