"""The joint QP of a small site (optimizer.assembly and PIQP) as one more link of the chain: a handful of devices is no fleet.

With few devices the fleet's answer to a price is stiff, and the Schur-complement interior point may stop short of the optimum.
Not here: large sites, for which this is far too slow.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from optimizer.assembly import SiteQP
from optimizer.fleet import FleetData
from optimizer.problem import GridData, SiteProblem, SoftCosts
from optimizer.solvers import solve_piqp

FloatArray = NDArray[np.float64]
MOST_DEVICES = 32


def solve_joint(
    grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Net power (B, N) and curtailment (N,) in W, meter's price (N,) and value of stored energy (B, N) in EUR/kWh.

    Raises SolverError when PIQP does not solve it.
    """
    devices = tuple(fleet.device(i) for i in range(fleet.count))
    qp = SiteQP(SiteProblem(dt_s=dt_s, grid=grid, devices=devices, soft=soft))
    solution = solve_piqp(qp)
    x, n, count = solution.x, fleet.steps, fleet.count
    net = np.array([x[qp.device(i, "d")] - x[qp.device(i, "c")] for i in range(count)])
    duals = solution.equality_duals
    value = duals[: 2 * n * count].reshape(count, 2, n)[:, 0]
    price = -duals[2 * n * count : 2 * n * count + n] * 3600.0 / dt_s
    return 1000.0 * net, 1000.0 * x[qp.grid("u")], price, value
