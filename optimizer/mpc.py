"""From problem to plan: solve, make exact, project, replay, explain; and what happens when a step of that fails.

Chain: the solver asked for (`auto`: by the size of the site), then PIQP, then the last plan shifted. Many devices go to
optimizer.site_fleet, which has a chain of its own. Every plan returned has passed an independent replay; each fall down the chain
is counted and named in the plan's status. Not here: building the problem (optimizer.linearise).
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from core.errors import InputError, SolverError
from optimizer.assembly import SiteQP, shape_of
from optimizer.directions import MILP_TIME_S
from optimizer.exclusivity import Exclusive, Solve, enforce
from optimizer.plan import DevicePlan, Plan
from optimizer.problem import SiteProblem
from optimizer.reasons import SlotPrices, explain
from optimizer.replay import executable, replay
from optimizer.shadow import device_prices, meter_prices
from optimizer.site_fleet import SiteFleetSolver
from optimizer.solvers import SOLVERS, RawSolution
from optimizer.structured.single import solve_structured

log = structlog.get_logger()
FloatArray = NDArray[np.float64]
REPORTED_GAP = 1e-4
"""Of the objective, at least of one euro: a larger gap of the search for directions is named in the status."""
AUTO = "auto"
FLEET = "site_fleet"
LARGE_SITE = 32
"""Above so many devices behind one meter the joint QP is slower than optimizer.site_fleet."""
LARGEST_QP = 200
"""Up to so many devices the joint QP is still worth a try when the fleet's solver fails."""
STRUCTURED = "structured"
CHOICES = (AUTO, FLEET, STRUCTURED, *SOLVERS)


