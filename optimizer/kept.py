"""PIQP and OSQP set up once for the pattern of a SiteQP, then updated with its values at each solve.

The pattern is that of the matrices and of which rows and bounds are finite. A column that is fixed now (a direction forbidden, no
PV to curtail in that slot) keeps its place. `fits` says whether a problem has the pattern; another needs another object.
Solutions do not depend on what was solved before, beyond the solver's tolerance. Not here: what a failure leads to.
"""

from __future__ import annotations

import numpy as np
import osqp
import piqp
import scipy.sparse as sp
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import DEVICE_BLOCKS, GRID_BLOCKS, SiteQP

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Found = tuple[FloatArray, FloatArray, FloatArray, FloatArray, int]
"""x, duals of equalities, inequalities and bounds (signs of RawSolution), iterations."""
OSQP_SOLVED = {"solved"}
"""`solved inaccurate`, `maximum iterations reached` and the rest are failures."""
OSQP_RHO = (0.03, 0.1)
PIQP_REGULARISATION = ((1e-6, 1e-4), (1e-2, 1e-2))
"""(rho, delta) at the start. The second, tried when the first does not converge, is for linear problems with a thin interior."""


class _Part:
    """Some rows and columns of a CSC matrix whose pattern is kept: values are copied, not sliced anew."""

    def __init__(self, matrix: sp.csc_matrix, rows: BoolArray, columns: BoolArray) -> None:
        of_column = np.repeat(np.arange(matrix.shape[1]), np.diff(matrix.indptr))
        keep = rows[matrix.indices] & columns[of_column]
        self._source: IntArray = np.flatnonzero(keep)
        place = np.cumsum(columns) - 1
        self.column: IntArray = place[of_column[keep]]
        pointers = np.concatenate([[0], np.cumsum(np.bincount(self.column, minlength=int(columns.sum())))])
        indices = (np.cumsum(rows) - 1)[matrix.indices[keep]]
        shape = (int(rows.sum()), int(columns.sum()))
        self.csc = sp.csc_matrix((matrix.data[self._source], indices, pointers), shape=shape)

    def fill(self, matrix: sp.csc_matrix) -> sp.csc_matrix:
        self.csc.data[:] = matrix.data[self._source]
        return self.csc


def _finite(qp: SiteQP) -> tuple[BoolArray, ...]:
    return tuple(np.isfinite(side) for side in (qp.gl, qp.gu, qp.xl, qp.xu))


