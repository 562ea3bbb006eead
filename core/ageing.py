"""Ageing over a horizon: calendar and cyclic loss, compact published forms.

    calendar  dQ = k_cal exp(Ea/R (1/298.15 - 1/T)) exp(a (SoC - 0.5)) d(sqrt(t)), linearised at the pack's age
    cyclic    dQ = sum over rainflow half cycles of 1/2 depth^1.4 / N80 x 20 %

Sources: Naumann et al., J. Energy Storage 17 (2018) 153 (square root of time, Arrhenius, SoC) and Xu et al., IEEE Trans. Smart
Grid 9 (2018) 1131 (cycle depth law, rainflow). Constants per chemistry are rounded from data sheets' cycle life at 80 %
remaining capacity. Not here: SoH estimation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import rainflow
from numpy.typing import NDArray

from core.devices import Chemistry

FloatArray = NDArray[np.float64]
DEPTH_EXPONENT = 1.4
LOSS_AT_END_PCT = 20.0
RESISTANCE_PER_CAPACITY = 1.5
"""Percent of resistance growth per percent of capacity fade."""
YEAR_S = 365.25 * 86_400.0


@dataclass(frozen=True, slots=True)
class AgeingParameters:
    """Cycles to 80 % at full depth, calendar years to 80 % at 25 °C and 50 % SoC, activation Ea/R, SoC stress."""

    cycles_to_80: float
    years_to_80: float
    activation_k: float
    soc_stress: float


AGEING: Mapping[Chemistry, AgeingParameters] = {
    Chemistry.LFP: AgeingParameters(3500.0, 15.0, 4000.0, 0.8),
    Chemistry.NMC: AgeingParameters(1500.0, 10.0, 5000.0, 1.4),
    Chemistry.LCO: AgeingParameters(700.0, 7.0, 5000.0, 1.6),
    Chemistry.NCA: AgeingParameters(1000.0, 8.0, 5200.0, 1.5),
}


def degradation(chemistry: Chemistry, soc_pct: FloatArray, temperature_c: FloatArray, dt_s: float) -> dict[str, float]:
    """The contract's degradation_forecast for a trajectory; arrays (N,), values at the end of each step.

    cycle_life_consumed and calendar_life_consumed are percent of the life until 20 % of the capacity are lost.
    """
    p = AGEING[chemistry]
    kelvin = temperature_c + 273.15
    stress = np.exp(p.activation_k * (1 / 298.15 - 1 / kelvin)) * np.exp(p.soc_stress * (soc_pct / 100 - 0.5))
    calendar_pct = 100.0 * float(stress.sum()) * dt_s / (p.years_to_80 * YEAR_S)
    cycle_pct = 100.0 * sum(
        count * (depth / 100.0) ** DEPTH_EXPONENT / p.cycles_to_80
        for depth, _mean, count, _start, _end in rainflow.extract_cycles(soc_pct)
    )
    fade = LOSS_AT_END_PCT / 100.0 * (calendar_pct + cycle_pct)
    return {
        "capacity_fade_percent": fade,
        "resistance_growth_percent": RESISTANCE_PER_CAPACITY * fade,
        "cycle_life_consumed": float(cycle_pct),
        "calendar_life_consumed": calendar_pct,
    }
