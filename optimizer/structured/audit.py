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

from optimizer.structured import layout as f
from optimizer.structured.lanes import least, load, most, stage, store, whole_pass
from optimizer.structured.layout import ROW
from optimizer.structured.rows import renew

Value = Any


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
def settle_soft2(
    w: Any, at: int, x: Value, z: Value, above: Value, below: Value, price: Value, gap: Value, worst: Value
) -> tuple[Value, Value, Value, Value]:
    """(net multiplier on x, what the residual of z could earn, gap, least slack); price = linear + square z."""
    l_a, gap, worst = settle(w, at, above - x + z, gap, worst)
    l_b, gap, worst = settle(w, at + ROW, below + x + z, gap, worst)
    l_z, gap, worst = settle(w, at + 2 * ROW, z, gap, worst)
    lacking = most(most(x - z - above, -x - z - below), most(-z, 0.0))
    return l_a - l_b, in_range(price - l_a - l_b - l_z, z, 1.0), gap + price * lacking, worst


@stage
def settle_soft(
    w: Any, at: int, x: Value, z: Value, right: Value, price: Value, gap: Value, worst: Value
) -> tuple[Value, Value, Value, Value]:
    """`settle_soft2` with one side."""
    l_a, gap, worst = settle(w, at, right - x + z, gap, worst)
    l_z, gap, worst = settle(w, at + ROW, z, gap, worst)
    lacking = most(x - z - right, most(-z, 0.0))
    return l_a, in_range(price - l_a - l_z, z, 1.0), gap + price * lacking, worst


@stage
def settle_box(w: Any, at: int, x: Value, right: Value, gap: Value, worst: Value) -> tuple[Value, Value, Value]:
    """(net multiplier on x, gap, least slack); what cutting x to its range may cost is priced as power at the meter's limit."""
    l_low, gap, worst = settle(w, at, x, gap, worst)
    l_high, gap, worst = settle(w, at + ROW, right - x, gap, worst)
    return l_high - l_low, gap + load(w, f.GRID_LINEAR) * most(most(-x, x - right), 0.0), worst


@whole_pass
def audit(w: Any, steps: int, flags: int) -> None:
    """Costates, gap, least slack and weighted residual; leaves value and price of each step in the record."""
    peak, high, low, over, e = load(w, f.PEAK), load(w, f.HIGH), load(w, f.LOW), load(w, f.OVER), load(w, f.E_LAST)
    gap = 0.0 * peak
    worst, co_t = gap, gap
    l_p, gap, worst = settle(w, f.R_PEAK_0, peak - load(w, f.PEAK_0), gap, worst)
    l_h, gap, worst = settle(w, f.R_HIGH_0, high - load(w, f.HIGH_0), gap, worst)
    l_l, gap, worst = settle(w, f.R_LOW_0, load(w, f.LOW_0) - low, gap, worst)
    l_d, dual, gap, worst = settle_soft(w, f.R_DEPTH, high - low, over, load(w, f.DEPTH), load(w, f.DEPTH_LINEAR), gap, worst)
    l_e, rest, gap, worst = settle_soft2(
        w, f.R_END, e, load(w, f.SHORT), load(w, f.END_HIGH), load(w, f.END_LOW), load(w, f.END_LINEAR), gap, worst
    )
    dual = dual + rest
    co_e = l_e - load(w, f.TERMINAL)
    r_p, r_h, r_l = load(w, f.PEAK_PRICE) - l_p, l_d - l_h, l_l - l_d
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
        l_h, gap, worst = settle(w, s + f.R_HIGH, high - idle - e, gap, worst)
        l_l, gap, worst = settle(w, s + f.R_LOW, idle + e - low, gap, worst)
        gap = gap + load(w, f.DEPTH_LINEAR) * (most(e + idle - high, 0.0) + most(low - idle - e, 0.0))
        r_h, r_l = r_h - l_h, r_l + l_l
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
            l_u, gap, worst = settle_box(w, s + f.R_U, u, width, gap, worst)
            dual = dual + in_range(meter + l_u + load(w, s + f.U_PRICE), u, width)
        store(w, s + f.METER, meter)
        store(w, s + f.VALUE, -co_e)
        # battery
        z = load(w, s + f.X_V)
        price = load(w, f.V_LINEAR) + load(w, f.V_SQUARE) * z
        l_v, rest, gap, worst = settle_soft2(
            w, s + f.R_V, v, z, load(w, s + f.V_ABOVE), load(w, s + f.V_BELOW), price, gap, worst
        )
        dual = dual + rest
        l_c, gap, worst = settle_box(w, s + f.R_C, c, load(w, s + f.C_MAX), gap, worst)
        l_d, gap, worst = settle_box(w, s + f.R_D, d, load(w, s + f.D_MAX), gap, worst)
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
        dual = dual + in_range(r_c, c, load(w, s + f.C_MAX)) + in_range(r_d, d, load(w, s + f.D_MAX))
        co_e, co_t = co_e + before, load(w, f.DECAY) * co_t
    store(w, f.AUDIT_GAP, gap)
    store(w, f.AUDIT_PRIMAL, worst)
    store(w, f.AUDIT_DUAL, dual + size(r_p) + size(r_h) + size(r_l))
