"""Solvers of a SiteQP: PIQP, OSQP, Clarabel through cvxpy. Each status is mapped; nothing falls through as solved.

PIQP and OSQP are set up once for a pattern, kept with the SiteQP, and updated (optimizer.kept). Not here: the chain of what
happens when one fails (optimizer.mpc).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.kept import KeptOsqp, KeptPiqp

FloatArray = NDArray[np.float64]
PIQP_MAX_ITER = 120
OSQP_MAX_ITER = 60_000
"""For each step size; one of its iterations costs about a thousandth of an interior point's."""


@dataclass(frozen=True, slots=True)
class RawSolution:
    """x of the QP, its duals, and how it was found.

    A dual is minus the derivative of the objective by the bound that holds (EUR per unit of right-hand side): positive where an
    upper bound (gu, xu) binds, negative where a lower one (gl, xl) does, of either sign for an equality.
    """

    x: FloatArray
    equality_duals: FloatArray
    """Rows of `SiteQP.a`: per device N of the energy balance and N of the temperature, then N of the meter and N of tracking."""
    inequality_duals: FloatArray
    """Rows of `SiteQP.g` (`SiteQP.rows`, `SiteQP.meter_rows`); zero where a row has no bound."""
    bound_duals: FloatArray
    """Columns (`SiteQP.device`, `SiteQP.grid`). Where a column is fixed: its reduced cost, with that sign."""
    solver: str
    iterations: int
    solve_s: float


def solve_piqp(qp: SiteQP) -> RawSolution:
    """Interior point on the sparse problem; SolverError unless PIQP says solved."""
    began_s = time.perf_counter()
    kept = qp.kept.get("piqp")
    if not isinstance(kept, KeptPiqp) or not kept.fits(qp):
        kept = qp.kept["piqp"] = KeptPiqp(qp)
    x, y, z, w, iterations = kept.solve(qp, PIQP_MAX_ITER)
    return _checked(RawSolution(x, y, z, w, "piqp", iterations, time.perf_counter() - began_s))


def solve_osqp(qp: SiteQP) -> RawSolution:
    """ADMM on variables in units of their range, polished; SolverError unless OSQP says solved."""
    began_s = time.perf_counter()
    kept = qp.kept.get("osqp")
    if not isinstance(kept, KeptOsqp) or not kept.fits(qp):
        kept = qp.kept["osqp"] = KeptOsqp(qp)
    try:
        x, y, z, w, iterations = kept.solve(qp, OSQP_MAX_ITER)
    except SolverError:
        del qp.kept["osqp"]  # its iterates are no start for anything
        raise
    return _checked(RawSolution(x, y, z, w, "osqp", iterations, time.perf_counter() - began_s))


def solve_cvxpy(qp: SiteQP) -> RawSolution:
    """The assembled matrices through cvxpy and Clarabel: slow, exact. (The independent statement is optimizer.oracle.)"""
    began_s = time.perf_counter()
    x, y, z, w, iterations = clarabel(qp.p, qp.q, qp.a, qp.b, qp.g, qp.gl, qp.gu, qp.xl, qp.xu)
    return _checked(RawSolution(x, y, z, w, "cvxpy", iterations, time.perf_counter() - began_s))


def clarabel(
    p: FloatArray, q: FloatArray, a: sp.csc_matrix, b: FloatArray, g: sp.csc_matrix, gl: FloatArray, gu: FloatArray,
    xl: FloatArray, xu: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, int]:  # fmt: skip
    """min 1/2 x'diag(p)x + q'x, a x = b, gl <= g x <= gu, xl <= x <= xu through cvxpy and Clarabel.

    Returns (x, duals of a, of g, of x with RawSolution's signs, iterations). Raises SolverError unless it says solved.
    """
    import cvxpy as cp

    x = cp.Variable(len(q))
    equal = a @ x == b
    sides = []
    for expression, low, high in ((g @ x, gl, gu), (x, xl, xu)):
        below, above = np.isfinite(low), np.isfinite(high)
        sides.append((below, expression[below] >= low[below], above, expression[above] <= high[above]))
    objective = cp.Minimize(0.5 * cp.sum(cp.multiply(p, cp.square(x))) + q @ x)
    problem = cp.Problem(objective, [equal, *(side[j] for side in sides for j in (1, 3))])
    try:
        problem.solve(solver=cp.CLARABEL)
    except cp.error.SolverError as error:
        raise SolverError(f"cvxpy: {error}") from error
    if problem.status != cp.OPTIMAL or x.value is None:
        raise SolverError(f"cvxpy: {problem.status}")
    duals = []
    for below, low_side, above, high_side in sides:
        dual = np.zeros(len(below))
        dual[above] += np.atleast_1d(high_side.dual_value)
        dual[below] -= np.atleast_1d(low_side.dual_value)
        duals.append(dual)
    iterations = int(problem.solver_stats.num_iters or 0)
    return np.asarray(x.value), np.asarray(equal.dual_value), duals[0], duals[1], iterations


def _checked(solution: RawSolution) -> RawSolution:
    numbers = (solution.x, solution.equality_duals, solution.inequality_duals, solution.bound_duals)
    if not all(np.isfinite(array).all() for array in numbers):
        raise SolverError(f"{solution.solver}: a number of the solution is not finite")
    return solution


SOLVERS: Mapping[str, Callable[[SiteQP], RawSolution]] = {
    "piqp": solve_piqp,
    "osqp": solve_osqp,
    "cvxpy": solve_cvxpy,
}
