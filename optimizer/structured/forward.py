"""The two passes from the first step to the last: `predict` (affine direction, centring) and `advance` (step, length).

Not here: the passes against time (backward), rows (rows).
"""
# ruff: noqa: ANN401 - eight lanes or a float: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import least, load, most, stage, store, whole_pass
from optimizer.structured import layout as f
from optimizer.structured.riccati import forward
from optimizer.structured.rows import (
    advance,
    advance_box,
    advance_soft,
    advance_soft2,
    predict,
    predict_box,
    predict_soft,
    predict_soft2,
    slack_of,
)

Value = Any
BOUNDARY = 0.998
"""Share of the way to the nearest bound that a step may go."""


@stage
def curtailment(w: Any, s: int, net: Value, peak: Value) -> Value:
    """u that belongs to the battery's net power."""
    return -(load(w, s + f.U_OFFSET) + load(w, s + f.U_GAIN) * net + load(w, s + f.U_PEAK) * peak)


@whole_pass
def predict_all(w: Any, steps: int, flags: int) -> None:
    """Forward pass 1: x of every row, the affine step length, and sigma mu with sigma = (1 - alpha)^3."""
    peak, high, low = load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW)
    zero = 0.0 * peak
    over = slack_of(w, f.OVER_GAIN, high - low)
    x_low, x_high = predict(w, f.R_PEAK_0, peak - load(w, f.PEAK_0), zero + 1.0, zero)
    x_low, x_high = predict(w, f.R_HIGH_0, high - load(w, f.HIGH_0), x_low, x_high)
    x_low, x_high = predict(w, f.R_LOW_0, load(w, f.LOW_0) - low, x_low, x_high)
    x_low, x_high = predict_soft(w, f.R_DEPTH, high - low, over, load(w, f.DEPTH), x_low, x_high)
    e, t = zero, zero
    for k in range(steps):
        s = f.HEAD + f.STEP * k
        before = e
        c, d, e, t = forward(w, s, e, t, peak, high, low)
        net = c - d
        v = load(w, s + f.VE) * before + load(w, s + f.VP) * net
        x_low, x_high = predict_box(w, s + f.R_C, c, load(w, s + f.C_MAX), x_low, x_high)
        x_low, x_high = predict_box(w, s + f.R_D, d, load(w, s + f.D_MAX), x_low, x_high)
        if flags & f.TAPER:
            x_low, x_high = predict(w, s + f.R_TC, load(w, s + f.C_ROOM) - c - load(w, s + f.C_SLOPE) * before, x_low, x_high)
            x_low, x_high = predict(w, s + f.R_TD, load(w, s + f.D_ROOM) - d + load(w, s + f.D_SLOPE) * before, x_low, x_high)
        if flags & f.CURTAIL:
            u = curtailment(w, s, net, peak)
            net = net + u
            x_low, x_high = predict_box(w, s + f.R_U, u, load(w, s + f.U_MAX), x_low, x_high)
        z = slack_of(w, s + f.B_GAIN, net)
        x_low, x_high = predict_soft(w, s + f.R_B, net, z, load(w, s + f.R_NEED), x_low, x_high)
        z = slack_of(w, s + f.G_GAIN, net)
        x_low, x_high = predict_soft2(w, s + f.R_G, net, z, load(w, s + f.R_IMPORT), load(w, s + f.R_EXPORT), x_low, x_high)
        x_low, x_high = predict(w, s + f.R_PEAK, load(w, s + f.R_OVER_PEAK) - net + peak, x_low, x_high)
        z = slack_of(w, s + f.E_GAIN, e)
        x_low, x_high = predict_soft2(w, s + f.R_E, e, z, load(w, s + f.E_ABOVE), load(w, s + f.E_BELOW), x_low, x_high)
        z = slack_of(w, s + f.T_GAIN, t)
        if flags & f.COLD:
            x_low, x_high = predict_soft2(w, s + f.R_T, t, z, load(w, s + f.T_ABOVE), load(w, s + f.T_BELOW), x_low, x_high)
        else:
            x_low, x_high = predict_soft(w, s + f.R_T, t, z, load(w, s + f.T_ABOVE), x_low, x_high)
        z = slack_of(w, s + f.V_GAIN, v)
        x_low, x_high = predict_soft2(w, s + f.R_V, v, z, load(w, s + f.V_ABOVE), load(w, s + f.V_BELOW), x_low, x_high)
        idle = load(w, s + f.E_IDLE)
        x_low, x_high = predict(w, s + f.R_HIGH, high - idle - e, x_low, x_high)
        x_low, x_high = predict(w, s + f.R_LOW, idle + e - low, x_low, x_high)
    short = slack_of(w, f.SHORT_GAIN, e)
    x_low, x_high = predict_soft2(w, f.R_END, e, short, load(w, f.END_HIGH), load(w, f.END_LOW), x_low, x_high)
    short_of_one = 1.0 - 1.0 / most(most(x_high, 1.0 - x_low), 1.0)
    sigma = short_of_one * short_of_one * short_of_one
    store(w, f.SIGMA_MU, most(sigma * load(w, f.GAP) * load(w, f.ROWS_INVERSE), load(w, f.FLOOR)))


@stage
def advance_border(w: Any, sums: tuple[Value, ...]) -> tuple[Value, ...]:
    """Rows of peak, high, low and depth."""
    sigma_mu, peak, high, low = load(w, f.SIGMA_MU), load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW)
    over = slack_of(w, f.OVER_GAIN, high - low)
    store(w, f.OVER, over)
    sums = advance(w, f.R_PEAK_0, peak - load(w, f.PEAK_0), sigma_mu, sums)
    sums = advance(w, f.R_HIGH_0, high - load(w, f.HIGH_0), sigma_mu, sums)
    sums = advance(w, f.R_LOW_0, load(w, f.LOW_0) - low, sigma_mu, sums)
    return advance_soft(w, f.R_DEPTH, high - low, over, load(w, f.DEPTH), sigma_mu, sums)


