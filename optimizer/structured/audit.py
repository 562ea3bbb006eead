"""The last pass: apply the last step and prove the result, from multipliers and bounds alone.

For the convex problem, any point x with multipliers l >= 0 costs at most  sum l (r - c'x) + sum max over y of residual (x - y)
more than the optimum, y over a variable's range (Lagrangian bound); what soft rows lack is added at its price. The costates run
from the last step to the first, so that states leave no residual. Energy's costate is the value of stored energy, the sum of
multipliers on net import the price at the meter.
Not here: whether the proof suffices (driver).
"""
# ruff: noqa: ANN401 - eight lanes or a float: known to numba alone.

from __future__ import annotations

from typing import Any

from core.lanes import inverse, least, load, most, stage, store, whole_pass
from optimizer.structured import layout as f
from optimizer.structured.layout import ROW
from optimizer.structured.rows import renew

Value = Any
TINY = 1e-300


@stage
def settle(w: Any, at: int, slack: Value, gap: Value, worst: Value) -> tuple[Value, Value, Value]:
    """(multiplier, gap, least slack) with this row in."""
    _, multiplier, _ = renew(w, at, slack, load(w, f.ALPHA))
    return multiplier, gap + multiplier * slack, least(worst, slack)


@stage
def size(x: Value) -> Value:
    """Magnitude."""
    return most(x, -x)


@stage
def in_range(residual: Value, x: Value, width: Value) -> Value:
    """Most that `residual` could still earn by moving x within 0 .. width."""
    return most(residual * x, residual * (x - width))


@stage
def in_curve(residual: Value, x: Value, width: Value, curve: Value) -> Value:
    """The same where the cost bends: moving x by y costs curve y^2 / 2 too, so that at most residual^2 / (2 curve) is earned.

    Without it the rounding of multipliers, times a range, would pass for a gap.
    """
    return least(in_range(residual, x, width), residual * residual * inverse(2.0 * curve + TINY))


@stage
def settle_soft2(
    w: Any, at: int, x: Value, z: Value, above: Value, below: Value, price: Value, gap: Value, worst: Value
) -> tuple[Value, Value, Value, Value]:
    """(net multiplier on x, what the residual of z could earn, gap, least slack); price = linear + square z."""
    l_a, gap, worst = settle(w, at, above - x + z, gap, worst)
    l_b, gap, worst = settle(w, at + ROW, below + x + z, gap, worst)
    _, _, worst = settle(w, at + 2 * ROW, z, gap, worst)
    lacking = most(most(x - z - above, -x - z - below), most(-z, 0.0))
    return l_a - l_b, in_range(price - l_a - l_b, z, 1.0), gap + price * lacking, worst


@stage
def settle_soft(
    w: Any, at: int, x: Value, z: Value, right: Value, price: Value, gap: Value, worst: Value
) -> tuple[Value, Value, Value, Value]:
    """`settle_soft2` with one side."""
    l_a, gap, worst = settle(w, at, right - x + z, gap, worst)
    _, _, worst = settle(w, at + ROW, z, gap, worst)
    lacking = most(x - z - right, most(-z, 0.0))
    return l_a, in_range(price - l_a, z, 1.0), gap + price * lacking, worst


@stage
def settle_box(w: Any, at: int, x: Value, right: Value, worst: Value) -> tuple[Value, Value]:
    """(price of being beyond the range, least slack). The best multipliers of a box follow from the reduced cost (in_range)."""
    _, _, worst = settle(w, at, x, 0.0 * x, worst)
    _, _, worst = settle(w, at + ROW, right - x, 0.0 * x, worst)
    return load(w, f.GRID_LINEAR) * most(most(-x, x - right), 0.0), worst


