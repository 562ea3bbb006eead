"""A store that is not what the MPC's model says: it heats, tapers, loses more at high power, wears more when hot or deep.

    losses        terminal to stored energy and back: efficiency 1 - LOSS - RESISTANCE |P| / rated, each way
    temperature   T+ = T + (ambient - T) (1 - exp(-h / TAU_H)) + HEAT_K (P / rated)^2, ambient AMBIENT_C
    derating      of rated power: 1 up to 35 C, falling to 0 at 45 C; charge tapers above 80 %, discharge below 20 % of capacity,
                  both to 30 % at the end
    wear          wear (0.5 + 1.5 (P / rated)^2) 2^((T - 25) / 10) per kWh delivered, times 1 + 2 (0.5 - SoC)_+ below half
                  full: doubling every 10 K, more when deep, as cells do (Schmalstieg et al., J. Power Sources 257 (2014) 325)
Steps of one hour. The value of energy is a table over SoC and temperature; a policy has LEVELS powers each way. The MPC plans on
the linear plant (optimizer.dynamic) and its set point goes through the same projection onto what the store can do.
Not here: networks (training.value_fit), the linear plant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from core.compiled import kept_on_disk
from optimizer.dynamic import FloatArray, Lattice, best_move

_F = TypeVar("_F", bound=Callable[..., Any])
CAPACITY_KWH, RATED_KW, WEAR = 2000.0, 1000.0, 0.005
LOSS, RESISTANCE = 0.01, 0.08
TAU_H, HEAT_K, AMBIENT_C = 3.0, 6.0, 25.0
SOC_POINTS, TEMPERATURES = 21, (25.0, 29.0, 33.0, 37.0, 41.0, 45.0)
LEVELS = 8
SHAPE = (SOC_POINTS, len(TEMPERATURES))


def _compiled(function: _F) -> _F:
    compiled: _F = kept_on_disk(error_model="numpy")(function)
    return compiled


@_compiled
def step(soc: float, temperature: float, wish: float) -> tuple[float, float, float, float]:
    """One hour at a wish (share of rated power, discharge positive), cut to what can be: SoC, T, kWh out, EUR of wear."""
    cool = min(1.0, max(0.0, (45.0 - temperature) / 10.0))
    if wish < 0:
        room = min(1.0, 0.3 + 0.7 * max(0.0, 1.0 - soc) / 0.2)
        power = -min(-wish, cool * room)
        eta = 1.0 - LOSS + RESISTANCE * power
        stored = min(-power * RATED_KW * eta, (1.0 - soc) * CAPACITY_KWH)
        power = -stored / eta / RATED_KW
        soc_after, out, wear = soc + stored / CAPACITY_KWH, power * RATED_KW, 0.0
    else:
        room = min(1.0, 0.3 + 0.7 * soc / 0.2)
        power = min(wish, cool * room)
        eta = 1.0 - LOSS - RESISTANCE * power
        taken = min(power * RATED_KW / eta, soc * CAPACITY_KWH)
        out = taken * eta
        power = out / RATED_KW
        soc_after = soc - taken / CAPACITY_KWH
        deep = 1.0 + 2.0 * max(0.0, 0.5 - soc_after)
        wear = WEAR * (0.5 + 1.5 * power * power) * 2.0 ** ((temperature - 25.0) / 10.0) * deep * out
    left = np.exp(-1.0 / TAU_H)
    warmer = AMBIENT_C + (temperature - AMBIENT_C) * left + HEAT_K * power * power
    return min(1.0, max(0.0, soc_after)), min(warmer, 45.0), out, wear


@_compiled
def value_at(table: FloatArray, soc: float, temperature: float) -> float:
    """Between the points of a table (SOC_POINTS, temperatures), EUR."""
    x = soc * (table.shape[0] - 1)
    i = min(int(x), table.shape[0] - 2)
    y = (temperature - 25.0) / 4.0
    j = min(max(int(y), 0), table.shape[1] - 2)
    a, b = x - i, y - j
    low = (1 - a) * table[i, j] + a * table[i + 1, j]
    high = (1 - a) * table[i, j + 1] + a * table[i + 1, j + 1]
    return float((1 - b) * low + b * high)


@_compiled
def best_wish(price: float, table: FloatArray, soc: float, temperature: float) -> float:
    """The wish of most profit now and value later; of equals the one nearest to nothing."""
    best, chosen = -1e300, 0.0
    for k in range(2 * LEVELS + 1):
        wish = ((k + 1) // 2) / LEVELS * (1.0 if k % 2 else -1.0)
        s, t, out, wear = step(soc, temperature, wish)
        worth = out * price - wear + value_at(table, s, t)
        if worth > best + 1e-9:
            best, chosen = worth, wish
    return chosen


@_compiled
def foresight(price: FloatArray) -> FloatArray:
    """Value AFTER each hour by SoC and temperature when all prices (T,) are known, EUR, (T, SOC_POINTS, temperatures).

    Exact up to the interpolation of the table and the LEVELS powers, which are those that policies have.
    """
    out = np.zeros((len(price), SOC_POINTS, 6))
    after = np.zeros((SOC_POINTS, 6))
    for t in range(len(price) - 1, -1, -1):
        out[t] = after
        before = np.empty((SOC_POINTS, 6))
        for i in range(SOC_POINTS):
            for j in range(6):
                soc, temperature = i / (SOC_POINTS - 1.0), 25.0 + 4.0 * j
                best = -1e300
                for k in range(-LEVELS, LEVELS + 1):
                    s, warm, energy, wear = step(soc, temperature, k / LEVELS)
                    worth = energy * price[t] - wear + value_at(after, s, warm)
                    best = max(best, worth)
                before[i, j] = best
        after = before
    return out


@_compiled
def operate_tables(price: FloatArray, tables: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Act by value tables (T, ...): EUR earned after wear, kWh stored, temperature after each hour; all (T,)."""
    earned, stored, warm = np.zeros(len(price)), np.zeros(len(price)), np.zeros(len(price))
    soc, temperature = 0.0, AMBIENT_C
    for t in range(len(price)):
        soc, temperature, out, wear = step(soc, temperature, best_wish(price[t], tables[t], soc, temperature))
        earned[t], stored[t], warm[t] = out * price[t] - wear, soc * CAPACITY_KWH, temperature
    return earned, stored, warm


@_compiled
def _operate_linear(
    price: FloatArray, marginals: FloatArray, up: int, down: int, ec: float, ed: float, w: float, kwh: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    earned, stored, warm = np.zeros(len(price)), np.zeros(len(price)), np.zeros(len(price))
    soc, temperature = 0.0, AMBIENT_C
    n = marginals.shape[1]
    for t in range(len(price)):
        level = min(n, max(0, round(soc * CAPACITY_KWH / kwh)))
        move = best_move(price[t], marginals[t], level, up, down, ec, ed, w, kwh)
        wish = -move * kwh / ec / RATED_KW if move > 0 else -move * kwh * ed / RATED_KW
        soc, temperature, out, wear = step(soc, temperature, min(1.0, max(-1.0, wish)))
        earned[t], stored[t], warm[t] = out * price[t] - wear, soc * CAPACITY_KWH, temperature
    return earned, stored, warm


def operate_linear(price: FloatArray, marginals: FloatArray, plant: Lattice) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Act as an MPC does that plans on the linear plant, measured SoC fed back every hour; as `operate_tables`."""
    found: tuple[FloatArray, FloatArray, FloatArray] = _operate_linear(price, marginals, *plant.vector())
    return found
