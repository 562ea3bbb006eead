"""Load that nobody forecasts, what may be expected of it, and the chain of its states that is learned from past years.

The load: a profile of working days and weekends, AR(1) noise (12 %, 3 h), and vehicles that come without notice: one begins with
probability 1/40 an hour by day (6 to 20 h, working days) and 1/250 else, 60 to 140 kW for 1 to 3 hours. What is learned knows
nothing of that: it counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.policies_peak_plant import RATED_KW, TOP_KW, FloatArray
from policies.learned import load_chain
from policies.learned.load_chain import Chain
from training import chain_fit

IntArray = NDArray[np.int64]
EDGES_KW = np.array([-25.0, -15.0, -5.0, 5.0, 15.0, 25.0, 45.0, 70.0, 95.0, 120.0, 145.0, 185.0])
"""Of load above what is usual at that hour: between them lie the states."""
STATES = len(EDGES_KW) + 1


def site_load(hours: FloatArray, weekday: IntArray, seed: int) -> FloatArray:
    """The model above, kW, (T,)."""
    g = np.random.default_rng(seed)
    work = weekday < 5
    profile = np.where(work, 70 + 60 * np.exp(-(((hours - 13) / 4.5) ** 2)), 65 + 15 * np.exp(-(((hours - 15) / 5) ** 2)))
    noise, left = np.zeros(len(hours)), np.exp(-1 / 3)
    draws = g.normal(size=len(hours))
    for t in range(1, len(hours)):
        noise[t] = left * noise[t - 1] + 0.12 * np.sqrt(1 - left**2) * draws[t]
    load = profile * (1 + noise)
    begins = g.random(len(hours)) < np.where(work & (hours >= 6) & (hours < 20), 1 / 40, 1 / 250)
    for t in np.flatnonzero(begins).tolist():
        load[t : t + int(g.integers(1, 4))] += g.uniform(60, 140)
    return np.clip(load, 20, TOP_KW - RATED_KW)


def usual_of_days(load: FloatArray, work: IntArray) -> FloatArray:
    """What the last days of each type say at each midnight, (days, 2, 24), kW. Days of which nothing is past: their own."""
    return chain_fit.usual_of_days(load, work, 24)


def expected(load: FloatArray, usual: FloatArray, work: IntArray, rows: tuple[int, int], ahead: int, left: float) -> FloatArray:
    """Loads of the next hours as a plan expects them, (T, ahead), kW: the usual, and left^k of the latest error."""
    now = np.arange(*rows)
    target = now[:, None] + 1 + np.arange(ahead)
    day = now // 24
    error = load[now] - usual[day, work[day], now % 24]
    return np.asarray(usual[day[:, None], work[target // 24], target % 24] + error[:, None] * left ** np.arange(1, ahead + 1))


def count_chain(load: FloatArray, work: IntArray, rows: tuple[int, int]) -> Chain:
    """The chain of the hours `rows`, counted."""
    now = np.arange(*rows)
    return load_chain.count_chain(load[now], work[now // 24], now % 24, EDGES_KW)
