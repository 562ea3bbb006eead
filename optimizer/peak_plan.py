"""Dynamic programming over stored energy, the month's peak and the state of the load, for one store behind a meter.

A table (socs, peaks) is the cost to go in EUR over the store's level 0 to 1 and the month's highest import so far, 0 to `top_kw`;
between its points it is linear. Where a month ends its peak is paid and the next one begins at none. Load is known (`foresight`,
`plan`) or moves from state to state by probabilities (`chained`). In `chained`, a step's power is chosen either when its load is
seen or before, knowing the state of the step before: a dispatcher's set point holds for an interval whose load nobody has
measured yet. Bellman, Dynamic Programming, 1957. Not here: where loads and their states come from (policies.learned.load_chain),
running a store by the tables (optimizer.peak_walk), several packs
(policies.learned.chain_policy).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.compiled import kept_on_disk

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
NO_LIMIT_KW = 1e12
OVER_EUR_PER_KWH = 100.0
"""What import or export that the store adds beyond a limit of the meter costs."""
TIE_EUR = 1e-9
"""Moves whose cost differs by less are equal: the gentler one is made."""
LEFT_OVER = 0.9
"""Of the mean price ahead: what a kWh left at a plan's end is worth."""


def _lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """For inner loops that allocate nothing: without reference counts, sums in any order."""
    made: Callable[..., Any] = kept_on_disk(error_model="numpy", nogil=True, fastmath=True, _nrt=False)(function)
    return made


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba's njit as the plans and what runs by them use it: kept on disk, without the GIL."""
    made: Callable[..., Any] = kept_on_disk(error_model="numpy", nogil=True)(function)
    return made


class Plant(NamedTuple):
    """A store in numbers, as the compiled functions take it; made by `PeakStore.plant`."""

    charge_kw: float
    discharge_kw: float
    capacity_kwh: float
    eta_charge: float
    eta_discharge: float
    wear_eur_per_kwh: float
    peak_eur_per_kw: float
    top_kw: float
    import_kw: float
    export_kw: float
    dt_h: float
    levels: int
    spacing: float
    peaks: int
    number: IntArray
    """Moves from each point of level that differ, (socs,)."""
    below: IntArray
    """Lower point of level after each move, (socs, 2 levels + 1)."""
    share: FloatArray
    """Share of the upper one."""
    kw: FloatArray
    """Power of the move at the meter, charge positive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeakStore:
    """A store whose losses, power and wear do not depend on its state, its meter's peak price, and the grid of its tables."""

    charge_kw: float
    discharge_kw: float
    capacity_kwh: float
    """Between the levels 0 and 1."""
    eta_charge: float
    eta_discharge: float
    wear_eur_per_kwh: float
    """Per kWh delivered."""
    peak_eur_per_kw: float
    """Of a month's highest import, mean of a step."""
    top_kw: float
    """Imports above are not told apart."""
    dt_h: float = 1.0
    import_kw: float = NO_LIMIT_KW
    export_kw: float = NO_LIMIT_KW
    socs: int = 21
    peaks: int = 25
    levels: int = 8
    """Of power, each way, beside rest."""
    spacing: float = 1.0
    """Exponent of their shares of full power: with 2 small powers lie close together. A store that is strong beside its load
    needs them: with coarse ones to charge at all would make a peak."""

    def plant(self) -> Plant:
        """The numbers, with the moves between points of level."""
        width = 2 * self.levels + 1
        number, below = np.zeros(self.socs, dtype=np.int64), np.zeros((self.socs, width), dtype=np.int64)
        share, kw = np.zeros(below.shape), np.zeros(below.shape)
        made = Plant(
            charge_kw=float(self.charge_kw), discharge_kw=float(self.discharge_kw), capacity_kwh=float(self.capacity_kwh),
            eta_charge=float(self.eta_charge), eta_discharge=float(self.eta_discharge),
            wear_eur_per_kwh=float(self.wear_eur_per_kwh), peak_eur_per_kw=float(self.peak_eur_per_kw),
            top_kw=float(self.top_kw), import_kw=float(self.import_kw), export_kw=float(self.export_kw), dt_h=float(self.dt_h),
            levels=int(self.levels), spacing=float(self.spacing), peaks=int(self.peaks), number=number, below=below,
            share=share, kw=kw,
        )  # fmt: skip
        for i in range(self.socs):
            seen: set[float] = set()
            for k in range(width):
                soc, power = after_level(made, i / (self.socs - 1.0), level_of(k))
                if round(power, 9) not in seen:
                    seen.add(round(power, 9))
                    n = number[i]
                    below[i, n] = min(int(soc * (self.socs - 1)), self.socs - 2)
                    share[i, n], kw[i, n] = soc * (self.socs - 1) - below[i, n], power
                    number[i] += 1
        return made


