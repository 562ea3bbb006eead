"""Shadow prices of a solution: what one more unit of each limit would save, per device and step.

Here: reading the duals of a SiteQP's rows and bounds under the names of the limits. Prices are in EUR per unit of the limit, for
that step: a power limit's for one kW more during it. A soft limit's price is at most that of its slack. Not here: which limit
explains a slot (optimizer.reasons).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from optimizer.assembly import SiteQP
from optimizer.solvers import RawSolution

FloatArray = NDArray[np.float64]
Prices = Mapping[str, FloatArray]
"""Name of a limit -> its price at each step, (N,), >= 0."""
UNITS: Mapping[str, str] = {
    "charge_power": "kW",
    "discharge_power": "kW",
    "no_power": "kW",
    "charge_taper": "kW",
    "discharge_taper": "kW",
    "soc_max": "kWh",
    "soc_min": "kWh",
    "cycle_depth": "kWh",
    "terminal_energy": "kWh",
    "temperature_max": "K",
    "temperature_min": "K",
    "voltage_max": "V",
    "voltage_min": "V",
    "grid_import": "kW",
    "grid_export": "kW",
    "peak": "kW",
}
"""Unit of each limit; a price is in EUR for one of it."""


def device_prices(qp: SiteQP, solution: RawSolution, i: int) -> Prices:
    """Prices of the limits of device i."""
    dual = solution.inequality_duals
    names = ("soc_max", "soc_min", "temperature_max", "temperature_min", "voltage_max", "voltage_min")
    prices = {name: np.abs(dual[qp.rows(i, name)]) for name in (*names, "charge_taper", "discharge_taper")}
    # The depth is a limit on the two extremes: its price sits in the steps at which they are reached.
    prices["cycle_depth"] = np.abs(dual[qp.rows(i, "cycle_high")]) + np.abs(dual[qp.rows(i, "cycle_low")])
    end = np.zeros(qp.n)
    # Two rows hold the target from both sides: only what they do not cancel is its price.
    end[-1] = abs(float(dual[qp.rows(i, "terminal_min")].sum() + dual[qp.rows(i, "terminal_max")].sum()))
    prices["terminal_energy"] = end
    for name, column in (("charge_power", "c"), ("discharge_power", "d")):
        prices[name] = np.maximum(solution.bound_duals[qp.device(i, column)], 0.0)
    prices["no_power"] = np.maximum(prices["charge_power"], prices["discharge_power"])
    return prices


def meter_prices(qp: SiteQP, solution: RawSolution) -> Prices:
    """Prices of the meter's limits; `peak` is the share of the peak's price that falls on each step."""
    return {name: np.abs(solution.inequality_duals[qp.meter_rows(name)]) for name in ("grid_import", "grid_export", "peak")}
