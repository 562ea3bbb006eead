"""Dynamic programming over stored energy: what a kWh in the store is worth after each step of a price series.

Energy lies on a lattice of equal steps, so that full power moves a whole number of them. The plan on the lattice is then optimal
for the plant with continuous energy too, wherever its value is concave (a network flow with whole bounds has whole solutions).
The value of n intervals is kept as n marginals. One backward step of a linear plant is the sup-convolution of a concave value
with a concave piecewise-linear profit, a merge of two sorted lists of slopes (Rockafellar, Convex Analysis, 1970, section 16):
    slopes after the step + (charge_steps slopes price/eta_c, discharge_steps slopes eta_d (price - wear)), sorted, then shifted.

Far below zero a price makes it worth to waste energy, price/eta_c < eta_d (price - wear): the profit is then not concave.
`backup`, and with it perfect foresight, is exact there too; `merge` takes the concave profit that never wastes. Not here:
forecasts, learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from core.compiled import kept_on_disk
from core.errors import InputError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
_F = TypeVar("_F", bound=Callable[..., Any])
TIE_EUR = 1e-9
"""Moves whose worth differs by less are equal: the shorter one is made."""


def _compiled(function: _F) -> _F:
    compiled: _F = kept_on_disk(error_model="numpy")(function)
    return compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class Lattice:
    """A store whose losses, power and wear do not depend on its state, on equal steps of stored energy."""

    dt_s: float
    step_wh: float
    """Stored energy of one interval."""
    intervals: int
    charge_steps: int
    """Intervals that full charging power fills in a step of dt_s."""
    discharge_steps: int
    eta_charge: float
    eta_discharge: float
    wear_eur_per_kwh: float
    """Per kWh delivered."""

    def vector(self) -> tuple[int, int, float, float, float, float]:
        """The numbers in the order in which the compiled functions take them."""
        kwh = self.step_wh / 1000.0
        return self.charge_steps, self.discharge_steps, self.eta_charge, self.eta_discharge, self.wear_eur_per_kwh, kwh


def lattice(
    *,
    capacity_wh: float,
    power_w: float,
    round_trip: float,
    wear_eur_per_kwh: float,
    dt_s: float,
    charge_steps: int,
) -> Lattice:
    """A plant of equal rating both ways. Charging is exact; discharge power and capacity are rounded down to the lattice.

    Raises InputError when a number cannot be.
    """
    for name, value, low, high in (
        ("capacity_wh", capacity_wh, 0.0, np.inf),
        ("power_w", power_w, 0.0, np.inf),
        ("round_trip", round_trip, 0.0, 1.0 + 1e-12),
        ("dt_s", dt_s, 0.0, np.inf),
        ("charge_steps", float(charge_steps), 0.0, np.inf),
    ):
        if not low < value < high:
            raise InputError(source="plant", field=name, value=value, expected=f"a number above {low:g} and below {high:g}")
    eta = float(np.sqrt(round_trip))
    step_wh = power_w * dt_s / 3600.0 * eta / charge_steps
    made = Lattice(
        dt_s=dt_s,
        step_wh=step_wh,
        intervals=int(capacity_wh / step_wh + 1e-6),
        charge_steps=charge_steps,
        discharge_steps=int(power_w * dt_s / 3600.0 / eta / step_wh + 1e-6),
        eta_charge=eta,
        eta_discharge=eta,
        wear_eur_per_kwh=wear_eur_per_kwh,
    )
    if made.intervals < 1 or made.discharge_steps < 1:
        raise InputError(source="plant", field="charge_steps", value=charge_steps, expected="a finer lattice")
    return made


@_compiled
def profit(price: float, move: int, eta_c: float, eta_d: float, wear: float, kwh: float) -> float:
    """EUR earned by a move of so many intervals (up is charging) at a price in EUR/kWh, wear included."""
    if move > 0:
        return -move * kwh / eta_c * price
    return -move * kwh * eta_d * (price - wear)


@_compiled
def backup(
    price: float,
    after: FloatArray,
    before: FloatArray,
    move: IntArray,
    up: int,
    down: int,
    ec: float,
    ed: float,
    w: float,
    kwh: float,
) -> None:
    """Exact backward step on values (n + 1,), EUR; `move` receives the best move of each level."""
    n = len(after)
    for s in range(n):
        best, chosen = after[s], 0
        for j in range(max(0, s - down), min(n - 1, s + up) + 1):
            worth = profit(price, j - s, ec, ed, w, kwh) + after[j]
            if worth > best + 1e-9 or (abs(worth - best) <= 1e-9 and abs(j - s) < abs(chosen)):
                best, chosen = worth, j - s
        before[s], move[s] = best, chosen


@_compiled
def merge(price: float, after: FloatArray, before: FloatArray, up: int, down: int, ec: float, ed: float, w: float) -> None:
    """Backward step on marginals (n,), EUR/kWh, non-increasing before and after. O(n)."""
    n = len(after)
    buy = price / ec
    sell = min(ed * (price - w), buy)
    i, k = 0, -up
    while i < n and after[i] > buy:
        if 0 <= k < n:
            before[k] = after[i]
        i += 1
        k += 1
    for _ in range(up):
        if 0 <= k < n:
            before[k] = buy
        k += 1
    while i < n and after[i] > sell:
        if 0 <= k < n:
            before[k] = after[i]
        i += 1
        k += 1
    for _ in range(down):
        if 0 <= k < n:
            before[k] = sell
        k += 1
    while i < n and k < n:
        if k >= 0:
            before[k] = after[i]
        i += 1
        k += 1


@_compiled
def best_move(
    price: float, marginals: FloatArray, level: int, up: int, down: int, ec: float, ed: float, w: float, kwh: float
) -> int:
    """The move that earns most at a price when energy left over is worth `marginals` (n,), EUR/kWh; of equals the shortest."""
    best, chosen, worth = 0.0, 0, 0.0
    for j in range(1, up + 1):
        if level + j > len(marginals):
            break
        worth += marginals[level + j - 1] * kwh
        now = worth + profit(price, j, ec, ed, w, kwh)
        if now > best + 1e-9:
            best, chosen = now, j
    worth = 0.0
    for j in range(1, down + 1):
        if level - j < 0:
            break
        worth -= marginals[level - j] * kwh
        now = worth + profit(price, -j, ec, ed, w, kwh)
        if now > best + 1e-9 or (abs(now - best) <= 1e-9 and j < abs(chosen)):
            best, chosen = now, -j
    return chosen


@_compiled
def _foresight(price: FloatArray, n: int, up: int, down: int, ec: float, ed: float, w: float, kwh: float) -> FloatArray:
    steps = len(price)
    marginals = np.zeros((steps, n))
    after, before, move = np.zeros(n + 1), np.zeros(n + 1), np.zeros(n + 1, np.int64)
    for t in range(steps - 1, -1, -1):
        for s in range(n):
            marginals[t, s] = (after[s + 1] - after[s]) / kwh
        backup(price[t], after, before, move, up, down, ec, ed, w, kwh)
        after, before = before, after
    return marginals


@_compiled
def _lookback(
    price: FloatArray, learned: FloatArray, share: float, n: int, up: int, down: int, ec: float, ed: float, w: float
) -> FloatArray:
    out = np.zeros((len(price), n))
    after, before = np.zeros(n), np.zeros(n)
    for t in range(len(price) - 1, -1, -1):
        out[t] = after
        if t < len(price) - 1:  # after the last step nothing is worth anything, whatever has been learned
            for s in range(n):
                after[s] = share * after[s] + (1.0 - share) * learned[t, s]
        merge(price[t], after, before, up, down, ec, ed, w)
        after, before = before, after
    return out


@_compiled
def _rolling(
    ahead: FloatArray, known: IntArray, terminal: FloatArray, n: int, up: int, down: int, ec: float, ed: float, w: float
) -> FloatArray:
    out = np.zeros((len(ahead), n))
    after, before = np.zeros(n), np.zeros(n)
    for t in range(len(ahead)):
        after[:] = terminal[t]
        for k in range(known[t] - 1, -1, -1):
            merge(ahead[t, k], after, before, up, down, ec, ed, w)
            after, before = before, after
        out[t] = after
    return out


@_compiled
def _operate(
    price: FloatArray, marginals: FloatArray, start: int, up: int, down: int, ec: float, ed: float, w: float, kwh: float
) -> tuple[FloatArray, IntArray]:
    earned, level = np.zeros(len(price)), np.zeros(len(price), np.int64)
    s = start
    for t in range(len(price)):
        move = best_move(price[t], marginals[t], s, up, down, ec, ed, w, kwh)
        earned[t] = profit(price[t], move, ec, ed, w, kwh)
        s += move
        level[t] = s
    return earned, level


@_compiled
def _followed(
    price: FloatArray, marginals: FloatArray, n: int, up: int, down: int, ec: float, ed: float, w: float, kwh: float
) -> FloatArray:
    out = np.zeros((len(price), n))
    after, before = np.zeros(n + 1), np.zeros(n + 1)
    for t in range(len(price) - 1, -1, -1):
        for s in range(n):
            out[t, s] = (after[s + 1] - after[s]) / kwh
        for s in range(n + 1):
            move = best_move(price[t], marginals[t], s, up, down, ec, ed, w, kwh)
            before[s] = profit(price[t], move, ec, ed, w, kwh) + after[s + move]
        after, before = before, after
    return out


def perfect_foresight(price_eur_per_kwh: FloatArray, plant: Lattice) -> FloatArray:
    """Worth of a further kWh AFTER each step when all prices (T,) are known, EUR/kWh, (T, intervals). Exact; nothing is worth
    anything after the last step."""
    price = np.ascontiguousarray(price_eur_per_kwh, dtype=np.float64)
    found: FloatArray = _foresight(price, plant.intervals, *plant.vector())
    return found


def followed(price_eur_per_kwh: FloatArray, marginals: FloatArray, plant: Lattice) -> FloatArray:
    """What a further kWh AFTER each step brought one who acted by `marginals` on prices (T,), EUR/kWh; both (T, intervals).

    The policy's own value, by level, without the knowledge that hindsight has; not monotone. Acting by its mean given what was
    known is policy improvement (Howard, Dynamic Programming and Markov Processes, 1960). Prices do not answer, so that one pass
    values all levels. Nothing is worth anything after the last step.
    """
    price = np.ascontiguousarray(price_eur_per_kwh, dtype=np.float64)
    said = np.ascontiguousarray(marginals, dtype=np.float64)
    found: FloatArray = _followed(price, said, plant.intervals, *plant.vector())
    return found


def lookback(price_eur_per_kwh: FloatArray, learned: FloatArray, plant: Lattice, share: float) -> FloatArray:
    """Marginals AFTER each step from the prices that came and from what energy was said to be worth, (T, intervals).

    The lambda-return of reinforcement learning (Sutton, Machine Learning 3 (1988) 9) on marginals: after a step counts `share` of
    what hindsight says and 1 - `share` of `learned` (T, intervals), non-increasing. With 1 it is perfect foresight, whose mean
    overrates waiting (it knows the next spike); with less the value is more and more that of one who does not know what comes.
    """
    price = np.ascontiguousarray(price_eur_per_kwh, dtype=np.float64)
    said = np.ascontiguousarray(learned, dtype=np.float64)
    found: FloatArray = _lookback(price, said, share, plant.intervals, *plant.vector()[:5])
    return found


def rolling(
    ahead_eur_per_kwh: FloatArray, steps_ahead: IntArray, plant: Lattice, terminal: FloatArray | None = None
) -> FloatArray:
    """The same for a plan made anew at each step from forecasts: the MPC on a (time, energy) table, (T, intervals).

    `ahead_eur_per_kwh[t, k]` is what is expected at t, for step t + 1 + k; the first `steps_ahead[t]` of them count. `terminal`
    (T,) or (T, intervals) is what energy is worth after them; nothing when left out.
    """
    ahead = np.ascontiguousarray(ahead_eur_per_kwh, dtype=np.float64)
    end = np.zeros((len(ahead), plant.intervals)) if terminal is None else np.asarray(terminal, dtype=np.float64)
    if end.ndim == 1:
        end = np.repeat(end[:, None], plant.intervals, axis=1)
    known = np.clip(np.asarray(steps_ahead, dtype=np.int64), 0, ahead.shape[1])
    found: FloatArray = _rolling(ahead, known, np.ascontiguousarray(end), plant.intervals, *plant.vector()[:5])
    return found


def operate(price_eur_per_kwh: FloatArray, marginals: FloatArray, plant: Lattice, start: int = 0) -> tuple[FloatArray, IntArray]:
    """Act on prices (T,) by what energy is said to be worth, (T, intervals): EUR earned and level after each step, both (T,)."""
    price = np.ascontiguousarray(price_eur_per_kwh, dtype=np.float64)
    found: tuple[FloatArray, IntArray] = _operate(price, np.ascontiguousarray(marginals), start, *plant.vector())
    return found


def non_increasing(marginals: FloatArray) -> FloatArray:
    """The same numbers with the dear ones first, (..., n): the nearest concave value loses nothing by it."""
    return -np.sort(-marginals, axis=-1)
