"""The site problem stated once more, readably, in cvxpy: what the assembled matrices are checked against.

Shares nothing with optimizer.assembly but the problem data. Units kW, kWh, EUR. Convex, so that charge and discharge may
overlap here unless `directions` forbids it. Slow, not thread-safe; for tests and doubts. Not here: the solvers of the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cvxpy as cp
import numpy as np
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.problem import DeviceData, SiteProblem

FloatArray = NDArray[np.float64]
KILO = 1000.0


@dataclass(frozen=True, slots=True)
class OracleSolution:
    """Optimum of the convex problem; device arrays (devices, N)."""

    objective_eur: float
    charge_w: FloatArray
    discharge_w: FloatArray
    curtail_w: FloatArray


def solve(problem: SiteProblem, charging: Sequence[NDArray[np.bool_] | None] | None = None) -> OracleSolution:
    """Solve with Clarabel.

    `charging` fixes the direction of each device and step (True: may charge, False: may discharge). Raises SolverError with
    cvxpy's status when there is no optimum.
    """
    constraints: list[Any] = []
    parts = [
        _Pack(problem, device, constraints, None if charging is None else charging[i]) for i, device in enumerate(problem.devices)
    ]
    cost, curtail = _meter(problem, parts, constraints)
    for part in parts:
        cost = cost + part.cost
    stated = cp.Problem(cp.Minimize(cost), constraints)
    stated.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    if stated.status != cp.OPTIMAL:
        raise SolverError(f"oracle: {stated.status}")
    shape = (len(parts), problem.steps)
    return OracleSolution(
        float(stated.value),
        KILO * np.array([part.c.value for part in parts]).reshape(shape),
        KILO * np.array([part.d.value for part in parts]).reshape(shape),
        KILO * np.asarray(curtail.value),
    )


class _Pack:
    """Variables, constraints and cost of one device."""

    def __init__(self, problem: SiteProblem, p: DeviceData, constraints: list[Any], charging: NDArray[np.bool_] | None) -> None:
        n, h, soft = problem.steps, problem.dt_h, problem.soft
        self.c, self.d = cp.Variable(n, nonneg=True), cp.Variable(n, nonneg=True)
        e, t = cp.Variable(n + 1), cp.Variable(n + 1)
        z_e, z_t, z_v = (cp.Variable(n, nonneg=True) for _ in range(3))
        z_depth = cp.Variable(nonneg=True)
        high, low = cp.Variable(), cp.Variable()
        start = p.energy_wh / KILO
        constraints += [
            e[0] == start,
            t[0] == p.temperature_c,
            e[1:]
            == e[:-1] + h * (cp.multiply(p.eta_charge, self.c) - cp.multiply(1 / p.eta_discharge, self.d)) - p.leak_wh / KILO,
            t[1:]
            == p.temperature_a * t[:-1]
            + KILO * cp.multiply(p.temperature_charge_k_per_w, self.c)
            + KILO * cp.multiply(p.temperature_discharge_k_per_w, self.d)
            + p.temperature_drift_c,
            self.c <= p.charge_max_w / KILO,
            self.d <= p.discharge_max_w / KILO,
            e[1:] <= p.energy_max_wh / KILO + z_e,
            e[1:] >= p.energy_min_wh / KILO - z_e,
            high >= e,
            low <= e,
            high >= p.energy_high_wh / KILO,
            low <= p.energy_low_wh / KILO,
        ]
        volts = p.voltage_v + KILO * (cp.multiply(p.voltage_v_per_wh, e[:-1]) + cp.multiply(p.voltage_v_per_w, self.c - self.d))
        _bounded(constraints, t[1:], np.full(n, p.temperature_min_c), p.temperature_max_c, z_t)
        _bounded(constraints, volts, np.full(n, p.voltage_min_v), np.full(n, p.voltage_max_v), z_v)
        if np.isfinite(p.cycle_depth_wh):
            constraints.append(high - low <= p.cycle_depth_wh / KILO + z_depth)
        for k in range(n):
            relief = _relief(p) * (z_e[k - 1] if k else 0.0)
            for power, room, slope in (
                (self.c, p.charge_taper_w[k] / KILO, -p.charge_taper_w_per_wh[k]),
                (self.d, p.discharge_taper_w[k] / KILO, p.discharge_taper_w_per_wh[k]),
            ):
                if np.isfinite(room):
                    limit = room + slope * e[k] + abs(slope) * relief
                    constraints.append(power[k] <= (limit if k else max(0.0, room + slope * start)))
        if charging is not None:
            constraints += [self.c[~charging] == 0, self.d[charging] == 0]
        self.cost = (
            self._wear(p, n, h, constraints)
            + h * p.wear_quadratic * (cp.sum_squares(self.c) + cp.sum_squares(self.d))
            + h * p.soc_stress_eur_per_h * cp.sum_squares(e[1:] * (KILO / p.capacity_wh) - p.soc_stress_centre)
            - p.terminal_value_eur_per_kwh * e[n]
            + soft.energy_eur_per_kwh * cp.sum(z_e)
            + 0.5 * soft.energy_quadratic * cp.sum_squares(z_e)
            + soft.temperature_eur_per_k * cp.sum(z_t)
            + 0.5 * soft.temperature_quadratic * cp.sum_squares(z_t)
            + soft.voltage_eur_per_v * cp.sum(z_v)
            + 0.5 * soft.voltage_quadratic * cp.sum_squares(z_v)
            + soft.depth_eur_per_kwh * z_depth
        )
        if p.terminal_energy_wh is not None:
            self.cost += soft.terminal_eur_per_kwh * cp.abs(e[n] - p.terminal_energy_wh / KILO)
        if p.reference_w is not None and p.move_weight > 0:
            # Of c and d only one flows: (d - c - r)^2 = c^2 + d^2 - 2 r (d - c) + r^2, which also punishes overlap.
            r = p.reference_w / KILO
            self.cost += (
                h
                * p.move_weight
                * (cp.sum_squares(self.c) + cp.sum_squares(self.d) - 2 * cp.sum(cp.multiply(r, self.d - self.c)) + float(r @ r))
            )

    def _wear(self, p: DeviceData, n: int, h: float, constraints: list[Any]) -> cp.Expression:
        """Throughput at one price, less what the layers of wear_segments take off per kWh that they store or give."""
        cost = h * p.wear_eur_per_kwh * cp.sum(self.c + self.d)
        scale = 0.5 * (np.min(1 / p.eta_charge) + np.min(p.eta_discharge))
        all_c, all_d = cp.Constant(np.zeros(n)), cp.Constant(np.zeros(n))
        for part in p.wear_segments or ():
            c, d, e = cp.Variable(n, nonneg=True), cp.Variable(n, nonneg=True), cp.Variable(n + 1, nonneg=True)
            stored, given = h * cp.multiply(p.eta_charge, c), h * cp.multiply(1 / p.eta_discharge, d)
            constraints += [
                e[0] == part.stored_wh / KILO,
                e[1:] == e[:-1] + stored - given,
                e <= part.width_wh / KILO,
            ]
            cost -= scale * (p.wear_eur_per_kwh - part.wear_eur_per_kwh) * cp.sum(stored + given)
            all_c, all_d = all_c + c, all_d + d
        if p.wear_segments:
            constraints += [all_c <= self.c, all_d <= self.d]
        return cost


def _meter(problem: SiteProblem, parts: list[_Pack], constraints: list[Any]) -> tuple[Any, Any]:
    n, h, grid, soft = problem.steps, problem.dt_h, problem.grid, problem.soft
    b, s, u = (cp.Variable(n, nonneg=True) for _ in range(3))
    z_import, z_export = cp.Variable(n, nonneg=True), cp.Variable(n, nonneg=True)
    peak = cp.Variable()
    net = (grid.load_w - grid.pv_w) / KILO + u
    for part in parts:
        net = net + part.c - part.d
    constraints += [
        b - s == net,
        u <= (grid.pv_w / KILO if grid.curtailable else 0.0),
        peak >= b,
        peak >= grid.peak_incurred_w / KILO,
    ]
    _bounded(constraints, b, np.full(n, -np.inf), grid.import_limit_w / KILO, z_import)
    _bounded(constraints, s, np.full(n, -np.inf), grid.export_limit_w / KILO, z_export)
    cost = (
        h * cp.sum(cp.multiply(grid.buy_eur_per_kwh, b) - cp.multiply(grid.sell_eur_per_kwh, s))
        + grid.peak_price_eur_per_kw * peak
        + h * grid.curtailment_cost_eur_per_kwh * cp.sum(u)
        + soft.grid_eur_per_kw * cp.sum(z_import + z_export)
    )
    if grid.target_w is not None and grid.tracking_weight > 0:
        followed = np.flatnonzero(grid.tracking_weights() > 0)
        cost += h * grid.tracking_weight * cp.sum_squares((b - s - grid.target_w / KILO)[followed])
    return cost, u


def _bounded(constraints: list[Any], value: cp.Expression, low: FloatArray, high: FloatArray, slack: cp.Variable) -> None:
    for k in np.flatnonzero(np.isfinite(high)):
        constraints.append(value[k] <= high[k] + slack[k])
    for k in np.flatnonzero(np.isfinite(low)):
        constraints.append(value[k] >= low[k] - slack[k])


def _relief(p: DeviceData) -> float:
    """1 where the measured state is beyond a taper or a limit: the taper then gives way with the energy slack."""
    beyond = (
        not p.energy_min_wh <= p.energy_wh <= p.energy_max_wh
        or (p.charge_taper_w - p.charge_taper_w_per_wh * p.energy_wh < 0).any()
        or (p.discharge_taper_w + p.discharge_taper_w_per_wh * p.energy_wh < 0).any()
    )
    return float(beyond)