@dataclass(slots=True)
class MpcSolver:
    """Keeps the assembled QP and the last plan between calls."""

    solver: str = AUTO
    """`auto`: structured for one device, PIQP for a few, the fleet's solver above LARGE_SITE. Or one of CHOICES."""
    fallback_counts: Counter[str] = field(default_factory=Counter)
    _fleet: SiteFleetSolver = field(default_factory=SiteFleetSolver)
    _qp: SiteQP | None = None
    _last: tuple[tuple[str, ...], float, FloatArray, FloatArray] | None = None
    """Devices, dt_s, net powers (devices, N) and curtailment (N,) of the last plan."""

    def __post_init__(self) -> None:
        if self.solver not in CHOICES:
            raise InputError(source="MPC", field="solver", value=self.solver, expected=f"one of {sorted(CHOICES)}")

    def plan(self, problem: SiteProblem, first_w: FloatArray | None = None, *, shift_steps: int = 1) -> Plan:
        """Solve; raises SolverError with every failure of the chain when nothing passes the replay.

        `first_w` (devices, m) fixes the net powers of the first m steps, which must be executable: what scenarios decided.
        `shift_steps`: how many steps time has moved on since the last plan; a last plan that has run out stands in for nothing.
        """
        began_s = time.perf_counter()
        failures: list[str] = []
        for name in self._order(problem, first_w):
            try:
                if name == FLEET:
                    return self._fleet_plan(problem, shift_steps, failures)
                if self._qp is None or self._qp.shape != shape_of(problem):
                    self._qp = SiteQP(problem)
                else:
                    self._qp.update(problem)
                if first_w is not None:
                    _fix_first(self._qp, first_w)
                solve = solve_structured if name == STRUCTURED else SOLVERS[name]
                return self._solve(problem, self._qp, solve, first_w, failures, began_s)
            except SolverError as error:
                self._failed(name, str(error), failures)
        shifted = self._shifted(problem, shift_steps)
        if shifted is not None:
            try:
                return self._accept(problem, *shifted, None, failures, began_s)
            except SolverError as error:
                self._failed("last plan shifted", str(error), failures)
        raise SolverError("; ".join(failures))

    def _order(self, problem: SiteProblem, first_w: FloatArray | None) -> list[str]:
        """Solvers to try. Layers of wear and given first steps are the QP's alone."""
        count = len(problem.devices)
        only_qp = first_w is not None or any(device.wear_segments is not None for device in problem.devices)
        wanted = self.solver
        if wanted == AUTO:
            wanted = STRUCTURED if count == 1 else "piqp" if count <= LARGE_SITE else FLEET
        if only_qp and count > LARGEST_QP:
            raise SolverError(f"layers of wear and scenarios are for at most {LARGEST_QP} devices behind one meter, not {count}")
        if only_qp and wanted in (FLEET, STRUCTURED):
            wanted = "piqp"
        return list(dict.fromkeys((wanted, "piqp"))) if count <= LARGEST_QP or wanted != FLEET else [wanted]

    def _fleet_plan(self, problem: SiteProblem, shift_steps: int, failures: list[str]) -> Plan:
        plan = self._fleet.plan(problem, shift_steps=shift_steps)
        self._last = (
            tuple(device.device_id for device in problem.devices),
            problem.dt_s,
            np.array([part.power_w for part in plan.devices]),
            plan.curtail_w,
        )
        if failures:
            plan = replace(plan, status="; ".join([*failures, plan.status]))
        return plan

    def _failed(self, name: str, why: str, failures: list[str]) -> None:
        self.fallback_counts[name] += 1
        failures.append(f"{name}: {why}")
        log.warning("solver_failed", solver=name, why=why)

    def _shifted(self, problem: SiteProblem, steps: int) -> tuple[FloatArray, FloatArray] | None:
        """The last plan `steps` on, idle at its end; None when it was for other devices or steps, or has run out."""
        ids = tuple(device.device_id for device in problem.devices)
        if self._last is None or self._last[0] != ids or self._last[1] != problem.dt_s:
            return None
        power, curtail = self._last[2:]
        if power.shape[1] != problem.steps or not 0 <= steps < problem.steps:
            return None
        return np.pad(power[:, steps:], ((0, 0), (0, steps))), np.pad(curtail[steps:], (0, steps))

    def _solve(
        self,
        problem: SiteProblem,
        qp: SiteQP,
        solve: Solve,
        first_w: FloatArray | None,
        failures: list[str],
        began_s: float,
    ) -> Plan:
        """Exclusive, cut and replayed; solved again with stiff penalties where limits had to be cut to that were dear."""
        exclusive = enforce(qp, solve, solve(qp))
        net, curtail = _flows(problem, qp, exclusive.solution)
        cost = _cost_of_cutting(problem, net, curtail)
        if cost > REPORTED_GAP * max(1.0, abs(qp.objective(exclusive.solution.x))):
            self.fallback_counts["stiff"] += 1
            _, _, first = executable(problem, net, curtail)
            try:
                qp.update(replace(problem, soft=problem.soft.stiff()))
                if first_w is not None:
                    _fix_first(qp, first_w)
                stiff = enforce(qp, solve, solve(qp))
                _, _, second = executable(problem, *_flows(problem, qp, stiff.solution))
                if not second.hard_violations and (first.hard_violations or second.objective_eur < first.objective_eur):
                    return self._finish(problem, qp, stiff, failures, began_s)
            except SolverError as error:
                log.warning("stiff_penalties_failed", why=str(error))
            qp.update(problem)
        return self._finish(problem, qp, exclusive, failures, began_s)

    def _finish(
        self,
        problem: SiteProblem,
        qp: SiteQP,
        exclusive: Exclusive,
        failures: list[str],
        began_s: float,
    ) -> Plan:
        solution = exclusive.solution
        net, curtail = _flows(problem, qp, solution)
        if not exclusive.tight:
            self.fallback_counts["exclusivity"] += 1
        notes = list(failures)
        if exclusive.out_of_time:
            notes.append(f"the search for directions was ended by its guard of {MILP_TIME_S:g} s: another run may differ")
        if exclusive.gap_eur > REPORTED_GAP * max(1.0, abs(qp.objective(solution.x))):
            notes.append(f"directions at most {exclusive.gap_eur:.2g} EUR from the best")
        return self._accept(problem, net, curtail, solution, notes, began_s)

    def _accept(
        self,
        problem: SiteProblem,
        net_w: FloatArray,
        curtail_w: FloatArray,
        solution: RawSolution | None,
        failures: list[str],
        began_s: float,
    ) -> Plan:
        power, curtail, run = executable(problem, net_w, curtail_w)
        if run.hard_violations:
            raise SolverError("replay refused the plan: " + "; ".join(run.hard_violations[:3]))
        n = problem.steps
        values: FloatArray | None = None
        meter = np.zeros(n)
        prices: list[SlotPrices | None] = [None] * len(problem.devices)
        if solution is not None and self._qp is not None:
            # Equality duals: per device N of the energy balance and N of the temperature, then N of the meter.
            count = len(problem.devices)
            values = solution.equality_duals[: 2 * n * count].reshape(count, 2, n)[:, 0]
            meter = -solution.equality_duals[2 * n * count : 2 * n * count + n] / problem.dt_h
            shared = meter_prices(self._qp, solution)
            prices = [
                SlotPrices(stored=values[i], meter=meter, limits={**device_prices(self._qp, solution, i), **shared})
                for i in range(count)
            ]
        devices = []
        for i, device in enumerate(problem.devices):
            reasons, limits = explain(problem, power, run, i, prices[i])
            devices.append(
                DevicePlan(
                    device_id=device.device_id,
                    power_w=power[i],
                    energy_wh=run.energy_wh[i],
                    soc_pct=device.soc_pct(run.energy_wh[i]),
                    temperature_c=run.temperature_c[i],
                    voltage_v=run.voltage_v[i],
                    energy_value_eur_per_kwh=np.zeros(n) if values is None else values[i],
                    reasons=reasons,
                    limits=limits,
                )
            )
        notes = [*failures, *(f"limit not kept: {text}" for text in run.soft_violations)]
        self._last = (tuple(device.device_id for device in problem.devices), problem.dt_s, power, curtail)
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
            solver="shifted" if solution is None else solution.solver,
            status="; ".join(notes) or "optimal",
            iterations=0 if solution is None else solution.iterations,
            solve_s=time.perf_counter() - began_s,
            price_source="" if solution is None else solution.solver,
            deviation_w=_deviation(problem, run.import_w - run.export_w),
        )