@compiled
def level_of(k: int) -> int:
    """0, 1, -1, 2, -2, ...: of equal costs the gentlest goes first."""
    return (k + 1) // 2 * (1 if k % 2 else -1)


@compiled
def power_of(p: Plant, level: int) -> float:
    """Power of a level in [-levels, levels], charge positive."""
    share: float = (abs(level) / p.levels) ** p.spacing
    return share * p.charge_kw if level > 0 else -share * p.discharge_kw


@compiled
def after_power(p: Plant, soc: float, kw: float) -> tuple[float, float]:
    """(level after a step, kW at the meter) of a power, charge positive, as far as the store has energy or room."""
    if kw > 0:
        kw = min(kw, (1.0 - soc) * p.capacity_kwh / p.eta_charge / p.dt_h)
        return soc + kw * p.eta_charge * p.dt_h / p.capacity_kwh, kw
    kw = -min(-kw, soc * p.capacity_kwh * p.eta_discharge / p.dt_h)
    return soc + kw / p.eta_discharge * p.dt_h / p.capacity_kwh, kw


@compiled
def after_level(p: Plant, soc: float, level: int) -> tuple[float, float]:
    """The same of a level of power in [-levels, levels]."""
    found: tuple[float, float] = after_power(p, soc, power_of(p, level))
    return found


@_lean
def step_eur(p: Plant, buy: float, sell: float, load: float, kw: float) -> float:
    """What a step costs: energy at the meter, wear, and what the store adds beyond the meter's limits."""
    net = load + kw
    over = min(max(net - p.import_kw, 0.0), max(kw, 0.0)) + min(max(-net - p.export_kw, 0.0), max(-kw, 0.0))
    energy = net * buy if net > 0 else net * sell
    return (energy + p.wear_eur_per_kwh * max(-kw, 0.0) + OVER_EUR_PER_KWH * over) * p.dt_h


@_lean
def _row(low: FloatArray, high: FloatArray, share: float, cost: float, point: float, row: FloatArray) -> None:
    """Cost to go over peaks before a step: between two levels' tables after it, the peak no lower than `point` of the grid."""
    left, last = 1.0 - share, len(row) - 1
    for j in range(len(row)):
        row[j] = left * low[j] + share * high[j] + cost
    y = min(max(point, 0.0), float(last))
    risen = min(int(y), last - 1)
    at = row[risen] + (y - risen) * (row[risen + 1] - row[risen])
    for j in range(risen + 1):
        row[j] = at


@_lean
def _least(best: FloatArray, row: FloatArray) -> None:
    for j in range(len(best)):
        best[j] = min(best[j], row[j])


@_lean
def _back(p: Plant, buy: float, sell: float, load: float, table: FloatArray, out: FloatArray, row: FloatArray) -> None:
    """`out`: cost to go before a step whose load is seen, from `table` after it; `row` (peaks,) is scratch."""
    per_kw = (p.peaks - 1) / p.top_kw
    for i in range(len(p.number)):
        for k in range(p.number[i]):
            kw, below = p.kw[i, k], p.below[i, k]
            into = row if k else out[i]
            _row(table[below], table[below + 1], p.share[i, k], step_eur(p, buy, sell, load, kw), (load + kw) * per_kw, into)
            if k:
                _least(out[i], row)


