"""The backward recursions of a device: Riccati factorisation of its KKT system, and a new gradient through a kept factorisation.

Value function before stage k: 1/2 x'P x + x'S y + 1/2 y'Y y + q'x + g'y with states x = (e, T) and border y = (highest, lowest).
Slacks are eliminated stage by stage in closed form. Not here: forward passes (forward), the border's terms (border).
Sources: Rao, Wright, Rawlings, J. Optim. Theory Appl. 99 (1998) 723 (Riccati recursion in interior points); docs/site_solver.md.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201 - compiled by numba, which infers types

from __future__ import annotations

from core.lanes import load, stage, store
from optimizer.site_fleet.border import Y_H, Y_HH, Y_HL, Y_L, Y_LL, border_first, border_second
from optimizer.site_fleet.layout import (
    CURVE,
    DATA_ROWS,
    DECAY,
    E_COST,
    E_CURVE,
    GAIN_C,
    HEAT_C,
    HEAT_D,
    LOSS_D,
    MOVE,
    RELIEF,
    SLOPE_C,
    SLOPE_D,
    STATE_ROWS,
    STRESS,
    T_COST,
    T_CURVE,
    V_COST,
    V_CURVE,
    VALUE_E,
    VOLT_E,
    VOLT_N,
    WEAR,
)  # fmt: skip
from optimizer.site_fleet.rows import (
    J_CC,
    J_CD,
    J_DD,
    K_C,
    K_CE,
    K_CH,
    K_CL,
    K_CT,
    K_D,
    K_DE,
    K_DH,
    K_DL,
    K_DT,
    WORK_ROWS,
    Z_C,
    Z_D,
    Z_E,
    Z_GRAD,
    Z_INV,
    ZT_GRAD,
    ZT_INV,
    ZV_GRAD,
    ZV_INV,
    collect_first,
    collect_second,
)  # fmt: skip


@stage
def pair_elimination(high, low, slack, curve):
    """Inverse Hessian of the slack of a two-sided soft limit, and the Hessian left on the limited quantity."""
    inverse = 1.0 / (curve + high + low + slack)
    return inverse, ((high + low) * (curve + slack) + 4.0 * high * low) * inverse


@stage
def energy_elimination(data, d, work, w, weights, relief, curve):
    """Eliminate the energy slack, which tapers use too where `relief` is 1: Hessian terms (ee, ec, ed, cc, dd, cd)."""
    w_c, w_d, high, low, slack = weights[4], weights[5], weights[6], weights[7], weights[8]
    slope_c, slope_d = load(data, d + SLOPE_C), load(data, d + SLOPE_D)
    taper_c, taper_d = slope_c * w_c, slope_d * w_d
    shared = relief * (slope_d * taper_d - slope_c * taper_c)
    own = curve + slack + relief * (slope_c * taper_c + slope_d * taper_d)
    inverse = 1.0 / (high + low + own)
    z_e, z_c, z_d = low - high + shared, -(relief * taper_c), -(relief * taper_d)
    ee = ((high + low) * own + 4.0 * high * low - shared * (2.0 * (low - high) + shared)) * inverse
    store(work, w + Z_INV, inverse)
    store(work, w + Z_E, z_e)
    store(work, w + Z_C, z_c)
    store(work, w + Z_D, z_d)
    e_c, e_d = z_e * inverse, z_d * inverse
    return (
        ee + slope_c * taper_c + slope_d * taper_d,
        taper_c - e_c * z_c,
        -taper_d - e_c * z_d,
        w_c - z_c * z_c * inverse,
        w_d - z_d * e_d,
        -(z_c * e_d),
    )


@stage
def gradients(data, d, constants, work, w, weights, forces, price):
    """Stage gradient after elimination of the slacks: (c, d, e, T), net power's share of voltage and price included."""
    relief = load(constants, RELIEF)
    slope_c, slope_d = load(data, d + SLOPE_C), load(data, d + SLOPE_D)
    z_gradient = load(constants, E_COST) - forces[6] - forces[7] - forces[8]
    z_gradient = z_gradient - relief * (slope_c * forces[4] + slope_d * forces[5])
    z = z_gradient * load(work, w + Z_INV)
    t_gradient = load(constants, T_COST) - forces[9] - forces[10] - forces[11]
    v_gradient = load(constants, V_COST) - forces[12] - forces[13] - forces[14]
    heat = forces[9] - forces[10] - (weights[10] - weights[9]) * t_gradient * load(work, w + ZT_INV)
    volt = forces[12] - forces[13] - (weights[13] - weights[12]) * v_gradient * load(work, w + ZV_INV)
    store(work, w + Z_GRAD, z_gradient)
    store(work, w + ZT_GRAD, t_gradient)
    store(work, w + ZV_GRAD, v_gradient)
    net = price + load(data, d + VOLT_N) * volt
    wear, move = load(constants, WEAR), load(data, d + MOVE)
    charge = wear + move - forces[0] + forces[1] + forces[4] - load(work, w + Z_C) * z + net
    discharge = wear - move - forces[2] + forces[3] + forces[5] - load(work, w + Z_D) * z - net
    energy = load(data, d + VALUE_E) + forces[6] - forces[7] + slope_c * forces[4] - slope_d * forces[5]
    energy = energy + forces[15] - forces[16] - load(work, w + Z_E) * z + load(data, d + VOLT_E) * volt
    return charge, discharge, energy, heat