@stage
def settle_swing(w: Any, steps: int, l_d: Value, worst: Value) -> tuple[Value, Value, Value, Value]:
    """(factor on the multipliers of the highest energy, of the lowest, gap of their first rows, least slack).

    The factors make the multipliers of highest and lowest energy sum to that of the depth: their rounding, which grows with the
    weights of all steps, would else be charged at the whole range of the energy.
    """
    high, low = load(w, f.HIGH), load(w, f.LOW)
    slack_h, slack_l = high - load(w, f.HIGH_0), load(w, f.LOW_0) - low
    first_h, _, worst = settle(w, f.R_HIGH_0, slack_h, 0.0 * high, worst)
    first_l, _, worst = settle(w, f.R_LOW_0, slack_l, 0.0 * high, worst)
    sum_h, sum_l = first_h, first_l
    for k in range(steps):
        s = f.HEAD + f.STEP * k
        e, idle = load(w, s + f.S_E), load(w, s + f.E_IDLE)
        l_h, _, worst = settle(w, s + f.R_HIGH, high - idle - e, 0.0 * high, worst)
        l_l, _, worst = settle(w, s + f.R_LOW, idle + e - low, 0.0 * high, worst)
        sum_h, sum_l = sum_h + l_h, sum_l + l_l
    factor_h, factor_l = l_d * inverse(sum_h + TINY), l_d * inverse(sum_l + TINY)
    return factor_h, factor_l, factor_h * first_h * slack_h + factor_l * first_l * slack_l, worst


