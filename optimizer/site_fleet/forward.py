"""The forward passes of a device: states and inputs from gains, step ratios of every inequality, the step itself.

Not here: gains (recursion), what an inequality keeps (rows).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from core.lanes import load, stage, store
from optimizer.site_fleet.border import solve_border, walk_border_first, walk_border_second
from optimizer.site_fleet.layout import (
    BORDER_INEQUALITIES,
    DATA_ROWS,
    DECAY,
    GAIN_C,
    HEAT_C,
    HEAT_D,
    INEQUALITIES,
    LOSS_D,
    STATE_ROWS,
    T_HIGH,
    T_LOW,
    V_HIGH,
    V_LOW,
    VOLT_E,
    VOLT_N,
)  # fmt: skip
from optimizer.site_fleet.rows import (
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
    NEW_C,
    NEW_D,
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
    walk_first,
    walk_second,
)  # fmt: skip


@stage
def inputs(work, w, e, heat, top, low):
    """Charge and discharge of a stage in state (e, heat), from its gains."""
    c = load(work, w + K_CE) * e + load(work, w + K_CT) * heat + load(work, w + K_CH) * top + load(work, w + K_CL) * low
    q = load(work, w + K_DE) * e + load(work, w + K_DT) * heat + load(work, w + K_DH) * top + load(work, w + K_DL) * low
    return c + load(work, w + K_C), q + load(work, w + K_D)


@stage
def weight_difference(state, s, work, w, first, second):
    """l / t of one row less that of another."""
    first_weight = load(state, s + 2 * first + 1) * load(work, w + 2 * first)
    return first_weight - load(state, s + 2 * second + 1) * load(work, w + 2 * second)


@stage
def next_state(data, d, decay, c, q, e, heat):
    """Energy and temperature after a stage."""
    energy = e + load(data, d + GAIN_C) * c - load(data, d + LOSS_D) * q
    return energy, decay * heat + load(data, d + HEAT_C) * c + load(data, d + HEAT_D) * q


def _ratios_with(walk, walk_border):
    """Forward pass that keeps what the walks keep."""

    @stage
    def ratios(data, constants, state, border_state, work, border_work, prices, targets):
        """Run the solution forward, visit every inequality; the walk's totals; keeps the new inputs."""
        decay = load(constants, DECAY)
        top, low = solve_border(border_work)
        e = heat = 0.0 * top
        totals = (1e-9 + 0.0 * top, 0.0 * top, 0.0 * top, 0.0 * top)
        for k in range(len(prices)):
            d, s, w = k * DATA_ROWS, k * STATE_ROWS, k * WORK_ROWS
            c, q = inputs(work, w, e, heat, top, low)
            store(work, w + NEW_C, c)
            store(work, w + NEW_D, q)
            z_e = load(work, w + Z_E) * e + load(work, w + Z_C) * c + load(work, w + Z_D) * q + load(work, w + Z_GRAD)
            z_e = -(z_e * load(work, w + Z_INV))
            z_t = (weight_difference(state, s, work, w, T_HIGH, T_LOW) * heat - load(work, w + ZT_GRAD)) * load(work, w + ZT_INV)
            volt = load(data, d + VOLT_E) * e + load(data, d + VOLT_N) * (c - q)
            z_v = (weight_difference(state, s, work, w, V_HIGH, V_LOW) * volt - load(work, w + ZV_GRAD)) * load(work, w + ZV_INV)
            totals = walk(state, s, work, w, data, d, constants, targets, (c, q, e, heat, z_e, z_t, z_v, top, low), totals)
            e, heat = next_state(data, d, decay, c, q, e, heat)
        return walk_border(border_state, border_work, constants, targets, top, low, e, totals)

    return ratios


ratios_first = _ratios_with(walk_first, walk_border_first)
ratios_second = _ratios_with(walk_second, walk_border_second)


@stage
def predict(data, constants, work, border_work, net, stages):
    """Net power of the full step, scaled, into the first rows of `net`."""
    decay = load(constants, DECAY)
    top, low = solve_border(border_work)
    e = heat = 0.0 * top
    for k in range(stages):
        c, q = inputs(work, k * WORK_ROWS, e, heat, top, low)
        store(net, k, c - q)
        e, heat = next_state(data, k * DATA_ROWS, decay, c, q, e, heat)


@stage
def take_step(state, border_state, work, border_work, flows, alpha, stages):
    """Move slacks, multipliers and inputs by the share `alpha` of the step kept in `work`."""
    for k in range(stages):
        s, w = k * STATE_ROWS, k * WORK_ROWS
        for r in range(INEQUALITIES):
            store(state, s + 2 * r, load(state, s + 2 * r) * (1.0 + alpha * load(work, w + 2 * r + 1)))
            store(state, s + 2 * r + 1, load(state, s + 2 * r + 1) * (1.0 + alpha * load(work, w + 2 * r)))
        c, q = load(flows, 2 * k), load(flows, 2 * k + 1)
        store(flows, 2 * k, c + alpha * (load(work, w + NEW_C) - c))
        store(flows, 2 * k + 1, q + alpha * (load(work, w + NEW_D) - q))
    for r in range(BORDER_INEQUALITIES):
        store(border_state, 2 * r, load(border_state, 2 * r) * (1.0 + alpha * load(border_work, 2 * r + 1)))
        store(border_state, 2 * r + 1, load(border_state, 2 * r + 1) * (1.0 + alpha * load(border_work, 2 * r)))
