"""A queue of devices through the lanes of one block, from data to plan: the compiled entry point of the solver.

An iteration is four passes: factor and correct against time, predict and advance with it (Mehrotra, SIAM J. Optim. 2, 1992). A
lane is done when it has met its own tolerance, has failed, or has had `most_iterations`. Since devices need different numbers of
iterations, lanes that are done are audited, emptied and filled with the next devices while the others go on.
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

from typing import Any

import numpy as np

from core.compiled import kept_on_disk
from core.lanes import stage, whole_pass
from optimizer.structured import layout as f
from optimizer.structured.audit import audit
from optimizer.structured.backward import correct_all, factor
from optimizer.structured.check import beyond_kernel, cut_to_bounds, finish, price
from optimizer.structured.forward import advance_all, predict_all
from optimizer.structured.judge import KINDS
from optimizer.structured.layout import STEP_ROWS
from optimizer.structured.packing import optional_rows, pack, unpack
from optimizer.structured.start import count_rows, keep, start

SOLVED, ITERATIONS, NOT_FINITE, UNPROVEN, ROUTED, REFUSED = range(6)
STATUS = (
    "solved", "too many iterations", "not finite", "not proven", "a case for the general solver", "refused by the replay",
)  # fmt: skip
"""Status of a device; all but SOLVED go down the chain."""
LEFT_LIMIT = 1e-8
"""Share of the first infeasibility that may be left."""
PRIMAL_LIMIT = -1e-5
"""Least slack of the full-step point, in units: a row broken by more refuses the plan."""
CENTRED = 0.2
"""Share of the allowed gap below which products are not driven."""
PROOF = 4.0
"""The proven gap may be this many tolerances: rounding, and residuals weighted by ranges."""
MOST_AUDITS = 3
"""A lane that an audit refuses gets more iterations this often, less one."""
ENOUGH = 2
"""Lanes that wait before an audit, which takes a quarter of an iteration, is worth it."""
_entry = kept_on_disk(nogil=True, error_model="numpy", boundscheck=False)
DEVICE, STATE, DONE, COUNT, AUDITS = range(5)
LANE_ROWS = 5
"""What is known of a lane: its device or -1, its status, whether it is done, its iterations and audits."""


@stage
def allowance(view: Any, lane: int, relative: float, scale: float) -> float:
    """Gap allowed in a lane: `relative` of the cost, of at least one euro, of at most the horizon's throughput."""
    return float(relative * max(view[f.EURO, lane], min(abs(view[f.COST, lane]), scale)))


@stage
def iterate(w: Any, steps: int, flags: int) -> None:
    """The four passes."""
    factor(w, steps, flags)
    predict_all(w, steps, flags)
    correct_all(w, steps, flags)
    advance_all(w, steps, flags)


@stage
def verdict(view: Any, lane: int, allowed: float) -> int:
    """SOLVED when the audit proves it, else UNPROVEN."""
    proven = abs(view[f.AUDIT_GAP, lane]) + view[f.AUDIT_DUAL, lane]
    return SOLVED if proven <= PROOF * allowed and view[f.AUDIT_PRIMAL, lane] >= PRIMAL_LIMIT else UNPROVEN


@whole_pass
def look(view: Any, lanes: Any, steps: int, rows: int, h: float, relative: float, most_iterations: int) -> tuple[int, int]:
    """After an iteration: (lanes that go on, lanes that wait for the audit); `lanes` has LANE_ROWS."""
    going = waiting = 0
    for lane in range(view.shape[1]):
        if lanes[DEVICE, lane] < 0:
            continue
        gap, allowed = view[f.GAP_NEXT, lane], allowance(view, lane, relative, 0.5 * h * steps)
        # Centring stops well inside the allowance: smaller products only bring rounding, in lanes that wait for others too.
        view[f.FLOOR, lane] = CENTRED * allowed / rows
        if lanes[DONE, lane] == 0:
            lanes[COUNT, lane] += 1
            if not np.isfinite(gap) or not np.isfinite(view[f.COST, lane]):
                lanes[STATE, lane], lanes[DONE, lane] = NOT_FINITE, 1
            elif gap <= allowed and view[f.LEFT, lane] <= LEFT_LIMIT:
                lanes[STATE, lane], lanes[DONE, lane] = SOLVED, 1
            elif lanes[COUNT, lane] >= most_iterations:
                lanes[DONE, lane] = 1
        if lanes[DONE, lane] == 0:
            going += 1
        else:
            waiting += 1
    return going, waiting


@whole_pass
def prove(view: Any, lanes: Any, steps: int, h: float, relative: float, most_iterations: int) -> None:
    """After an audit: lanes that it does not prove go on, a few times."""
    for lane in range(view.shape[1]):
        view[f.ALPHA, lane] = 0.0
        if lanes[DEVICE, lane] >= 0 and lanes[DONE, lane] == 1 and lanes[STATE, lane] == SOLVED:
            lanes[AUDITS, lane] += 1
            state = verdict(view, lane, allowance(view, lane, relative, 0.5 * h * steps))
            again = state == UNPROVEN and lanes[AUDITS, lane] < MOST_AUDITS and lanes[COUNT, lane] < most_iterations
            lanes[STATE, lane], lanes[DONE, lane] = ITERATIONS if again else state, 0 if again else 1


