"""Many different packs behind one meter: the Schur-complement solver of optimizer.site_fleet, cold and warm, on rolling horizons.

Chemistry, size and state of health all differ (optimizer.site_fleet.scenarios). Up to JOINT_UP_TO devices the joint QP is solved
as well, by PIQP, and up to BASELINE_UP_TO by the baseline; beyond, the proven dual bound is what a plan is held against. Times
are those of whole calls: packing, solve, bound, repair, replay, reasons. Not here: fleets of separate meters (fleets).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import cvxpy as cp
import numpy as np

from benchmarks.common import BASELINE, Clock, Table, peak_memory_bytes, progress
from benchmarks.modelled import OSQP_OPTIONS
from optimizer.assembly import SiteQP
from optimizer.fleet import FleetData
from optimizer.problem import GridData, SiteProblem
from optimizer.site_fleet import Settings, SiteFleetPlan, SiteFleetSolver
from optimizer.site_fleet.scenarios import scenario
from optimizer.solvers import solve_piqp

JOINT_UP_TO = 100
BASELINE_UP_TO = 10
THREADS = 2
KINDS = ("peak", "grid", "track")


@dataclass(slots=True)
class Figures:
    """One site rolled through its steps."""

    kind: str
    devices: int
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    sweeps: list[int] = field(default_factory=list)
    bound_gaps: list[float] = field(default_factory=list)
    joint_gaps: list[float] = field(default_factory=list)
    over_meter_w: float = 0.0
    joint_s: list[float] = field(default_factory=list)
    baseline_s: list[float] = field(default_factory=list)
    baseline_solved: bool = False
    unusual: int = 0
    """Solves that did not end as warm or cold as they began, or did not converge."""


def run(*, quick: bool, seed: int) -> list[Table]:
    """One table: a row for each kind of site and size."""
    counts: Sequence[int] = (2, 10) if quick else (2, 10, 32, 100, 1_000, 10_000)
    moves = 2 if quick else 5
    kinds = KINDS[:1] if quick else KINDS
    roll("track", 2, 1, seed=1)  # code compiled, or loaded from its cache
    figures = [roll(kind, count, moves, seed) for kind in kinds for count in counts]
    return [_table(figures, moves)]


def roll(kind: str, devices: int, moves: int, seed: int) -> Figures:
    """A cold solve and `moves` warm ones, states moved by the plan's first step."""
    site = scenario(devices, 96, kind=kind, seed=seed + devices, extra_steps=moves)
    solver = SiteFleetSolver(settings=Settings(threads=THREADS))
    found = Figures(kind, devices)
    for move in range(moves + 1):
        grid, fleet = site.window(move)
        clock = Clock()
        with clock:
            plan = solver.solve(grid, fleet, site.dt_s)
        progress(f"{devices} devices, {kind}, step {move}: {clock.wall_s:.3f} s, {plan.sweeps} sweeps, {plan.status[:80]}")
        found.cpu_s.append(clock.cpu_s)
        found.wall_s.append(clock.wall_s)
        _judge(found, plan, grid, fleet, site.dt_s, expected="warm" if move else "cold")
        site.advance(plan.energy_wh[:, 0], plan.temperature_c[:, 0], float(plan.import_w[0] - plan.export_w[0]))
    return found


def _judge(found: Figures, plan: SiteFleetPlan, grid: GridData, fleet: FleetData, dt_s: float, *, expected: str) -> None:
    size = max(1.0, abs(plan.objective_eur))
    found.sweeps.append(plan.sweeps)
    found.bound_gaps.append((plan.objective_eur - plan.dual_bound_eur) / size)
    over = max(float((plan.import_w - grid.import_limit_w).max()), float((plan.export_w - grid.export_limit_w).max()))
    found.over_meter_w = max(found.over_meter_w, over)
    found.unusual += plan.source != expected or not plan.converged
    if fleet.count > JOINT_UP_TO or len(found.sweeps) > 2:  # the first cold and the first warm one are held against it
        return
    problem = SiteProblem(dt_s=dt_s, grid=grid, devices=tuple(fleet.device(i) for i in range(fleet.count)))
    qp, clock = SiteQP(problem), Clock()
    with clock:
        best = qp.objective(solve_piqp(qp).x)
    found.joint_s.append(clock.cpu_s)
    found.joint_gaps.append((plan.objective_eur - best) / max(1.0, abs(best)))
    if fleet.count <= BASELINE_UP_TO and len(found.baseline_s) < 1:
        with (clock := Clock()):
            found.baseline_solved = rebuilt(qp)
        found.baseline_s.append(clock.cpu_s)


def rebuilt(qp: SiteQP) -> bool:
    """The baseline on the joint problem: its matrices stated in cvxpy, OSQP 1e-4. Whether it says that it is solved."""
    x = cp.Variable(qp.size)
    sides = [qp.a @ x == qp.b]
    for value, low, high in ((qp.g @ x, qp.gl, qp.gu), (x, qp.xl, qp.xu)):
        above, below = np.isfinite(high), np.isfinite(low)
        sides += [value[above] <= high[above], value[below] >= low[below]]
    cost = 0.5 * cp.sum(cp.multiply(qp.p, cp.square(x))) + qp.q @ x
    problem = cp.Problem(cp.Minimize(cost), sides)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the status says the same
        problem.solve(solver=cp.OSQP, **OSQP_OPTIONS)
    return bool(problem.status == cp.OPTIMAL)


def _table(figures: list[Figures], moves: int) -> Table:
    table = Table(
        f"One meter, 96 steps, {THREADS} threads: a cold and {moves} warm solves",
        ("binding", "devices", "cold CPU s", "cold wall s", "warm CPU s", "warm wall s", "sweeps cold/warm",
         "worst gap to dual bound", "worst gap to joint optimum", "over the meter W", "joint PIQP CPU s",
         "x joint PIQP (warm CPU)", "x baseline (warm CPU)", "unusual"),
        [
            f"Baseline: {BASELINE} on the joint problem, one solve, up to {BASELINE_UP_TO} devices; a star where it did not reach"
            " its tolerance in 20,000 iterations. Joint PIQP: set up anew, up to "
            f"{JOINT_UP_TO} devices.",
            "Gaps: (plan after repair and replay - bound or optimum) over the plan's size. The optimum is the convex problem's.",
            "Unusual: solves that fell to another start than asked for, or did not converge by their own test.",
            f"Highest resident memory of the process by then: {peak_memory_bytes() / 1e9:.2f} GB.",
        ],
    )  # fmt: skip
    for f in figures:
        warm = float(np.median(f.cpu_s[1:]))
        star = "" if f.baseline_solved else "*"
        table.add(
            f.kind, f.devices, f.cpu_s[0], f.wall_s[0], warm, float(np.median(f.wall_s[1:])),
            f"{f.sweeps[0]}/{float(np.median(f.sweeps[1:])):.0f}", max(f.bound_gaps), max(f.joint_gaps) if f.joint_gaps else None,
            max(0.0, f.over_meter_w), float(np.median(f.joint_s)) if f.joint_s else None,
            float(np.median(f.joint_s)) / warm if f.joint_s else None,
            f"{f.baseline_s[0] / warm:.3g}{star}" if f.baseline_s else None, f"{f.unusual} of {len(f.sweeps)}",
        )  # fmt: skip
    return table
