"""What every inequality of a stage shares: its weight and force in a Newton step, its step ratios, the step itself.

Each inequality C x + t = rhs has a slack t > 0 and a multiplier l > 0 (rows 2 r and 2 r + 1 of its stage's state). A Newton
step towards l t = target gives t + dt = rhs - C x and l + dl = l + target / t - (l / t) (dt + t). A second pass through the same
factorisation adds the product of the first pass's steps, -dt dl / t, where dl / l = target / (l t) - 1 - dt / t: Mehrotra's
second-order term (SIAM J. Optim. 2 (1992) 575) about an affine step (target 0, dt dl = -t l ratio (1 + ratio), ratio = dt / t).
targets = (the step's, weight of that term): the weight is 0 for a device that has settled at its target, where Newton's step is
the better one and Mehrotra's has no fixed point.
Here: the workspace's rows, walks over the inequalities of a stage. Not here: the recursions (factor, forward).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201, ANN202, E741 - compiled by numba, which infers types

from __future__ import annotations

from core.lanes import inverse, load, most, stage, store
from optimizer.site_fleet.layout import (
    BOTTOM,
    C_HIGH,
    C_LOW,
    C_TAPER,
    D_HIGH,
    D_LOW,
    D_TAPER,
    E_HIGH,
    E_LOW,
    E_SLACK,
    FREE_E,
    INEQUALITIES,
    MAX_C,
    MAX_D,
    RELIEF,
    ROOM_C,
    ROOM_D,
    ROOM_E_HIGH,
    ROOM_E_LOW,
    ROOM_T_HIGH,
    ROOM_T_LOW,
    ROOM_V_HIGH,
    ROOM_V_LOW,
    SLOPE_C,
    SLOPE_D,
    T_HIGH,
    T_LOW,
    T_SLACK,
    TOP,
    V_HIGH,
    V_LOW,
    V_SLACK,
    VOLT_E,
    VOLT_N,
)  # fmt: skip

# Workspace of a stage: per inequality 1/t (dl/l once a step is known) and dt/t; then gains, eliminations and new inputs.
(K_CE, K_CT, K_CH, K_CL, K_DE, K_DT, K_DH, K_DL, K_C, K_D, J_CC, J_CD, J_DD, Z_INV, Z_E, Z_C, Z_D, Z_GRAD, ZT_INV, ZT_GRAD,
 ZV_INV, ZV_GRAD, NEW_C, NEW_D) = range(2 * INEQUALITIES, 2 * INEQUALITIES + 24)  # fmt: skip
WORK_ROWS = 2 * INEQUALITIES + 24


@stage
def first_force(state, s, work, w, r, rhs, targets):
    """(l / t, gradient constant) of row r, towards l t = target without second-order term; keeps 1/t and no ratio."""
    l = load(state, s + 2 * r + 1)
    inverse_t = inverse(load(state, s + 2 * r))
    store(work, w + 2 * r, inverse_t)
    store(work, w + 2 * r + 1, 0.0)
    weight = l * inverse_t
    return weight, l - weight * rhs + targets[0] * inverse_t


@stage
def second_force(state, s, work, w, r, rhs, targets):
    """(l / t, gradient constant) of row r, towards l t = target with the second-order term of the first pass's ratio."""
    l, inverse_t, ratio = load(state, s + 2 * r + 1), load(work, w + 2 * r), load(work, w + 2 * r + 1)
    weight = l * inverse_t
    return weight, l * (1.0 + targets[1] * ratio * (1.0 + ratio)) - weight * rhs + targets[0] * inverse_t


def _collect_with(force):
    """Walk that gathers what `force` gives for each inequality of a stage."""

    @stage
    def collect(state, s, work, w, data, d, targets):
        """Weights and gradient constants of the stage's inequalities, two tuples of 17 in the order of the layout."""
        none = 0.0 * targets[0]
        w0, f0 = force(state, s, work, w, C_LOW, none, targets)
        w1, f1 = force(state, s, work, w, C_HIGH, load(data, d + MAX_C), targets)
        w2, f2 = force(state, s, work, w, D_LOW, none, targets)
        w3, f3 = force(state, s, work, w, D_HIGH, load(data, d + MAX_D), targets)
        w4, f4 = force(state, s, work, w, C_TAPER, load(data, d + ROOM_C), targets)
        w5, f5 = force(state, s, work, w, D_TAPER, load(data, d + ROOM_D), targets)
        w6, f6 = force(state, s, work, w, E_HIGH, load(data, d + ROOM_E_HIGH), targets)
        w7, f7 = force(state, s, work, w, E_LOW, load(data, d + ROOM_E_LOW), targets)
        w8, f8 = force(state, s, work, w, E_SLACK, none, targets)
        w9, f9 = force(state, s, work, w, T_HIGH, load(data, d + ROOM_T_HIGH), targets)
        w10, f10 = force(state, s, work, w, T_LOW, load(data, d + ROOM_T_LOW), targets)
        w11, f11 = force(state, s, work, w, T_SLACK, none, targets)
        w12, f12 = force(state, s, work, w, V_HIGH, load(data, d + ROOM_V_HIGH), targets)
        w13, f13 = force(state, s, work, w, V_LOW, load(data, d + ROOM_V_LOW), targets)
        w14, f14 = force(state, s, work, w, V_SLACK, none, targets)
        free_e = load(data, d + FREE_E)
        w15, f15 = force(state, s, work, w, TOP, -free_e, targets)
        w16, f16 = force(state, s, work, w, BOTTOM, free_e, targets)
        weights = (w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15, w16)
        return weights, (f0, f1, f2, f3, f4, f5, f6, f7, f8, f9, f10, f11, f12, f13, f14, f15, f16)

    return collect