@whole_pass
def harvest(
    view: Any, lanes: Any, steps: int, flags: int, p: Any, m: Any, soft: Any, h: float, kept: Any, border: Any, relative: float,
    judged: bool, iterations: Any, status: Any, numbers: Any, objective: Any, out: Any, excess: Any,
) -> None:  # fmt: skip
    """Plans of the lanes that are done, cut, replayed and priced; rows for the next warm start."""
    for lane in range(view.shape[1]):
        i = lanes[DEVICE, lane]
        if i < 0 or lanes[DONE, lane] == 0:
            continue
        iterations[i], status[i] = lanes[COUNT, lane], lanes[STATE, lane]
        numbers[i, 0], numbers[i, 1] = view[f.AUDIT_GAP, lane], view[f.AUDIT_DUAL, lane]
        numbers[i, 2], numbers[i, 3] = view[f.AUDIT_PRIMAL, lane], view[f.EURO, lane]
        border[i, 0, 0] = 0.0
        if status[i] == SOLVED:
            keep(view, lane, steps, flags, kept[i], border[i])
            unpack(view, lane, flags, p, m, i, h, out)
        else:
            for j in range(5):
                out[j][i, :] = 0.0
        if judged:
            objective[i], numbers[i, 4], passed = finish(p, m, soft, i, h, out[0], out[1], out[2], excess)
        else:
            cut_to_bounds(p, m, i, h, out[0], out[1], out[2])
            objective[i], passed = price(p, m, soft, i, h, out[0], out[1], out[2], excess), True
        if status[i] == SOLVED:
            proven = (abs(numbers[i, 0]) + numbers[i, 1]) / numbers[i, 3]
            if np.isnan(objective[i]):
                status[i] = NOT_FINITE
            elif not proven <= PROOF * relative * max(1.0, abs(objective[i])):
                status[i] = UNPROVEN
            elif not passed:
                status[i] = REFUSED
        lanes[DEVICE, lane] = -1
        if not np.isfinite(view[f.GAP_NEXT, lane]):
            view[:, lane] = 0.0  # what is no number must not reach the next device


@whole_pass
def fill(
    view: Any, lanes: Any, steps: int, flags: int, p: Any, m: Any, soft: Any, h: float, order: Any, first: int, last: int,
    kept: Any, border: Any, ahead: int, away: float, mu: float, scratch: Any,
) -> int:  # fmt: skip
    """Give the devices order[first:last] to free lanes; the first that is left over."""
    for lane in range(view.shape[1]):
        if lanes[DEVICE, lane] < 0 and first < last:
            i = order[first]
            first += 1
            lanes[DEVICE, lane] = i
            lanes[STATE, lane], lanes[DONE, lane], lanes[COUNT, lane], lanes[AUDITS, lane] = ITERATIONS, 0, 0, 0
            pack(view, lane, flags, p, m, soft, i, h)
            start(view, lane, steps, flags, kept[i], border[i], ahead, away, mu, scratch)
            view[f.ROWS_INVERSE, lane] = 1.0 / count_rows(flags, steps)
    return first


@_entry
def solve_range(
    w: Any, view: Any, p: Any, m: Any, soft: Any, h: float, order: Any, first: int, last: int, flags_of: Any, kept: Any,
    border: Any, ahead: int, away: float, mu: float, relative: float, most_iterations: int, judged: bool, iterations: Any,
    status: Any, numbers: Any, objective: Any, out: Any,
) -> None:  # fmt: skip
    """Devices order[first:last], in whatever lane is free.

    `judged`: plans are cut to what the replay passes; else only to power bounds.
    """
    steps, flags = p.charge_max_w.shape[1], 0
    for j in range(first, last):
        flags |= flags_of[order[j]]
    excess, scratch = np.empty(len(KINDS)), np.empty((2, len(STEP_ROWS)))
    lanes = np.full((LANE_ROWS, view.shape[1]), -1)
    following = fill(
        view, lanes, steps, flags, p, m, soft, h, order, first, last, kept, border, ahead, away, mu, scratch
    )  # fmt: skip
    rows = count_rows(flags, steps)
    while True:
        iterate(w, steps, flags)
        going, waiting = look(view, lanes, steps, rows, h, relative, most_iterations)
        if going > 0 and (waiting < ENOUGH or following == last):
            continue
        audit(w, steps, flags)
        prove(view, lanes, steps, h, relative, most_iterations)
        harvest(
            view, lanes, steps, flags, p, m, soft, h, kept, border, relative, judged, iterations, status, numbers, objective,
            out, excess,
        )  # fmt: skip
        following = fill(
            view, lanes, steps, flags, p, m, soft, h, order, following, last, kept, border, ahead, away, mu, scratch
        )  # fmt: skip
        if not (lanes[DEVICE] >= 0).any():
            return


@_entry
def route(p: Any, m: Any, status: Any, flags_of: Any) -> None:
    """Mark the devices that are not for this kernel, and the optional rows of all."""
    for i in range(status.shape[0]):
        status[i] = ROUTED if beyond_kernel(p, m, i) else SOLVED
        flags_of[i] = optional_rows(p, m, i)


@_entry
def finish_one(p: Any, m: Any, soft: Any, i: int, h: float, c: Any, d: Any, u: Any) -> tuple[float, float, bool]:
    """`finish` for a plan from elsewhere."""
    value, cost, passed = finish(p, m, soft, i, h, c, d, u, np.empty(len(KINDS)))
    return value, cost, passed


@_entry
def judge_all(p: Any, m: Any, soft: Any, h: float, c: Any, d: Any, u: Any, objective: Any, excess: Any) -> None:
    """Replay plans as they are: objectives (B,), and what they break (B, len(KINDS))."""
    for i in range(c.shape[0]):
        objective[i] = price(p, m, soft, i, h, c, d, u, excess[i])
