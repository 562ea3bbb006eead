"""Charging and discharging at once: found, forbidden exactly, solved again.

A convex relaxation burns energy by doing both where import is cheap or negative. Its value is a lower bound. First the net
direction of each such step is fixed and the QP solved again: where that costs nothing more, it is the optimum. Otherwise a
mixed-integer problem (HiGHS, through SciPy) chooses the directions of just those steps, its quadratic terms replaced by tangents
(outer approximation: Duran and Grossmann, Mathematical Programming 36, 1986), and the QP is solved again with them, until
both bounds meet. Steps without a binary need none as long as the QP's answer keeps them exclusive; those that do not are added.
The meter's import and export are treated alike where export earns more than import costs, and netted elsewhere.
Not here: the relaxation's solvers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.solvers import RawSolution

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Solve = Callable[[SiteQP], RawSolution]
TOLERANCE_KW = 1e-3
ROUNDS = 12
MILP_TIME_S = 2.0
MILP_GAP = 1e-7
GAP = 1e-6
"""Relative distance of the bounds at which the search ends; of at least one euro."""


@dataclass(frozen=True, slots=True)
class Exclusive:
    """A solution in which nothing flows both ways."""

    solution: RawSolution
    tight: bool
    """Whether the relaxation was exclusive by itself."""
    gap_eur: float
    """How much better the best exclusive plan might at most be; 0 to GAP unless the search was cut off."""


@dataclass(frozen=True, slots=True)
class _Choice:
    directions: BoolArray
    x: FloatArray
    bound_eur: float
    finished: bool


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
    lower = qp.objective(relaxed.x)
    chosen: dict[int, bool] = _net_directions(relaxed.x, a, b, conflict)
    points, best, finished = [relaxed.x], None, True
    for _ in range(ROUNDS):
        fixed = _solve_fixed(qp, solve, chosen)
        points.append(fixed.x)
        more = set(both(qp, fixed.x).tolist()) - set(chosen)
        if not more and (best is None or qp.objective(fixed.x) < qp.objective(best.x)):
            best = fixed
        if not finished or (best is not None and _met(qp, best, lower)):
            break
        last = chosen
        active = np.array(sorted({*chosen, *more}))
        choice = _choose(qp, a[active], b[active], points)
        if choice is None:
            break
        lower, finished = max(lower, choice.bound_eur), choice.finished
        chosen = dict(zip(active.tolist(), choice.directions.tolist(), strict=True))
        if chosen == last:  # the tangents at its own optimum are in: no other choice can be better
            break
        points.append(choice.x)
        if best is not None and _met(qp, best, lower):
            break
    if best is None:
        best = _all_fixed(qp, solve, points[-1])
    return Exclusive(best, False, max(0.0, qp.objective(best.x) - lower))


def _met(qp: SiteQP, best: RawSolution, lower: float) -> bool:
    value = qp.objective(best.x)
    return value - lower <= GAP * max(1.0, abs(value))


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


def _choose(qp: SiteQP, a: IntArray, b: IntArray, points: list[FloatArray]) -> _Choice | None:
    """Directions of the mixed-integer problem with tangents at `points`; None when HiGHS has no answer in time."""
    m, n = len(a), qp.size
    curved = np.flatnonzero(qp.p > 0)
    width = n + m + len(curved)  # x, binaries, one bound on each quadratic term
    rows, upper_a, upper_b = np.arange(m), qp.xu[a], qp.xu[b]
    # a <= upper y,  b <= upper (1 - y)
    link = _matrix(
        (2 * m, width),
        (rows, a, 1.0),
        (rows, n + rows, -upper_a),
        (m + rows, b, 1.0),
        (m + rows, n + rows, upper_b),
    )
    tangents, heights = _tangents(qp, curved, n + m, width, points)
    body = sp.vstack([qp.a, qp.g])
    body = sp.hstack([body, sp.csc_matrix((body.shape[0], width - n))])
    low = np.concatenate([qp.b, qp.gl, np.full(2 * m, -np.inf), heights])
    high = np.concatenate([qp.b, qp.gu, np.zeros(m), upper_b, np.full(len(heights), np.inf)])
    result = milp(
        np.concatenate([qp.q, np.zeros(m), np.ones(len(curved))]),
        constraints=LinearConstraint(sp.vstack([body, link, tangents], format="csc"), low, high),
        bounds=Bounds(
            np.concatenate([qp.xl, np.zeros(width - n)]),
            np.concatenate([qp.xu, np.ones(m), np.full(len(curved), np.inf)]),
        ),
        integrality=np.concatenate([np.zeros(n), np.ones(m), np.zeros(len(curved))]),
        options={"mip_rel_gap": MILP_GAP, "time_limit": MILP_TIME_S},
    )
    if result.x is None:
        return None
    bound = result.mip_dual_bound if result.mip_dual_bound is not None else -np.inf
    return _Choice(result.x[n : n + m] > 0.5, result.x[:n], float(bound) + qp.constant, bool(result.status == 0))


def _tangents(
    qp: SiteQP, curved: IntArray, offset: int, width: int, points: list[FloatArray]
) -> tuple[sp.csc_matrix, FloatArray]:
    """Rows theta_j - p_j y_j x_j >= -p_j y_j^2 / 2 at each point y, but where they say no more than theta_j >= 0."""
    rows: list[tuple[IntArray, FloatArray, IntArray]] = []
    for point in points:
        y = point[curved]
        told = np.flatnonzero(qp.p[curved] * y**2 > 1e-10)
        rows.append((told, y[told], curved[told]))
    which, y, columns = (np.concatenate([row[k] for row in rows]) for k in range(3))
    slope, index = qp.p[columns] * y, np.arange(len(which))
    return _matrix((len(which), width), (index, offset + which, 1.0), (index, columns, -slope)), -0.5 * slope * y


def _matrix(shape: tuple[int, int], *entries: tuple[IntArray, IntArray, FloatArray | float]) -> sp.csc_matrix:
    values = [np.broadcast_to(np.asarray(value, dtype=np.float64), row.shape) for row, _, value in entries]
    row = np.concatenate([entry[0] for entry in entries])
    column = np.concatenate([entry[1] for entry in entries])
    return sp.csc_matrix((np.concatenate(values), (row, column)), shape=shape)
