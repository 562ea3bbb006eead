"""How good a policy was on prices that it had not seen, and how sure that is.

Here: share of perfect foresight, the paired week-block bootstrap. Stored energy is marked at the week's mean price at each block
boundary: what a week leaves in the store is its own, not the next one's. Without it blocks are not alike and intervals too wide.
Not here: operating a plant (optimizer.dynamic).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
RESAMPLES = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a policy earned at each step, EUR, and the energy that it had after each, kWh; both (T,)."""

    earned_eur: FloatArray
    stored_kwh: FloatArray

    @property
    def total_eur(self) -> float:
        """Sum over all steps."""
        return float(self.earned_eur.sum())


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Mean and interval of a paired difference, in points of perfect foresight."""

    points: float
    low: float
    high: float
    weeks_won: int
    """Blocks, where these are no weeks."""
    weeks_lost: int

    def __str__(self) -> str:
        return f"{self.points:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def block_values(run: Run, price_eur_per_kwh: FloatArray, block: int | IntArray) -> FloatArray:
    """EUR of each block of steps, its change of stored energy valued at the block's mean price. (blocks,).

    `block`: steps of each (whole blocks only), or where blocks begin and, last, where the last one ends.
    """
    edges = _edges(block, len(price_eur_per_kwh))
    count = np.diff(edges)
    earned = np.add.reduceat(run.earned_eur[: edges[-1]], edges[:-1])
    price = np.add.reduceat(price_eur_per_kwh[: edges[-1]], edges[:-1]) / count
    stored = run.stored_kwh[edges[1:] - 1]
    before, price_before = np.concatenate([[0.0], stored[:-1]]), np.concatenate([[0.0], price[:-1]])
    return np.asarray(earned + price * stored - price_before * before, dtype=np.float64)


def _edges(block: int | IntArray, total: int) -> IntArray:
    return np.arange(0, total // block + 1, dtype=np.int64) * block if isinstance(block, int) else block


def compare(
    run: Run,
    other: Run,
    best_eur: float,
    price_eur_per_kwh: FloatArray,
    block: int | IntArray,
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """`run` less `other` in points of `best_eur`, the sum of perfect foresight over the same steps."""
    mine, theirs = (block_values(item, price_eur_per_kwh, block) for item in (run, other))
    difference = mine - theirs
    blocks = len(difference)
    drawn = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    edges = _edges(block, len(price_eur_per_kwh))
    covered = best_eur * int(edges[-1] - edges[0]) / len(price_eur_per_kwh)
    sums = 100.0 * difference[drawn].sum(axis=1) / covered
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(sums, [tail, 100.0 - tail])
    return Difference(
        points=100.0 * float(run.total_eur - other.total_eur) / best_eur,
        low=float(low),
        high=float(high),
        weeks_won=int((difference > 0.01).sum()),
        weeks_lost=int((difference < -0.01).sum()),
    )
