"""Dynamic programming over energy and the month's peak: the MPC's, with a chain of load states, and with all known.

A site of up to 480 kW, a store of 100 kW / 200 kWh, 10 EUR per kW and month. A table (SOCS, PEAKS) is the cost to go in EUR after
an hour, over SoC 0 to 1 and the month's peak so far; between its points it is linear. Not here: loads (policies_peak_load).
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
RATED_KW, CAPACITY_KWH, ETA, WEAR, PEAK_EUR_PER_KW = 100.0, 200.0, 0.95, 0.005, 10.0
SOCS, PEAKS, TOP_KW, LEVELS = 21, 25, 480.0, 8
PEAK_KW = TOP_KW / (PEAKS - 1)
LEFT_OVER = 0.9
"""Of the mean price ahead: what a kWh left at a plan's end is worth."""


@njit(cache=True)
def _after(soc: float, level: int) -> tuple[float, float]:
    """(soc after, kW taken from the meter) of a level in [-LEVELS, LEVELS], charge positive."""
    kw = RATED_KW * level / LEVELS
    if kw > 0:
        kw = min(kw, (1.0 - soc) * CAPACITY_KWH / ETA)
        return soc + kw * ETA / CAPACITY_KWH, kw
    kw = -min(-kw, soc * CAPACITY_KWH * ETA)
    return soc + kw / ETA / CAPACITY_KWH, kw


@njit(cache=True)
def _level(k: int) -> int:
    """0, 1, -1, 2, -2, ...: of equal costs the gentlest goes first."""
    return (k + 1) // 2 * (1 if k % 2 else -1)


def _moves() -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray, FloatArray]:
    """From each SoC point, of moves that differ: how many, and each one's lower SoC point after, share of the upper one, kW."""
    count, below = np.zeros(SOCS, dtype=np.int64), np.zeros((SOCS, 2 * LEVELS + 1), dtype=np.int64)
    share, kw = np.zeros(below.shape), np.zeros(below.shape)
    for i in range(SOCS):
        seen: set[float] = set()
        for k in range(2 * LEVELS + 1):
            soc, power = _after(i / (SOCS - 1.0), _level(k))
            if round(power, 9) not in seen:
                seen.add(round(power, 9))
                n = count[i]
                below[i, n] = min(int(soc * (SOCS - 1)), SOCS - 2)
                share[i, n], kw[i, n] = soc * (SOCS - 1) - below[i, n], power
                count[i] += 1
    return count, below, share, kw


COUNT, BELOW, SHARE, KW = _moves()


@njit(cache=True, fastmath=True)
def _back(price: float, load: float, table: FloatArray, out: FloatArray) -> None:
    """`out`: cost to go before an hour, from `table` after it."""
    row = np.empty(PEAKS)
    for i in range(SOCS):
        best = out[i]
        for j in range(PEAKS):
            best[j] = 1e300
        for k in range(COUNT[i]):
            low, high, a, kw = table[BELOW[i, k]], table[BELOW[i, k] + 1], SHARE[i, k], KW[i, k]
            cost = (load + kw) * price + WEAR * max(-kw, 0.0)
            for j in range(PEAKS):
                row[j] = (1.0 - a) * low[j] + a * high[j] + cost
            y = min(max((load + kw) / PEAK_KW, 0.0), PEAKS - 1.0)
            risen = min(int(y), PEAKS - 2)
            at = row[risen] + (y - risen) * (row[risen + 1] - row[risen])
            for j in range(risen + 1):
                row[j] = at
            for j in range(PEAKS):
                best[j] = min(best[j], row[j])


@njit(cache=True)
def _at(table: FloatArray, soc: float, peak: float) -> float:
    x, y = soc * (SOCS - 1), min(peak / TOP_KW, 1.0) * (PEAKS - 1)
    i, j = min(int(x), SOCS - 2), min(int(y), PEAKS - 2)
    a, b = x - i, y - j
    low = (1 - a) * table[i, j] + a * table[i + 1, j]
    return (1 - b) * low + b * ((1 - a) * table[i, j + 1] + a * table[i + 1, j + 1])


@njit(cache=True)
def final(energy_eur_per_kwh: float, target_kw: float) -> FloatArray:
    """A plan's end: the peak is paid as it stands (the target where it is below), energy has a price."""
    table = np.empty((SOCS, PEAKS))
    for i in range(SOCS):
        for j in range(PEAKS):
            table[i, j] = PEAK_EUR_PER_KW * max(PEAK_KW * j, target_kw) - energy_eur_per_kwh * CAPACITY_KWH * i / (SOCS - 1.0)
    return table


