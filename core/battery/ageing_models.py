"""Ageing formulas per chemistry: calendar and cyclic capacity loss, resistance growth; vectorised over packs.

LFP, NMC and NCA follow NREL's BLAST-Lite 1.1 (Gasper, Smith et al., BSD-3), whose constants are cited below with the data behind
them; LCO has no model there. State (n, 5), relative to a new pack: calendar loss, cyclic loss, active material loss, calendar and
cyclic resistance growth. Not here: the growth laws (core.battery.trajectories), forecasts (core.ageing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from core.battery.cells import RESISTANCE_PER_LOST_PCT
from core.battery.stress import Stress
from core.battery.trajectories import power_law, scaled_power_law, sigmoid
from core.devices import Chemistry

FloatArray = NDArray[np.float64]
STATE = ("calendar_loss", "cyclic_loss", "material_loss", "calendar_growth", "cyclic_growth")
CALENDAR, CYCLIC, MATERIAL, R_CALENDAR, R_CYCLIC = range(5)


@dataclass(frozen=True, slots=True)
class Health:
    """What a state means; shares of the new pack's value, shape (n,)."""

    capacity: FloatArray
    calendar_loss: FloatArray
    cyclic_loss: FloatArray
    resistance: FloatArray


class AgeingModel(Protocol):
    """One chemistry's formulas."""

    source: str

    def new(self, n: int) -> FloatArray:
        """State of n new packs; shape (n, 5)."""

    def advance(self, state: FloatArray, stress: Stress) -> FloatArray:
        """State after a stretch of use, whose throughput counts in the new pack's capacity (Stress.of_new); shape (n, 5)."""

    def health(self, state: FloatArray) -> Health:
        """Capacity and resistance of a state."""


def anode_potential_v(soc: FloatArray) -> FloatArray:
    """Graphite against lithium at a cell's SoC: Safari & Delacourt, J. Electrochem. Soc. 158 (2011) A562, stoichiometry after
    Schimpe et al., ibid. 165 (2018) A181."""
    x = 0.0085 + soc * (0.78 - 0.0085)
    return np.asarray(
        0.6379
        + 0.5416 * np.exp(-305.5309 * x)
        + 0.044 * np.tanh(-(x - 0.1958) / 0.1088)
        - 0.1978 * np.tanh((x - 1.0571) / 0.0854)
        - 0.6875 * np.tanh((x + 0.0117) / 0.0529)
        - 0.0175 * np.tanh((x - 0.5692) / 0.0875)
    )


class _Simple:
    """Sum of calendar and cyclic loss; resistance in proportion to the loss where no formula gives it."""

    def new(self, n: int) -> FloatArray:
        """All zero."""
        return np.zeros((n, len(STATE)))

    def health(self, state: FloatArray) -> Health:
        """Capacity is what neither loss took."""
        lost = state[:, CALENDAR] + state[:, CYCLIC]
        return Health(
            capacity=1.0 - lost,
            calendar_loss=state[:, CALENDAR],
            cyclic_loss=state[:, CYCLIC],
            resistance=1.0 + 100.0 * RESISTANCE_PER_LOST_PCT * lost,
        )


