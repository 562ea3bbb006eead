"""First slacks and multipliers of a block, cold or from the last solution one step on; and keeping them for the next.

Warm start by shifting: row r of step k takes its pair (t, l) from step k + ahead of the last solution, both kept away from zero
by `away`, so that the first iterate is not stuck at the old active set (Yildirim and Wright, SIAM J. Optim. 12, 2002). Kept per
device as float32 (1/t, l t): kept (steps, 2, rows) and border (2, rows); a first border row of zero says that nothing is kept, as
after a solve that failed, and the device starts cold. Not here: scaling (packing).
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import stage, whole_pass
from optimizer.structured import layout as f
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
BOX_ROWS = 4
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
def start(
    view: Any, lane: int, steps: int, flags: int, kept: Any, border: Any, ahead: int, away: float, mu: float, scratch: Any
) -> None:
    """i = 1/t and m = l t of every row of a lane; clears what passes hand on. scratch has (2, rows)."""
    for field in range(f.ALPHA, f.R_PEAK_0):
        view[field, lane] = 0.0
    view[f.LEFT, lane] = 1.0
    warm = border[0, 0] > 0.0
    for r in range(len(HEAD_ROWS)):
        at = HEAD_ROWS[r]
        view[at, lane], view[at + 1, lane], view[at + 2, lane] = 1.0, mu, 0.0
        if warm:
            price = max(float(border[0, r]) * float(border[1, r]), away)
            view[at, lane] = min(float(border[0, r]), max(price, 1.0) / away)
            view[at + 1, lane] = price / view[at, lane]
    if not warm:
        _cold_border(view, lane, mu)
    for k in range(steps):
        s, done = HEAD + STEP * k, 0
        if warm:
            source, done = min(k + ahead, steps - 1), ALWAYS
            for r in range(ALWAYS):
                inverse = float(kept[source, 0, r])
                price = max(inverse * float(kept[source, 1, r]), away)
                scratch[0, r] = min(inverse, max(price, 1.0) / away)
                scratch[1, r] = price / scratch[0, r]
            for r in range(ALWAYS):
                view[s + STEP_ROWS[r], lane], view[s + STEP_ROWS[r] + 1, lane] = scratch[0, r], scratch[1, r]
            for r in range(BOX_ROWS):
                _box(view, lane, s + STEP_ROWS[r], view[s + ROOMS[r], lane], away, away)
        for r in range(done, rows_of(flags)):
            at, width = s + STEP_ROWS[r], view[s + ROOMS[r], lane] if ROOMS[r] >= 0 else 1.0
            t, price = max(width, 1.0), mu
            if PRICES[r] >= 0 and not (r == COLD_Z and flags & f.COLD):
                price = max(view[PRICES[r], lane], mu)
                t = mu / price
            view[at, lane], view[at + 1, lane] = 1.0 / t, price * t
            if BOXES[r]:
                _box(view, lane, at, width, away, mu)


@stage
def _box(view: Any, lane: int, at: int, width: float, away: float, mu: float) -> None:
    """A row of a box starts within it; where there is hardly any room, in its middle, and centred."""
    if width <= 2.0 * away:
        view[at, lane], view[at + 1, lane] = 2.0 / width, mu
    else:
        inverse = view[at, lane]
        view[at, lane] = max(inverse, 1.0 / max(width, 0.1))
        view[at + 1, lane] = view[at + 1, lane] * inverse / view[at, lane]


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
def keep(view: Any, lane: int, steps: int, flags: int, kept: Any, border: Any) -> None:
    """Store the rows of a solved lane."""
    for r in range(len(HEAD_ROWS)):
        border[0, r], border[1, r] = view[HEAD_ROWS[r], lane], view[HEAD_ROWS[r] + 1, lane]
    for k in range(steps):
        s = HEAD + STEP * k
        for r in range(rows_of(flags)):
            kept[k, 0, r], kept[k, 1, r] = view[s + STEP_ROWS[r], lane], view[s + STEP_ROWS[r] + 1, lane]
