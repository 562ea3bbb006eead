"""Two-stage plans: the first steps are the same in every scenario, what follows may differ; the tail can weigh more.

    min  sum_s w_s F_s(x_s) + cvar_weight (CVaR(B) - sum_s w_s B_s(x_s))       s.t. each x_s obeys the site problem of scenario s,
         c, d of the first m steps equal in all s;   CVaR(B) = min_eta eta + 1/(1 - level) sum_s w_s max(0, B_s - eta)

F is the objective of optimizer.problem, B the part of it that is paid: energy, peak, curtailment, wear, less the value of what is
stored at the end, and the linear penalties of soft limits, which must not become cheap beside it. B is linear, so that this
stays a QP. CVaR after Rockafellar and Uryasev, J. Risk 2 (2000) 21. With cvar_weight 0
it is the expectation; when all scenarios agree it is the deterministic plan.

Recourse is the relaxation's: after the first steps a scenario may charge and discharge at once, so that its cost there is a
lower bound. The first steps are exclusive: where the relaxation overlaps, directions are fixed and the QP solved again. They are
then projected until every scenario can execute them, and every scenario's plan with them passes the replay. Not here: where
scenarios come from (optimizer.paths), the plan that is reported (optimizer.mpc, with these first steps given).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import piqp
import scipy.sparse as sp
from numpy.typing import NDArray

from core.errors import InputError, SolverError
from optimizer.assembly import KILO, SiteQP, shape_of
from optimizer.problem import SiteProblem
from optimizer.replay import Replay, executable, project
from optimizer.solvers import clarabel

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
MAX_ITER = 60
TOLERANCES = ((1e-8, 1e-9, 1e-8, 1e-9), (1e-6, 1e-7, 1e-4, 1e-6))
"""(absolute, relative, duality gap in EUR, relative gap). The second when the first is not reached: where money hardly decides,
the last digits of the duals are beyond double precision and the iteration goes round."""
OVERLAP_KW = 1e-3
FLIPS = 2
"""Overlapping first steps of which the other direction is tried too."""
COMMIT_ROUNDS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStage:
    """First steps for all scenarios, and what they would lead to in each; all costs replayed, EUR."""

    first_w: FloatArray
    """Net power of the shared steps, (devices, m), discharge positive."""
    objective_eur: float
    """Of the two-stage QP."""
    expected_eur: float
    """Mean objective of the replayed plans."""
    bills_eur: FloatArray
    """What each scenario pays, penalties of soft limits left out, (S,)."""
    tail_eur: float
    """CVaR of the bills at the level asked for."""
    iterations: int


def cvar(costs: FloatArray, weights: FloatArray, level: float) -> float:
    """Mean of the dearest share (1 - level) of the outcomes; both arrays (S,)."""
    order = np.argsort(-costs)
    room, total = 1.0 - level, 0.0
    for s in order.tolist():
        part = min(room, float(weights[s]))
        total += part * float(costs[s])
        room -= part
    return total / (1.0 - level)


@dataclass(slots=True)
class ScenarioSolver:
    """Keeps one assembled QP for each scenario between calls."""

    shared_steps: int = 1
    cvar_weight: float = 0.0
    cvar_level: float = 0.9
    _qps: list[SiteQP] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, value, low, high in (("cvar_weight", self.cvar_weight, 0.0, 0.95), ("cvar_level", self.cvar_level, 0.0, 0.99)):
            if not low <= value <= high:
                raise InputError(source="scenarios", field=name, value=value, expected=f"a number from {low} to {high}")

    def solve(self, problems: Sequence[SiteProblem], weights: FloatArray | None = None) -> TwoStage:
        """The two-stage plan of at least one scenario; `weights` (S,) sum to 1, equal when left out.

        Raises InputError when scenarios differ in shape or in their devices' state, SolverError when there is no plan.
        """
        w = np.full(len(problems), 1.0 / max(1, len(problems))) if weights is None else np.asarray(weights, dtype=np.float64)
        _check(problems, w, self.shared_steps)
        if [qp.shape for qp in self._qps] == [shape_of(problem) for problem in problems]:
            for qp, problem in zip(self._qps, problems, strict=True):
                qp.update(problem)
        else:
            self._qps = [SiteQP(problem) for problem in problems]
        stacked = _Stacked(self._qps, problems, w, self.shared_steps, self.cvar_weight, self.cvar_level)
        x, objective, iterations = _exclusive_first(stacked)
        return self._executed(problems, w, stacked, x, objective, iterations)

    def _executed(
        self, problems: Sequence[SiteProblem], w: FloatArray, stacked: _Stacked, x: FloatArray, objective: float, iterations: int
    ) -> TwoStage:
        nets, curtails = [], []
        for s, (qp, problem) in enumerate(zip(self._qps, problems, strict=True)):
            part = x[stacked.columns(s)]
            net = [part[qp.device(i, "d")] - part[qp.device(i, "c")] for i in range(qp.shape[1])]
            nets.append(KILO * np.array(net).reshape(qp.shape[1], qp.n))
            ceiling = problem.grid.pv_w if problem.grid.curtailable else 0.0
            curtails.append(np.clip(KILO * part[qp.grid("u")], 0.0, ceiling))
        first = commit(problems, nets, curtails, self.shared_steps)
        runs = [_run(problem, net, curtail, first) for problem, net, curtail in zip(problems, nets, curtails, strict=True)]
        bills = np.array([_bill(problem, run) for problem, run in zip(problems, runs, strict=True)])
        return TwoStage(
            first_w=first,
            objective_eur=objective,
            expected_eur=float(w @ np.array([run.objective_eur for run in runs])),
            bills_eur=bills,
            tail_eur=cvar(bills, w, self.cvar_level),
            iterations=iterations,
        )


def commit(problems: Sequence[SiteProblem], nets: Sequence[FloatArray], curtails: Sequence[FloatArray], steps: int) -> FloatArray:
    """First steps (devices, steps) that no scenario's projection changes: shrunk until that holds.

    `nets` are net powers (devices, N) that agree in the first steps, but for rounding. Shrinking ends at the latest at rest.
    """
    first = nets[0][:, :steps].copy()
    first[np.abs(first) < KILO * OVERLAP_KW] = 0.0
    for _ in range(COMMIT_ROUNDS):
        smallest = first
        for problem, net, curtail in zip(problems, nets, curtails, strict=True):
            there, _ = project(problem, np.hstack([first, net[:, steps:]]), curtail)
            there = there[:, :steps]
            smallest = np.where(np.abs(there) < np.abs(smallest), there, smallest)
        if np.array_equal(smallest, first):
            return first
        first = smallest
    return np.zeros_like(first)


def _run(problem: SiteProblem, net: FloatArray, curtail: FloatArray, first: FloatArray) -> Replay:
    steps = first.shape[1]
    power, _, run = executable(problem, np.hstack([first, net[:, steps:]]), curtail)
    if not np.allclose(power[:, :steps], first, atol=1e-6):
        raise SolverError("a scenario cannot execute the first step")
    if run.hard_violations:
        raise SolverError("replay refused a scenario: " + "; ".join(run.hard_violations[:3]))
    return run


def _bill(problem: SiteProblem, run: Replay) -> float:
    grid = problem.grid
    stored = sum(d.terminal_value_eur_per_kwh * e / KILO for d, e in zip(problem.devices, run.energy_wh[:, -1], strict=True))
    curtailed = problem.dt_h * grid.curtailment_cost_eur_per_kwh * float(run.curtail_w.sum()) / KILO
    return run.energy_cost_eur + grid.peak_price_eur_per_kw * run.peak_w / KILO + curtailed + run.wear_eur - float(stored)


class _Stacked:
    """The scenarios' QPs side by side, with coupling rows and, where the tail counts, eta and one excess per scenario."""

    def __init__(
        self, qps: list[SiteQP], problems: Sequence[SiteProblem], w: FloatArray, shared: int, weight: float, level: float
    ) -> None:
        self.qps, self._size, self.shared = qps, qps[0].size, shared
        count = len(qps)
        tail = weight > 0.0 and count > 1
        self.width = count * self._size + (1 + count if tail else 0)
        bills = [_bill_row(qp, problem) for qp, problem in zip(qps, problems, strict=True)]
        self.p, self.q = np.zeros(self.width), np.zeros(self.width)
        self.xl, self.xu = np.zeros(self.width), np.full(self.width, np.inf)
        for s, qp in enumerate(qps):
            columns = self.columns(s)
            self.p[columns] = w[s] * qp.p
            self.q[columns] = w[s] * (qp.q - (weight * bills[s] if tail else 0.0))
            self.xl[columns], self.xu[columns] = qp.xl, qp.xu
        self.constant = float(sum(w[s] * qp.constant for s, qp in enumerate(qps)))
        extra = self.width - count * self._size
        equal = sp.block_diag([qp.a for qp in qps])
        coupling = self._coupling()
        self.a = sp.vstack([sp.hstack([equal, sp.csc_matrix((equal.shape[0], extra))]), coupling], format="csc")
        self.b = np.concatenate([*(qp.b for qp in qps), np.zeros(coupling.shape[0])])
        bound = sp.block_diag([qp.g for qp in qps])
        self.g = sp.hstack([bound, sp.csc_matrix((bound.shape[0], extra))], format="csc")
        self.gl = np.concatenate([qp.gl for qp in qps])
        self.gu = np.concatenate([qp.gu for qp in qps])
        if tail:
            eta = count * self._size
            self.xl[eta] = -np.inf
            self.q[eta] = weight
            self.q[eta + 1 :] = weight / (1.0 - level) * w
            # bill_s - eta - excess_s <= 0
            rows = sp.hstack(
                [sp.block_diag([sp.csr_matrix(bill) for bill in bills]), sp.csr_matrix(-np.ones((count, 1))), -sp.identity(count)]
            )
            self.g = sp.vstack([self.g, rows], format="csc")
            self.gl = np.concatenate([self.gl, np.full(count, -np.inf)])
            self.gu = np.concatenate([self.gu, np.zeros(count)])

    def columns(self, s: int) -> IntArray:
        """Columns of scenario s."""
        return s * self._size + np.arange(self._size)

    def first(self, name: str) -> IntArray:
        """Columns of `c` or `d` in the shared steps, (S, devices * m)."""
        qp = self.qps[0]
        local = [qp.device(i, name)[: self.shared] for i in range(qp.shape[1])]
        one = np.concatenate(local) if local else np.zeros(0, dtype=np.int64)
        return np.arange(len(self.qps))[:, None] * self._size + one

    def _coupling(self) -> sp.csc_matrix:
        pairs = [(c[0], others) for name in ("c", "d") if (c := self.first(name)).size for others in c[1:]]
        if not pairs:
            return sp.csc_matrix((0, self.width))
        base, others = (np.concatenate([pair[k] for pair in pairs]) for k in (0, 1))
        row = np.arange(len(base))
        values = np.r_[np.ones(len(row)), -np.ones(len(row))]
        return sp.csc_matrix((values, (np.r_[row, row], np.r_[others, base])), shape=(len(row), self.width))

    def solve(self) -> tuple[FloatArray, float, int]:
        """(x, objective, iterations); SolverError unless PIQP or, where it gives up, Clarabel says solved."""
        free = self.xu > self.xl
        fixed = np.where(free, 0.0, self.xl)
        rows = np.isfinite(self.gl) | np.isfinite(self.gu)
        moved = (self.g @ fixed)[rows]
        data = (
            sp.diags(self.p[free], format="csc"),
            self.q[free],
            self.a[:, free],
            self.b - self.a @ fixed,
            self.g[rows][:, free],
            self.gl[rows] - moved,
            self.gu[rows] - moved,
            self.xl[free],
            self.xu[free],
        )
        iterations = 0
        for tolerance in TOLERANCES:
            status, found, count = _piqp(data, tolerance)
            iterations += count
            if status == piqp.PIQP_SOLVED:
                break
        else:
            # Slower, and the processor's rounding decides less.
            try:
                found, *_, count = clarabel(self.p[free], *data[1:])
            except SolverError as error:
                raise SolverError(f"scenarios, PIQP: {status}; {error}") from error
            iterations += count
        x = fixed.copy()
        x[free] = found
        if not np.isfinite(x).all():
            raise SolverError("scenarios: a number of the solution is not finite")
        return x, float(0.5 * x @ (self.p * x) + self.q @ x + self.constant), iterations


