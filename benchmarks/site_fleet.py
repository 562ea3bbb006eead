"""Large sites: cold, warm with a rolled horizon and revised prices, gap, violations, memory.

    python -m benchmarks.site_fleet [--sizes 32 100 1000 10000] [--kinds peak grid both track] [--stressed]

The joint QP (PIQP) is solved on the same instances in the same run up to 100 packs; the gap is to the dual bound. CPU
seconds count both threads; wall time is only telling on an idle machine.
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.fleet import FleetData
from optimizer.problem import GridData, SiteProblem
from optimizer.site_fleet import SiteFleetPlan, SiteFleetSolver
from optimizer.site_fleet.scenarios import KINDS, scenario
from optimizer.solvers import solve_piqp

DT_S = 900.0
JOINT_UP_TO = 100
ROLLS = 3
REVISION_EUR_PER_KWH = 0.005
"""Standard deviation of what hourly prices change by between two solves."""


def joint(grid: GridData, fleet: FleetData) -> tuple[float, float]:
    """(objective, CPU seconds) of PIQP on the joint QP, assembly included; NaN where it gives up."""
    began = time.process_time()
    qp = SiteQP(SiteProblem(dt_s=DT_S, grid=grid, devices=tuple(fleet.device(i) for i in range(fleet.count))))
    try:
        objective = qp.objective(solve_piqp(qp).x)
    except SolverError:
        objective = float("nan")
    return objective, time.process_time() - began


def row(label: str, plan: SiteFleetPlan, cpu_s: float, reference: tuple[float, float] | None) -> str:
    """One line of the table."""
    said = "" if reference is None else f" {plan.objective_eur / reference[0] - 1:9.1e} {reference[1]:9.2f}"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return (
        f"{label:32} {plan.source:6} {plan.sweeps:4d} {cpu_s:8.2f} {plan.solve_s:8.2f} {plan.relative_gap:9.1e} "
        f"{plan.residual:9.1e} {memory:6.2f}{said}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 100, 1000, 10_000])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["peak", "grid", "both", "track"])
    parser.add_argument("--stressed", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    SiteFleetSolver().solve(*scenario(9, 96).window(), DT_S)  # compiled code is loaded before anything is timed
    print(
        f"{'packs, what binds, step':32} {'start':6} {'swps':>4} {'cpu s':>8} {'wall s':>8} {'gap':>9} {'residual':>9} "
        f"{'GB':>6} {'vs PIQP':>9} {'PIQP s':>9}"
    )
    for size in options.sizes:
        for kind in options.kinds:
            site = scenario(size, kind=kind, seed=options.seed, extra_steps=ROLLS, stressed=options.stressed)
            g = np.random.default_rng(options.seed)
            solver = SiteFleetSolver()
            for k in range(ROLLS):
                revision = None if k == 0 else REVISION_EUR_PER_KWH * np.repeat(g.standard_normal(24), 4)
                grid, fleet = site.window(k, revision)
                began = time.process_time()
                plan = solver.solve(grid, fleet, DT_S)
                cpu_s = time.process_time() - began
                reference = joint(grid, fleet) if size <= JOINT_UP_TO else None
                print(row(f"{size} {kind} {k}", plan, cpu_s, reference), flush=True)
                beyond = max((plan.import_w - grid.import_limit_w).max(), (plan.export_w - grid.export_limit_w).max())
                if beyond > 0.5:
                    print(f"    meter's limit exceeded by {beyond:.3g} W")
                for text in plan.violations:
                    print(f"    {text}")
                site.advance(plan.energy_wh[:, 0], plan.temperature_c[:, 0], float(plan.import_w[0] - plan.export_w[0]))


if __name__ == "__main__":
    main()
