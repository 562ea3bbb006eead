"""Where each number of a block lies: rows of one array (fields, lanes); constants first, then one record per step.

Units: power in multiples of the device's largest power P, energy in P x 1 h, temperature and voltage in 10 K and 10 V, money in
`MONEY_EUR_PER_KW` x P. States and bounds count from the idle trajectory (no power), so that the start is zero. Not here: what
is done with the numbers.

A row "c'x <= r" keeps three fields: i = 1/t (t its slack), m = l t (l its multiplier), and one for the direction: t'/t of the
predictor, then dl/l of the step. Groups of rows stand together: box (x >= 0, x <= r), soft (x - z <= r, z >= 0) and soft2
(x - z <= high, -x - z <= low, z >= 0). An eliminated z = gain x - offset keeps gain, offset and the inverse of its Hessian.
"""

from __future__ import annotations

ROW = 3
MONEY_EUR_PER_KW = 0.2
KELVIN = VOLT = 0.1
"""10 K and 10 V are one unit."""
FAR = 200.0
"""A bound that is not there lies this many units away."""
THIN = 1e-9
"""The least width of a box, so that it has an interior."""

BAND = 2e-8
"""Half width of a target, so that only one of its two rows holds at a time."""

# Optional rows of a block, as bits.
COLD, TAPER, CURTAIL, TRACKED = 1, 2, 4, 8

# --- constants of a device
(
    DECAY,  # share of the temperature left after a step
    WEAR,  # linear price of c and of d
    CURVE,  # quadratic price of c and of d (wear and moves)
    STRESS, STRESS_0,  # quadratic price of energy, and its slope at the start
    PEAK_PRICE, TERMINAL,  # prices of the peak and of energy at the end
    E_LINEAR, E_SQUARE, T_LINEAR, T_SQUARE, V_LINEAR, V_SQUARE, GRID_LINEAR, DEPTH_LINEAR, END_LINEAR,  # prices of slacks
    PEAK_0, HIGH_0, LOW_0, DEPTH, END_HIGH, END_LOW,  # bounds of border variables and of the last energy
    COST_0, EURO,  # cost of idling, and one euro
) = range(24)  # fmt: skip
# --- what the passes hand on
(
    ALPHA, SIGMA_MU, GAP, GAP_NEXT, COST, LEFT, ROWS_INVERSE, FLOOR,
    PEAK, HIGH, LOW, OVER, SHORT, E_LAST,  # border variables, the slacks of depth and of the last energy, the last energy
    Y_PP, Y_PH, Y_PL, Y_HH, Y_HL, Y_LL, Q_P, Q_H, Q_L,
    AUDIT_GAP, AUDIT_PRIMAL, AUDIT_DUAL,
) = range(25, 51)  # fmt: skip
OVER_GAIN, SHORT_GAIN = 51, 54
R_PEAK_0, R_HIGH_0, R_LOW_0 = 57, 60, 63
R_DEPTH = 66  # soft
R_END = 72  # soft2
BORDER_ROWS = 8
HEAD = 81
"""Length of the constants."""

# --- one step
(
    HC, HD, BC, BD, VE, VP,  # energy and temperature per power, voltage per energy and per power
    C_MAX, D_MAX, SPREAD, PRICE,  # bounds of power, buy - sell, sell (and what else is linear in net import)
    R_IMPORT, R_NEED, R_EXPORT, R_OVER_PEAK,  # right-hand sides: net import
    E_ABOVE, E_BELOW, T_ABOVE, V_ABOVE, V_BELOW, E_IDLE,
    T_BELOW, C_ROOM, C_SLOPE, D_ROOM, D_SLOPE, U_MAX, U_PRICE, TRACK,  # optional; TRACK: quadratic price of net import
) = range(28)  # fmt: skip
(X_C, X_D, X_B, X_G, X_E, X_T, X_V, S_E, S_T, S_V, X_U) = range(28, 39)
"""Full-step targets: powers, slacks (import b, grid, energy, temperature, voltage), states, voltage, curtailment."""
(G_CE, G_CT, G_CP, G_CH, G_CL, G_CD, K_C, P_C, G_DE, G_DT, G_DP, G_DH, G_DL, K_D, P_D) = range(39, 54)
"""Gains of charge and discharge on e, T, peak, high, low (charge also on discharge), offsets, inverse pivots."""
B_GAIN, G_GAIN, E_GAIN, T_GAIN, V_GAIN = 54, 57, 60, 63, 66
"""Each: gain, offset, inverse."""
(U_GAIN, U_PEAK, U_OFFSET, U_INVERSE, U_SHARE) = range(69, 74)
VALUE, METER = 74, 75
"""Results: value of stored energy, price at the meter."""
R_C, R_D = 76, 82  # box
R_B = 88  # soft
R_G = 94  # soft2
R_PEAK = 103
R_E = 106  # soft2
R_V = 115  # soft2
R_HIGH, R_LOW = 124, 127
R_T = 130  # soft2, soft where nothing bounds the temperature below
R_TC, R_TD = 139, 142  # tapers
R_U = 145  # box
STEP = 151
"""Length of a step's record."""
STEP_ROWS = (
    R_C, R_C + 3, R_D, R_D + 3, R_B, R_B + 3, R_G, R_G + 3, R_G + 6, R_PEAK, R_E, R_E + 3, R_E + 6, R_V, R_V + 3, R_V + 6,
    R_HIGH, R_LOW, R_T, R_T + 3, R_T + 6, R_TC, R_TD, R_U, R_U + 3,
)  # fmt: skip
"""First fields of a step's rows; the first 20 are always there, then cold, tapers, curtailment."""
HEAD_ROWS = (R_PEAK_0, R_HIGH_0, R_LOW_0, R_DEPTH, R_DEPTH + 3, R_END, R_END + 3, R_END + 6)
