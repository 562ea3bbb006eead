"""One block of devices from data to plan, and a range of blocks: the compiled entry point of the solver.

An iteration is four passes: factor and correct against time, predict and advance with it (Mehrotra, SIAM J. Optim. 2, 1992). A
block ends when each of its lanes has met its own tolerance, has failed, or has had `most_iterations`. Compiled code is cached on
disk; `compiled` ties it to the source text of this package, which numba alone would not see change in other modules.
"""
# ruff: noqa: ANN401 - named tuples of arrays: known to numba alone.

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from optimizer.structured import layout as f
from optimizer.structured.audit import audit
from optimizer.structured.backward import correct_all, factor
from optimizer.structured.check import beyond_kernel, cut_to_bounds, finish, price
from optimizer.structured.forward import advance_all, predict_all
from optimizer.structured.judge import KINDS
from optimizer.structured.lanes import stage, whole_pass
from optimizer.structured.layout import HEAD, MONEY_EUR_PER_KW, STEP
from optimizer.structured.packing import optional_rows, pack, power_scale
from optimizer.structured.start import count_rows, keep, start

SOLVED, ITERATIONS, NOT_FINITE, UNPROVEN, ROUTED, REFUSED = range(6)
STATUS = (
    "solved", "too many iterations", "not finite", "not proven", "a case for the general solver", "refused by the replay",
)  # fmt: skip
"""Status of a device; all but SOLVED go down the chain."""
_SOURCES = (
    "audit", "backward", "check", "forward", "judge", "kernel", "lanes", "layout", "packing", "riccati", "rooms", "rows", "start",
)  # fmt: skip
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


@stage
def allowance(view: Any, lane: int, relative: float, scale: float) -> float:
    """Gap allowed in a lane: `relative` of the cost, of at least one euro, of at most the horizon's throughput."""
    return float(relative * max(view[f.EURO, lane], min(abs(view[f.COST, lane]), scale)))


@whole_pass
def solve_block(
    w: Any, view: Any, steps: int, flags: int, h: float, relative: float, most_iterations: int, iterations: Any, status: Any
) -> None:
    """Iterate on a packed and started block; `view` is w as (fields, lanes). Fills iterations and status of its lanes."""
    lanes = view.shape[1]
    rows, scale = count_rows(flags, steps), 0.5 * h * steps
    for lane in range(lanes):
        view[f.ROWS_INVERSE, lane] = 1.0 / rows
        view[f.LEFT, lane] = 1.0
        view[f.FLOOR, lane] = 0.0
        iterations[lane], status[lane] = 0, ITERATIONS
    audits = 0
    for iteration in range(most_iterations):
        factor(w, steps, flags)
        predict_all(w, steps, flags)
        correct_all(w, steps, flags)
        advance_all(w, steps, flags)
        going = False
        for lane in range(lanes):
            gap, allowed = view[f.GAP_NEXT, lane], allowance(view, lane, relative, scale)
            # Centring stops well inside the allowance: smaller products only bring rounding, in lanes that wait for others too.
            view[f.FLOOR, lane] = CENTRED * allowed / rows
            if status[lane] != ITERATIONS:
                continue
            iterations[lane] = iteration + 1
            if not np.isfinite(gap) or not np.isfinite(view[f.COST, lane]):
                status[lane] = NOT_FINITE
            elif gap <= allowed and view[f.LEFT, lane] <= LEFT_LIMIT:
                status[lane] = SOLVED
            else:
                going = True
        if going and iteration < most_iterations - 1:
            continue
        audit(w, steps, flags)
        audits += 1
        again = False
        for lane in range(lanes):
            view[f.ALPHA, lane] = 0.0
            if status[lane] == SOLVED or status[lane] == UNPROVEN:
                status[lane] = verdict(view, lane, allowance(view, lane, relative, scale))
                again = again or status[lane] == UNPROVEN
        if not again or audits == MOST_AUDITS or iteration == most_iterations - 1:
            break
        for lane in range(lanes):
            if status[lane] == UNPROVEN:
                status[lane] = ITERATIONS


@stage
def verdict(view: Any, lane: int, allowed: float) -> int:
    """SOLVED when the audit proves it, else UNPROVEN."""
    proven = abs(view[f.AUDIT_GAP, lane]) + view[f.AUDIT_DUAL, lane]
    return SOLVED if proven <= PROOF * allowed and view[f.AUDIT_PRIMAL, lane] >= PRIMAL_LIMIT else UNPROVEN


