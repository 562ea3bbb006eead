"""From the solver's powers to a plan that keeps every device's hard limits and the meter's, moved as little as needed.

Powers within bounds, tapers and the limits of energy, temperature, voltage and depth that can be kept; where the meter's limit
is exceeded first what flows the wrong way is curtailed in proportion (charge at import, PV and then discharge at export), then
what devices have left is asked of them in proportion (headroom). A device is walked through a span of steps at a time, since its
numbers of one step lie beside those of the next; a step at which the meter's limit is exceeded is corrected for all devices, and
they are walked again from there. Not here: judging the plan (replay).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202, ANN401 - compiled by numba, which infers types

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.lanes import stage
from optimizer.fleet import PROFILES, SCALARS, FleetData
from optimizer.problem import GridData
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.structured.packing import FleetArrays
from optimizer.structured.rooms import (
    bounds,
    charge_room,
    discharge_room,
    energy_after,
    kept_limits,
    place,
    temperature_after,
)

FloatArray = NDArray[np.float64]
INSIDE = 1e-9
"""Share of the meter's limits that is left, so that rounding never decides."""
SPAN = 8
"""Steps of a walk: a cache line of each profile."""
ENERGY, TEMPERATURE, HIGHEST, LOWEST = range(4)
"""A device's state at the start of a step."""
NET, CHARGE, DISCHARGE = range(3)
"""What devices do together in a step, W."""


@stage
def _rooms(at, h, e, t, highest, lowest, depth, hot, high, low, kept):
    """Charge and discharge (W) that every limit which can be kept leaves a device in a step."""
    charge, discharge = bounds(at, e)
    charge = min(charge, charge_room(at, h, e, t, 0.0, min(high, lowest + depth), hot, kept))
    discharge = min(discharge, discharge_room(at, h, e, t, 0.0, max(low, highest - depth), hot, kept))
    return charge, discharge


@kept_on_disk
def _limits(p, first, last, strict, hot, high, low, kept, depth):
    for i in range(first, last):
        depth[i] = kept_limits(p, i, strict, hot[i], high[i], low[i], kept[i])


@kept_on_disk
def _walk(p, power, h, first, last, begin, fixed, start, end, states, limits, totals):
    """Devices first <= i < last from step start to end; `states` (B, SPAN + 1, 4) holds those of the span that starts at `begin`.

    Powers are cut to what each device may do, but for step `start` where `fixed`. totals (3, SPAN): NET, CHARGE, DISCHARGE.
    """
    hot, high, low, kept, depth = limits
    for i in range(first, last):
        at = start - begin
        e, t = states[i, at, ENERGY], states[i, at, TEMPERATURE]
        highest, lowest = states[i, at, HIGHEST], states[i, at, LOWEST]
        for k in range(start, end):
            net, now = power[i, k], place(p, i, k)
            if not (fixed and k == start):
                charge, discharge = _rooms(
                    now, h, e, t, highest, lowest, depth[i], hot[i, k], high[i, k], low[i, k], kept[i, k]
                )  # fmt: skip
                net = min(max(net, -charge), discharge)
                power[i, k] = net
            charge, discharge = max(-net, 0.0), max(net, 0.0)
            totals[NET, k - begin] += net
            totals[CHARGE, k - begin] += charge
            totals[DISCHARGE, k - begin] += discharge
            e = energy_after(now, h, e, charge, discharge)
            t = temperature_after(now, t, charge, discharge)
            highest, lowest = max(highest, e), min(lowest, e)
            at = k - begin + 1
            states[i, at, ENERGY], states[i, at, TEMPERATURE] = e, t
            states[i, at, HIGHEST], states[i, at, LOWEST] = highest, lowest


@kept_on_disk
def _correct(p, power, h, k, states, limits, excess, flowing, sign):
    """Take `excess` (W) out of step k: first from what flows the wrong way (sign -1: charge), then from the room that is left."""
    hot, high, low, kept, depth = limits
    count = power.shape[0]
    share = min(1.0, excess / flowing) if flowing > 0.0 else 0.0
    for i in range(count):
        if sign * power[i, k] > 0.0:
            power[i, k] *= 1.0 - share
    excess -= share * flowing
    if not excess > 0.0:
        return
    room, available = np.zeros(count), 0.0
    for i in range(count):
        e, t, highest, lowest = states[i, ENERGY], states[i, TEMPERATURE], states[i, HIGHEST], states[i, LOWEST]
        charge, discharge = _rooms(
            place(p, i, k), h, e, t, highest, lowest, depth[i], hot[i, k], high[i, k], low[i, k], kept[i, k]
        )  # fmt: skip
        room[i] = max(0.0, (discharge if sign < 0.0 else charge) - max(0.0, -sign * power[i, k]))
        available += room[i]
    if available > 0.0:
        share = min(1.0, excess / available)
        for i in range(count):
            power[i, k] -= sign * share * room[i]


