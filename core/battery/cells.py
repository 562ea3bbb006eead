"""Cell parameters per chemistry, the tables made of them, and how state of health changes a pack.

Fitted values come from core.battery.fitted; what a DFN cannot give (side reactions) is set here with its source. Not here: the
equations that use them (core.battery.ecm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import COLDEST_C, SOC_POINTS, WARMEST_C
from core.battery.fit_record import FittedCell
from core.battery.fitted import FITTED
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.lane_tables import lined_up

FloatArray = NDArray[np.float64]

COULOMB_EFFICIENCY: Mapping[Chemistry, float] = {
    Chemistry.LFP: 0.9998,
    Chemistry.NMC: 0.9995,
    Chemistry.LCO: 0.9990,
    Chemistry.NCA: 0.9993,
}
"""Charge given back over charge taken, after high-precision coulometry: Smith et al., J. Electrochem. Soc. 157 (2010) A196; Yang
et al., Appl. Energy 209 (2018) 356."""
SELF_DISCHARGE_PCT_PER_MONTH: Mapping[Chemistry, float] = {
    Chemistry.LFP: 2.0,
    Chemistry.NMC: 2.0,
    Chemistry.LCO: 2.5,
    Chemistry.NCA: 2.0,
}
"""At room temperature and half charge, cell and its electronics: Zimmerman, IEEE Aerosp. Electron. Syst. Mag. 19 (2004) 19."""
RESISTANCE_PER_LOST_PCT = 0.025
"""Resistance grows by 2.5 % of its first value per percent of capacity lost: doubled at 60 % SoH, in the middle of what
second-life surveys report (Martinez-Laserna et al., IEEE Trans. Ind. Appl. 54 (2018) 2609)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParameters:
    """One chemistry's cell: the fit and what was added to it."""

    chemistry: Chemistry
    fit: FittedCell
    coulomb_efficiency: float
    self_discharge_pct_per_month: float

    @property
    def source(self) -> str:
        """Publication of the electrochemical parameters behind the fit."""
        return self.fit.source

    def ocv_table(self) -> FloatArray:
        """OCV at 0, 1, ..., 100 % SoC and 25 °C, V; shape (101,)."""
        return np.asarray(self.fit.ocv_v, dtype=np.float64)


def soc_table(fit: FittedCell) -> FloatArray:
    """core.battery.ecm.SOC_COLUMNS at 0, 1, ..., 100 % SoC; shape (101, 5)."""
    share = np.linspace(0.0, 1.0, SOC_POINTS)
    entropy = np.interp(share, np.linspace(0.0, 1.0, len(fit.docv_dt_mv_per_k)), fit.docv_dt_mv_per_k) / 1000.0
    by_knot = [np.interp(share, fit.soc_knots, values) for values in (fit.r0_ohm_ah, fit.r1_ohm_ah, fit.lag_h)]
    return np.ascontiguousarray(np.stack([np.asarray(fit.ocv_v), entropy, *by_knot], axis=1))


def temperature_table(fit: FittedCell) -> FloatArray:
    """Arrhenius factors on r0, r1 and lag, 1 at 25 °C, each degree from -40 to 80 °C; shape (121, 3)."""
    kelvin = np.arange(COLDEST_C, WARMEST_C + 0.5) + 273.15
    inverse = 1.0 / kelvin - 1.0 / 298.15
    return np.asarray(np.exp(inverse[:, None] * np.asarray(fit.activation_k)[None, :]))


CELLS: Mapping[Chemistry, CellParameters] = {
    chemistry: CellParameters(
        chemistry=chemistry,
        fit=FITTED[chemistry],
        coulomb_efficiency=COULOMB_EFFICIENCY[chemistry],
        self_discharge_pct_per_month=SELF_DISCHARGE_PCT_PER_MONTH[chemistry],
    )
    for chemistry in Chemistry
}
ROW: Mapping[Chemistry, int] = {chemistry: row for row, chemistry in enumerate(CELLS)}
"""Row of a chemistry in the next two: PARAMETERS' column `cell`."""
BY_SOC: FloatArray = np.stack([soc_table(cell.fit) for cell in CELLS.values()])
BY_TEMPERATURE: FloatArray = np.stack([temperature_table(cell.fit) for cell in CELLS.values()])


def _for_lanes(tables: FloatArray, columns: int) -> FloatArray:
    """All cells' rows below one another, filled up with columns of zeros: core.lane_tables reads whole rows."""
    rows = tables.reshape(-1, tables.shape[-1])
    return lined_up(np.pad(rows, ((0, 0), (0, columns - rows.shape[1]))))


LANES_BY_SOC: FloatArray = _for_lanes(BY_SOC, 8)
"""The same for eight packs at once; a cell's rows begin at ROW x 101. Shape (4 x 101, 8)."""
LANES_BY_TEMPERATURE: FloatArray = _for_lanes(BY_TEMPERATURE, 4)
"""A cell's rows begin at ROW x 121. Shape (4 x 121, 4)."""


def resistance_growth(soh_pct: float) -> float:
    """Factor on the new cell's resistances at a state of health."""
    return 1.0 + RESISTANCE_PER_LOST_PCT * (100.0 - soh_pct)


def capacity_ah(config: DeviceConfig, soh_pct: float) -> float:
    """Usable capacity of a pack; InputError when SoH is not a percentage (0-1 is a usual mistake)."""
    if not 1.0 < soh_pct <= 100.0:
        raise InputError(source=f"device {config.device_id}", field="soh_pct", value=soh_pct, expected="percent in (1, 100]")
    return config.nominal_capacity_ah * soh_pct / 100.0


def capacity_wh(config: DeviceConfig, soh_pct: float) -> float:
    """Energy between 0 and 100 % SoC at open circuit: capacity times the mean OCV of the chemistry."""
    return float(energy_curve_wh(config, soh_pct)[-1])


def energy_curve_wh(config: DeviceConfig, soh_pct: float) -> FloatArray:
    """Energy at open circuit above 0 % SoC, at 0, 1, ..., 100 % SoC; shape (101,).

    Charge at a high voltage is worth more energy: an NMC pack holds 46 % of its energy at 50 % SoC.
    """
    return _shares_v(config.chemistry) * capacity_ah(config, soh_pct) * config.series_cells


@cache
def _shares_v(chemistry: Chemistry) -> FloatArray:
    """Integral of the OCV over the state of charge, V, at 0, 1, ..., 100 %."""
    table = CELLS[chemistry].ocv_table()
    per_interval = 0.5 * (table[1:] + table[:-1]) / (len(table) - 1)
    return np.concatenate([[0.0], np.cumsum(per_interval)])