@whole_pass
def unpack(view: Any, lane: int, p: Any, m: Any, i: int, h: float, ok: bool, out: Any) -> None:
    """Write a lane's plan into row i of the outputs: zero where the lane is not `ok`."""
    watts = 1e3 * power_scale(p, i)
    for k in range(p.charge_max_w.shape[1]):
        s = HEAD + STEP * k
        if ok:
            out[0][i, k] = min(max(view[s + f.X_C, lane] * watts, 0.0), p.charge_max_w[i, k])
            out[1][i, k] = min(max(view[s + f.X_D, lane] * watts, 0.0), p.discharge_max_w[i, k])
            out[2][i, k] = min(max(view[s + f.X_U, lane] * watts, 0.0), m.pv_w[i, k] * m.curtailable[i])
            out[3][i, k] = view[s + f.VALUE, lane] * MONEY_EUR_PER_KW
            move = 2.0 * p.move_weight[i] * p.reference_w[i, k] * 1e-3
            out[4][i, k] = view[s + f.METER, lane] * MONEY_EUR_PER_KW / h - move
        else:
            for j in range(5):
                out[j][i, k] = 0.0


def _source_digest() -> int:
    """Of the text that the compiled code comes from."""
    digest = hashlib.sha256()
    for name in _SOURCES:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return int.from_bytes(digest.digest()[:7], "big")


def compiled(source: int) -> tuple[Any, Any, Any, Any]:
    """The entry points; `source` is part of their identity in numba's cache, since each refers to it."""

    def solve_range(
        w: Any, view: Any, p: Any, m: Any, soft: Any, h: float, order: Any, first: int, last: int, warm: Any, kept: Any,
        kept_border: Any, ahead: int, away: float, mu: float, relative: float, most_iterations: int, judged: bool,
        iterations: Any, status: Any, numbers: Any, objective: Any, out: Any,
    ) -> int:  # fmt: skip
        """Blocks first <= b < last; lane l of block b is device order[b, l]; a device that repeats only fills its lane.

        `judged`: plans are cut to what the replay passes; else only to power bounds.
        """
        excess = np.empty(len(KINDS))
        lanes, steps = view.shape[1], p.charge_max_w.shape[1]
        lane_iterations, lane_status = np.empty(lanes, np.int64), np.empty(lanes, np.int64)
        for b in range(first, last):
            flags = 0
            for lane in range(lanes):
                i = order[b, lane]
                flags |= optional_rows(p, m, i)
                pack(view, lane, p, m, soft, i, h)
            start(view, steps, flags, kept[b], kept_border[b], warm[b], ahead, away, mu)
            solve_block(w, view, steps, flags, h, relative, most_iterations, lane_iterations, lane_status)
            keep(view, steps, flags, lane_status, kept[b], kept_border[b])
            warm[b] = True
            for lane in range(lanes - 1, -1, -1):
                i = order[b, lane]
                iterations[i], status[i] = lane_iterations[lane], lane_status[lane]
                numbers[i, 0], numbers[i, 1] = view[f.AUDIT_GAP, lane], view[f.AUDIT_DUAL, lane]
                numbers[i, 2], numbers[i, 3] = view[f.AUDIT_PRIMAL, lane], view[f.EURO, lane]
                unpack(view, lane, p, m, i, h, lane_status[lane] == SOLVED, out)
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
        return source

    def route(p: Any, m: Any, status: Any) -> int:
        """Mark the devices that are not for this kernel."""
        for i in range(status.shape[0]):
            status[i] = ROUTED if beyond_kernel(p, m, i) else SOLVED
        return source

    def finish_one(p: Any, m: Any, soft: Any, i: int, h: float, c: Any, d: Any, u: Any) -> tuple[float, float, bool]:
        """`finish` for a plan from elsewhere."""
        value, cost, passed = finish(p, m, soft, i, h, c, d, u, np.empty(len(KINDS)))
        return value, cost, passed and source > 0

    def judge_all(p: Any, m: Any, soft: Any, h: float, c: Any, d: Any, u: Any, objective: Any, excess: Any) -> int:
        """Replay plans as they are: objectives (B,), and what they break (B, len(KINDS))."""
        for i in range(c.shape[0]):
            objective[i] = price(p, m, soft, i, h, c, d, u, excess[i])
        return source

    keep_on_disk = njit(cache=True, nogil=True, error_model="numpy", boundscheck=False)
    return keep_on_disk(solve_range), keep_on_disk(route), keep_on_disk(finish_one), keep_on_disk(judge_all)


solve_range, route, finish_one, judge_all = compiled(_source_digest())