class LfpAgeing(_Simple):
    """Sony US26650FTC1: calendar (time, temperature, anode potential), cycles (depth, rate), break-in; resistance separately."""

    source = (
        "Naumann et al., J. Energy Storage 17 (2018) 153 and J. Power Sources 451 (2020) 227666; identified by Gasper et al., "
        "J. Electrochem. Soc. 169 (2022) 080518 (BLAST-Lite, LFP-Gr Sony-Murata)"
    )
    _BREAK_IN_CYCLES_PER_DAY = 3.0

    def new(self, n: int) -> FloatArray:
        """The break-in state starts at a trace."""
        state = super().new(n)
        state[:, MATERIAL] = 1e-10
        return state

    def advance(self, state: FloatArray, stress: Stress) -> FloatArray:
        """Sigmoid in time, power of throughput, break-in only above three full cycles a day (as in the source)."""
        t, soc, potential = stress.kelvin, stress.soc, anode_potential_v(stress.soc)
        root, third, fourth = np.sqrt(potential), np.cbrt(potential), potential**0.25
        most = 0.98968715129359 * np.exp(root * (-2881067.56019324 / t**2 + 8742.06309157261 / t))
        bend = 0.000332850281062177 * np.exp(
            third * (734553185711.369 / t**4 - 3284991315.45121 / t**3)
            + fourth * (-2.8216157562078e-06 * t**3 + 0.0012722759365729 * t**2)
        )
        rate, depth = stress.c_rate_per_h[:, None], stress.depth
        cyclic = np.abs(-6.81260579372875e-06 + 2.59615973160844e-05 * depth + 2.11559710307295e-06 * np.exp(depth**2 * rate**3))
        break_in = 0.582258029148225 * _skew_normal(soc, 0.0583128906965484, 0.208738181522897)
        deep = _skew_normal(depth, -3.80744333129564, 1.1612626042821) * np.tanh(0.5 * 25.4130804598602 * depth)
        days, cycles = stress.days, stress.cycles
        broken_in = sigmoid(
            state[:, MATERIAL], cycles, stress.mean(break_in) * stress.by_depth(deep), np.full(len(state), 0.00303553871631028),
            np.full(len(state), 1.43752162947637),
        )  # fmt: skip
        r_calendar = 3.4194e-10 * np.exp(-71827.0 / 8.3144 * (1.0 / t - 1.0 / 298.15))
        r_soc = -3.3903 * (soc - 0.5) ** 3 + 1.5604
        # Above 1 C, beyond the tests behind it, the source's growth would turn negative.
        r_cyclic = np.maximum(0.0, -0.002 * stress.c_rate_per_h + 0.0021) * stress.by_depth(6.8477 * (depth - 0.5) ** 3 + 0.91882)
        grown = state.copy()
        grown[:, CALENDAR] = sigmoid(
            state[:, CALENDAR],
            days,
            stress.mean(np.abs(most)),
            np.full(len(state), 0.000130510034211874),
            stress.mean(np.abs(bend)),
        )
        grown[:, CYCLIC] = scaled_power_law(state[:, CYCLIC], cycles, stress.by_depth(cyclic), 1.12847759334355)
        grown[:, MATERIAL] = np.where(cycles > self._BREAK_IN_CYCLES_PER_DAY * stress.days, broken_in, state[:, MATERIAL])
        grown[:, R_CALENDAR] += stress.mean(r_calendar) * stress.mean(r_soc) * days * 86_400.0
        grown[:, R_CYCLIC] += r_cyclic * cycles / 100.0
        return grown

    def health(self, state: FloatArray) -> Health:
        """Break-in counts with the cycles."""
        cyclic = state[:, CYCLIC] + state[:, MATERIAL]
        return Health(
            capacity=1.0 - state[:, CALENDAR] - cyclic,
            calendar_loss=state[:, CALENDAR],
            cyclic_loss=cyclic,
            resistance=1.0 + state[:, R_CALENDAR] + state[:, R_CYCLIC],
        )


class NmcAgeing(_Simple):
    """Kokam 75 Ah: lithium loss in time and with cycles, active material loss beside it; the scarcer one is the capacity."""

    source = "Smith et al., American Control Conference (2017) 4062 (BLAST-Lite, NMC111-Gr Kokam)"

    def new(self, n: int) -> FloatArray:
        """The material state starts at a trace."""
        state = super().new(n)
        state[:, MATERIAL] = 1e-8
        return state

    def advance(self, state: FloatArray, stress: Stress) -> FloatArray:
        """Power laws in time and throughput; no dependence on current (the tests behind it had one)."""
        warm = stress.kelvin / (273.15 + 35.0)
        calendar = stress.mean(2.66e7 * np.exp(-17.8 / warm - 5.21 * anode_potential_v(stress.soc) / 0.123 / warm))
        cyclic = stress.mean(3.80e3 * np.exp(-18.4 / warm)) * stress.by_depth(np.exp(1.04 * np.exp(stress.depth**2)))
        celsius = stress.mean(stress.kelvin) - 273.15
        material = 1e4 + 153.0 * (celsius - 55.0) * stress.by_depth(stress.depth) * stress.mean(stress.soc) / 0.6
        days, cycles, ten = stress.days, stress.cycles, np.full(len(state), 10.0)
        grown = state.copy()
        grown[:, CALENDAR] = power_law(state[:, CALENDAR], days, calendar, 0.357)
        grown[:, CYCLIC] = power_law(state[:, CYCLIC], cycles, cyclic, 0.778)
        grown[:, MATERIAL] = sigmoid(state[:, MATERIAL], cycles, np.ones(len(state)), 1.0 / np.maximum(material, 1.0), ten)
        grown[:, R_CALENDAR] = power_law(state[:, R_CALENDAR], days, 0.0570 * calendar, 1.25)
        grown[:, R_CYCLIC] = power_law(state[:, R_CYCLIC], cycles, 4.87 * cyclic, 0.712)
        return grown

    def health(self, state: FloatArray) -> Health:
        """The smaller of lithium and material, the larger of film and electrode resistance.

        Where material is the scarcer, storage still takes lithium but no capacity: the losses then add to more than what is lost.
        """
        material = 1.01 - state[:, MATERIAL]
        capacity = np.minimum(1.0 - state[:, CALENDAR] - state[:, CYCLIC], material)
        film = 1.0 + state[:, R_CALENDAR] + state[:, R_CYCLIC]
        return Health(
            capacity=capacity,
            calendar_loss=state[:, CALENDAR],
            cyclic_loss=np.maximum(state[:, CYCLIC], 1.0 - material),
            resistance=np.maximum(film, -0.08 + 1.09 / np.maximum(material, 1e-3)),
        )


