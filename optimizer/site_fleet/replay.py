"""The independent replay of a site's plan: every device and the meter, step by step from the problem's data alone.

Shares no code with the kernel, its scaling or its packing. What optimizer.replay does for a few devices, for ten thousand: limits
that no plan may break are counted and the worst is named, limits that the state or the load has already broken are reported by
the most they are exceeded. Not here: mending a plan (repair).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import PROFILES, SCALARS, FleetData
from optimizer.problem import GridData, SoftCosts
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.structured.judge import (
    HARD,
    KINDS,
    SOFT_DEPTH,
    SOFT_TEMPERATURE,
    SOFT_VOLTAGE,
    TERMINAL,
    TOLERANCE_K,
    TOLERANCE_SHARE,
    TOLERANCE_V,
    TOLERANCE_W,
    run_device,
)
from optimizer.structured.packing import FleetArrays, soft_arrays

FloatArray = NDArray[np.float64]
UNITS = {"power": "W", "taper": "W", "temperature": "K", "voltage": "V"}
COST, WEAR = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReplay:
    """Trajectories (B, N), states at the END of each step; meter (N,)."""

    objective_eur: float
    device_eur: FloatArray
    """Each device's part of the objective, (B,)."""
    energy_cost_eur: float
    wear_eur: float
    energy_wh: FloatArray
    temperature_c: FloatArray
    voltage_v: FloatArray
    import_w: FloatArray
    export_w: FloatArray
    peak_w: float
    broken: NDArray[np.bool_]
    """Devices that break a hard limit, (B,)."""
    hard_violations: tuple[str, ...]
    soft_violations: tuple[str, ...]


@kept_on_disk
def _devices(first, last, p, h, soft, power, energy, temperature, voltage, money, excess):
    """Run devices first .. last; excess (B, len(KINDS)) is the most that each kind of limit is exceeded by."""
    for i in range(first, last):
        money[i, COST], money[i, WEAR] = run_device(p, i, h, soft, power, power, True, energy, temperature, voltage, excess[i])


def replay(
    grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts, power_w: FloatArray, curtail_w: FloatArray,
    pool: ThreadPoolExecutor, threads: int,
) -> FleetReplay:  # fmt: skip
    """Run net powers (B, N), discharge positive, and curtailment (N,) through the model and price them."""
    count, n = power_w.shape
    h = dt_s / 3600.0
    energy, temperature, voltage = (np.empty((count, n)) for _ in range(3))
    money, excess = np.zeros((count, 2)), np.zeros((count, len(KINDS)))
    power = np.ascontiguousarray(power_w)
    columns = FleetArrays(*[np.ascontiguousarray(getattr(fleet, name)) for name in SCALARS + PROFILES])
    prices = soft_arrays(soft)
    cuts = [count * j // threads for j in range(threads + 1)]

    def run(j: int) -> None:
        _devices(cuts[j], cuts[j + 1], columns, h, prices, power, energy, temperature, voltage, money, excess)

    list(pool.map(run, range(threads)))
    hard, soft_names = _name(fleet, excess)
    net = grid.load_w - grid.pv_w + curtail_w - power.sum(axis=0)
    bought, sold = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    peak = max(grid.peak_incurred_w, float(bought.max(initial=0.0)))
    energy_cost = float(h * (grid.buy_eur_per_kwh * bought - grid.sell_eur_per_kwh * sold).sum() / 1000.0)
    objective = energy_cost + float(money[:, COST].sum()) + grid.peak_price_eur_per_kw * peak / 1000.0
    objective += float(h * grid.curtailment_cost_eur_per_kwh * curtail_w.sum() / 1000.0)
    alone = grid.load_w - grid.pv_w + curtail_w
    for name, flow, limit, unhelped in (
        ("import", bought, grid.import_limit_w, alone),
        ("export", sold, grid.export_limit_w, -alone),
    ):
        over = np.maximum(flow - limit, 0.0)
        objective += float(soft.grid_eur_per_kw * over.sum() / 1000.0)
        if over.max(initial=0.0) > TOLERANCE_W:
            soft_names.append(f"grid {name} by {over.max():.3g} W in {int((over > TOLERANCE_W).sum())} steps")
        worse = flow - np.maximum(limit, unhelped)
        if worse.max(initial=0.0) > TOLERANCE_W:
            hard.append(f"grid {name}: devices add {worse.max():.1f} W beyond the limit at step {int(worse.argmax())}")
    weights = grid.tracking_weights()
    if grid.target_w is not None and weights.any():
        tracked = weights > 0
        objective += float(h * (weights[tracked] * (net[tracked] - grid.target_w[tracked]) ** 2).sum() / 1e6)
    ceiling = grid.pv_w if grid.curtailable else np.zeros(n)
    if ((curtail_w < -TOLERANCE_W) | (curtail_w > ceiling + TOLERANCE_W)).any():
        hard.append("curtailment beyond the PV there is")
    if not np.isfinite(objective):
        hard.append("the objective is not finite")
    return FleetReplay(
        objective_eur=objective, device_eur=money[:, COST], energy_cost_eur=energy_cost, wear_eur=float(money[:, WEAR].sum()),
        energy_wh=energy, temperature_c=temperature, voltage_v=voltage, import_w=bought, export_w=sold, peak_w=peak,
        broken=np.asarray(~(excess[:, :HARD] <= 0.0).all(axis=1)),
        hard_violations=tuple(hard), soft_violations=tuple(soft_names),
    )  # fmt: skip


def _name(fleet: FleetData, excess: FloatArray) -> tuple[list[str], list[str]]:
    """Limits broken: hard ones, soft ones, each with the number of devices and the worst."""
    hard: list[str] = []
    soft: list[str] = []
    tolerances: dict[int, FloatArray | float] = {
        SOFT_TEMPERATURE: TOLERANCE_K, SOFT_VOLTAGE: TOLERANCE_V, SOFT_DEPTH: TOLERANCE_SHARE * fleet.capacity_wh,
        TERMINAL: 1e-3 * fleet.capacity_wh,
    }  # fmt: skip
    for column, kind in enumerate(KINDS):
        broken = ~(excess[:, column] <= tolerances.get(column, 0.0))
        if broken.any():
            worst = int(np.argmax(np.where(broken, excess[:, column], -np.inf)))
            amount = f"{excess[worst, column]:.3g} {UNITS.get(kind.split()[0], 'Wh')}"
            text = f"{kind} of {int(broken.sum())} devices, most {fleet.device_ids[worst]} by {amount}"
            (hard if column < HARD else soft).append(text)
    return hard, soft
