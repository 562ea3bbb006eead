"""From problem to plan: solve, make exact, project, replay, explain; and what happens when a step of that fails.

Chain: the solver asked for, then PIQP, then the last plan shifted. Every plan returned has passed the independent replay; each
fall down the chain is counted and named in the plan's status. Not here: building the problem (optimizer.linearise).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import structlog
from numpy.typing import NDArray

from core.errors import InputError, SolverError
from optimizer.assembly import SiteQP, shape_of
from optimizer.exclusivity import Exclusive, enforce
from optimizer.plan import DevicePlan, Plan
from optimizer.problem import SiteProblem
from optimizer.reasons import explain
from optimizer.replay import project, replay
from optimizer.solvers import SOLVERS, RawSolution

log = structlog.get_logger()
FloatArray = NDArray[np.float64]


@dataclass(slots=True)
class MpcSolver:
    """Keeps the assembled QP and the last plan between calls."""

    solver: str = "piqp"
    fallback_counts: Counter[str] = field(default_factory=Counter)
    _qp: SiteQP | None = None
    _last: tuple[tuple[str, ...], float, FloatArray] | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError(source="MPC", field="solver", value=self.solver, expected=f"one of {sorted(SOLVERS)}")

    def plan(self, problem: SiteProblem) -> Plan:
        """Solve; raises SolverError with every failure of the chain when nothing passes the replay."""
        began_s = time.perf_counter()
        failures: list[str] = []
        for name in dict.fromkeys((self.solver, "piqp")):
            try:
                if self._qp is None or self._qp.shape != shape_of(problem):
                    self._qp = SiteQP(problem)
                else:
                    self._qp.update(problem)
                exclusive = enforce(self._qp, SOLVERS[name], SOLVERS[name](self._qp))
                return self._finish(problem, self._qp, exclusive, failures, began_s)
            except SolverError as error:
                self._failed(name, str(error), failures)
        shifted = self._shifted(problem)
        if shifted is not None:
            try:
                return self._accept(problem, shifted, np.zeros(problem.steps), None, failures, began_s)
            except SolverError as error:
                self._failed("last plan shifted", str(error), failures)
        raise SolverError("; ".join(failures))

    def _failed(self, name: str, why: str, failures: list[str]) -> None:
        self.fallback_counts[name] += 1
        failures.append(f"{name}: {why}")
        log.warning("solver_failed", solver=name, why=why)

    def _shifted(self, problem: SiteProblem) -> FloatArray | None:
        ids = tuple(device.device_id for device in problem.devices)
        if self._last is None or self._last[0] != ids or self._last[1] != problem.dt_s:
            return None
        old = self._last[2]
        if old.shape[1] != problem.steps:
            return None
        return np.concatenate([old[:, 1:], np.zeros((len(ids), 1))], axis=1)

    def _finish(
        self,
        problem: SiteProblem,
        qp: SiteQP,
        exclusive: Exclusive,
        failures: list[str],
        began_s: float,
    ) -> Plan:
        solution = exclusive.solution
        net = np.array([solution.x[qp.device(i, "d")] - solution.x[qp.device(i, "c")] for i in range(qp.shape[1])])
        net = 1000.0 * net.reshape(qp.shape[1], qp.n)
        curtail = np.clip(1000.0 * solution.x[qp.grid("u")], 0.0, problem.grid.pv_w if problem.grid.curtailable else 0.0)
        if not exclusive.tight:
            self.fallback_counts["exclusivity"] += 1
        return self._accept(problem, net, curtail, (qp, solution), failures, began_s)

    def _accept(
        self,
        problem: SiteProblem,
        net_w: FloatArray,
        curtail_w: FloatArray,
        solved: tuple[SiteQP, RawSolution] | None,
        failures: list[str],
        began_s: float,
    ) -> Plan:
        power, curtail = project(problem, net_w, curtail_w)
        run = replay(problem, power, curtail)
        if run.hard_violations:
            raise SolverError("replay refused the plan: " + "; ".join(run.hard_violations[:3]))
        n = problem.steps
        values, meter = np.zeros((len(problem.devices), n)), np.zeros(n)
        if solved is not None:
            solution = solved[1]
            for i in range(len(problem.devices)):
                values[i] = solution.equality_duals[2 * n * i : 2 * n * i + n]
            meter = solution.equality_duals[2 * n * len(problem.devices) : 2 * n * len(problem.devices) + n] / problem.dt_h
        devices = []
        for i, device in enumerate(problem.devices):
            reasons, binding = explain(problem, power, run, i)
            devices.append(
                DevicePlan(
                    device_id=device.device_id,
                    power_w=power[i],
                    energy_wh=run.energy_wh[i],
                    soc_pct=100.0 * run.energy_wh[i] / device.capacity_wh,
                    temperature_c=run.temperature_c[i],
                    voltage_v=run.voltage_v[i],
                    energy_value_eur_per_kwh=values[i],
                    reasons=reasons,
                    binding=binding,
                )
            )
        notes = [*failures, *(f"limit not kept: {text}" for text in run.soft_violations)]
        self._last = (tuple(device.device_id for device in problem.devices), problem.dt_s, power)
        return Plan(
            dt_s=problem.dt_s,
            devices=tuple(devices),
            grid_import_w=run.import_w,
            grid_export_w=run.export_w,
            curtail_w=curtail,
            meter_price_eur_per_kwh=meter,
            objective_eur=run.objective_eur,
            energy_cost_eur=run.energy_cost_eur,
            wear_eur=run.wear_eur,
            peak_w=run.peak_w,
            solver="shifted" if solved is None else solved[1].solver,
            status="; ".join(notes) or "optimal",
            iterations=0 if solved is None else solved[1].iterations,
            solve_s=time.perf_counter() - began_s,
        )
