"""The border of a device's problem: highest and lowest energy of the horizon, cycle depth, terminal target.

Its six inequalities are treated like those of a stage; slacks of depth and target are eliminated in closed form, and what is left
is a 2 x 2 system in (highest, lowest) and a term on the last energy. Not here: stages (factor, forward).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from core.lanes import load, stage, store
from optimizer.site_fleet.layout import (
    B_DEPTH,
    B_DEPTH_SLACK,
    B_HIGHEST,
    B_LOWEST,
    B_TARGET_HIGH,
    B_TARGET_LOW,
    BORDER_INEQUALITIES,
    DEPTH,
    DEPTH_COST,
    HIGHEST,
    LOWEST,
    TARGET,
    TARGET_COST,
    TARGETED,
)  # fmt: skip
from optimizer.site_fleet.rows import first_force, first_ratio, second_force, second_ratio

# Workspace: per inequality 1/t and dt/t, then the Hessian and gradient that the recursion leaves, and eliminations.
(Y_HH, Y_HL, Y_LL, Y_H, Y_L, ZD_INV, ZD_GRAD, ZF_INV, ZF_SLOPE, ZF_GRAD, MISS_CURVE, MISS_GRAD, AIM_CURVE, AIM_SHIFT) = range(
    2 * BORDER_INEQUALITIES, 2 * BORDER_INEQUALITIES + 14
)
BORDER_WORK_ROWS = 2 * BORDER_INEQUALITIES + 14
AIM_COMPLIANCE = 1e-6
"""The target is met up to this times the change of its multiplier in a step: nothing is lost at the end, and the last energy's
Hessian stays below its inverse, which the recursion's accuracy needs."""


def _terms_with(force):
    """Terms of the border from what `force` gives for its inequalities."""

    @stage
    def border_terms(state, work, constants, targets):
        """Terms that the border brings: last energy (Hessian, gradient); highest/lowest (hh, hl, ll, h, l)."""
        aimed = load(constants, TARGETED)
        at = load(constants, TARGET)
        none = 0.0 * targets[0]
        w_h, f_h = force(state, 0, work, 0, B_HIGHEST, -load(constants, HIGHEST), targets)
        w_l, f_l = force(state, 0, work, 0, B_LOWEST, load(constants, LOWEST), targets)
        w_d, f_d = force(state, 0, work, 0, B_DEPTH, load(constants, DEPTH), targets)
        w_z, f_z = force(state, 0, work, 0, B_DEPTH_SLACK, none, targets)
        w_1, f_1 = force(state, 0, work, 0, B_TARGET_LOW, none, targets)
        w_2, f_2 = force(state, 0, work, 0, B_TARGET_HIGH, none, targets)
        # Depth: highest - lowest - zD <= depth, zD >= 0.
        zd_inverse, zd_gradient = 1.0 / (w_d + w_z), load(constants, DEPTH_COST) - f_d - f_z
        depth_weight, depth_force = w_d * w_z * zd_inverse, f_d + w_d * zd_gradient * zd_inverse
        # Target: e = target + miss, |miss| <= zF, the equality with a proximal term on its multiplier.
        zf_inverse, slope, zf_gradient = 1.0 / (w_1 + w_2), w_1 - w_2, load(constants, TARGET_COST) - f_1 - f_2
        store(work, ZD_INV, zd_inverse)
        store(work, ZD_GRAD, zd_gradient)
        store(work, ZF_INV, zf_inverse)
        store(work, ZF_SLOPE, slope)
        store(work, ZF_GRAD, zf_gradient)
        curve, gradient = 4.0 * w_1 * w_2 * zf_inverse, f_2 - f_1 - slope * zf_gradient * zf_inverse
        price = load(state, 2 * B_TARGET_HIGH + 1) - load(state, 2 * B_TARGET_LOW + 1)
        shift = gradient / curve - at + AIM_COMPLIANCE * price
        aim = curve / (1.0 + AIM_COMPLIANCE * curve)
        store(work, MISS_CURVE, curve)
        store(work, MISS_GRAD, gradient)
        store(work, AIM_CURVE, aim)
        store(work, AIM_SHIFT, shift)
        last = (aimed * aim, aimed * aim * shift)
        return last, (w_h + depth_weight, -depth_weight, w_l + depth_weight, depth_force - f_h, f_l - depth_force)

    return border_terms


@stage
def solve_border(work):
    """(highest, lowest) that minimise what the recursion left."""
    hh, hl, ll = load(work, Y_HH), load(work, Y_HL), load(work, Y_LL)
    g_h, g_l = load(work, Y_H), load(work, Y_L)
    ratio = hl / hh
    low = (ratio * g_h - g_l) / (ll - ratio * hl)
    return -(g_h / hh) - ratio * low, low


def _walk_with(visit):
    """Walk over the border's inequalities."""

    @stage
    def walk_border(state, work, constants, targets, top, low, last_e, totals):
        """Visit the border's inequalities with their slacks; a device without target keeps those of the target where they are."""
        w_d = load(state, 2 * B_DEPTH + 1) * load(work, 2 * B_DEPTH)
        z_d = (w_d * (top - low) - load(work, ZD_GRAD)) * load(work, ZD_INV)
        aimed = load(constants, TARGETED)
        price = load(work, AIM_CURVE) * (last_e + load(work, AIM_SHIFT))
        miss = (price - load(work, MISS_GRAD)) / load(work, MISS_CURVE)
        z_f = -(load(work, ZF_GRAD) + load(work, ZF_SLOPE) * miss) * load(work, ZF_INV)
        totals = visit(state, 0, work, 0, B_HIGHEST, top - load(constants, HIGHEST), targets, totals)
        totals = visit(state, 0, work, 0, B_LOWEST, load(constants, LOWEST) - low, targets, totals)
        totals = visit(state, 0, work, 0, B_DEPTH, load(constants, DEPTH) - top + low + z_d, targets, totals)
        totals = visit(state, 0, work, 0, B_DEPTH_SLACK, z_d, targets, totals)
        for row, slack in ((B_TARGET_LOW, z_f + miss), (B_TARGET_HIGH, z_f - miss)):
            held = load(state, 2 * row)
            totals = visit(state, 0, work, 0, row, held + aimed * (slack - held), targets, totals)
        return totals

    return walk_border


border_first, border_second = _terms_with(first_force), _terms_with(second_force)
walk_border_first, walk_border_second = _walk_with(first_ratio), _walk_with(second_ratio)
