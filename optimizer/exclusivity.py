"""Charging and discharging at once: found, forbidden exactly, solved again.

A convex relaxation burns energy by doing both where import is cheap or negative. Steps where it does get a binary direction; the
mixed-integer problem (HiGHS, through SciPy) is solved with binaries on just those steps, and again while new steps turn up:
the end is the exact optimum, since every binary left out is satisfied anyway. Quadratic terms are left out of the
mixed-integer problem and put back with the directions fixed. The meter's import and export are treated alike.
Not here: the relaxation's solvers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.solvers import RawSolution

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
TOLERANCE_KW = 1e-3
ROUNDS = 12
MILP_TIME_S = 2.0
MILP_GAP = 1e-7


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


def enforce(qp: SiteQP, solve: Callable[[SiteQP], RawSolution], relaxed: RawSolution) -> tuple[RawSolution, bool]:
    """(solution without simultaneous flows, whether the relaxation was tight).

    The bounds of `qp` are restored. Raises SolverError when no round ends without simultaneous flows.
    """
    conflict = both(qp, relaxed.x)
    if not len(conflict):
        return relaxed, True
    a, b = pairs(qp)
    binary: set[int] = set(conflict.tolist())
    for _ in range(ROUNDS):
        ordered = np.array(sorted(binary))
        directions = _directions(qp, a[ordered], b[ordered])
        if directions is None:  # no answer in time: net direction of the relaxation, which is feasible
            directions = relaxed.x[a[ordered]] >= relaxed.x[b[ordered]]
        fixed = _solve_fixed(qp, solve, a[ordered], b[ordered], directions)
        more = set(both(qp, fixed.x).tolist()) - binary
        if not more:
            return fixed, False
        binary |= more
    raise SolverError(f"simultaneous charge and discharge remained after {ROUNDS} rounds")


def _solve_fixed(
    qp: SiteQP, solve: Callable[[SiteQP], RawSolution], a: IntArray, b: IntArray, first: NDArray[np.bool_]
) -> RawSolution:
    kept = qp.xu
    qp.xu = kept.copy()
    qp.xu[np.where(first, b, a)] = 0.0
    try:
        return solve(qp)
    finally:
        qp.xu = kept


def _directions(qp: SiteQP, a: IntArray, b: IntArray) -> NDArray[np.bool_] | None:
    """Optimal directions (True: first of the pair) of the linear part; None when there is no answer in time."""
    m, n = len(a), qp.size
    rows = np.arange(m)
    upper_a, upper_b = qp.xu[a], qp.xu[b]
    # a <= upper y,  b <= upper (1 - y)
    link = sp.csc_matrix(
        (
            np.concatenate([np.ones(m), -upper_a, np.ones(m), upper_b]),
            (np.concatenate([rows, rows, m + rows, m + rows]), np.concatenate([a, n + rows, b, n + rows])),
        ),
        shape=(2 * m, n + m),
    )
    pad = sp.csc_matrix((qp.a.shape[0] + qp.g.shape[0], m))
    matrix = sp.vstack([sp.hstack([sp.vstack([qp.a, qp.g]), pad]), link], format="csc")
    low = np.concatenate([qp.b, qp.gl, np.full(2 * m, -np.inf)])
    high = np.concatenate([qp.b, qp.gu, np.zeros(m), upper_b])
    result = milp(
        np.concatenate([qp.q, np.zeros(m)]),
        constraints=LinearConstraint(matrix, low, high),
        bounds=Bounds(np.concatenate([qp.xl, np.zeros(m)]), np.concatenate([qp.xu, np.ones(m)])),
        integrality=np.concatenate([np.zeros(n), np.ones(m)]),
        options={"mip_rel_gap": MILP_GAP, "time_limit": MILP_TIME_S},
    )
    if result.x is None:
        return None
    chosen: NDArray[np.bool_] = result.x[n:] > 0.5
    return chosen
