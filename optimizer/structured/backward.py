"""The two passes from the last step to the first: `factor` (apply the last step, eliminate, factorise) and `correct`.

Not here: the recursion itself (riccati), rows (rows), the passes that follow time (forward).
"""
# ruff: noqa: ANN401, E741 - l is the multiplier of docs/structured_solver.md; eight lanes or a float: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import inverse, load, stage, store, whole_pass
from optimizer.structured import layout as f
from optimizer.structured.riccati import back, back_gradient
from optimizer.structured.rows import (
    correct,
    correct_box,
    correct_soft,
    correct_soft2,
    renew,
    renew_box,
    renew_soft,
    renew_soft2,
)

Value = Any


@stage
def factor_border(w: Any) -> tuple[Value, ...]:
    """Rows of peak, highest, lowest and last energy: (Hessian, gradient) of the last energy and the sum of m; stores Y and q."""
    alpha, peak, high, low = load(w, f.ALPHA), load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW)
    peak_0, high_0, low_0 = load(w, f.PEAK_0), load(w, f.HIGH_0), load(w, f.LOW_0)
    i, l, m_1 = renew(w, f.R_PEAK_0, peak - peak_0, alpha)
    store(w, f.Y_PP, l * i)
    store(w, f.Q_P, load(w, f.PEAK_PRICE) - l - l * i * peak_0)
    i, l_h, m_2 = renew(w, f.R_HIGH_0, high - high_0, alpha)
    w_h = l_h * i
    i, l_l, m_3 = renew(w, f.R_LOW_0, low_0 - low, alpha)
    w_l = l_l * i
    depth, end = load(w, f.DEPTH_LINEAR), load(w, f.END_LINEAR)
    h, g, m_4 = renew_soft(w, f.R_DEPTH, f.OVER_GAIN, high - low, load(w, f.OVER), load(w, f.DEPTH), depth, 0.0, alpha)
    store(w, f.Y_HH, w_h + h)
    store(w, f.Y_HL, -h)
    store(w, f.Y_LL, w_l + h)
    store(w, f.Q_H, g - l_h - w_h * high_0)
    store(w, f.Q_L, l_l - w_l * low_0 - g)
    above, below, e_last = load(w, f.END_HIGH), load(w, f.END_LOW), load(w, f.E_LAST)
    h, g, m_5 = renew_soft2(w, f.R_END, f.SHORT_GAIN, e_last, load(w, f.SHORT), above, below, end, 0.0, alpha)
    return h, g - load(w, f.TERMINAL), m_1 + m_2 + m_3 + m_4 + m_5


@stage
def factor_grid(w: Any, s: int, flags: int, net: Value) -> tuple[Value, ...]:
    """(Hessian of net power, with the peak, of the peak; gradient of net power, of the peak; sum of m), slacks eliminated."""
    alpha, peak = load(w, f.ALPHA), load(w, f.PEAK)
    need, spread = load(w, s + f.R_NEED), load(w, s + f.SPREAD)
    h_b, g_b, m_b = renew_soft(w, s + f.R_B, s + f.B_GAIN, net, load(w, s + f.X_B), need, spread, 0.0, alpha)
    above, below = load(w, s + f.R_IMPORT), load(w, s + f.R_EXPORT)
    linear = load(w, f.GRID_LINEAR)
    h_g, g_g, m_g = renew_soft2(w, s + f.R_G, s + f.G_GAIN, net, load(w, s + f.X_G), above, below, linear, 0.0, alpha)
    right = load(w, s + f.R_OVER_PEAK)
    i, l, m_p = renew(w, s + f.R_PEAK, right - net + peak, alpha)
    weight = l * i
    force = l - weight * right
    other = h_b + h_g
    if flags & f.TRACKED:
        other = other + load(w, s + f.TRACK)
    h_n, h_np, h_pp = other + weight, -weight, weight
    g_n, g_p, m = load(w, s + f.PRICE) + g_b + g_g + force, -force, m_b + m_g + m_p
    if flags & f.CURTAIL:
        h_u, g_u, m_u = renew_box(w, s + f.R_U, load(w, s + f.X_U), load(w, s + f.U_MAX), alpha)
        g_u, m = g_u + load(w, s + f.U_PRICE), m + m_u
        inv = inverse(h_u + h_n)
        gain, share = h_n * inv, h_u * inv
        store(w, s + f.U_GAIN, gain)
        store(w, s + f.U_PEAK, h_np * inv)
        store(w, s + f.U_OFFSET, (g_u + g_n) * inv)
        store(w, s + f.U_INVERSE, inv)
        store(w, s + f.U_SHARE, share)
        g_p = g_p - h_np * inv * (g_u + g_n)
        h_pp = weight * (h_u + other) * inv
        g_n, h_n, h_np = g_n * share - gain * g_u, h_n * share, h_np * share
    return h_n, h_np, h_pp, g_n, g_p, m


