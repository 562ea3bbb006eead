"""Why a slot of a plan is what it is: one reason, and the limits that bind. Derived from the replay alone."""

from __future__ import annotations

import numpy as np

from core.decisions import Reason
from optimizer.problem import DeviceData, SiteProblem
from optimizer.replay import Replay

IDLE_W = 50.0
NEAR_SHARE = 2e-3


def explain(problem: SiteProblem, power_w: np.ndarray, run: Replay, i: int) -> tuple[tuple[Reason, ...], tuple[str, ...]]:
    """(reason, binding limits) of each slot of device i."""
    reasons, bindings = [], []
    for k in range(problem.steps):
        names = _binding(problem, problem.devices[i], float(power_w[i, k]), run, i, k)
        reasons.append(_reason(problem, problem.devices[i], float(power_w[i, k]), run, i, k, names))
        bindings.append(" ".join(names))
    return tuple(reasons), tuple(bindings)


def _binding(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int) -> list[str]:
    names = []
    near = NEAR_SHARE * d.capacity_wh
    energy = run.energy_wh[i, k]
    before = d.energy_wh if k == 0 else run.energy_wh[i, k - 1]
    if energy >= d.energy_max_wh - near:
        names.append("soc_max")
    if energy <= d.energy_min_wh + near:
        names.append("soc_min")
    for side, value, limit, taper in (
        ("charge", -p, d.charge_max_w[k], d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * before),
        ("discharge", p, d.discharge_max_w[k], d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * before),
    ):
        if value > IDLE_W and value >= (1 - NEAR_SHARE) * min(limit, taper):
            names.append(f"{side}_power" if limit <= taper else f"{side}_taper")
    if run.temperature_c[i, k] >= d.temperature_max_c[k] - 0.05:
        names.append("temperature_max")
    if run.voltage_v[i, k] >= d.voltage_max_v - 0.05:
        names.append("voltage_max")
    if run.voltage_v[i, k] <= d.voltage_min_v + 0.05:
        names.append("voltage_min")
    grid = problem.grid
    if run.import_w[k] >= grid.import_limit_w[k] * (1 - NEAR_SHARE):
        names.append("grid_import")
    if run.export_w[k] >= grid.export_limit_w[k] * (1 - NEAR_SHARE) and run.export_w[k] > 0:
        names.append("grid_export")
    if grid.peak_price_eur_per_kw > 0 and run.import_w[k] >= run.peak_w * (1 - NEAR_SHARE):
        names.append("peak")
    return names


def _reason(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int, names: list[str]) -> Reason:
    grid = problem.grid
    before = d.energy_wh if k == 0 else run.energy_wh[i, k - 1]
    surplus = grid.pv_w[k] - grid.load_w[k]
    if abs(p) <= IDLE_W:
        for name, reason in (
            ("temperature_max", Reason.THERMAL_LIMIT),
            ("voltage_max", Reason.VOLTAGE_LIMIT),
            ("voltage_min", Reason.VOLTAGE_LIMIT),
            ("soc_max", Reason.SOC_LIMIT),
            ("soc_min", Reason.SOC_LIMIT),
            ("grid_import", Reason.GRID_LIMIT),
            ("grid_export", Reason.GRID_LIMIT),
        ):
            if name in names:
                return reason
        return Reason.IDLE_SPREAD if d.wear_eur_per_kwh > 0 else Reason.IDLE
    if (p > 0 and before > d.energy_max_wh) or (p < 0 and before < d.energy_min_wh):
        return Reason.SOC_RECOVERY
    if grid.target_w is not None and grid.tracking_weight > 0:
        return Reason.TRACKING
    if p > 0:
        if "grid_import" in names:
            return Reason.GRID_LIMIT
        if "peak" in names:
            return Reason.PEAK_SHAVING
        return Reason.PRICE_HIGH
    if "grid_export" in names:
        return Reason.GRID_LIMIT
    return Reason.SELF_CONSUMPTION if surplus > -IDLE_W else Reason.PRICE_LOW
