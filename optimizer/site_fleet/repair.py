"""From the solver's powers to a plan that keeps every device's hard limits and the meter's, moved as little as needed.

Step by step: powers within bounds, tapers and the limits of energy, temperature, voltage and depth that can be kept; where the
meter's limit is exceeded first what flows the wrong way is curtailed in proportion (charge at import, PV and then discharge at
export), then what devices have left is asked of them in proportion (headroom). Not here: judging the plan (replay).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
    temperature_after,
)

FloatArray = NDArray[np.float64]
INSIDE = 1e-9
"""Share of the meter's limits that is left, so that rounding never decides."""


@kept_on_disk
def _rooms(p, i, k, h, e, t, highest, lowest, depth, hot, high, low, kept):
    """Charge and discharge (W) that every limit which can be kept leaves device i in step k."""
    charge, discharge = bounds(p, i, k, e)
    charge = min(charge, charge_room(p, i, k, h, e, t, 0.0, min(high, lowest + depth), hot, kept))
    discharge = min(discharge, discharge_room(p, i, k, h, e, t, 0.0, max(low, highest - depth), hot, kept))
    return charge, discharge


@kept_on_disk
def _limits(p, strict, hot, high, low, kept, depth):
    for i in range(len(depth)):
        depth[i] = kept_limits(p, i, strict, hot[i], high[i], low[i], kept[i])


@kept_on_disk
def _repair(p, power, curtail, h, load, pv, import_limit, export_limit, curtailable, hot, high, low, kept, depth):
    count, n = power.shape
    energy, temperature = p.energy_wh.copy(), p.temperature_c.copy()
    highest, lowest = np.maximum(energy, p.energy_high_wh), np.minimum(energy, p.energy_low_wh)
    room = np.zeros(count)
    touched = 0
    for k in range(n):
        total = charged = discharged = 0.0
        for i in range(count):
            charge, discharge = _rooms(
                p, i, k, h, energy[i], temperature[i], highest[i], lowest[i], depth[i], hot[i, k], high[i, k], low[i, k],
                kept[i, k],
            )  # fmt: skip
            power[i, k] = min(max(power[i, k], -charge), discharge)
            total += power[i, k]
            charged += max(-power[i, k], 0.0)
            discharged += max(power[i, k], 0.0)
        net = load[k] - pv[k] + curtail[k] - total
        limit_in, limit_out = import_limit[k] * (1.0 - INSIDE), export_limit[k] * (1.0 - INSIDE)
        excess, sign = net - limit_in, -1.0  # too much import: less charge
        if -net > limit_out:
            excess, sign = -net - limit_out, 1.0  # too much export: less discharge
            if curtailable:
                more = min(excess, pv[k] - curtail[k])
                curtail[k] += more
                excess -= more
        if excess > 0.0:
            touched += 1
            flowing = charged if sign < 0.0 else discharged
            share = min(1.0, excess / flowing) if flowing > 0.0 else 0.0
            excess -= share * flowing
            available = 0.0
            for i in range(count):
                if sign * power[i, k] > 0.0:
                    power[i, k] *= 1.0 - share
                room[i] = 0.0
                if excess > 0.0:
                    charge, discharge = _rooms(
                        p, i, k, h, energy[i], temperature[i], highest[i], lowest[i], depth[i], hot[i, k], high[i, k], low[i, k],
                        kept[i, k],
                    )  # fmt: skip
                    room[i] = max(0.0, (discharge if sign < 0.0 else charge) - max(0.0, -sign * power[i, k]))
                    available += room[i]
            if excess > 0.0 and available > 0.0:
                share = min(1.0, excess / available)
                for i in range(count):
                    power[i, k] -= sign * share * room[i]
        for i in range(count):
            charge, discharge = max(-power[i, k], 0.0), max(power[i, k], 0.0)
            energy[i] = energy_after(p, i, k, h, energy[i], charge, discharge)
            temperature[i] = temperature_after(p, i, k, temperature[i], charge, discharge)
            highest[i], lowest[i] = max(highest[i], energy[i]), min(lowest[i], energy[i])
    return touched


def repair(
    grid: GridData, fleet: FleetData, dt_s: float, power_w: FloatArray, curtail_w: FloatArray, *, strict: bool = False
) -> tuple[FloatArray, FloatArray, int]:
    """Net powers (B, N), curtailment (N,), and in how many steps the meter's limit asked for a change.

    `strict` looks ahead, so that the plan passes the replay without fail (optimizer.structured.rooms).
    """
    power = np.where(np.isfinite(power_w), power_w, 0.0)
    curtail = np.clip(np.where(np.isfinite(curtail_w), curtail_w, 0.0), 0.0, grid.pv_w if grid.curtailable else 0.0)
    p = FleetArrays(*[np.ascontiguousarray(getattr(fleet, name)) for name in SCALARS + PROFILES])
    hot, high, low = np.empty(power.shape), np.empty(power.shape), np.empty(power.shape)
    kept, depth = np.empty(power.shape, dtype=np.bool_), np.empty(len(power))
    _limits(p, strict, hot, high, low, kept, depth)
    touched = _repair(
        p, power, curtail, dt_s / 3600.0, grid.load_w, grid.pv_w, grid.import_limit_w, grid.export_limit_w, grid.curtailable, hot,
        high, low, kept, depth,
    )  # fmt: skip
    return power, curtail, int(touched)