@stage
def factor_state(w: Any, s: int, flags: int) -> tuple[Value, ...]:
    """Costs of the state at the step's end: (Hessian, gradient) of e, of T, (weight, gradient) of highest, of lowest; m."""
    alpha, e, t, idle = load(w, f.ALPHA), load(w, s + f.S_E), load(w, s + f.S_T), load(w, s + f.E_IDLE)
    h_e, g_e, m_e = renew_soft2(
        w, s + f.R_E, s + f.E_GAIN, e, load(w, s + f.X_E), load(w, s + f.E_ABOVE), load(w, s + f.E_BELOW),
        load(w, f.E_LINEAR), load(w, f.E_SQUARE), alpha,
    )  # fmt: skip
    slack, above, linear, square = load(w, s + f.X_T), load(w, s + f.T_ABOVE), load(w, f.T_LINEAR), load(w, f.T_SQUARE)
    if flags & f.COLD:
        below = load(w, s + f.T_BELOW)
        h_t, g_t, m_t = renew_soft2(w, s + f.R_T, s + f.T_GAIN, t, slack, above, below, linear, square, alpha)
    else:
        h_t, g_t, m_t = renew_soft(w, s + f.R_T, s + f.T_GAIN, t, slack, above, linear, square, alpha)
    i, l_h, m_h = renew(w, s + f.R_HIGH, load(w, f.HIGH) - idle - e, alpha)
    w_h = l_h * i
    i, l_l, m_l = renew(w, s + f.R_LOW, idle + e - load(w, f.LOW), alpha)
    w_l = l_l * i
    stress = load(w, f.STRESS)
    g_e = g_e + load(w, f.STRESS_0) + stress * idle
    return h_e + stress, g_e, h_t, g_t, w_h, l_h + w_h * idle, w_l, l_l - w_l * idle, m_e + m_t + m_h + m_l