@_lean
def _back_blind(
    p: Plant, buy: float, sell: float, load: FloatArray, moves: FloatArray, tables: FloatArray, out: FloatArray,
    rows: FloatArray, mean: FloatArray,
) -> None:  # fmt: skip
    """`out` (B, socs, peaks): cost to go before a step by the state before it, where power is chosen before the load is seen.

    `load` (B,), `tables` (B, socs, peaks): of each state that the step may have; `moves` (B, B): its probability; `rows`
    (B, moves x peaks) and `mean` (moves x peaks,) are scratch.
    """
    states, width, per_kw = len(load), p.peaks, (p.peaks - 1) / p.top_kw
    for i in range(len(p.number)):
        for k in range(p.number[i]):
            kw, below, share = p.kw[i, k], p.below[i, k], p.share[i, k]
            for c in range(states):
                cost = step_eur(p, buy, sell, load[c], kw)
                into = rows[c, k * width : (k + 1) * width]
                _row(tables[c, below], tables[c, below + 1], share, cost, (load[c] + kw) * per_kw, into)
        for b in range(states):
            _mean(moves[b], rows, p.number[i] * width, mean)
            best = out[b, i]
            for j in range(width):
                best[j] = mean[j]
            for k in range(1, p.number[i]):
                _least(best, mean[k * width : (k + 1) * width])


@_lean
def _mean(chance: FloatArray, rows: FloatArray, count: int, out: FloatArray) -> None:
    """Mean of the first `count` columns over rows; four rows at a time, which is what the processor can add in one go."""
    states = len(chance)
    whole = states // 4 * 4
    for j in range(count):
        out[j] = 0.0
    for c in range(0, whole, 4):
        w0, w1, w2, w3 = chance[c], chance[c + 1], chance[c + 2], chance[c + 3]
        r0, r1, r2, r3 = rows[c], rows[c + 1], rows[c + 2], rows[c + 3]
        for j in range(count):
            out[j] += w0 * r0[j] + w1 * r1[j] + w2 * r2[j] + w3 * r3[j]
    for c in range(whole, states):
        w0, r0 = chance[c], rows[c]
        for j in range(count):
            out[j] += w0 * r0[j]


@compiled
def at_point(p: Plant, table: FloatArray, soc: float, peak: float) -> float:
    """A table between its points."""
    socs = len(p.number)
    x, y = soc * (socs - 1), min(peak / p.top_kw, 1.0) * (p.peaks - 1)
    i, j = min(int(x), socs - 2), min(int(y), p.peaks - 2)
    a, b = x - i, y - j
    low = (1 - a) * table[i, j] + a * table[i + 1, j]
    value: float = (1 - b) * low + b * ((1 - a) * table[i, j + 1] + a * table[i + 1, j + 1])
    return value


@compiled
def final(p: Plant, energy_eur_per_kwh: float, target_kw: float) -> FloatArray:
    """A plan's end: the peak is paid as it stands (the target where it is below), energy has a price."""
    socs, peak_kw = len(p.number), p.top_kw / (p.peaks - 1)
    table = np.empty((socs, p.peaks))
    for i in range(socs):
        for j in range(p.peaks):
            table[i, j] = p.peak_eur_per_kw * max(peak_kw * j, target_kw) - energy_eur_per_kwh * p.capacity_kwh * i / (socs - 1.0)
    return table


@compiled
def closed(p: Plant, table: FloatArray, target_kw: float) -> FloatArray:
    """Where a month ends its peak is paid and the next begins at none."""
    out, peak_kw = np.empty((len(p.number), p.peaks)), p.top_kw / (p.peaks - 1)
    for j in range(p.peaks):
        out[:, j] = table[:, 0] + p.peak_eur_per_kw * max(peak_kw * j, target_kw)
    return out


@compiled
def foresight(p: Plant, buy: FloatArray, sell: FloatArray, load: FloatArray, month_ends: BoolArray) -> FloatArray:
    """Tables after each step, (T, socs, peaks); all known. The last step's end pays its peak whatever `month_ends` says."""
    out = np.zeros((len(buy), len(p.number), p.peaks))
    after, row = final(p, 0.0, 0.0), np.empty(p.peaks)
    for t in range(len(buy) - 1, -1, -1):
        out[t] = closed(p, after, 0.0) if month_ends[t] and t < len(buy) - 1 else after
        before = np.empty((len(p.number), p.peaks))
        _back(p, buy[t], sell[t], load[t], out[t], before, row)
        after = before
    return out