@njit(cache=True)
def closed(table: FloatArray, target_kw: float) -> FloatArray:
    """Where a month ends its peak is paid and the next begins at none."""
    out = np.empty((SOCS, PEAKS))
    for j in range(PEAKS):
        out[:, j] = table[:, 0] + PEAK_EUR_PER_KW * max(PEAK_KW * j, target_kw)
    return out


@njit(cache=True)
def foresight(price: FloatArray, load: FloatArray, month_ends: NDArray[np.bool_]) -> FloatArray:
    """Tables after each hour, (T, SOCS, PEAKS); all known."""
    out = np.zeros((len(price), SOCS, PEAKS))
    after = final(0.0, 0.0)
    for t in range(len(price) - 1, -1, -1):
        out[t] = closed(after, 0.0) if month_ends[t] and t < len(price) - 1 else after
        before = np.empty((SOCS, PEAKS))
        _back(price[t], load[t], out[t], before)
        after = before
    return out


@njit(cache=True)
def plan(
    price_ahead: FloatArray, load_ahead: FloatArray, month_ends: NDArray[np.bool_], target_kw: float, rent: FloatArray
) -> FloatArray:
    """The MPC's tables from expected prices and loads (T, K), made anew each hour.

    `target_kw`: lower peaks are taken to cost as much; `rent` (T,): EUR for each kWh that the store lacks after an hour.
    """
    total, ahead = price_ahead.shape
    out = np.zeros((total, SOCS, PEAKS))
    for t in range(total):
        steps = min(ahead, total - 1 - t)
        after = final(LEFT_OVER * price_ahead[t].mean() if steps == ahead else 0.0, target_kw)
        for k in range(steps, -1, -1):
            if month_ends[t + k] and t + k < total - 1:
                after = closed(after, target_kw)
            for i in range(SOCS):
                after[i] += rent[t + k] * CAPACITY_KWH * (1.0 - i / (SOCS - 1.0))
            if k:
                before = np.empty((SOCS, PEAKS))
                _back(price_ahead[t, k - 1], load_ahead[t, k - 1], after, before)
                after = before
        out[t] = after
    return out


@njit(cache=True)
def chained(
    price: FloatArray, load: FloatArray, moves: FloatArray, month_ends: NDArray[np.bool_], last: FloatArray, every: int
) -> FloatArray:
    """Cost to go by load state, (K // every + 1, B, SOCS, PEAKS): before hours 0, every, 2 every ... of K.

    `load` (K, B): kW of an hour in each state; `moves` (K, B, B): probability of an hour's state given the one before;
    `last` (B, SOCS, PEAKS): after the last hour. Where an hour ends a month, what is after it is not yet closed.
    """
    hours, states = load.shape
    out = np.empty((hours // every + 1, states, SOCS, PEAKS))
    after, before = last.copy(), np.empty((states, SOCS, PEAKS))
    for k in range(hours - 1, -1, -1):
        if (k + 1) % every == 0:
            out[(k + 1) // every] = after
        for b in range(states):
            _back(price[k], load[k, b], closed(after[b], 0.0) if month_ends[k] else after[b], before[b])
        after = np.dot(moves[k], before.reshape(states, -1)).reshape(states, SOCS, PEAKS)
    out[0] = after
    return out


@njit(cache=True)
def operate(
    price: FloatArray, load: FloatArray, month_ends: NDArray[np.bool_], tables: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """EUR saved against an idle store at each hour (peaks paid when they rise), kWh stored; both (T,)."""
    saved, stored = np.zeros(len(price)), np.zeros(len(price))
    soc, peak, idle = 0.5, 0.0, 0.0
    for t in range(len(price)):
        best, chosen = 1e300, 0
        for k in range(2 * LEVELS + 1):
            after, kw = _after(soc, _level(k))
            cost = (load[t] + kw) * price[t] + WEAR * max(-kw, 0.0) + _at(tables[t], after, max(peak, load[t] + kw))
            if cost < best - 1e-9:
                best, chosen = cost, _level(k)
        soc, kw = _after(soc, chosen)
        bought = load[t] + kw
        saved[t] = -kw * price[t] - WEAR * max(-kw, 0.0)
        saved[t] -= PEAK_EUR_PER_KW * (max(bought - peak, 0.0) - max(load[t] - idle, 0.0))
        peak, idle = max(peak, bought), max(idle, load[t])
        stored[t] = soc * CAPACITY_KWH
        if month_ends[t]:
            peak, idle = 0.0, 0.0
    return saved, stored
