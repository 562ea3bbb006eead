"""Solvers of a SiteQP: PIQP, OSQP, Clarabel through cvxpy. Each status is mapped; nothing falls through as solved."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import osqp
import piqp
import scipy.sparse as sp
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import SiteQP

FloatArray = NDArray[np.float64]
OSQP_SOLVED = {"solved"}
"""`solved inaccurate`, `maximum iterations reached` and the rest are failures."""
PIQP_MAX_ITER = 120
OSQP_MAX_ITER = 100_000
"""One of its iterations costs about a thousandth of an interior point's."""


@dataclass(frozen=True, slots=True)
class RawSolution:
    """x of the QP, duals of its equalities (EUR per unit of right-hand side), and how it was found."""

    x: FloatArray
    equality_duals: FloatArray
    solver: str
    iterations: int
    solve_s: float


def solve_piqp(qp: SiteQP) -> RawSolution:
    """Interior point on the sparse problem; SolverError unless PIQP says solved."""
    began_s = time.perf_counter()
    solver = piqp.SparseSolver()
    solver.settings.eps_abs = 1e-8
    solver.settings.eps_rel = 1e-9
    solver.settings.max_iter = PIQP_MAX_ITER
    # An interior point needs an interior: fixed variables and rows without a bound are taken out first.
    free = qp.xu > qp.xl
    fixed = np.where(free, 0.0, qp.xl)
    rows = np.isfinite(qp.gl) | np.isfinite(qp.gu)
    a, g = qp.a[:, free], qp.g[rows][:, free]
    moved_a, moved_g = qp.a @ fixed, (qp.g @ fixed)[rows]
    solver.setup(
        sp.diags(qp.p[free], format="csc"),
        qp.q[free],
        a,
        qp.b - moved_a,
        g,
        qp.gl[rows] - moved_g,
        qp.gu[rows] - moved_g,
        qp.xl[free],
        qp.xu[free],
    )
    status = solver.solve()
    if status != piqp.PIQP_SOLVED:
        raise SolverError(f"PIQP: {status}")
    x = fixed.copy()
    x[free] = np.array(solver.result.x)
    return _checked(
        RawSolution(x, np.array(solver.result.y), "piqp", int(solver.result.info.iter), time.perf_counter() - began_s)
    )


def solve_osqp(qp: SiteQP) -> RawSolution:
    """ADMM, polished; SolverError unless OSQP says solved. rho adapts by iterations, not time: repeatable."""
    began_s = time.perf_counter()
    rows = np.isfinite(qp.gl) | np.isfinite(qp.gu)
    bounded = np.isfinite(qp.xl) | np.isfinite(qp.xu)
    matrix = sp.vstack([qp.a, qp.g[rows], sp.identity(qp.size, format="csr")[bounded]], format="csc")
    solver = osqp.OSQP()
    solver.setup(
        P=sp.diags(qp.p, format="csc"),
        q=qp.q,
        A=matrix,
        l=np.concatenate([qp.b, qp.gl[rows], qp.xl[bounded]]),
        u=np.concatenate([qp.b, qp.gu[rows], qp.xu[bounded]]),
        verbose=False,
        eps_abs=1e-5,
        eps_rel=1e-6,
        max_iter=OSQP_MAX_ITER,
        polishing=True,
        adaptive_rho=True,
        adaptive_rho_interval=25,
        scaling=15,
    )
    result = solver.solve(raise_error=False)
    if result.info.status not in OSQP_SOLVED:
        raise SolverError(f"OSQP: {result.info.status}")
    return _checked(
        RawSolution(
            np.array(result.x),
            np.array(result.y[: len(qp.b)]),
            "osqp",
            int(result.info.iter),
            time.perf_counter() - began_s,
        )
    )


def solve_cvxpy(qp: SiteQP) -> RawSolution:
    """The assembled matrices through cvxpy and Clarabel: slow, exact. (The independent statement is optimizer.oracle.)"""
    import cvxpy as cp

    began_s = time.perf_counter()
    x = cp.Variable(qp.size)
    equal = qp.a @ x == qp.b
    constraints = [equal]
    for expression, low, high in ((qp.g @ x, qp.gl, qp.gu), (x, qp.xl, qp.xu)):
        below, above = np.isfinite(low), np.isfinite(high)
        constraints += [expression[below] >= low[below], expression[above] <= high[above]]
    objective = cp.Minimize(0.5 * cp.sum(cp.multiply(qp.p, cp.square(x))) + qp.q @ x)
    problem = cp.Problem(objective, constraints)
    try:
        problem.solve(solver=cp.CLARABEL)
    except cp.error.SolverError as error:
        raise SolverError(f"cvxpy: {error}") from error
    if problem.status != cp.OPTIMAL or x.value is None:
        raise SolverError(f"cvxpy: {problem.status}")
    iterations = int(problem.solver_stats.num_iters or 0)
    return _checked(
        RawSolution(np.asarray(x.value), np.asarray(equal.dual_value), "cvxpy", iterations, time.perf_counter() - began_s)
    )


def _checked(solution: RawSolution) -> RawSolution:
    if not (np.isfinite(solution.x).all() and np.isfinite(solution.equality_duals).all()):
        raise SolverError(f"{solution.solver}: a number of the solution is not finite")
    return solution


SOLVERS: Mapping[str, Callable[[SiteQP], RawSolution]] = {
    "piqp": solve_piqp,
    "osqp": solve_osqp,
    "cvxpy": solve_cvxpy,
}