def _flows(problem: SiteProblem, qp: SiteQP, solution: RawSolution) -> tuple[FloatArray, FloatArray]:
    """Net powers (devices, N) and curtailment (N,) of a solution, W."""
    net = np.array([solution.x[qp.device(i, "d")] - solution.x[qp.device(i, "c")] for i in range(qp.shape[1])])
    curtail = np.clip(1000.0 * solution.x[qp.grid("u")], 0.0, problem.grid.pv_w if problem.grid.curtailable else 0.0)
    return 1000.0 * net.reshape(qp.shape[1], qp.n), curtail


def _cost_of_cutting(problem: SiteProblem, net_w: FloatArray, curtail_w: FloatArray) -> float:
    """EUR that keeping every limit costs a plan, at the penalties that the solver broke them for."""
    raw = replay(problem, net_w, curtail_w)
    if not raw.hard_violations:
        return 0.0
    return executable(problem, net_w, curtail_w)[2].objective_eur - raw.objective_eur


def _fix_first(qp: SiteQP, first_w: FloatArray) -> None:
    """Charge and discharge of the first steps to given net powers (devices, m); the next update frees them."""
    for i, net_w in enumerate(first_w):
        for name, flow_w in (("c", np.maximum(-net_w, 0.0)), ("d", np.maximum(net_w, 0.0))):
            columns = qp.device(i, name)[: len(net_w)]
            qp.xl[columns] = qp.xu[columns] = flow_w / 1000.0


def _deviation(problem: SiteProblem, net_w: FloatArray) -> tuple[float | None, ...]:
    """Net import minus the dispatch signal, None in steps that are not tracked; empty without a signal."""
    tracked = problem.grid.tracking_weights() > 0
    if problem.grid.target_w is None or not tracked.any():
        return ()
    return tuple(float(net_w[k] - problem.grid.target_w[k]) if tracked[k] else None for k in range(problem.steps))