class NcaAgeing(_Simple):
    """Panasonic NCR18650B; the source has no resistance, which grows in proportion to the loss here."""

    source = (
        "Keil et al., J. Electrochem. Soc. 163 (2016) A1872 (calendar); Preger et al., ibid. 167 (2020) 120532 (cycles) "
        "(BLAST-Lite, NCA-Gr Panasonic)"
    )

    def advance(self, state: FloatArray, stress: Stress) -> FloatArray:
        """Power laws in time and throughput."""
        t = stress.kelvin
        calendar = stress.mean(75.4 * np.exp((-3340.0 + 353.0 * stress.soc) / t))
        of_depth = stress.by_depth(1.86e-06 + 0.000177 * stress.depth) + 4.74e-11 * stress.c_rate_per_h * (stress.cycles > 0)
        cyclic = of_depth * stress.mean(np.exp(3.34e-11 / t) + np.exp(-2.81e-09 / t))
        grown = state.copy()
        grown[:, CALENDAR] = power_law(state[:, CALENDAR], stress.days, calendar, 0.512)
        grown[:, CYCLIC] = power_law(state[:, CYCLIC], stress.cycles, cyclic, 0.699)
        return grown


class LcoAgeing(_Simple):
    """Cycles of graphite/LCO pouch cells; storage after the general lithium-ion model of Xu et al., which is not of LCO cells.

    The storage formula and the cycles' dependence on temperature are stress factors that Xu et al. fitted to LMO cells and offer
    as generic; a storage formula from LCO cells was not found. Resistance in proportion to the loss.
    """

    source = (
        "Saxena, Hendricks, Pecht, J. Power Sources 327 (2016) 394 (LCO cycles); Xu et al., IEEE Trans. Smart Grid 9 (2018) 1131 "
        "(storage and temperature, fitted to LMO)"
    )
    _FILM, _FILM_RATE = 5.75e-2, 121.0

    def advance(self, state: FloatArray, stress: Stress) -> FloatArray:
        """Power of throughput; storage as 1 - a exp(-b f) - (1 - a) exp(-f), f linear in time."""
        t = stress.kelvin
        warm = np.exp(6.93e-2 * (t - 298.15) * 298.15 / t)
        f = stress.days * 86_400.0 * 4.14e-10 * stress.mean(warm * np.exp(1.04 * (stress.soc - 0.5)))
        middle = stress.mean(stress.soc)
        depth = stress.depth
        per_100 = 0.01 * 3.25 * middle * stress.by_depth(1.0 + 3.25 * depth - 2.25 * depth**2) * stress.mean(warm)
        grown = state.copy()
        grown[:, CYCLIC] = power_law(state[:, CYCLIC], stress.cycles / 100.0, per_100, 0.453)
        grown[:, MATERIAL] += f
        grown[:, CALENDAR] = (
            1.0 - self._FILM * np.exp(-self._FILM_RATE * grown[:, MATERIAL]) - (1.0 - self._FILM) * np.exp(-grown[:, MATERIAL])
        )
        return grown


def _skew_normal(x: FloatArray, skew: float, width: float) -> FloatArray:
    """Skewed normal density around one half."""
    scaled = (x - 0.5) / width
    return np.asarray(2.0 * np.exp(-0.5 * scaled**2) / np.sqrt(2.0 * np.pi) * ndtr(skew * scaled))


MODELS: Mapping[Chemistry, AgeingModel] = {
    Chemistry.LFP: LfpAgeing(),
    Chemistry.NMC: NmcAgeing(),
    Chemistry.LCO: LcoAgeing(),
    Chemistry.NCA: NcaAgeing(),
}