def _piqp(data: tuple[Any, ...], tolerance: tuple[float, float, float, float]) -> tuple[Any, FloatArray, int]:
    """(status, x, iterations)."""
    solver = piqp.SparseSolver()
    settings = solver.settings
    settings.eps_abs, settings.eps_rel, settings.eps_duality_gap_abs, settings.eps_duality_gap_rel = tolerance
    # Below these the long rows of the bills cost the factorisation its last digits.
    settings.reg_lower_limit, settings.reg_finetune_lower_limit = 1e-8, 1e-10
    settings.max_iter = MAX_ITER
    solver.setup(*data)
    status = solver.solve()
    return status, np.array(solver.result.x), int(solver.result.info.iter)


def _bill_row(qp: SiteQP, problem: SiteProblem) -> FloatArray:
    """Coefficients of what a scenario pays, (size of the QP,)."""
    row, h, grid = np.zeros(qp.size), problem.dt_h, problem.grid
    row[qp.grid("b")] = h * grid.buy_eur_per_kwh
    row[qp.grid("s")] = -h * grid.sell_eur_per_kwh
    row[qp.grid("u")] = h * grid.curtailment_cost_eur_per_kwh
    row[qp.grid("peak")] = grid.peak_price_eur_per_kw
    for i, d in enumerate(problem.devices):
        row[qp.device(i, "c")] = row[qp.device(i, "d")] = h * d.wear_eur_per_kwh
        row[qp.device(i, "e")[-1]] -= d.terminal_value_eur_per_kwh
        for name in ("zE", "zT", "zV", "zD", "zF"):
            row[qp.device(i, name)] = qp.q[qp.device(i, name)]
    for name in ("zI", "zX"):
        row[qp.grid(name)] = qp.q[qp.grid(name)]
    return row


