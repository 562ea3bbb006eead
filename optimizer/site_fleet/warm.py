"""Starting points that outlive a solve: slacks and multipliers by device id, shifted in time and lifted off the boundary.

Not here: cold starts (cold).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202, E741 - compiled by numba, which infers types

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.site_fleet.cold import reopen_now, start_lane
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.layout import BORDER_INEQUALITIES, INEQUALITIES, LANES, STATE_ROWS
from optimizer.site_fleet.sweep import MU, STEP, Iterate

FloatArray = NDArray[np.float64]
NEW_DEVICE_MU = 0.1


@dataclass(slots=True)
class Memory:
    """What the last solve left: device ids in order, its iterate, its prices, and what the meter's tariffs were then."""

    device_ids: tuple[str, ...]
    iterate: Iterate
    price: FloatArray
    tariff: FloatArray
    """Mean of buying and selling price, (N,)."""


@kept_on_disk
def _lift(t, l, mu):
    """t and l with a product of at least mu, the smaller one raised."""
    if t * l >= mu:
        return t, l
    return (t, mu / t) if t > l else (mu / l, l)


@kept_on_disk
def _carry(
    data, constants, state, border, flows, report, old_state, old_border, old_flows, old_lane, shift, mu, new_mu
):  # fmt: skip
    stages = flows.shape[1] // 2
    for j in range(len(old_lane)):
        b, lane, source = j // LANES, j % LANES, old_lane[j]
        if source < 0:
            start_lane(data[b], constants[b], state[b], border[b], flows[b], lane, new_mu)
            report[b, :, lane] = 0.0
            report[b, MU, lane] = new_mu
            continue
        ob, ol = source // LANES, source % LANES
        for k in range(stages):
            # The last stage limits the last state only; every other one takes what comes `shift` steps later.
            old = k if k == stages - 1 else min(k + shift, stages - 2)
            for r in range(INEQUALITIES):
                row, old_row = k * STATE_ROWS + 2 * r, old * STATE_ROWS + 2 * r
                t, l = _lift(old_state[ob, old_row, ol], old_state[ob, old_row + 1, ol], mu)
                state[b, row, lane], state[b, row + 1, lane] = t, l
            if k == 0:
                reopen_now(data[b], constants[b], state[b], lane, mu)
            flows[b, 2 * k, lane] = old_flows[ob, 2 * old, ol]
            flows[b, 2 * k + 1, lane] = old_flows[ob, 2 * old + 1, ol]
        for r in range(BORDER_INEQUALITIES):
            t, l = _lift(old_border[ob, 2 * r, ol], old_border[ob, 2 * r + 1, ol], mu)
            border[b, 2 * r, lane], border[b, 2 * r + 1, lane] = t, l
        report[b, :, lane] = 0.0
        report[b, MU, lane], report[b, STEP, lane] = mu, 1.0


def carry(iterate: Iterate, device_ids: tuple[str, ...], memory: Memory, shift: int, mu: float) -> int:
    """Fill `iterate` from memory; the number of devices that it did not know. The iterate may be memory's own."""
    count = len(device_ids)
    lanes = np.arange(iterate.blocks.blocks * LANES)
    if device_ids == memory.device_ids:
        source = np.minimum(lanes, count - 1) if iterate is not memory.iterate else lanes
    else:
        where = {device_id: i for i, device_id in enumerate(memory.device_ids)}
        known = np.array([where.get(device_id, -1) for device_id in device_ids], dtype=np.int64)
        source = known[np.minimum(lanes, count - 1)]
    old = memory.iterate
    state, border, flows = old.kept or (old.state, old.border, old.flows)
    _carry(
        iterate.blocks.data, iterate.blocks.constants, iterate.state, iterate.border, iterate.flows, iterate.report, state,
        border, flows, source.astype(np.int64), shift, mu, NEW_DEVICE_MU,
    )  # fmt: skip
    return int((source[:count] < 0).sum())


def shifted(values: FloatArray, shift: int) -> FloatArray:
    """(…, N) moved `shift` steps ahead, the last repeated."""
    steps = values.shape[-1]
    return np.ascontiguousarray(values[..., np.minimum(np.arange(steps) + shift, steps - 1)])