@whole_pass
def audit(w: Any, steps: int, flags: int) -> None:
    """Costates, gap, least slack and weighted residual; leaves value and price of each step in the record."""
    peak, high, low, over, e = load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW), load(w, f.OVER), load(w, f.E_LAST)
    gap = 0.0 * peak
    worst, co_t = gap, gap
    l_p, gap, worst = settle(w, f.R_PEAK_0, peak - load(w, f.PEAK_0), gap, worst)
    l_d, dual, gap, worst = settle_soft(w, f.R_DEPTH, high - low, over, load(w, f.DEPTH), load(w, f.DEPTH_LINEAR), gap, worst)
    factor_h, factor_l, rest, worst = settle_swing(w, steps, l_d, worst)
    gap = gap + rest
    l_e, rest, gap, worst = settle_soft2(
        w, f.R_END, e, load(w, f.SHORT), load(w, f.END_HIGH), load(w, f.END_LOW), load(w, f.END_LINEAR), gap, worst
    )
    dual = dual + rest
    co_e = l_e - load(w, f.TERMINAL)
    r_p = load(w, f.PEAK_PRICE) - l_p
    for step in range(steps):
        k = steps - 1 - step
        s = f.HEAD + f.STEP * k
        c, d, e, t, v = load(w, s + f.X_C), load(w, s + f.X_D), load(w, s + f.S_E), load(w, s + f.S_T), load(w, s + f.S_V)
        # state at the step's end
        z, idle = load(w, s + f.X_E), load(w, s + f.E_IDLE)
        price = load(w, f.E_LINEAR) + load(w, f.E_SQUARE) * z
        l_e, rest, gap, worst = settle_soft2(
            w, s + f.R_E, e, z, load(w, s + f.E_ABOVE), load(w, s + f.E_BELOW), price, gap, worst
        )
        dual = dual + rest
        l_h = factor_h * (load(w, s + f.R_HIGH) * load(w, s + f.R_HIGH + 1))
        l_l = factor_l * (load(w, s + f.R_LOW) * load(w, s + f.R_LOW + 1))
        gap = gap + l_h * (high - idle - e) + l_l * (idle + e - low)
        gap = gap + load(w, f.DEPTH_LINEAR) * (most(e + idle - high, 0.0) + most(low - idle - e, 0.0))
        co_e = co_e + l_e + l_h - l_l + load(w, f.STRESS) * (e + idle) + load(w, f.STRESS_0)
        z = load(w, s + f.X_T)
        price = load(w, f.T_LINEAR) + load(w, f.T_SQUARE) * z
        above = load(w, s + f.T_ABOVE)
        if flags & f.COLD:
            l_t, rest, gap, worst = settle_soft2(w, s + f.R_T, t, z, above, load(w, s + f.T_BELOW), price, gap, worst)
        else:
            l_t, rest, gap, worst = settle_soft(w, s + f.R_T, t, z, above, price, gap, worst)
        dual = dual + rest
        co_t = co_t + l_t
        # meter
        net = c - d
        if flags & f.CURTAIL:
            net = net + load(w, s + f.X_U)
        l_b, rest, gap, worst = settle_soft(
            w, s + f.R_B, net, load(w, s + f.X_B), load(w, s + f.R_NEED), load(w, s + f.SPREAD), gap, worst
        )
        dual = dual + rest
        l_g, rest, gap, worst = settle_soft2(
            w, s + f.R_G, net, load(w, s + f.X_G), load(w, s + f.R_IMPORT), load(w, s + f.R_EXPORT), load(w, f.GRID_LINEAR),
            gap, worst,
        )  # fmt: skip
        dual = dual + rest
        l_p, gap, worst = settle(w, s + f.R_PEAK, load(w, s + f.R_OVER_PEAK) - net + peak, gap, worst)
        gap = gap + load(w, f.PEAK_PRICE) * most(net - peak - load(w, s + f.R_OVER_PEAK), 0.0)
        r_p = r_p - l_p
        meter = load(w, s + f.PRICE) + l_b + l_g + l_p
        if flags & f.TRACKED:
            meter = meter + load(w, s + f.TRACK) * net
        if flags & f.CURTAIL:
            width = load(w, s + f.U_MAX)
            u = load(w, s + f.X_U)
            beyond, worst = settle_box(w, s + f.R_U, u, width, worst)
            gap, dual = gap + beyond, dual + in_range(meter + load(w, s + f.U_PRICE), u, width)
        store(w, s + f.METER, meter)
        store(w, s + f.VALUE, -co_e)
        # battery
        z = load(w, s + f.X_V)
        price = load(w, f.V_LINEAR) + load(w, f.V_SQUARE) * z
        l_v, rest, gap, worst = settle_soft2(
            w, s + f.R_V, v, z, load(w, s + f.V_ABOVE), load(w, s + f.V_BELOW), price, gap, worst
        )
        dual = dual + rest
        beyond_c, worst = settle_box(w, s + f.R_C, c, load(w, s + f.C_MAX), worst)
        beyond_d, worst = settle_box(w, s + f.R_D, d, load(w, s + f.D_MAX), worst)
        gap, l_c, l_d = gap + beyond_c + beyond_d, 0.0 * c, 0.0 * d
        before = load(w, s + f.VE) * l_v
        if flags & f.TAPER:
            e = load(w, s - f.STEP + f.S_E) if k > 0 else 0.0 * e
            slope = load(w, s + f.C_SLOPE)
            l_taper, gap, worst = settle(w, s + f.R_TC, load(w, s + f.C_ROOM) - c - slope * e, gap, worst)
            l_c, before = l_c + l_taper, before + slope * l_taper
            slope = load(w, s + f.D_SLOPE)
            l_taper, gap, worst = settle(w, s + f.R_TD, load(w, s + f.D_ROOM) - d + slope * e, gap, worst)
            l_d, before = l_d + l_taper, before - slope * l_taper
        net_price = meter + load(w, s + f.VP) * l_v
        r_c = load(w, f.WEAR) + load(w, f.CURVE) * c + l_c + net_price
        r_c = r_c + load(w, s + f.HC) * co_e + load(w, s + f.BC) * co_t
        r_d = load(w, f.WEAR) + load(w, f.CURVE) * d + l_d - net_price
        r_d = r_d - load(w, s + f.HD) * co_e + load(w, s + f.BD) * co_t
        curve = load(w, f.CURVE)
        dual = dual + in_curve(r_c, c, load(w, s + f.C_MAX), curve) + in_curve(r_d, d, load(w, s + f.D_MAX), curve)
        co_e, co_t = co_e + before, load(w, f.DECAY) * co_t
    store(w, f.AUDIT_GAP, gap)
    store(w, f.AUDIT_PRIMAL, worst)
    store(w, f.AUDIT_DUAL, dual + size(r_p))