def _exclusive_first(stacked: _Stacked) -> tuple[FloatArray, float, int]:
    """Solve; where charge and discharge overlap in the shared steps, with their directions fixed: net ones, and a few flipped."""
    x, objective, iterations = stacked.solve()
    charge, discharge = stacked.first("c"), stacked.first("d")
    overlap = np.flatnonzero(np.minimum(x[charge[0]], x[discharge[0]]) > OVERLAP_KW)
    if not len(overlap):
        return x, objective, iterations
    directions = x[charge[0]] >= x[discharge[0]]
    choices = [directions]
    for j in overlap[:FLIPS]:
        flipped = directions.copy()
        flipped[j] = not flipped[j]
        choices.append(flipped)
    found, kept = [], stacked.xu
    for choice in choices:
        stacked.xu = kept.copy()
        stacked.xu[discharge[:, overlap[choice[overlap]]]] = 0.0
        stacked.xu[charge[:, overlap[~choice[overlap]]]] = 0.0
        found.append(stacked.solve())
    stacked.xu = kept
    return min(found, key=lambda result: result[1])


def _check(problems: Sequence[SiteProblem], w: FloatArray, shared: int) -> None:
    if not problems:
        raise InputError(source="scenarios", field="count", value=0, expected="at least one")
    if w.shape != (len(problems),) or not np.isfinite(w).all() or (w <= 0).any() or abs(float(w.sum()) - 1.0) > 1e-9:
        raise InputError(source="scenarios", field="weights", value=w.tolist(), expected="positive shares that sum to 1")
    if not 1 <= shared <= problems[0].steps:
        raise InputError(source="scenarios", field="shared_steps", value=shared, expected=f"1 to {problems[0].steps}")
    for s, problem in enumerate(problems):
        if shape_of(problem) != shape_of(problems[0]) or problem.dt_s != problems[0].dt_s:
            raise InputError(source=f"scenario {s}", field="shape", value=shape_of(problem), expected=str(shape_of(problems[0])))
        for d, same in zip(problem.devices, problems[0].devices, strict=True):
            if (d.device_id, d.energy_wh) != (same.device_id, same.energy_wh):
                raise InputError(
                    source=f"scenario {s}", field=d.device_id, value=d.energy_wh, expected=f"{same.energy_wh} as in scenario 0"
                )