@whole_pass
def factor(w: Any, steps: int, flags: int) -> None:
    """Backward pass 1: every row renewed, Hessians and the predictor's gradient, gains; the gap and the border system."""
    alpha = load(w, f.ALPHA)
    zero = 0.0 * alpha
    h, g, gap = factor_border(w)
    value = (h, zero, zero, zero, zero, zero, zero, zero, zero)
    border = (load(w, f.Y_PP), zero, zero, load(w, f.Y_HH), load(w, f.Y_HL), load(w, f.Y_LL))
    gradient = (g, zero, load(w, f.Q_P), load(w, f.Q_H), load(w, f.Q_L))
    curve, wear = load(w, f.CURVE), load(w, f.WEAR)
    for step in range(steps):
        k = steps - 1 - step
        s = f.HEAD + f.STEP * k
        c, d = load(w, s + f.X_C), load(w, s + f.X_D)
        net = c - d
        if flags & f.CURTAIL:
            net = net + load(w, s + f.X_U)
        h_n, h_np, h_pp, g_n, g_p, m_1 = factor_grid(w, s, flags, net)
        h_e, g_e, h_t, g_t, w_h, f_h, w_l, f_l, m_2 = factor_state(w, s, flags)
        h_v, g_v, m_3 = renew_soft2(
            w, s + f.R_V, s + f.V_GAIN, load(w, s + f.S_V), load(w, s + f.X_V), load(w, s + f.V_ABOVE),
            load(w, s + f.V_BELOW), load(w, f.V_LINEAR), load(w, f.V_SQUARE), alpha,
        )  # fmt: skip
        h_c, g_c, m_4 = renew_box(w, s + f.R_C, c, load(w, s + f.C_MAX), alpha)
        h_d, g_d, m_5 = renew_box(w, s + f.R_D, d, load(w, s + f.D_MAX), alpha)
        gap = gap + (m_1 + m_2) + (m_3 + m_4) + m_5
        ve, vp = load(w, s + f.VE), load(w, s + f.VP)
        h_ve = ve * h_v
        h_ce = vp * h_ve
        h_de = -h_ce
        h_before, g_before = ve * h_ve, ve * g_v
        if flags & f.TAPER:
            e = load(w, s - f.STEP + f.S_E) if k > 0 else zero
            slope, room = load(w, s + f.C_SLOPE), load(w, s + f.C_ROOM)
            i, l, m_6 = renew(w, s + f.R_TC, room - c - slope * e, alpha)
            weight = l * i
            force = l - weight * room
            h_c, g_c, h_ce = h_c + weight, g_c + force, h_ce + weight * slope
            h_before, g_before = h_before + weight * slope * slope, g_before + slope * force
            slope, room = load(w, s + f.D_SLOPE), load(w, s + f.D_ROOM)
            i, l, m_7 = renew(w, s + f.R_TD, room - d + slope * e, alpha)
            weight = l * i
            force = l - weight * room
            h_d, g_d, h_de = h_d + weight, g_d + force, h_de - weight * slope
            h_before, g_before = h_before + weight * slope * slope, g_before - slope * force
            gap = gap + m_6 + m_7
        g_n = g_n + vp * g_v
        value, border, gradient = back(
            w,
            s,
            (value[0] + h_e + w_h + w_l, value[1], value[2] + h_t, value[3], value[4] - w_h, value[5] - w_l,
             value[6], value[7], value[8]),
            (border[0] + h_pp, border[1], border[2], border[3] + w_h, border[4], border[5] + w_l),
            (gradient[0] + g_e + f_h - f_l, gradient[1] + g_t, gradient[2] + g_p, gradient[3] - f_h, gradient[4] + f_l),
            (h_c + curve, g_c + wear + g_n, h_ce),
            (h_d + curve, g_d + wear - g_n, h_de),
            (h_n + vp * vp * h_v, h_np),
            (h_before, g_before),
        )  # fmt: skip
    store(w, f.GAP, gap)
    store(w, f.Y_PP, border[0])
    store(w, f.Y_PH, border[1])
    store(w, f.Y_PL, border[2])
    store(w, f.Y_HH, border[3])
    store(w, f.Y_HL, border[4])
    store(w, f.Y_LL, border[5])
    solve_border(w, gradient)


@stage
def solve_border(w: Any, gradient: tuple[Value, ...]) -> None:
    """Peak, high and low from Y y = -q (3 x 3, L D L'), and the slack of depth; the start's deviation is zero."""
    d_1 = inverse(load(w, f.Y_PP))
    m_21, m_31 = load(w, f.Y_PH) * d_1, load(w, f.Y_PL) * d_1
    d_2 = inverse(load(w, f.Y_HH) - m_21 * load(w, f.Y_PH))
    a_32 = load(w, f.Y_HL) - m_31 * load(w, f.Y_PH)
    m_32 = a_32 * d_2
    d_3 = inverse(load(w, f.Y_LL) - m_31 * load(w, f.Y_PL) - m_32 * a_32)
    y_1 = -gradient[2]
    y_2 = -gradient[3] - m_21 * y_1
    y_3 = -gradient[4] - m_31 * y_1 - m_32 * y_2
    low = y_3 * d_3
    high = y_2 * d_2 - m_32 * low
    store(w, f.LOW, low)
    store(w, f.HIGH, high)
    store(w, f.PEAK, y_1 * d_1 - m_21 * high - m_31 * low)


@stage
def correct_grid(w: Any, s: int, flags: int, sigma_mu: Value) -> tuple[Value, Value]:
    """Corrector's gradient of net power and of the peak."""
    force = correct(w, s + f.R_PEAK, load(w, s + f.R_OVER_PEAK), sigma_mu)
    g_n = (
        load(w, s + f.PRICE)
        + correct_soft(w, s + f.R_B, s + f.B_GAIN, load(w, s + f.R_NEED), load(w, s + f.SPREAD), sigma_mu)
        + correct_soft2(
            w, s + f.R_G, s + f.G_GAIN, load(w, s + f.R_IMPORT), load(w, s + f.R_EXPORT), load(w, f.GRID_LINEAR), sigma_mu
        )
        + force
    )
    g_p = -force
    if flags & f.CURTAIL:
        g_u = correct_box(w, s + f.R_U, load(w, s + f.U_MAX), sigma_mu) + load(w, s + f.U_PRICE)
        store(w, s + f.U_OFFSET, (g_u + g_n) * load(w, s + f.U_INVERSE))
        g_p = g_p - load(w, s + f.U_PEAK) * (g_u + g_n)
        g_n = g_n * load(w, s + f.U_SHARE) - load(w, s + f.U_GAIN) * g_u
    return g_n, g_p