class KeptPiqp:
    """Interior point (Schwan et al., PIQP, CDC 2023). An interior point needs an interior, which a fixed column has not.

    Columns fixed at the set-up in the whole of their block are left out. One fixed later is uncoupled instead: its entries become
    zero, its value moves to the right-hand sides, and alone in [0, 1] it costs nothing but itself.
    """

    def __init__(self, qp: SiteQP) -> None:
        self._shape, self._sides = qp.shape, _finite(qp)
        self._columns = _with_whole_blocks(qp, qp.xu > qp.xl)
        self._rows = self._sides[0] | self._sides[1]
        self._a = _Part(qp.a, np.ones(len(qp.b), dtype=np.bool_), self._columns)
        self._g = _Part(qp.g, self._rows, self._columns)
        count = int(self._columns.sum())
        self._p = sp.csc_matrix((np.zeros(count), np.arange(count), np.arange(count + 1)), shape=(count, count))
        self._solver = piqp.SparseSolver()
        self._solver.settings.eps_abs = 1e-8
        self._solver.settings.eps_rel = 1e-9
        # Every limit is soft or a bound, so that there always is a solution: a certificate of the opposite, seen at the default
        # 1e-4 where penalties are large, is rounding.
        self._solver.settings.eps_primal_inf = self._solver.settings.eps_dual_inf = 1e-10
        self._solver.settings.reg_lower_limit = 1e-8
        self._solver.settings.reg_finetune_lower_limit = 1e-10
        self._set_up = False

    def fits(self, qp: SiteQP) -> bool:
        """Whether the problem has the pattern of this object."""
        return (
            qp.shape == self._shape
            and not (qp.xu > qp.xl)[~self._columns].any()
            and all(np.array_equal(now, then) for now, then in zip(_finite(qp), self._sides, strict=True))
        )

    def solve(self, qp: SiteQP, max_iter: int) -> Found:
        """Raises SolverError unless PIQP says solved."""
        columns, rows = self._columns, self._rows
        free = qp.xu > qp.xl
        fixed = np.where(free, 0.0, qp.xl)
        loose = free[columns]
        a, g = self._a.fill(qp.a), self._g.fill(qp.g)
        b, gl, gu = qp.b, qp.gl[rows], qp.gu[rows]
        if fixed.any():
            moved = (qp.g @ fixed)[rows]
            b, gl, gu = b - qp.a @ fixed, gl - moved, gu - moved
        if not loose.all():
            a.data *= loose[self._a.column]
            g.data *= loose[self._g.column]
        self._p.data[:] = np.where(loose, qp.p[columns], 0.0)
        q = np.where(loose, qp.q[columns], 1.0)
        xl, xu = np.where(loose, qp.xl[columns], 0.0), np.where(loose, qp.xu[columns], 1.0)
        settings = self._solver.settings
        settings.max_iter = max_iter
        if self._set_up:
            self._solver.update(self._p, q, a, b, g, gl, gu, xl, xu)
        else:
            self._solver.setup(self._p, q, a, b, g, gl, gu, xl, xu)
            self._set_up = True
        iterations = 0
        for settings.rho_init, settings.delta_init in PIQP_REGULARISATION:
            status = self._solver.solve()
            result = self._solver.result
            iterations += int(result.info.iter)
            if status == piqp.PIQP_SOLVED:
                break
        else:
            raise SolverError(f"PIQP: {status}")
        x = fixed.copy()
        x[free] = np.array(result.x)[loose]
        y, z, w = np.array(result.y), np.zeros(len(qp.gl)), np.zeros(qp.size)
        z[rows] = np.array(result.z_u) - np.array(result.z_l)
        w[columns] = np.array(result.z_bu) - np.array(result.z_bl)
        if not free.all():
            w[~free] = -(qp.p * x + qp.q + qp.a.T @ y + qp.g.T @ z)[~free]
        return x, y, z, w, iterations