@compiled
def plan(
    p: Plant, buy_ahead: FloatArray, sell_ahead: FloatArray, load_ahead: FloatArray, month_ends: BoolArray, target_kw: float,
    rent: FloatArray,
) -> FloatArray:  # fmt: skip
    """An MPC's tables after each step, (T, socs, peaks), from expected prices and loads (T, K), made anew each step.

    `month_ends` is of all steps that there are, T or more; no plan looks beyond the last one.
    `target_kw`: lower peaks are taken to cost as much; `rent` (T,): EUR for each kWh that the store lacks after a step.
    """
    ahead, total = buy_ahead.shape[1], len(month_ends)
    socs, row = len(p.number), np.empty(p.peaks)
    out = np.zeros((len(buy_ahead), socs, p.peaks))
    for t in range(len(buy_ahead)):
        steps = min(ahead, total - 1 - t)
        after = final(p, LEFT_OVER * buy_ahead[t].mean() if steps == ahead else 0.0, target_kw)
        for k in range(steps, -1, -1):
            if month_ends[t + k] and t + k < total - 1:
                after = closed(p, after, target_kw)
            for i in range(socs):
                after[i] += rent[t + k] * p.capacity_kwh * (1.0 - i / (socs - 1.0))
            if k:
                before = np.empty((socs, p.peaks))
                _back(p, buy_ahead[t, k - 1], sell_ahead[t, k - 1], load_ahead[t, k - 1], after, before, row)
                after = before
        out[t] = after
    return out


@compiled
def chained(
    p: Plant, buy: FloatArray, sell: FloatArray, load: FloatArray, moves: FloatArray, month_ends: BoolArray, last: FloatArray,
    every: int, seen: bool,
) -> FloatArray:  # fmt: skip
    """Cost to go by load state, (K // every + 1, B, socs, peaks): before steps 0, every, 2 every ... of K.

    `load` (K, B): kW of a step in each state; `moves` (K, B, B): probability of a step's state given the one before;
    `last` (B, socs, peaks): after the last step. Where a step ends a month, what is after it is not yet closed. `seen`: whether a
    step's power is chosen when its load is known.
    """
    steps, states = load.shape
    socs = len(p.number)
    out = np.empty((steps // every + 1, states, socs, p.peaks))
    after, before = last.copy(), np.empty((states, socs, p.peaks))
    width = p.kw.shape[1] * p.peaks
    rows, mean = np.empty((states, width)), np.empty(width)
    for k in range(steps - 1, -1, -1):
        if (k + 1) % every == 0:
            out[(k + 1) // every] = after
        if month_ends[k]:
            for b in range(states):
                after[b] = closed(p, after[b], 0.0)
        if seen:
            for b in range(states):
                _back(p, buy[k], sell[k], load[k, b], after[b], before[b], rows[0, : p.peaks])
            after = np.dot(moves[k], before.reshape(states, -1)).reshape(states, socs, p.peaks)
        else:
            _back_blind(p, buy[k], sell[k], load[k], moves[k], after, before, rows, mean)
            after = before.copy()
    out[0] = after
    return out


@compiled
def expected_eur(
    p: Plant, powers_kw: FloatArray, soc: float, peak_kw: float, buy: float, sell: float, load: FloatArray, chance: FloatArray,
    tables: FloatArray, month_ends: bool,
) -> FloatArray:  # fmt: skip
    """Mean cost to go of each power (charge positive) from a level and peak, (M,), where the step's load is not seen yet.

    `load`, `chance` (B,): of each state that the step may have; `tables` (B, socs, peaks): after it, not yet closed.
    """
    out = np.zeros(len(powers_kw))
    for c in range(len(load)):
        if chance[c] > 0.0:
            table = closed(p, tables[c], 0.0) if month_ends else tables[c]
            for m in range(len(powers_kw)):
                after, kw = after_power(p, soc, powers_kw[m])
                cost = step_eur(p, buy, sell, load[c], kw)
                out[m] += chance[c] * (cost + at_point(p, table, after, max(peak_kw, load[c] + kw)))
    return out
