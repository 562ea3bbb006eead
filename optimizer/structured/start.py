"""First slacks and multipliers of a block, cold or from the last solution one step on; and keeping them for the next.

Warm start by shifting: row r of step k takes its pair (t, l) from step k + ahead of the last solution, both kept away from zero
by `away`, so that the first iterate is not stuck at the old active set (Yildirim and Wright, SIAM J. Optim. 12, 2002). Kept as
float32; a lane that was not solved keeps nothing and starts cold. Not here: scaling (packing).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from optimizer.structured import layout as f
from optimizer.structured.lanes import stage, whole_pass
from optimizer.structured.layout import HEAD, HEAD_ROWS, ROW, STEP, STEP_ROWS

ALWAYS = 20
"""Rows of a step that are always there; the others depend on the block's flags."""
NONE = -1
ROOMS = (
    f.C_MAX, f.C_MAX, f.D_MAX, f.D_MAX, f.R_NEED, NONE, f.R_IMPORT, f.R_EXPORT, NONE, f.R_OVER_PEAK, f.E_ABOVE, f.E_BELOW, NONE,
    f.V_ABOVE, f.V_BELOW, NONE, NONE, NONE, f.T_ABOVE, NONE, NONE, f.C_ROOM, f.D_ROOM, f.U_MAX, f.U_MAX,
)  # fmt: skip
"""For each of STEP_ROWS the field with its right-hand side: the slack of the idle trajectory."""
PRICES = (
    *(NONE,) * 8, f.GRID_LINEAR, *(NONE,) * 3, f.E_LINEAR, NONE, NONE, f.V_LINEAR, *(NONE,) * 3, f.T_LINEAR, *(NONE,) * 5
)  # fmt: skip
"""For each of STEP_ROWS that keeps a slack variable positive, its price: what its multiplier is while the limit holds."""
BOXES = (True, True, True, True) + (False,) * 19 + (True, True)


COLD_Z = 19
"""Row that keeps the slack of temperature positive, where nothing bounds it below."""


@stage
def rows_of(flags: int) -> int:
    """Rows of a step to visit: all, where any optional one is there."""
    return ALWAYS if flags == 0 else len(STEP_ROWS)


@stage
def count_rows(flags: int, steps: int) -> int:
    """Rows of a block."""
    per_step = ALWAYS
    if flags & f.COLD:
        per_step += 1
    if flags & f.TAPER:
        per_step += 2
    if flags & f.CURTAIL:
        per_step += 2
    return per_step * steps + len(HEAD_ROWS)


@whole_pass
def start(view: Any, steps: int, flags: int, kept: Any, kept_border: Any, warm: bool, ahead: int, away: float, mu: float) -> None:
    """Set i = 1/t, m = l t and the direction of every row; clears the targets.

    kept (steps, rows, 2, lanes) and kept_border (rows, 2, lanes) hold (t, l) of the last solution.
    """
    lanes = view.shape[1]
    for field in range(f.ALPHA, f.R_PEAK_0):
        for lane in range(lanes):
            view[field, lane] = 0.0
    for r in range(len(HEAD_ROWS)):
        at = HEAD_ROWS[r]
        for lane in range(lanes):
            t, price = 1.0, mu
            if warm and kept_border[r, 0, lane] > 0.0:
                price = max(float(kept_border[r, 1, lane]), away)
                t = max(float(kept_border[r, 0, lane]), away / max(price, 1.0))
            view[at, lane], view[at + 1, lane], view[at + 2, lane] = 1.0 / t, price * t, 0.0
    for lane in range(lanes):
        if not (warm and kept_border[0, 0, lane] > 0.0):
            _cold_border(view, lane, mu)
    for k in range(steps):
        s, source = HEAD + STEP * k, min(k + ahead, steps - 1)
        for field in range(f.X_C, f.X_U + 1):
            for lane in range(lanes):
                view[s + field, lane] = 0.0
        for r in range(rows_of(flags)):
            at, room = s + STEP_ROWS[r], ROOMS[r]
            for lane in range(lanes):
                width = view[s + room, lane] if room >= 0 else 1.0
                if warm and kept[source, r, 0, lane] > 0.0:
                    price = max(float(kept[source, r, 1, lane]), away)
                    t = max(float(kept[source, r, 0, lane]), away / max(price, 1.0))
                elif PRICES[r] >= 0 and not (r == COLD_Z and flags & f.COLD):
                    price = max(view[PRICES[r], lane], mu)
                    t = mu / price
                else:
                    t, price = max(width, 1.0), mu
                if BOXES[r] and width <= 2.0 * away:  # hardly any room: in its middle, and centred
                    t = 0.5 * width
                    price = (away if warm else mu) / t
                elif BOXES[r]:
                    t = min(t, max(width, 0.1))
                view[at, lane], view[at + 1, lane], view[at + 2, lane] = 1.0 / t, price * t, 0.0


@stage
def _cold_border(view: Any, lane: int, mu: float) -> None:
    for at, price in ((f.R_DEPTH + ROW, view[f.DEPTH_LINEAR, lane]), (f.R_END + 2 * ROW, view[f.END_LINEAR, lane])):
        view[at, lane], view[at + 1, lane] = max(price, mu) / mu, mu
    _cold_row(view, lane, f.R_DEPTH, view[f.DEPTH, lane], mu)
    _cold_row(view, lane, f.R_END, view[f.END_HIGH, lane], mu)
    _cold_row(view, lane, f.R_END + ROW, view[f.END_LOW, lane], mu)


@stage
def _cold_row(view: Any, lane: int, at: int, room: float, mu: float) -> None:
    t = max(room, 1.0)
    view[at, lane], view[at + 1, lane] = 1.0 / t, mu * t


@whole_pass
def keep(view: Any, steps: int, flags: int, status: Any, kept: Any, kept_border: Any) -> None:
    """Store (t, l) of every row; zeros for lanes whose status is not 0 (solved)."""
    lanes = view.shape[1]
    for r in range(len(HEAD_ROWS)):
        at = HEAD_ROWS[r]
        for lane in range(lanes):
            i = view[at, lane] if status[lane] == 0 else np.inf
            kept_border[r, 0, lane], kept_border[r, 1, lane] = 1.0 / i, _tame(i * view[at + 1, lane])
    for k in range(steps):
        for r in range(rows_of(flags)):
            at = HEAD + STEP * k + STEP_ROWS[r]
            for lane in range(lanes):
                i = view[at, lane] if status[lane] == 0 else np.inf
                kept[k, r, 0, lane], kept[k, r, 1, lane] = 1.0 / i, _tame(i * view[at + 1, lane])


@stage
def _tame(x: float) -> float:
    return x if 0.0 <= x < 1e30 else 1.0