class KeptOsqp:
    """ADMM (Stellato et al., OSQP, 2020) on variables in units of their range, polished, warm from the last solution.

    The last solution is shifted by a step when the problem has been updated since. The step size rho is fixed, which is
    repeatable; its adaptation was seen to cycle on these problems. Where it does not converge a second, larger one is tried.
    """

    def __init__(self, qp: SiteQP) -> None:
        self._shape, self._sides = qp.shape, _finite(qp)
        self._rows = self._sides[0] | self._sides[1]
        self._bounded = self._sides[2] | self._sides[3]
        everything = np.ones(qp.size, dtype=np.bool_)
        identity = sp.identity(qp.size, format="csr")[self._bounded]
        stacked = sp.vstack([qp.a, _Part(qp.g, self._rows, everything).csc, identity], format="csc")
        # Each entry's place in the stack, by stacking the places themselves.
        places = [np.arange(1.0, m.nnz + 1) for m in (qp.a, qp.g, identity)]
        starts = np.cumsum([0, qp.a.nnz, qp.g.nnz])
        numbered = [
            sp.csc_matrix((place + start, m.indices, m.indptr), shape=m.shape)
            for place, start, m in zip(places, starts, (qp.a, qp.g, sp.csc_matrix(identity)), strict=True)
        ]
        numbered[1] = _Part(numbered[1], self._rows, everything).csc
        self._source: IntArray = sp.vstack(numbered, format="csc").data.astype(np.int64) - 1
        self._matrix = stacked
        self._column = np.repeat(np.arange(qp.size), np.diff(stacked.indptr))
        self._solver = osqp.OSQP()
        self._rho = 0.0
        self._last: tuple[int, FloatArray, FloatArray] | None = None

    def fits(self, qp: SiteQP) -> bool:
        """Whether the problem has the pattern of this object."""
        return qp.shape == self._shape and all(
            np.array_equal(now, then) for now, then in zip(_finite(qp), self._sides, strict=True)
        )

    def solve(self, qp: SiteQP, max_iter: int) -> Found:
        """Raises SolverError unless OSQP says solved; the object must not be used after that."""
        rows, bounded, matrix = self._rows, self._bounded, self._matrix
        ones = np.ones(int(bounded.sum()))
        matrix.data[:] = np.concatenate([qp.a.data, qp.g.data, ones])[self._source] * qp.unit[self._column]
        largest = np.zeros(matrix.shape[0])
        np.maximum.at(largest, matrix.indices, np.abs(matrix.data))
        weight = 1.0 / np.where(largest > 0, largest, 1.0)
        matrix.data *= weight[matrix.indices]
        p, q = qp.p * qp.unit**2, qp.q * qp.unit
        low = weight * np.concatenate([qp.b, qp.gl[rows], qp.xl[bounded]])
        high = weight * np.concatenate([qp.b, qp.gu[rows], qp.xu[bounded]])
        if self._last is None:
            diagonal = sp.csc_matrix((p, np.arange(qp.size), np.arange(qp.size + 1)), shape=(qp.size, qp.size))
            self._solver.setup(
                P=diagonal,
                q=q,
                A=matrix,
                l=low,
                u=high,
                verbose=False,
                eps_abs=1e-6,
                eps_rel=1e-6,
                polishing=True,
                adaptive_rho=False,
                rho=OSQP_RHO[0],
                scaling=15,
                max_iter=max_iter,
            )
            self._rho = OSQP_RHO[0]
        else:
            self._solver.update(q=q, l=low, u=high, Px=p, Ax=matrix.data)
            version, x, y = self._last
            if version != qp.version:
                x, y = self._shifted(qp, x, y)
            self._solver.warm_start(x=x / qp.unit, y=y / weight)
        iterations = 0
        for rho in OSQP_RHO:
            if rho != self._rho:
                self._solver.update_settings(rho=rho)
                self._rho = rho
            self._solver.update_settings(max_iter=max_iter)
            result = self._solver.solve(raise_error=False)
            iterations += int(result.info.iter)
            if result.info.status in OSQP_SOLVED:
                break
        else:
            raise SolverError(f"OSQP: {result.info.status}")
        x, y = np.array(result.x) * qp.unit, np.array(result.y) * weight
        self._last = (qp.version, x, y)
        z, w, first = np.zeros(len(qp.gl)), np.zeros(qp.size), len(qp.b)
        z[rows], w[bounded] = y[first : first + int(rows.sum())], y[first + int(rows.sum()) :]
        return x, y[:first].copy(), z, w, iterations

    def _shifted(self, qp: SiteQP, x: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
        first, middle = len(qp.b), int(self._rows.sum())
        z, w = np.zeros(len(qp.gl)), np.zeros(qp.size)
        z[self._rows], w[self._bounded] = y[first : first + middle], y[first + middle :]
        ahead = qp.ahead()
        parts = (y[:first][ahead.equalities], z[ahead.inequalities][self._rows], w[ahead.columns][self._bounded])
        return x[ahead.columns], np.concatenate(parts)


def _with_whole_blocks(qp: SiteQP, free: BoolArray) -> BoolArray:
    """Columns of every block in which one is free, and the scalars that are."""
    columns = free.copy()
    blocks = [qp.device(i, name) for i in range(qp.shape[1]) for name in DEVICE_BLOCKS]
    for block in (*blocks, *(qp.grid(name) for name in GRID_BLOCKS)):
        columns[block] = free[block].any()
    return columns
