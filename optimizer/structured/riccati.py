"""The recursion over steps: value function of (e, T) with border variables peak, high and low; 2 inputs c and d.

V(e, T; p, h, l) = 1/2 s'P s + s'S y + 1/2 y'Y y + q's + q_y'y with s = (e, T), y = (p, h, l). Rao, Wright and Rawlings (JOTA 99,
1998) use the recursion for the linear systems of an interior point; the border is what Frison and Diehl (HPIPM, 2020) would add
as states. Both inputs are eliminated one after the other, charge first. Not here: the rows that enter the Hessians.
"""
# ruff: noqa: ANN401 - eight lanes or a float: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import inverse, load, stage, store
from optimizer.structured.layout import (
    BC,
    BD,
    DECAY,
    G_CD,
    G_CE,
    G_CH,
    G_CL,
    G_CP,
    G_CT,
    G_DE,
    G_DH,
    G_DL,
    G_DP,
    G_DT,
    HC,
    HD,
    K_C,
    K_D,
    P_C,
    P_D,
)

Value = Any


@stage
def back(
    w: Any,
    s: int,
    value: tuple[Value, ...],
    border: tuple[Value, ...],
    gradient: tuple[Value, ...],
    charge: tuple[Value, Value, Value],
    discharge: tuple[Value, Value, Value],
    net: tuple[Value, Value],
    before: tuple[Value, Value],
) -> tuple[tuple[Value, ...], tuple[Value, ...], tuple[Value, ...]]:
    """One step of the factorisation, from the value at the step's end (its own state costs added) to the value at its start.

    value = P_ee, P_eT, P_TT, S_ep, S_eh, S_el, S_Tp, S_Th, S_Tl; border = Y_pp, Y_ph, Y_pl, Y_hh, Y_hl, Y_ll;
    gradient = q_e, q_T, q_p, q_h, q_l. charge and discharge: (own Hessian, own gradient, Hessian with the energy before);
    net: (Hessian of c - d, its Hessian with the peak); before: (Hessian, gradient) of the energy before.
    Keeps the gains in record s.
    """
    p_ee, p_et, p_tt, s_ep, s_eh, s_el, s_tp, s_th, s_tl = value
    y_pp, y_ph, y_pl, y_hh, y_hl, y_ll = border
    q_e, q_t, q_p, q_h, q_l = gradient
    hc, hd, bc, bd, decay = load(w, s + HC), load(w, s + HD), load(w, s + BC), load(w, s + BD), load(w, DECAY)
    # Columns of P B and Hessian blocks; B = [[hc, -hd], [bc, bd]], A = diag(1, decay).
    pc_e, pc_t = p_ee * hc + p_et * bc, p_et * hc + p_tt * bc
    pd_e, pd_t = p_et * bd - p_ee * hd, p_tt * bd - p_et * hd
    h_cc = charge[0] + net[0] + hc * pc_e + bc * pc_t
    h_dd = discharge[0] + net[0] + bd * pd_t - hd * pd_e
    h_cd = hc * pd_e + bc * pd_t - net[0]
    h_ce, h_ct = pc_e + charge[2], pc_t * decay
    h_de, h_dt = pd_e + discharge[2], pd_t * decay
    h_cp, h_ch, h_cl = hc * s_ep + bc * s_tp + net[1], hc * s_eh + bc * s_th, hc * s_el + bc * s_tl
    h_dp, h_dh, h_dl = bd * s_tp - hd * s_ep - net[1], bd * s_th - hd * s_eh, bd * s_tl - hd * s_el
    g_c = charge[1] + hc * q_e + bc * q_t
    g_d = discharge[1] + bd * q_t - hd * q_e

    inv = inverse(h_cc)
    ce, ct, cp, ch, cl, cd = h_ce * inv, h_ct * inv, h_cp * inv, h_ch * inv, h_cl * inv, h_cd * inv
    store(w, s + G_CE, ce)
    store(w, s + G_CT, ct)
    store(w, s + G_CP, cp)
    store(w, s + G_CH, ch)
    store(w, s + G_CL, cl)
    store(w, s + G_CD, cd)
    store(w, s + K_C, g_c * inv)
    store(w, s + P_C, inv)
    h_de, h_dt, g_d = h_de - h_cd * ce, h_dt - h_cd * ct, g_d - cd * g_c
    h_dp, h_dh, h_dl = h_dp - h_cd * cp, h_dh - h_cd * ch, h_dl - h_cd * cl
    inv = inverse(h_dd - h_cd * cd)
    de, dt, dp, dh, dl = h_de * inv, h_dt * inv, h_dp * inv, h_dh * inv, h_dl * inv
    store(w, s + G_DE, de)
    store(w, s + G_DT, dt)
    store(w, s + G_DP, dp)
    store(w, s + G_DH, dh)
    store(w, s + G_DL, dl)
    store(w, s + K_D, g_d * inv)
    store(w, s + P_D, inv)

    value = (
        p_ee + before[0] - h_ce * ce - h_de * de,
        decay * p_et - h_ce * ct - h_de * dt,
        decay * decay * p_tt - h_ct * ct - h_dt * dt,
        s_ep - h_ce * cp - h_de * dp,
        s_eh - h_ce * ch - h_de * dh,
        s_el - h_ce * cl - h_de * dl,
        decay * s_tp - h_ct * cp - h_dt * dp,
        decay * s_th - h_ct * ch - h_dt * dh,
        decay * s_tl - h_ct * cl - h_dt * dl,
    )
    border = (
        y_pp - h_cp * cp - h_dp * dp,
        y_ph - h_cp * ch - h_dp * dh,
        y_pl - h_cp * cl - h_dp * dl,
        y_hh - h_ch * ch - h_dh * dh,
        y_hl - h_ch * cl - h_dh * dl,
        y_ll - h_cl * cl - h_dl * dl,
    )
    gradient = (
        q_e + before[1] - ce * g_c - de * g_d,
        decay * q_t - ct * g_c - dt * g_d,
        q_p - cp * g_c - dp * g_d,
        q_h - ch * g_c - dh * g_d,
        q_l - cl * g_c - dl * g_d,
    )
    return value, border, gradient