collect_first, collect_second = _collect_with(first_force), _collect_with(second_force)


@stage
def first_ratio(state, s, work, w, r, slack, targets, totals):
    """Keep dt/t of row r in the first pass, `slack` being rhs - C x; totals as of an affine step."""
    worst, sum_0, sum_1, sum_2 = totals
    t = load(state, s + 2 * r)
    ratio = (slack - t) * load(work, w + 2 * r)
    store(work, w + 2 * r + 1, ratio)
    product = t * load(state, s + 2 * r + 1)
    worst = most(worst, most(-ratio, 1.0 + ratio))
    return worst, sum_0 + product, sum_1, sum_2 - product * ratio * (1.0 + ratio)


@stage
def second_ratio(state, s, work, w, r, slack, targets, totals):
    """Keep dt/t and dl/l of row r's step in place of the first ratio and 1/t.

    totals = (worst ratio, sum l t, its change per step, and per squared step).
    """
    worst, sum_0, sum_1, sum_2 = totals
    t, l = load(state, s + 2 * r), load(state, s + 2 * r + 1)
    inverse_t, first = load(work, w + 2 * r), load(work, w + 2 * r + 1)
    ratio = (slack - t) * inverse_t
    growth = targets[0] * inverse_t * inverse(l) - 1.0 - ratio + targets[1] * first * (1.0 + first)
    store(work, w + 2 * r, growth)
    store(work, w + 2 * r + 1, ratio)
    product = l * t
    worst = most(worst, most(-ratio, -growth))
    return worst, sum_0 + product, sum_1 + product * (ratio + growth), sum_2 + product * ratio * growth


def _walk_with(visit):
    """Walk over the inequalities of a stage."""

    @stage
    def walk(state, s, work, w, data, d, constants, targets, x, totals):
        """Visit every inequality of a stage with its slack rhs - C x at x = (c, d, e, T, zE, zT, zV, highest, lowest)."""
        c, q, e, heat, z_e, z_t, z_v, top, low = x
        relief = load(constants, RELIEF) * z_e
        slope_c, slope_d = load(data, d + SLOPE_C), load(data, d + SLOPE_D)
        v = load(data, d + VOLT_E) * e + load(data, d + VOLT_N) * (c - q)
        free_e = load(data, d + FREE_E)
        totals = visit(state, s, work, w, C_LOW, c, targets, totals)
        totals = visit(state, s, work, w, C_HIGH, load(data, d + MAX_C) - c, targets, totals)
        totals = visit(state, s, work, w, D_LOW, q, targets, totals)
        totals = visit(state, s, work, w, D_HIGH, load(data, d + MAX_D) - q, targets, totals)
        totals = visit(state, s, work, w, C_TAPER, load(data, d + ROOM_C) - c - slope_c * (e - relief), targets, totals)
        totals = visit(state, s, work, w, D_TAPER, load(data, d + ROOM_D) - q + slope_d * (e + relief), targets, totals)
        totals = visit(state, s, work, w, E_HIGH, load(data, d + ROOM_E_HIGH) - e + z_e, targets, totals)
        totals = visit(state, s, work, w, E_LOW, load(data, d + ROOM_E_LOW) + e + z_e, targets, totals)
        totals = visit(state, s, work, w, E_SLACK, z_e, targets, totals)
        totals = visit(state, s, work, w, T_HIGH, load(data, d + ROOM_T_HIGH) - heat + z_t, targets, totals)
        totals = visit(state, s, work, w, T_LOW, load(data, d + ROOM_T_LOW) + heat + z_t, targets, totals)
        totals = visit(state, s, work, w, T_SLACK, z_t, targets, totals)
        totals = visit(state, s, work, w, V_HIGH, load(data, d + ROOM_V_HIGH) - v + z_v, targets, totals)
        totals = visit(state, s, work, w, V_LOW, load(data, d + ROOM_V_LOW) + v + z_v, targets, totals)
        totals = visit(state, s, work, w, V_SLACK, z_v, targets, totals)
        totals = visit(state, s, work, w, TOP, top - e - free_e, targets, totals)
        return visit(state, s, work, w, BOTTOM, e + free_e - low, targets, totals)

    return walk


walk_first, walk_second = _walk_with(first_ratio), _walk_with(second_ratio)
