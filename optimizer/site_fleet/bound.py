"""A lower bound on the fleet's cost at a price, from the multipliers alone: valid whether or not anything has converged.

Any multipliers >= 0 bound the optimum from below once the Lagrangian is minimised over all variables. States are free, so that
their multipliers follow backward from the others; inputs and slacks are minimised over their ranges in closed form; what would
leave the minimum at minus infinity (cycle depth, terminal target, linear slacks) is scaled down until it does not. The quadratic
SoC stress is bounded by its tangent at the present energies. Not here: the meter's part (master).
Source: weak duality, Boyd and Vandenberghe, Convex Optimization (2004), section 5.1.
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202, E741 - compiled by numba, which infers types

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from core.lanes import least, load, most, stage, store
from optimizer.fleet import FleetData
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.layout import (
    B_TARGET_HIGH,
    B_TARGET_LOW,
    BOTTOM,
    C_TAPER,
    CURVE,
    D_TAPER,
    DATA_ROWS,
    DECAY,
    DEPTH,
    DEPTH_COST,
    E_COST,
    E_CURVE,
    E_HIGH,
    E_LOW,
    FREE_E,
    GAIN_C,
    HEAT_C,
    HEAT_D,
    HIGHEST,
    LANES,
    LOSS_D,
    LOWEST,
    MAX_C,
    MAX_D,
    MOVE,
    PRICE_UNIT,
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
    STATE_ROWS,
    STRESS,
    T_COST,
    T_CURVE,
    T_HIGH,
    T_LOW,
    TARGET,
    TARGET_COST,
    TARGETED,
    TOP,
    V_COST,
    V_CURVE,
    V_HIGH,
    V_LOW,
    VALUE_E,
    VOLT_E,
    VOLT_N,
    WEAR,
)  # fmt: skip
from optimizer.site_fleet.sweep import Iterate

FloatArray = NDArray[np.float64]
REACH = 1e3
"""Scaled: no slack is larger."""
FLOORS = (1.0, 1e-3, 1e-8, 0.0)
"""Multipliers below these times their slack are left out: what the barrier adds to rows that do not bind costs its parameter in
the bound for each of them. Each device takes the best of these bounds; the last one gives the value of stored energy."""


@stage
def _multiplier(state, s, r, floor):
    """The multiplier of a row, none where it is smaller than `floor` times its slack."""
    l = load(state, s + 2 * r + 1)
    return l * least(most(1e30 * (l - floor * load(state, s + 2 * r)), 0.0), 1.0)


@stage
def _least_input(curve, slope, most_of_it):
    """Least of 1/2 curve x^2 + slope x over 0 <= x <= most_of_it."""
    x = least(most(-slope / (curve + 1e-12), 0.0), most_of_it)
    return (0.5 * curve * x + slope) * x


@stage
def _least_slack(total, cost, curve):
    """(share of multipliers that keeps the least over z >= 0 of (cost - total) z + 1/2 curve z^2 finite, that least)."""
    share = least(1.0, (cost + REACH * curve) / (total + 1e-30))
    beyond = most(share * total - cost, 0.0)
    return share, -(0.5 * beyond * beyond / (curve + 1e-12))


@stage
def _block(data, constants, state, border, flows, energies, prices, worths, floor):
    """Lower bound of eight devices, scaled; `worths` becomes minus the value of energy at the end of each step."""
    stages = len(prices)
    none = 0.0 * load(constants, DECAY)
    top = low = e = none
    for k in range(stages):
        s, d = k * STATE_ROWS, k * DATA_ROWS
        store(energies, k, e)
        e = e + load(data, d + GAIN_C) * load(flows, 2 * k) - load(data, d + LOSS_D) * load(flows, 2 * k + 1)
        top, low = top + _multiplier(state, s, TOP, floor), low + _multiplier(state, s, BOTTOM, floor)
    # Border: highest >= its past, lowest <= its past, depth's slack >= 0, target's slack >= 0.
    # The past alone may exceed the depth: then its multiplier is the cost.
    past = load(constants, HIGHEST) - load(constants, LOWEST) - load(constants, DEPTH)
    exceeded = least(most(1e30 * past, 0.0), 1.0)
    depth = most(exceeded * load(constants, DEPTH_COST), least(most(top, low), load(constants, DEPTH_COST)))
    share_top, share_low = least(1.0, depth / (top + 1e-30)), least(1.0, depth / (low + 1e-30))
    bound = (depth - share_top * top) * load(constants, HIGHEST) + (share_low * low - depth) * load(constants, LOWEST)
    bound = bound - depth * load(constants, DEPTH)
    under, over = _multiplier(border, 0, B_TARGET_LOW, floor), _multiplier(border, 0, B_TARGET_HIGH, floor)
    aim = load(constants, TARGETED) * least(1.0, load(constants, TARGET_COST) / (under + over)) * (over - under)
    bound = bound - aim * load(constants, TARGET)
    worth, warmth = aim, none  # multipliers of the next energy and temperature
    decay, curve, stress, relief = (
        load(constants, DECAY),
        load(constants, CURVE),
        load(constants, STRESS),
        load(constants, RELIEF),
    )
    wear = load(constants, WEAR)
    for k in range(stages - 1, -1, -1):
        s, d = k * STATE_ROWS, k * DATA_ROWS
        known = 0.0 if k == 0 else 1.0  # the state now cannot be chosen: its limits are no part of the problem
        taper_c, taper_d = _multiplier(state, s, C_TAPER, floor), _multiplier(state, s, D_TAPER, floor)
        high, low_e = known * _multiplier(state, s, E_HIGH, floor), known * _multiplier(state, s, E_LOW, floor)
        slope_c, slope_d = load(data, d + SLOPE_C), load(data, d + SLOPE_D)
        total = high + low_e + relief * (slope_c * taper_c + slope_d * taper_d)
        share, value = _least_slack(total, load(constants, E_COST), load(constants, E_CURVE))
        high, low_e, taper_c, taper_d = share * high, share * low_e, share * taper_c, share * taper_d
        bound = bound + value - high * load(data, d + ROOM_E_HIGH) - low_e * load(data, d + ROOM_E_LOW)
        bound = bound - taper_c * load(data, d + ROOM_C) - taper_d * load(data, d + ROOM_D)
        hot, cold = known * _multiplier(state, s, T_HIGH, floor), known * _multiplier(state, s, T_LOW, floor)
        share, value = _least_slack(hot + cold, load(constants, T_COST), load(constants, T_CURVE))
        hot, cold = share * hot, share * cold
        bound = bound + value - hot * load(data, d + ROOM_T_HIGH) - cold * load(data, d + ROOM_T_LOW)
        volt, sag = _multiplier(state, s, V_HIGH, floor), _multiplier(state, s, V_LOW, floor)
        share, value = _least_slack(volt + sag, load(constants, V_COST), load(constants, V_CURVE))
        volt, sag = share * volt, share * sag
        bound = bound + value - volt * load(data, d + ROOM_V_HIGH) - sag * load(data, d + ROOM_V_LOW)
        above, below = share_top * _multiplier(state, s, TOP, floor), share_low * _multiplier(state, s, BOTTOM, floor)
        bound = bound + (above - below) * load(data, d + FREE_E)
        # Inputs.
        store(worths, k, worth)
        net = prices[k] + load(data, d + MOVE) + load(data, d + VOLT_N) * (volt - sag)
        slope = wear + net + taper_c + load(data, d + GAIN_C) * worth + load(data, d + HEAT_C) * warmth
        bound = bound + _least_input(curve, slope, load(data, d + MAX_C))
        slope = wear - net + taper_d - load(data, d + LOSS_D) * worth + load(data, d + HEAT_D) * warmth
        bound = bound + _least_input(curve, slope, load(data, d + MAX_D))
        # States: their multipliers make the Lagrangian independent of them.
        e = load(energies, k)
        bound = bound - 0.5 * stress * e * e
        worth = worth + load(data, d + VALUE_E) + stress * e + high - low_e + above - below
        worth = worth + slope_c * taper_c - slope_d * taper_d + load(data, d + VOLT_E) * (volt - sag)
        warmth = decay * warmth + hot - cold
    return bound


@kept_on_disk
def _bounds(first, last, data, constants, state, border, flows, prices, result, worths):
    energies = np.zeros((len(prices), LANES))
    for b in range(first, last):
        best = _block(data[b], constants[b], state[b], border[b], flows[b], energies, prices, worths[b], FLOORS[0])
        for i in range(1, len(FLOORS)):
            more = _block(data[b], constants[b], state[b], border[b], flows[b], energies, prices, worths[b], FLOORS[i])
            best = most(best, more)
        store(result, b, best)


def fleet_bound(
    iterate: Iterate, fleet: FleetData, price_eur_per_kwh: FloatArray, dt_h: float, pool: ThreadPoolExecutor, threads: int
) -> tuple[float, FloatArray]:
    """Lower bound, EUR, on the devices' cost plus h price' net power, from the iterate's multipliers; and what those say that
    stored energy is worth at the end of each step, EUR/kWh, (B, N).
    """
    blocks = iterate.blocks
    prices = np.concatenate([price_eur_per_kwh * dt_h / PRICE_UNIT, [0.0]])
    result = np.zeros((blocks.blocks, LANES))
    worths = np.empty((blocks.blocks, blocks.steps + 1, LANES))
    cuts = [blocks.blocks * i // threads for i in range(threads + 1)]

    def run(i: int) -> None:
        _bounds(
            cuts[i],
            cuts[i + 1],
            blocks.data,
            blocks.constants,
            iterate.state,
            iterate.border,
            iterate.flows,
            prices,
            result,
            worths,
        )

    list(pool.map(run, range(threads)))
    scaled = result * blocks.weights_kw() * PRICE_UNIT
    value = -PRICE_UNIT * worths[:, :-1].transpose(0, 2, 1).reshape(-1, blocks.steps)[: blocks.count]
    return float(scaled.ravel()[: blocks.count].sum()) + _constant(fleet, dt_h), value


def _constant(fleet: FleetData, dt_h: float) -> float:
    """What the objective holds whatever is done: SoC stress and terminal value without power, the reference's square; EUR."""
    steps = np.arange(1, fleet.steps + 1)
    at_end = fleet.energy_wh - fleet.steps * fleet.leak_wh
    total = -float((fleet.terminal_value_eur_per_kwh * at_end).sum()) / 1000.0
    if fleet.soc_stress_eur_per_h.any():
        # sum_k (a - b k)^2 with a, b per device
        a = fleet.energy_wh / fleet.capacity_wh - fleet.soc_stress_centre
        b = fleet.leak_wh / fleet.capacity_wh
        squares = fleet.steps * a**2 - 2.0 * a * b * steps.sum() + b**2 * (steps**2).sum()
        total += dt_h * float((fleet.soc_stress_eur_per_h * squares).sum())
    if fleet.move_weight.any():
        total += dt_h * float((fleet.move_weight * np.einsum("ij,ij->i", fleet.reference_w, fleet.reference_w)).sum()) / 1e6
    return total
