"""The peers that take matrices: OSQP, PIQP, Clarabel and QOCO as a careful user calls them, one object a device.

Each is set up once, then updated: `load` computes the matrices' values (not timed: a compiled caller would pay little for it),
`solve` hands them over and solves (timed). Interior points have loose tolerances, so that they do no more than an error of 1e-4
of the objective asks for (3e-5 or 1e-5; their defaults take a fifth longer). cvxpy stands in benchmarks.modelled, ours in
benchmarks.ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import clarabel
import numpy as np
import osqp
import piqp
import scipy.sparse as sp
from numpy.typing import NDArray

from benchmarks.instances import FloatArray, Window
from benchmarks.reference_qp import ROWS, WIDTH, ReferenceQP, Values, shift


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver says about one device; powers (N,) in W."""

    charge_w: FloatArray
    discharge_w: FloatArray
    solved: bool
    status: str
    iterations: int


class Peer(ABC):
    """One device's solver, kept from step to step."""

    name: str

    @abstractmethod
    def load(self, window: Window, i: int) -> None:
        """Take the data of device i; not timed."""

    @abstractmethod
    def solve(self) -> Answer:
        """Hand the data over and solve; timed. The second call on is warm."""


class MatrixPeer(Peer):
    """A solver of the matrices of ReferenceQP."""

    def __init__(self, qp: ReferenceQP) -> None:
        self.qp = qp
        self.values: Values
        self.fresh = True

    def load(self, window: Window, i: int) -> None:
        self.values = self.qp.fill(window, i)
        self.arrange()

    def arrange(self) -> None:
        """Bring the values into the solver's own form."""

    def answer(self, x: Any, solved: bool, status: object, iterations: int) -> Answer:  # noqa: ANN401 - a solver's array
        charge, discharge = self.qp.powers_w(np.asarray(x))
        return Answer(charge, discharge, solved, str(status), int(iterations))


class Osqp(MatrixPeer):
    """ADMM (Stellato et al., Math. Program. Comput. 12, 2020), updated, warm from the last solution shifted by a step."""

    tolerance = 1e-4
    name = "OSQP direct 1e-4"

    def __init__(self, qp: ReferenceQP) -> None:
        super().__init__(qp)
        self._solver = osqp.OSQP()
        self._last: tuple[FloatArray, FloatArray] | None = None
        self._stack = Stack(qp)

    def arrange(self) -> None:
        v = self.values
        self._a = self._stack.matrix(v)
        self._low, self._high = np.concatenate([v.b, v.gl, v.xl]), np.concatenate([v.b, v.gu, v.xu])

    def solve(self) -> Answer:
        v, steps = self.values, self.qp.steps
        if self._last is None:
            options = {"eps_abs": self.tolerance, "eps_rel": self.tolerance, "max_iter": 20_000, "verbose": False}
            # The default adapts rho by the time that a factorisation takes, which is not repeatable.
            options["adaptive_rho_interval"] = 50
            self._solver.setup(P=v.hessian(), q=v.q, A=self._a, l=self._low, u=self._high, **options)
        else:
            x, y = self._last
            self._solver.update(q=v.q, l=self._low, u=self._high, Px=v.p, Ax=self._a.data)
            equal, unequal = 3 * steps, 3 * steps + ROWS * steps + 1
            guess = [shift(y[:equal], steps, 3), shift(y[equal:unequal], steps, ROWS), shift(y[unequal:], steps, WIDTH)]
            self._solver.warm_start(x=shift(x, steps, WIDTH), y=np.concatenate(guess))
        result = self._solver.solve(raise_error=False)
        self._last = np.array(result.x), np.array(result.y)
        return self.answer(result.x, result.info.status == "solved", result.info.status, result.info.iter)


class OsqpFine(Osqp):
    """The same at the tolerance that 1e-4 of the objective needs."""

    tolerance = 1e-5
    name = "OSQP direct 1e-5"


class Piqp(MatrixPeer):
    """Proximal interior point (Schwan et al., CDC 2023), sparse LDL', updated; it takes no starting point."""

    name = "PIQP"
    kkt = piqp.KKTSolver.sparse_ldlt

    def __init__(self, qp: ReferenceQP) -> None:
        super().__init__(qp)
        self._solver = piqp.SparseSolver()
        self._solver.settings.kkt_solver = self.kkt
        settings = self._solver.settings
        settings.eps_abs = settings.eps_rel = settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = 3e-5
        settings.preconditioner_reuse_on_update = True

    def arrange(self) -> None:
        self._p = self.values.hessian()

    def solve(self) -> Answer:
        v = self.values
        hand_over = self._solver.setup if self.fresh else self._solver.update
        hand_over(self._p, v.q, v.a, v.b, v.g, v.gl, v.gu, v.xl, v.xu)
        self.fresh = False
        status = self._solver.solve()
        result = self._solver.result
        return self.answer(result.x, status == piqp.PIQP_SOLVED, status, result.info.iter)