@stage
def factorise(data, constants, state, border_state, work, border_work, prices, targets):
    """Factorise at the present slacks and multipliers, with the gradient of a step towards l t = target.

    prices: scaled price of net power per stage, (N + 1,). Leaves gains in `work` and the border's system in `border_work`.
    """
    decay, curve, relief = load(constants, DECAY), load(constants, CURVE), load(constants, RELIEF)
    none = 0.0 * targets[0]
    last, border = border_first(border_state, border_work, constants, targets)
    p_ee, q_e = last
    y_hh, y_hl, y_ll, g_h, g_l = border
    p_et = p_tt = q_t = s_eh = s_el = s_th = s_tl = none
    for k in range(len(prices) - 1, -1, -1):
        d, s, w = k * DATA_ROWS, k * STATE_ROWS, k * WORK_ROWS
        weights, forces = collect_first(state, s, work, w, data, d, targets)
        # Slacks out.
        ee, ec, ed, cc, dd, cd = energy_elimination(data, d, work, w, weights, relief, load(constants, E_CURVE))
        inverse_t, h_tt = pair_elimination(weights[9], weights[10], weights[11], load(constants, T_CURVE))
        inverse_v, h_vv = pair_elimination(weights[12], weights[13], weights[14], load(constants, V_CURVE))
        store(work, w + ZT_INV, inverse_t)
        store(work, w + ZV_INV, inverse_v)
        r_c, r_d, r_e, r_t = gradients(data, d, constants, work, w, weights, forces, prices[k])
        # Inputs' Hessian, value of the next state included.
        gain, loss = load(data, d + GAIN_C), load(data, d + LOSS_D)
        heat_c, heat_d = load(data, d + HEAT_C), load(data, d + HEAT_D)
        volt_e, volt_n = load(data, d + VOLT_E), load(data, d + VOLT_N)
        pc_e, pc_t = p_ee * gain + p_et * heat_c, p_et * gain + p_tt * heat_c
        pd_e, pd_t = p_et * heat_d - p_ee * loss, p_tt * heat_d - p_et * loss
        h_nn, h_ne = volt_n * volt_n * h_vv, volt_n * volt_e * h_vv
        h_cc = curve + weights[0] + weights[1] + cc + h_nn + gain * pc_e + heat_c * pc_t
        h_dd = curve + weights[2] + weights[3] + dd + h_nn + heat_d * pd_t - loss * pd_e
        h_cd = gain * pd_e + heat_c * pd_t - h_nn + cd
        h_ce, h_ct = pc_e + h_ne + ec, decay * pc_t
        h_de, h_dt = pd_e - h_ne + ed, decay * pd_t
        h_ch, h_cl = gain * s_eh + heat_c * s_th, gain * s_el + heat_c * s_tl
        h_dh, h_dl = heat_d * s_th - loss * s_eh, heat_d * s_tl - loss * s_el
        # Gains: inputs = K (e, T, highest, lowest) + k.
        inverse = 1.0 / (h_cc * h_dd - h_cd * h_cd)
        j_cc, j_cd, j_dd = h_dd * inverse, -(h_cd * inverse), h_cc * inverse
        k_ce, k_de = -(j_cc * h_ce + j_cd * h_de), -(j_cd * h_ce + j_dd * h_de)
        k_ct, k_dt = -(j_cc * h_ct + j_cd * h_dt), -(j_cd * h_ct + j_dd * h_dt)
        k_ch, k_dh = -(j_cc * h_ch + j_cd * h_dh), -(j_cd * h_ch + j_dd * h_dh)
        k_cl, k_dl = -(j_cc * h_cl + j_cd * h_dl), -(j_cd * h_cl + j_dd * h_dl)
        r_c, r_d = r_c + gain * q_e + heat_c * q_t, r_d - loss * q_e + heat_d * q_t
        store(work, w + K_CE, k_ce)
        store(work, w + K_CT, k_ct)
        store(work, w + K_CH, k_ch)
        store(work, w + K_CL, k_cl)
        store(work, w + K_DE, k_de)
        store(work, w + K_DT, k_dt)
        store(work, w + K_DH, k_dh)
        store(work, w + K_DL, k_dl)
        store(work, w + K_C, -(j_cc * r_c + j_cd * r_d))
        store(work, w + K_D, -(j_cd * r_c + j_dd * r_d))
        store(work, w + J_CC, j_cc)
        store(work, w + J_CD, j_cd)
        store(work, w + J_DD, j_dd)
        # Value function before the stage.
        top, low = weights[15], weights[16]
        p_ee = p_ee + ee + top + low + load(constants, STRESS) + volt_e * volt_e * h_vv + h_ce * k_ce + h_de * k_de
        p_et = decay * p_et + h_ce * k_ct + h_de * k_dt
        p_tt = decay * decay * p_tt + h_tt + h_ct * k_ct + h_dt * k_dt
        s_eh, s_el = s_eh - top + h_ce * k_ch + h_de * k_dh, s_el - low + h_ce * k_cl + h_de * k_dl
        s_th, s_tl = decay * s_th + h_ct * k_ch + h_dt * k_dh, decay * s_tl + h_ct * k_cl + h_dt * k_dl
        y_hh, y_ll = y_hh + top + h_ch * k_ch + h_dh * k_dh, y_ll + low + h_cl * k_cl + h_dl * k_dl
        y_hl = y_hl + h_ch * k_cl + h_dh * k_dl
        q_e, q_t = q_e + r_e + k_ce * r_c + k_de * r_d, decay * q_t + r_t + k_ct * r_c + k_dt * r_d
        g_h, g_l = g_h - forces[15] + k_ch * r_c + k_dh * r_d, g_l + forces[16] + k_cl * r_c + k_dl * r_d
    store(border_work, Y_HH, y_hh)
    store(border_work, Y_HL, y_hl)
    store(border_work, Y_LL, y_ll)
    store(border_work, Y_H, g_h)
    store(border_work, Y_L, g_l)