def _part(
    p: Any, power: FloatArray, h: float, span: tuple[int, bool, int, int], states: FloatArray, limits: Any, parts: FloatArray,
    part: int, first: int, last: int,
) -> None:  # fmt: skip
    _walk(p, power, h, first, last, *span, states, limits, parts[part])


def _excess_w(grid: GridData, k: int, curtail: FloatArray, net_w: float) -> tuple[float, float]:
    """(W beyond the meter's limit when devices deliver `net_w`, -1: import, 1: export); PV is curtailed in place first."""
    net = float(grid.load_w[k] - grid.pv_w[k] + curtail[k]) - net_w
    beyond = -net - float(grid.export_limit_w[k]) * (1.0 - INSIDE)
    if beyond > 0.0:
        if grid.curtailable:
            more = min(beyond, float(grid.pv_w[k] - curtail[k]))
            curtail[k] += more
            beyond -= more
        return beyond, 1.0
    return net - float(grid.import_limit_w[k]) * (1.0 - INSIDE), -1.0


def repair(
    grid: GridData, fleet: FleetData, dt_s: float, power_w: FloatArray, curtail_w: FloatArray, pool: ThreadPoolExecutor,
    threads: int, *, strict: bool = False,
) -> tuple[FloatArray, FloatArray, int]:  # fmt: skip
    """Net powers (B, N), curtailment (N,), and in how many steps the meter's limit asked for a change.

    `strict` looks ahead, so that the plan passes the replay without fail (optimizer.structured.rooms).
    """
    power = np.where(np.isfinite(power_w), power_w, 0.0)
    curtail = np.clip(np.where(np.isfinite(curtail_w), curtail_w, 0.0), 0.0, grid.pv_w if grid.curtailable else 0.0)
    p: Any = FleetArrays(*[np.ascontiguousarray(getattr(fleet, name)) for name in SCALARS + PROFILES])
    count, n = power.shape
    h = dt_s / 3600.0
    hot, high, low = np.empty(power.shape), np.empty(power.shape), np.empty(power.shape)
    limits = hot, high, low, np.empty(power.shape, dtype=np.bool_), np.empty(count)
    cuts = [count * i // threads for i in range(threads + 1)]

    def both(function: Callable[[int, int, int], None]) -> None:
        """Call with every thread's number and share of the devices."""
        list(pool.map(function, range(threads), cuts[:-1], cuts[1:]))

    both(lambda _, first, last: _limits(p, first, last, strict, *limits))
    states = np.empty((count, SPAN + 1, 4))
    states[:, SPAN, ENERGY], states[:, SPAN, TEMPERATURE] = p.energy_wh, p.temperature_c
    states[:, SPAN, HIGHEST] = np.maximum(p.energy_wh, p.energy_high_wh)
    states[:, SPAN, LOWEST] = np.minimum(p.energy_wh, p.energy_low_wh)
    touched = 0
    for begin in range(0, n, SPAN):
        states[:, 0] = states[:, SPAN]
        start, end, fixed = begin, min(begin + SPAN, n), False
        while start < end:
            parts = np.zeros((threads, 3, SPAN))
            walk = partial(_part, p, power, h, (begin, fixed, start, end), states, limits, parts)
            both(walk)
            totals = parts.sum(axis=0)
            for k in range(start + fixed, end):
                net, charged, discharged = (float(total) for total in totals[:, k - begin])
                excess, sign = _excess_w(grid, k, curtail, net)
                if excess > 0.0:
                    touched += 1
                    flowing = charged if sign < 0.0 else discharged
                    _correct(p, power, h, k, states[:, k - begin], limits, excess, flowing, sign)
                    start, fixed = k, True
                    break
            else:
                break
    return power, curtail, touched