class PiqpMultistage(Piqp):
    """The same with PIQP's block factorisation for optimal control (it finds the stages by itself)."""

    name = "PIQP multistage"
    kkt = piqp.KKTSolver.sparse_multistage


class Clarabel(MatrixPeer):
    """Interior point (Goulart and Chen, 2024), updated; it takes no starting point."""

    name = "Clarabel direct"
    tolerance = 1e-5

    def __init__(self, qp: ReferenceQP) -> None:
        super().__init__(qp)
        self._sides = OneSided(qp)
        self._solver: clarabel.DefaultSolver | None = None

    def arrange(self) -> None:
        v = self.values
        self._p = v.hessian()
        a, b = self._sides.rows(v)
        self._a, self._b = sp.vstack([v.a, a], format="csc"), np.concatenate([v.b, b])

    def solve(self) -> Answer:
        v = self.values
        if self._solver is None:
            cones = [clarabel.ZeroConeT(len(v.b)), clarabel.NonnegativeConeT(len(self._b) - len(v.b))]
            settings = clarabel.DefaultSettings()
            settings.verbose, settings.presolve_enable, settings.max_threads = False, False, 1
            settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = self.tolerance
            self._solver = clarabel.DefaultSolver(self._p, v.q, self._a, self._b, cones, settings)
        else:
            self._solver.update(P=self._p, q=v.q, A=self._a, b=self._b)
        found = self._solver.solve()
        return self.answer(found.x, found.status == clarabel.SolverStatus.Solved, found.status, found.iterations)


class Exact(Clarabel):
    """Clarabel at 1e-10: what errors are measured against."""

    name = "Clarabel 1e-10"
    tolerance = 1e-10


class Qoco(MatrixPeer):
    """Interior point for second-order cones (Chari and Acikmese, 2025), updated; it takes no starting point."""

    name = "QOCO"

    def __init__(self, qp: ReferenceQP) -> None:
        super().__init__(qp)
        import qoco

        self._sides = OneSided(qp)
        self._solver = qoco.QOCO()

    def arrange(self) -> None:
        self._p = self.values.hessian()
        self._g, self._h = self._sides.rows(self.values)

    def solve(self) -> Answer:
        v = self.values
        if self.fresh:
            m, options = len(self._h), {"abstol": 1e-5, "reltol": 1e-5, "verbose": 0}
            self._solver.setup(len(v.q), m, len(v.b), self._p, v.q, v.a, v.b, self._g, self._h, m, 0, None, **options)
            self.fresh = False
        else:
            self._solver.update_vector_data(c=v.q, b=v.b, h=self._h)
            self._solver.update_matrix_data(P=v.p, A=v.a.data, G=self._g.data)
        found = self._solver.solve()
        return self.answer(found.x, found.status == "QOCO_SOLVED", found.status, found.iters)


class OneSided:
    """The finite sides of G x and x as rows <= right-hand side, for solvers of cones; the pattern is kept."""

    def __init__(self, qp: ReferenceQP) -> None:
        self._identity = sp.identity(qp.size, format="csr")
        self._keep: list[NDArray[np.bool_]] = []

    def rows(self, v: Values) -> tuple[sp.csc_matrix, FloatArray]:
        """(matrix, right-hand side)."""
        if not self._keep:
            self._keep = [np.isfinite(side) for side in (v.gu, v.gl, v.xu, v.xl)]
        above, below, top, bottom = self._keep
        g = v.g.tocsr()
        eye = self._identity
        matrix = sp.vstack([g[above], -g[below], eye[top], -eye[bottom]], format="csc")
        return matrix, np.concatenate([v.gu[above], -v.gl[below], v.xu[top], -v.xl[bottom]])


class Stack:
    """A, G and the bounds in one matrix, as OSQP wants it; the pattern is kept."""

    def __init__(self, qp: ReferenceQP) -> None:
        self._identity = sp.identity(qp.size, format="csc")

    def matrix(self, v: Values) -> sp.csc_matrix:
        """All rows."""
        return sp.vstack([v.a, v.g, self._identity], format="csc")
