"""The site of the peak tariff's benchmark, and the package's dynamic programming (optimizer.peak_plan) on it.

A site of up to 480 kW, a store of 100 kW / 200 kWh, 10 EUR per kW and month, hours. A step's load is seen when it begins. Not
here: loads (policies_peak_load).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer import peak_plan, peak_walk
from optimizer.peak_plan import LEFT_OVER, PeakStore

__all__ = (
    "LEFT_OVER", "PEAKS", "RATED_KW", "SOCS", "TOP_KW", "FloatArray", "chained", "closed", "final", "foresight", "operate",
    "plan",
)  # fmt: skip
FloatArray = NDArray[np.float64]
RATED_KW, TOP_KW, SOCS, PEAKS = 100.0, 480.0, 21, 25
STORE = PeakStore(
    charge_kw=RATED_KW, discharge_kw=RATED_KW, capacity_kwh=200.0, eta_charge=0.95, eta_discharge=0.95, wear_eur_per_kwh=0.005,
    peak_eur_per_kw=10.0, top_kw=TOP_KW, socs=SOCS, peaks=PEAKS,
)  # fmt: skip
PLANT = STORE.plant()


def final(energy_eur_per_kwh: float, target_kw: float) -> FloatArray:
    """See optimizer.peak_plan; likewise those below."""
    return np.asarray(peak_plan.final(PLANT, energy_eur_per_kwh, target_kw))


def closed(table: FloatArray, target_kw: float) -> FloatArray:
    return np.asarray(peak_plan.closed(PLANT, table, target_kw))


def foresight(price: FloatArray, load: FloatArray, month_ends: NDArray[np.bool_]) -> FloatArray:
    return np.asarray(peak_plan.foresight(PLANT, price, price, load, month_ends))


def plan(
    price_ahead: FloatArray, load_ahead: FloatArray, month_ends: NDArray[np.bool_], target_kw: float, rent: FloatArray
) -> FloatArray:
    return np.asarray(peak_plan.plan(PLANT, price_ahead, price_ahead, load_ahead, month_ends, target_kw, rent))


def chained(
    price: FloatArray, load: FloatArray, moves: FloatArray, month_ends: NDArray[np.bool_], last: FloatArray, every: int
) -> FloatArray:
    return np.asarray(peak_plan.chained(PLANT, price, price, load, moves, month_ends, last, every, True))


def operate(
    price: FloatArray, load: FloatArray, month_ends: NDArray[np.bool_], tables: FloatArray
) -> tuple[FloatArray, FloatArray]:
    saved, stored = peak_walk.operate(PLANT, price, load, month_ends, tables)
    return np.asarray(saved), np.asarray(stored)
