"""How the fleet's net power answers the meter's price: the exact N x N matrix, from the Riccati gains alone.

A QP's solution moves by -H^-1 times a change of its gradient, and H^-1 is the covariance of a Gaussian with precision H,
which for
a stage-structured H is that of a linear system driven by inputs of covariance J = H_uu^-1 (docs/site_solver.md):

    S_kk = k Sigma k' + e'J e + G_k Y^-1 G_k',   w = A Sigma k' + B J e,   S_mk = k_m w + G_m Y^-1 G_k', w <- A_m w  (m > k)
    Sigma <- A Sigma A' + B J B'

with net power n = k x + G y + ..., e = (1, -1). Not here: the gains (recursion).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201 - compiled by numba, which infers types

from __future__ import annotations

from core.lanes import load, stage, store
from optimizer.site_fleet.border import Y_HH, Y_HL, Y_LL
from optimizer.site_fleet.layout import DATA_ROWS, DECAY, GAIN_C, HEAT_C, HEAT_D, LOSS_D
from optimizer.site_fleet.rows import J_CC, J_CD, J_DD, K_CE, K_CH, K_CL, K_CT, K_DE, K_DH, K_DL, K_DT, WORK_ROWS

# Rows kept per stage: closed-loop transition A (2 x 2), net power's gains on states and border, w of the stage itself.
A_EE, A_ET, A_TE, A_TT, N_E, N_T, N_H, N_L, W_E, W_T = range(10)
CHAIN_ROWS = 10


@stage
def chain_stages(data, constants, work, chain, total, weight, stages):
    """Fill the chain of closed-loop transitions; adds the variances without the border's share to `total`'s diagonal."""
    decay = load(constants, DECAY)
    v_ee = v_et = v_tt = 0.0 * decay
    h_e = l_e = h_t = l_t = 0.0 * decay  # answer of the states to the border
    at = 0
    for k in range(stages):
        d, w, s = k * DATA_ROWS, k * WORK_ROWS, k * CHAIN_ROWS
        gain, loss = load(data, d + GAIN_C), load(data, d + LOSS_D)
        heat_c, heat_d = load(data, d + HEAT_C), load(data, d + HEAT_D)
        k_ce, k_ct, k_de, k_dt = load(work, w + K_CE), load(work, w + K_CT), load(work, w + K_DE), load(work, w + K_DT)
        k_ch, k_cl, k_dh, k_dl = load(work, w + K_CH), load(work, w + K_CL), load(work, w + K_DH), load(work, w + K_DL)
        j_cc, j_cd, j_dd = load(work, w + J_CC), load(work, w + J_CD), load(work, w + J_DD)
        a_ee, a_et = 1.0 + gain * k_ce - loss * k_de, gain * k_ct - loss * k_dt
        a_te, a_tt = heat_c * k_ce + heat_d * k_de, decay + heat_c * k_ct + heat_d * k_dt
        n_e, n_t = k_ce - k_de, k_ct - k_dt
        step_c, step_d = j_cc - j_cd, j_cd - j_dd
        u_e, u_t = v_ee * n_e + v_et * n_t, v_et * n_e + v_tt * n_t
        store(chain, s + A_EE, a_ee)
        store(chain, s + A_ET, a_et)
        store(chain, s + A_TE, a_te)
        store(chain, s + A_TT, a_tt)
        store(chain, s + N_E, n_e)
        store(chain, s + N_T, n_t)
        store(chain, s + N_H, n_e * h_e + n_t * h_t + k_ch - k_dh)
        store(chain, s + N_L, n_e * l_e + n_t * l_t + k_cl - k_dl)
        store(chain, s + W_E, weight * (a_ee * u_e + a_et * u_t + gain * step_c - loss * step_d))
        store(chain, s + W_T, weight * (a_te * u_e + a_tt * u_t + heat_c * step_c + heat_d * step_d))
        store(total, at, load(total, at) + weight * (n_e * u_e + n_t * u_t + step_c - step_d))
        at += stages - k
        b_ec, b_ed = gain * j_cc - loss * j_cd, gain * j_cd - loss * j_dd
        b_tc, b_td = heat_c * j_cc + heat_d * j_cd, heat_c * j_cd + heat_d * j_dd
        av_ee, av_et = a_ee * v_ee + a_et * v_et, a_ee * v_et + a_et * v_tt
        av_te, av_tt = a_te * v_ee + a_tt * v_et, a_te * v_et + a_tt * v_tt
        v_ee = av_ee * a_ee + av_et * a_et + b_ec * gain - b_ed * loss
        v_et = av_ee * a_te + av_et * a_tt + b_ec * heat_c + b_ed * heat_d
        v_tt = av_te * a_te + av_tt * a_tt + b_tc * heat_c + b_td * heat_d
        h_e, h_t = a_ee * h_e + a_et * h_t + gain * k_ch - loss * k_dh, a_te * h_e + a_tt * h_t + heat_c * k_ch + heat_d * k_dh
        l_e, l_t = a_ee * l_e + a_et * l_t + gain * k_cl - loss * k_dl, a_te * l_e + a_tt * l_t + heat_c * k_cl + heat_d * k_dl


@stage
def add_sensitivity(data, constants, work, border_work, chain, total, weight, stages):
    """Add weight times the block's sensitivity to `total`, the upper triangle row by row: (N (N + 1) / 2, 8)."""
    chain_stages(data, constants, work, chain, total, weight, stages)
    hh, hl, ll = load(border_work, Y_HH), load(border_work, Y_HL), load(border_work, Y_LL)
    scale = weight / (hh * ll - hl * hl)
    i_hh, i_hl, i_ll = scale * ll, -(scale * hl), scale * hh
    at = 0
    for k in range(stages):
        s = k * CHAIN_ROWS
        n_h, n_l = load(chain, s + N_H), load(chain, s + N_L)
        g_h, g_l = i_hh * n_h + i_hl * n_l, i_hl * n_h + i_ll * n_l
        w_e, w_t = load(chain, s + W_E), load(chain, s + W_T)
        store(total, at, load(total, at) + g_h * n_h + g_l * n_l)
        for m in range(k + 1, stages):
            s = m * CHAIN_ROWS
            at += 1
            value = load(chain, s + N_E) * w_e + load(chain, s + N_T) * w_t
            value = value + load(chain, s + N_H) * g_h + load(chain, s + N_L) * g_l
            store(total, at, load(total, at) + value)
            w_e, w_t = (
                load(chain, s + A_EE) * w_e + load(chain, s + A_ET) * w_t,
                load(chain, s + A_TE) * w_e + load(chain, s + A_TT) * w_t,
            )
        at += 1