@stage
def correct(data, constants, state, border_state, work, border_work, prices, targets):
    """Gradient with the second-order term of the first pass kept in `work`, through the factorisation kept there."""
    decay = load(constants, DECAY)
    last, border = border_second(border_state, border_work, constants, targets)
    q_e, q_t, g_h, g_l = last[1], 0.0 * targets[0], border[3], border[4]
    for k in range(len(prices) - 1, -1, -1):
        d, s, w = k * DATA_ROWS, k * STATE_ROWS, k * WORK_ROWS
        weights, forces = collect_second(state, s, work, w, data, d, targets)
        r_c, r_d, r_e, r_t = gradients(data, d, constants, work, w, weights, forces, prices[k])
        r_c = r_c + load(data, d + GAIN_C) * q_e + load(data, d + HEAT_C) * q_t
        r_d = r_d - load(data, d + LOSS_D) * q_e + load(data, d + HEAT_D) * q_t
        j_cd = load(work, w + J_CD)
        store(work, w + K_C, -(load(work, w + J_CC) * r_c + j_cd * r_d))
        store(work, w + K_D, -(j_cd * r_c + load(work, w + J_DD) * r_d))
        q_e = q_e + r_e + load(work, w + K_CE) * r_c + load(work, w + K_DE) * r_d
        q_t = decay * q_t + r_t + load(work, w + K_CT) * r_c + load(work, w + K_DT) * r_d
        g_h = g_h - forces[15] + load(work, w + K_CH) * r_c + load(work, w + K_DH) * r_d
        g_l = g_l + forces[16] + load(work, w + K_CL) * r_c + load(work, w + K_DL) * r_d
    store(border_work, Y_H, g_h)
    store(border_work, Y_L, g_l)
