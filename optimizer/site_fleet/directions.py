"""No device charges and discharges at once: where the relaxation does both, its direction is fixed to the net one.

Both at once can pay only where power at the meter has a price low enough to be burnt (optimizer.exclusivity). Fixing all such
slots at once is a choice, not a proof; what it may cost is bounded by the relaxation's dual bound, which the plan carries. Slots
below the threshold are left to the plan's net set points. Not here: exact branching, which is for few devices.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.layout import DATA_ROWS, LANES, LEAST_POWER, MAX_C, MAX_D, WEIGHT
from optimizer.site_fleet.sweep import Iterate

FloatArray = NDArray[np.float64]
BOTH_WAYS = 2e-3
"""Scaled power from which a flow counts; what the barrier leaves is well below."""


@kept_on_disk
def _fix(first, last, data, constants, flows, burns):
    found = 0
    for b in range(first, last):
        for k in range(flows.shape[1] // 2 - 1):
            if not burns[k]:
                continue
            for lane in range(LANES):
                charge, discharge = flows[b, 2 * k, lane], flows[b, 2 * k + 1, lane]
                if min(charge, discharge) > BOTH_WAYS:
                    row = k * DATA_ROWS + (MAX_D if charge >= discharge else MAX_C)
                    data[b, row, lane] = LEAST_POWER
                    if constants[b, WEIGHT, lane] > 0.0:
                        found += 1
    return found


def fix_directions(iterate: Iterate, price: FloatArray, pool: ThreadPoolExecutor, threads: int) -> int:
    """Forbid the smaller of two flows of the same device and step in the packed data; the number of slots where it was done.

    Only in steps whose price at the meter (N,) is negative: elsewhere doing both costs wear and energy and gains nothing,
    and what
    is seen of it has not quite converged.
    """
    burns = price < 0.0
    if not burns.any():
        return 0
    blocks = iterate.blocks
    cuts = np.linspace(0, blocks.blocks, threads + 1).astype(int)

    def run(i: int) -> int:
        return int(_fix(int(cuts[i]), int(cuts[i + 1]), blocks.data, blocks.constants, iterate.flows, burns))

    return sum(pool.map(run, range(threads)))
