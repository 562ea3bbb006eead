"""Charging and discharging at once: found, forbidden exactly, solved again.

A convex relaxation burns energy by doing both where import is cheap or negative. Its value is a lower bound.

1. Detection. By the duals both can be optimal only where the price of net import is at or below -a (1 + eta2) / (1 - eta2), with
   wear a per kWh and eta2 the round trip. Where the flows found overlap is where it matters.
2. Ties. Where that price is just met overlap earns nothing: the net directions are fixed and the QP solved again.
3. Branching. A mixed-integer problem (optimizer.directions) with the convex hull of each step (optimizer.hull) chooses the
   directions of just those pairs and gives a better lower bound; the QP is solved again with them. It is repeated with more pairs
   (that flow both ways now), rows (that were broken) and tangents of quadratic terms, until both bounds meet.

The meter's import and export are treated alike where export earns more than import costs, and netted elsewhere.
Not here: the relaxation's solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.directions import choose
from optimizer.solvers import RawSolution

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
Solve = Callable[[SiteQP], RawSolution]
TOLERANCE_KW = 1e-3
ROUNDS = 12
GAP = 1e-6
"""Relative distance of the bounds at which the search ends; of at least one euro."""
TIE_EUR_PER_KWH = 1e-4
"""A price this little below the threshold is at it."""


@dataclass(frozen=True, slots=True)
class Exclusive:
    """A solution in which nothing flows both ways."""

    solution: RawSolution
    tight: bool
    """Whether the relaxation was exclusive by itself."""
    gap_eur: float
    """How much better the best exclusive plan might at most be; 0 to GAP unless the search was cut off."""
    out_of_time: bool = False
    """Whether wall time cut the search off (directions.MILP_TIME_S); a count of nodes, which is repeatable, else does."""


def pairs(qp: SiteQP) -> tuple[IntArray, IntArray]:
    """Columns that exclude each other: (charge, discharge) of each device and step, (import, export) of each step."""
    devices = qp.shape[1]
    first = [qp.device(i, "c") for i in range(devices)] + [qp.grid("b")]
    second = [qp.device(i, "d") for i in range(devices)] + [qp.grid("s")]
    return np.concatenate(first), np.concatenate(second)


def both(qp: SiteQP, x: FloatArray) -> IntArray:
    """Indices into `pairs` where both sides flow."""
    a, b = pairs(qp)
    found: IntArray = np.flatnonzero(np.minimum(x[a], x[b]) > TOLERANCE_KW)
    return found


def enforce(qp: SiteQP, solve: Solve, relaxed: RawSolution) -> Exclusive:
    """The best solution without simultaneous flows, from the relaxation's solution.

    The bounds of `qp` are restored. Raises SolverError when `solve` fails with directions fixed.
    """
    relaxed = _netted(qp, relaxed)
    conflict = both(qp, relaxed.x)
    if not len(conflict):
        return Exclusive(relaxed, True, 0.0)
    a, b = pairs(qp)
    search = _Search(qp.objective(relaxed.x))
    if _ties(qp, relaxed, conflict):
        search.add(qp, _solve_fixed(qp, solve, _net_directions(relaxed.x, a, b, conflict)))
        if search.met():
            return search.result(qp)
    points, active = [relaxed.x], np.union1d(conflict, _by_duals(qp, relaxed))
    for _ in range(ROUNDS):
        choice = choose(qp, a[active], b[active], points)
        if choice is None:
            break
        search.lower = max(search.lower, choice.bound_eur)
        search.out_of_time |= choice.out_of_time
        fixed = _solve_fixed(qp, solve, dict(zip(active.tolist(), choice.directions.tolist(), strict=True)))
        points += [choice.x, fixed.x]
        more = search.add(qp, fixed)
        if search.met() or not choice.finished:
            break
        active = np.union1d(active, more)
    if search.best is None:
        search.add(qp, _all_fixed(qp, solve, points[-1]))
    return search.result(qp)


@dataclass(slots=True)
class _Search:
    """Both bounds."""

    lower: float
    best: RawSolution | None = None
    value: float = np.inf
    out_of_time: bool = False

    def add(self, qp: SiteQP, found: RawSolution) -> IntArray:
        """Take a solution as the best if it is; returns the pairs in which it flows both ways, and then it is not."""
        overlapping = both(qp, found.x)
        if not len(overlapping) and qp.objective(found.x) < self.value:
            self.best, self.value = found, qp.objective(found.x)
        return overlapping

    def met(self) -> bool:
        return self.best is not None and self.value - self.lower <= GAP * max(1.0, abs(self.value))

    def result(self, qp: SiteQP) -> Exclusive:
        if self.best is None:
            raise SolverError("no plan without simultaneous flows was found")
        return Exclusive(self.best, False, max(0.0, self.value - self.lower), self.out_of_time)


def thresholds(qp: SiteQP) -> FloatArray:
    """Price of net import (EUR/kWh) at or below which each pair of `pairs` can overlap; the meter's are 0: see _netted."""
    found = []
    for d in qp.problem.devices:
        eta2 = d.eta_charge * d.eta_discharge
        lossy = eta2 < 1.0
        cheapest = d.wear_segments[0].wear_eur_per_kwh if d.wear_segments else d.wear_eur_per_kwh
        discount = 2 * d.layer_scale * d.eta_charge * (d.wear_eur_per_kwh - cheapest)
        price = -(d.wear_eur_per_kwh * (1 + eta2) - discount) / np.where(lossy, 1 - eta2, 1.0)
        found.append(np.where(lossy, price, -np.inf))
    return np.concatenate([*found, np.zeros(qp.n)])


