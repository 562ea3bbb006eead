"""The first slacks and multipliers of a device: no power, every limit as far as it is then, soft limits priced from the start.

Of a soft limit either the limit or its slack variable is active at its cost; the other side follows from l t = mu. Not here:
steps.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN201, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from numba import njit

from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.layout import (
    B_DEPTH,
    B_DEPTH_SLACK,
    B_HIGHEST,
    B_LOWEST,
    B_TARGET_HIGH,
    B_TARGET_LOW,
    BOTTOM,
    C_LOW,
    C_TAPER,
    D_LOW,
    D_TAPER,
    DATA_ROWS,
    DEPTH,
    DEPTH_COST,
    E_COST,
    E_HIGH,
    FREE_E,
    HIGHEST,
    LOWEST,
    MAX_C,
    MAX_D,
    ROOM_C,
    ROOM_D,
    ROOM_E_HIGH,
    ROOM_E_LOW,
    ROOM_T_HIGH,
    ROOM_T_LOW,
    ROOM_V_HIGH,
    ROOM_V_LOW,
    STATE_ROWS,
    T_COST,
    T_HIGH,
    TARGET,
    TARGET_COST,
    TOP,
    V_COST,
    V_HIGH,
)  # fmt: skip

POWER_SLACK = 0.1
"""Scaled power bounds start at least this far."""
BROKEN_MU = 100.0
"""A device that breaks a soft limit at rest starts at least at this complementarity."""
NARROW = 1e-4
"""A scaled power below this is none: its rows start between the bounds."""


@kept_on_disk
def start_lane(data, constants, state, border, flows, lane, mu):
    """Set a lane's slacks, multipliers and flows at complementarity about `mu`."""
    stages = len(flows) // 2
    if _broken(data, constants, stages, lane):
        mu = max(mu, BROKEN_MU)
    top, low = constants[HIGHEST, lane] + 1.0, constants[LOWEST, lane] - 1.0
    for k in range(stages):
        s, d = k * STATE_ROWS, k * DATA_ROWS
        _box(state, s, C_LOW, lane, data[d + MAX_C, lane], mu)
        _box(state, s, D_LOW, lane, data[d + MAX_D, lane], mu)
        _set(state, s, C_TAPER, lane, max(data[d + ROOM_C, lane], 1.0), mu)
        _set(state, s, D_TAPER, lane, max(data[d + ROOM_D, lane], 1.0), mu)
        _set(state, s, TOP, lane, max(top - data[d + FREE_E, lane], 1.0), mu)
        _set(state, s, BOTTOM, lane, max(data[d + FREE_E, lane] - low, 1.0), mu)
        _soft(data, constants, state, s, d, E_HIGH, ROOM_E_HIGH, E_COST, lane, mu)
        _soft(data, constants, state, s, d, T_HIGH, ROOM_T_HIGH, T_COST, lane, mu)
        _soft(data, constants, state, s, d, V_HIGH, ROOM_V_HIGH, V_COST, lane, mu)
        flows[2 * k, lane] = flows[2 * k + 1, lane] = 0.0
    _set(border, 0, B_HIGHEST, lane, 1.0, mu)
    _set(border, 0, B_LOWEST, lane, 1.0, mu)
    _set(border, 0, B_DEPTH, lane, max(constants[DEPTH, lane], 1.0), mu)
    _set(border, 0, B_DEPTH_SLACK, lane, mu / constants[DEPTH_COST, lane], mu)
    near = mu / constants[TARGET_COST, lane]
    far = near + 2.0 * abs(constants[TARGET, lane])
    above = constants[TARGET, lane] > 0.0
    _set(border, 0, B_TARGET_LOW, lane, near if above else far, mu)
    _set(border, 0, B_TARGET_HIGH, lane, far if above else near, mu)


@njit(error_model="numpy")
def _broken(data, constants, stages, lane):
    """Whether a lane breaks a soft limit if it rests."""
    for k in range(stages):
        d = k * DATA_ROWS
        for room in (ROOM_E_HIGH, ROOM_E_LOW, ROOM_T_HIGH, ROOM_T_LOW, ROOM_V_HIGH, ROOM_V_LOW):
            if data[d + room, lane] < 0.0:
                return True
    return False


@kept_on_disk
def reopen_now(data, constants, state, lane, mu):
    """Set a lane's rows of the first stage that concern the state alone, which is known there, as `start_lane` does."""
    _set(state, 0, C_TAPER, lane, max(data[ROOM_C, lane], 1.0), mu)
    _set(state, 0, D_TAPER, lane, max(data[ROOM_D, lane], 1.0), mu)
    _soft(data, constants, state, 0, 0, E_HIGH, ROOM_E_HIGH, E_COST, lane, mu)
    _soft(data, constants, state, 0, 0, T_HIGH, ROOM_T_HIGH, T_COST, lane, mu)


@njit(error_model="numpy")
def _set(state, s, r, lane, t, mu):
    state[s + 2 * r, lane] = t
    state[s + 2 * r + 1, lane] = mu / t


@njit(error_model="numpy")
def _box(state, s, low, lane, width, mu):
    """Rows `low` and `low` + 1 (high) of a power; one that hardly may be starts in the middle."""
    if width <= NARROW:
        _set(state, s, low, lane, 0.5 * width, mu)
        _set(state, s, low + 1, lane, 0.5 * width, mu)
    else:
        _set(state, s, low, lane, 1.0, mu)
        _set(state, s, low + 1, lane, max(width, POWER_SLACK), mu)


@njit(error_model="numpy")
def _soft(data, constants, state, s, d, high, room, cost, lane, mu):
    """Rows `high`, `high` + 1 (low) and `high` + 2 (slack) of a soft limit whose rooms lie in rows `room` and the next, cost and
    curvature of its slack in rows `cost` and the next; beyond the limit, its price is the slack's.
    """
    room_high, room_low = data[d + room, lane], data[d + room + 1, lane]
    beyond = max(-room_high, -room_low, 0.0)
    z = mu / (constants[cost, lane] + constants[cost + 1, lane] * beyond)
    _set(state, s, high, lane, max(room_high + beyond, 0.0) + z, mu)
    _set(state, s, high + 1, lane, max(room_low + beyond, 0.0) + z, mu)
    _set(state, s, high + 2, lane, beyond + z, mu)