@whole_pass
def advance_all(w: Any, steps: int, flags: int) -> None:
    """Forward pass 2: targets of the corrected step, dl/l of every row, the step length and the gap that it leaves."""
    sigma_mu, peak, high, low = load(w, f.SIGMA_MU), load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW)
    zero = 0.0 * peak
    sums = advance_border(w, (zero + 1.0, zero + 1.0, zero, zero))
    cost = load(w, f.COST_0) + load(w, f.PEAK_PRICE) * peak
    e, t = zero, zero
    for k in range(steps):
        s = f.HEAD + f.STEP * k
        before = e
        c, d, e, t = forward(w, s, e, t, peak, high, low)
        net = c - d
        v = load(w, s + f.VE) * before + load(w, s + f.VP) * net
        store(w, s + f.X_C, c)
        store(w, s + f.X_D, d)
        store(w, s + f.S_E, e)
        store(w, s + f.S_T, t)
        store(w, s + f.S_V, v)
        sums = advance_box(w, s + f.R_C, c, load(w, s + f.C_MAX), sigma_mu, sums)
        sums = advance_box(w, s + f.R_D, d, load(w, s + f.D_MAX), sigma_mu, sums)
        if flags & f.TAPER:
            slack = load(w, s + f.C_ROOM) - c - load(w, s + f.C_SLOPE) * before
            sums = advance(w, s + f.R_TC, slack, sigma_mu, sums)
            slack = load(w, s + f.D_ROOM) - d + load(w, s + f.D_SLOPE) * before
            sums = advance(w, s + f.R_TD, slack, sigma_mu, sums)
        if flags & f.CURTAIL:
            u = curtailment(w, s, net, peak)
            net = net + u
            store(w, s + f.X_U, u)
            cost = cost + load(w, s + f.U_PRICE) * u
            sums = advance_box(w, s + f.R_U, u, load(w, s + f.U_MAX), sigma_mu, sums)
        z_b = slack_of(w, s + f.B_GAIN, net)
        store(w, s + f.X_B, z_b)
        sums = advance_soft(w, s + f.R_B, net, z_b, load(w, s + f.R_NEED), sigma_mu, sums)
        z_g = slack_of(w, s + f.G_GAIN, net)
        store(w, s + f.X_G, z_g)
        sums = advance_soft2(w, s + f.R_G, net, z_g, load(w, s + f.R_IMPORT), load(w, s + f.R_EXPORT), sigma_mu, sums)
        sums = advance(w, s + f.R_PEAK, load(w, s + f.R_OVER_PEAK) - net + peak, sigma_mu, sums)
        z_e = slack_of(w, s + f.E_GAIN, e)
        store(w, s + f.X_E, z_e)
        sums = advance_soft2(w, s + f.R_E, e, z_e, load(w, s + f.E_ABOVE), load(w, s + f.E_BELOW), sigma_mu, sums)
        z_t = slack_of(w, s + f.T_GAIN, t)
        store(w, s + f.X_T, z_t)
        if flags & f.COLD:
            sums = advance_soft2(w, s + f.R_T, t, z_t, load(w, s + f.T_ABOVE), load(w, s + f.T_BELOW), sigma_mu, sums)
        else:
            sums = advance_soft(w, s + f.R_T, t, z_t, load(w, s + f.T_ABOVE), sigma_mu, sums)
        z_v = slack_of(w, s + f.V_GAIN, v)
        store(w, s + f.X_V, z_v)
        sums = advance_soft2(w, s + f.R_V, v, z_v, load(w, s + f.V_ABOVE), load(w, s + f.V_BELOW), sigma_mu, sums)
        idle = load(w, s + f.E_IDLE)
        sums = advance(w, s + f.R_HIGH, high - idle - e, sigma_mu, sums)
        sums = advance(w, s + f.R_LOW, idle + e - low, sigma_mu, sums)
        cost = cost + load(w, s + f.PRICE) * net + load(w, s + f.SPREAD) * z_b + load(w, f.WEAR) * (c + d)
        cost = cost + z_e * (load(w, f.E_LINEAR) + 0.5 * load(w, f.E_SQUARE) * z_e)
        cost = cost + z_t * (load(w, f.T_LINEAR) + 0.5 * load(w, f.T_SQUARE) * z_t)
        cost = cost + z_v * (load(w, f.V_LINEAR) + 0.5 * load(w, f.V_SQUARE) * z_v)
        cost = cost + load(w, f.GRID_LINEAR) * z_g
    short = slack_of(w, f.SHORT_GAIN, e)
    store(w, f.SHORT, short)
    store(w, f.E_LAST, e)
    sums = advance_soft2(w, f.R_END, e, short, load(w, f.END_HIGH), load(w, f.END_LOW), sigma_mu, sums)
    store(w, f.COST, cost - load(w, f.TERMINAL) * e)
    alpha = least(BOUNDARY / most(most(1.0 - sums[0], -sums[1]), BOUNDARY), 1.0)
    gap = load(w, f.GAP)
    change = sigma_mu / load(w, f.ROWS_INVERSE) + sums[2] - gap
    store(w, f.ALPHA, alpha)
    store(w, f.GAP_NEXT, gap + alpha * (change + alpha * sums[3]))
    store(w, f.LEFT, load(w, f.LEFT) * (1.0 - alpha))