@stage
def correct_border(w: Any, sigma_mu: Value) -> tuple[Value, ...]:
    """Gradient of the last state and of the border variables."""
    f_p = correct(w, f.R_PEAK_0, -load(w, f.PEAK_0), sigma_mu)
    f_h = correct(w, f.R_HIGH_0, -load(w, f.HIGH_0), sigma_mu)
    f_l = correct(w, f.R_LOW_0, load(w, f.LOW_0), sigma_mu)
    g = correct_soft(w, f.R_DEPTH, f.OVER_GAIN, load(w, f.DEPTH), load(w, f.DEPTH_LINEAR), sigma_mu)
    q_e = correct_soft2(w, f.R_END, f.SHORT_GAIN, load(w, f.END_HIGH), load(w, f.END_LOW), load(w, f.END_LINEAR), sigma_mu)
    return q_e - load(w, f.TERMINAL), 0.0 * q_e, load(w, f.PEAK_PRICE) - f_p, g - f_h, f_l - g


@whole_pass
def correct_all(w: Any, steps: int, flags: int) -> None:
    """Backward pass 2: the same system for the corrector's gradient."""
    sigma_mu, wear, stress = load(w, f.SIGMA_MU), load(w, f.WEAR), load(w, f.STRESS)
    gradient = correct_border(w, sigma_mu)
    for step in range(steps):
        s = f.HEAD + f.STEP * (steps - 1 - step)
        idle = load(w, s + f.E_IDLE)
        g_n, g_p = correct_grid(w, s, flags, sigma_mu)
        g_e = correct_soft2(
            w, s + f.R_E, s + f.E_GAIN, load(w, s + f.E_ABOVE), load(w, s + f.E_BELOW), load(w, f.E_LINEAR), sigma_mu
        )
        above, linear = load(w, s + f.T_ABOVE), load(w, f.T_LINEAR)
        if flags & f.COLD:
            g_t = correct_soft2(w, s + f.R_T, s + f.T_GAIN, above, load(w, s + f.T_BELOW), linear, sigma_mu)
        else:
            g_t = correct_soft(w, s + f.R_T, s + f.T_GAIN, above, linear, sigma_mu)
        g_v = correct_soft2(
            w, s + f.R_V, s + f.V_GAIN, load(w, s + f.V_ABOVE), load(w, s + f.V_BELOW), load(w, f.V_LINEAR), sigma_mu
        )
        f_h, f_l = correct(w, s + f.R_HIGH, -idle, sigma_mu), correct(w, s + f.R_LOW, idle, sigma_mu)
        g_n = g_n + load(w, s + f.VP) * g_v
        g_c = correct_box(w, s + f.R_C, load(w, s + f.C_MAX), sigma_mu) + wear + g_n
        g_d = correct_box(w, s + f.R_D, load(w, s + f.D_MAX), sigma_mu) + wear - g_n
        g_before = load(w, s + f.VE) * g_v
        if flags & f.TAPER:
            force = correct(w, s + f.R_TC, load(w, s + f.C_ROOM), sigma_mu)
            g_c, g_before = g_c + force, g_before + load(w, s + f.C_SLOPE) * force
            force = correct(w, s + f.R_TD, load(w, s + f.D_ROOM), sigma_mu)
            g_d, g_before = g_d + force, g_before - load(w, s + f.D_SLOPE) * force
        g_e = g_e + load(w, f.STRESS_0) + stress * idle
        gradient = (gradient[0] + g_e + f_h - f_l, gradient[1] + g_t, gradient[2] + g_p, gradient[3] - f_h, gradient[4] + f_l)
        gradient = back_gradient(w, s, gradient, g_c, g_d, g_before)
    solve_border(w, gradient)