def _price(qp: SiteQP, relaxed: RawSolution) -> FloatArray:
    """Price of net import at each pair."""
    price = -relaxed.equality_duals[qp.equality_rows(None, "balance")] / qp.problem.dt_h
    return np.tile(price, qp.shape[1] + 1)


def _ties(qp: SiteQP, relaxed: RawSolution, conflict: IntArray) -> bool:
    """Whether every overlap is where the price is no lower than just the threshold, so that it earns nothing."""
    return bool((_price(qp, relaxed) > thresholds(qp) - TIE_EUR_PER_KWH)[conflict].all())


def _by_duals(qp: SiteQP, relaxed: RawSolution) -> IntArray:
    """Device pairs that could overlap at the relaxation's prices, whether they do or not."""
    devices = qp.shape[1] * qp.n
    found: IntArray = np.flatnonzero(_price(qp, relaxed)[:devices] <= thresholds(qp)[:devices] + TIE_EUR_PER_KWH)
    return found


def _netted(qp: SiteQP, solution: RawSolution) -> RawSolution:
    """Import and export at once cost nothing less than their difference where import is not cheaper than export earns."""
    b, s = qp.grid("b"), qp.grid("s")
    overlap = np.where(qp.q[b] + qp.q[s] >= 0.0, np.minimum(solution.x[b], solution.x[s]), 0.0)
    x = solution.x.copy()
    x[b] -= np.maximum(overlap, 0.0)
    x[s] -= np.maximum(overlap, 0.0)
    return replace(solution, x=x)


def _net_directions(x: FloatArray, a: IntArray, b: IntArray, which: IntArray) -> dict[int, bool]:
    """True: the first of the pair flows."""
    return {int(j): bool(x[a[j]] >= x[b[j]]) for j in which}


def _all_fixed(qp: SiteQP, solve: Solve, x: FloatArray) -> RawSolution:
    """Every pair fixed to its net direction: exclusive without fail, perhaps not the best."""
    a, b = pairs(qp)
    fixed = _solve_fixed(qp, solve, _net_directions(x, a, b, np.arange(len(a))))
    if len(both(qp, fixed.x)):
        raise SolverError("simultaneous charge and discharge remained with every direction fixed")
    return fixed


def _solve_fixed(qp: SiteQP, solve: Solve, chosen: dict[int, bool]) -> RawSolution:
    a, b = pairs(qp)
    index, first = np.array(list(chosen)), np.array(list(chosen.values()))
    kept = qp.xu
    qp.xu = kept.copy()
    qp.xu[np.where(first, b[index], a[index])] = 0.0
    try:
        return _netted(qp, solve(qp))
    finally:
        qp.xu = kept