@stage
def back_gradient(w: Any, s: int, gradient: tuple[Value, ...], g_c: Value, g_d: Value, before: Value) -> tuple[Value, ...]:
    """The same step for another gradient, with the gains kept by `back`; replaces the offsets."""
    q_e, q_t, q_p, q_h, q_l = gradient
    g_c = g_c + load(w, s + HC) * q_e + load(w, s + BC) * q_t
    g_d = g_d + load(w, s + BD) * q_t - load(w, s + HD) * q_e - load(w, s + G_CD) * g_c
    store(w, s + K_C, g_c * load(w, s + P_C))
    store(w, s + K_D, g_d * load(w, s + P_D))
    return (
        q_e + before - load(w, s + G_CE) * g_c - load(w, s + G_DE) * g_d,
        load(w, DECAY) * q_t - load(w, s + G_CT) * g_c - load(w, s + G_DT) * g_d,
        q_p - load(w, s + G_CP) * g_c - load(w, s + G_DP) * g_d,
        q_h - load(w, s + G_CH) * g_c - load(w, s + G_DH) * g_d,
        q_l - load(w, s + G_CL) * g_c - load(w, s + G_DL) * g_d,
    )


@stage
def forward(w: Any, s: int, e: Value, t: Value, peak: Value, high: Value, low: Value) -> tuple[Value, Value, Value, Value]:
    """(c, d, e, T) at the end of the step from the state at its start."""
    d = -(
        load(w, s + K_D)
        + load(w, s + G_DE) * e
        + load(w, s + G_DT) * t
        + load(w, s + G_DP) * peak
        + load(w, s + G_DH) * high
        + load(w, s + G_DL) * low
    )
    c = -(
        load(w, s + K_C)
        + load(w, s + G_CE) * e
        + load(w, s + G_CT) * t
        + load(w, s + G_CP) * peak
        + load(w, s + G_CH) * high
        + load(w, s + G_CL) * low
        + load(w, s + G_CD) * d
    )
    e = e + load(w, s + HC) * c - load(w, s + HD) * d
    t = load(w, DECAY) * t + load(w, s + BC) * c + load(w, s + BD) * d
    return c, d, e, t
