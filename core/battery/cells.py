"""Cell parameters per chemistry, and how state of health changes them.

OCV tables: charge and discharge averaged at 25 °C, 5 % steps, rounded to 10 mV, after the curves in the sources named. They are
starting values; a calibrated twin replaces them. Not here: the equations that use them (core.battery.ecm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellParameters:
    """One chemistry's cell, per Ah of its capacity where a size matters."""

    chemistry: Chemistry
    source: str
    ocv_v: tuple[float, ...]
    """Open-circuit voltage at 0, 5, ..., 100 % SoC."""
    r0_ohm_ah: float
    """Ohmic resistance times capacity at 25 °C and 50 % SoC, new cell."""
    r1_ohm_ah: float
    tau1_s: float
    activation_k: float
    """Ea/R of the resistances (Arrhenius), K."""
    coulomb_efficiency: float
    heat_capacity_j_per_k_ah: float
    cooling_w_per_k_ah: float
    """Convective loss of the cell inside its pack."""
    self_discharge_pct_per_month: float

    def ocv_table(self) -> FloatArray:
        """OCV as an array; shape (21,)."""
        return np.asarray(self.ocv_v, dtype=np.float64)


CELLS: Mapping[Chemistry, CellParameters] = {
    Chemistry.LFP: CellParameters(
        chemistry=Chemistry.LFP,
        source="A123 ANR26650: Prada et al., J. Electrochem. Soc. 160 (2013) A616; data sheet resistance",
        ocv_v=(2.60, 3.08, 3.19, 3.21, 3.24, 3.26, 3.28, 3.29, 3.29, 3.29, 3.30, 3.30, 3.30, 3.31, 3.32, 3.33, 3.33, 3.33,
               3.34, 3.34, 3.42),
        r0_ohm_ah=0.023,
        r1_ohm_ah=0.014,
        tau1_s=60.0,
        activation_k=2300.0,
        coulomb_efficiency=0.998,
        heat_capacity_j_per_k_ah=33.0,
        cooling_w_per_k_ah=0.012,
        self_discharge_pct_per_month=2.0,
    ),
    Chemistry.NMC: CellParameters(
        chemistry=Chemistry.NMC,
        source="LG M50 (NMC811): Chen et al., J. Electrochem. Soc. 167 (2020) 080534",
        ocv_v=(2.90, 3.17, 3.31, 3.38, 3.43, 3.48, 3.52, 3.56, 3.59, 3.62, 3.66, 3.71, 3.77, 3.82, 3.87, 3.92, 3.97, 4.01,
               4.05, 4.08, 4.16),
        r0_ohm_ah=0.100,
        r1_ohm_ah=0.060,
        tau1_s=60.0,
        activation_k=2600.0,
        coulomb_efficiency=0.997,
        heat_capacity_j_per_k_ah=14.0,
        cooling_w_per_k_ah=0.008,
        self_discharge_pct_per_month=2.0,
    ),
    Chemistry.LCO: CellParameters(
        chemistry=Chemistry.LCO,
        source="Enertech LCO pouch: Ai et al., J. Electrochem. Soc. 167 (2020) 013512",
        ocv_v=(3.05, 3.46, 3.60, 3.67, 3.71, 3.74, 3.76, 3.78, 3.79, 3.81, 3.83, 3.86, 3.90, 3.93, 3.97, 4.01, 4.05, 4.08,
               4.11, 4.14, 4.18),
        r0_ohm_ah=0.080,
        r1_ohm_ah=0.050,
        tau1_s=50.0,
        activation_k=2500.0,
        coulomb_efficiency=0.997,
        heat_capacity_j_per_k_ah=18.0,
        cooling_w_per_k_ah=0.010,
        self_discharge_pct_per_month=2.5,
    ),
    Chemistry.NCA: CellParameters(
        chemistry=Chemistry.NCA,
        source="Panasonic NCR18650-type NCA: Kim et al., J. Electrochem. Soc. 158 (2011) A955; data sheet resistance",
        ocv_v=(2.95, 3.22, 3.35, 3.43, 3.49, 3.53, 3.57, 3.60, 3.63, 3.67, 3.71, 3.76, 3.81, 3.86, 3.90, 3.94, 3.98, 4.02,
               4.05, 4.09, 4.16),
        r0_ohm_ah=0.095,
        r1_ohm_ah=0.055,
        tau1_s=55.0,
        activation_k=2600.0,
        coulomb_efficiency=0.997,
        heat_capacity_j_per_k_ah=14.5,
        cooling_w_per_k_ah=0.008,
        self_discharge_pct_per_month=2.0,
    ),
}  # fmt: skip

RESISTANCE_PER_LOST_PCT = 0.025
"""Resistance grows by 2.5 % of its first value per percent of capacity lost: doubled at 60 % SoH, in the middle of what
second-life surveys report (Martinez-Laserna et al., IEEE Trans. Ind. Appl. 54 (2018) 2609)."""


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
    """Energy at open circuit above 0 % SoC, at 0, 5, ..., 100 % SoC; shape (21,).

    Charge at a high voltage is worth more energy: an NMC pack holds 46 % of its energy at 50 % SoC.
    """
    table = CELLS[config.chemistry].ocv_table()
    per_interval = 0.5 * (table[1:] + table[:-1]) / (len(table) - 1)
    shares_v = np.concatenate([[0.0], np.cumsum(per_interval)])
    return shares_v * capacity_ah(config, soh_pct) * config.series_cells
