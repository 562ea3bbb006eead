"""One device behind its own meter through the structured solver, in the terms of SiteQP: a solver for the chain in optimizer.mpc.

x holds c, d and u of the kernel; the other columns follow from them (states, slacks at their least, import or export). Duals of
inequality rows are the kernel's multipliers in EUR per unit of the row; bound duals are what stationarity leaves. Directions
fixed through the columns' upper bounds (optimizer.exclusivity) are honoured. Not here: sites of several devices.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import SiteQP
from optimizer.fleet import stack
from optimizer.problem import DeviceData, SiteProblem
from optimizer.solvers import RawSolution
from optimizer.structured.driver import STRUCTURED, BatchSolver, FleetSolution
from optimizer.structured.kernel import STATUS
from optimizer.structured.layout import KELVIN, MONEY_EUR_PER_KW, VOLT
from optimizer.structured.meters import stack_meters

FloatArray = NDArray[np.float64]
KILO = 1000.0
# Positions in layout.STEP_ROWS and HEAD_ROWS, the sign of the row's dual, and the unit of one in the row's own.
_STEP_DUALS = (
    ("soc_max", 10, 1.0, 1.0), ("soc_min", 11, -1.0, 1.0), ("voltage_max", 13, 1.0, VOLT), ("voltage_min", 14, -1.0, VOLT),
    ("cycle_high", 16, 1.0, 1.0), ("cycle_low", 17, -1.0, 1.0), ("temperature_max", 18, 1.0, KELVIN),
    ("temperature_min", 19, -1.0, KELVIN), ("charge_taper", 21, 1.0, 1.0), ("discharge_taper", 22, 1.0, 1.0),
)  # fmt: skip
_METER_DUALS = (("grid_import", 6), ("grid_export", 7), ("peak", 9))
_HEAD_DUALS = (("cycle_depth", 3, 1.0), ("terminal_max", 5, 1.0), ("terminal_min", 6, -1.0))


def solve_structured(qp: SiteQP) -> RawSolution:
    """Raises SolverError for a site of several devices, for what the kernel does not take, and when it does not converge."""
    began_s = time.perf_counter()
    problem = qp.problem
    if len(problem.devices) != 1:
        raise SolverError(f"structured: {len(problem.devices)} devices behind one meter, expected 1")
    device = _bounded(qp, problem.devices[0])
    kept = qp.kept.get("structured")
    if not isinstance(kept, _Kept):
        kept = qp.kept["structured"] = _Kept()
    solution = kept.solve(qp, device)
    if solution.source[0] != STRUCTURED:
        raise SolverError(f"structured: {STATUS[int(solution.status[0])]}")
    x = _columns(qp, problem, device, solution)
    equality, inequality = _duals(qp, device, solution, kept.solver, x)
    bound = -(qp.p * x + qp.q + qp.a.T @ equality + qp.g.T @ inequality)
    numbers = (x, equality, inequality, bound)
    if not all(np.isfinite(array).all() for array in numbers):
        raise SolverError("structured: a number of the solution is not finite")
    return RawSolution(*numbers, "structured", int(solution.iterations[0]), time.perf_counter() - began_s)


class _Kept:
    """The batch solver of one device, and the version of the problem that it last saw."""

    def __init__(self) -> None:
        self.solver = BatchSolver(threads=1, chain=False, judged=False)
        self.version = -1

    def solve(self, qp: SiteQP, device: DeviceData) -> FleetSolution:
        ahead = 0 if self.version == qp.version else 1
        self.version = qp.version
        problem = qp.problem
        return self.solver.solve(stack([device]), stack_meters([problem.grid]), problem.dt_s, problem.soft, ahead)


def _bounded(qp: SiteQP, device: DeviceData) -> DeviceData:
    """The device with the power bounds of the QP's columns."""
    c, d, b, s = qp.device(0, "c"), qp.device(0, "d"), qp.grid("b"), qp.grid("s")
    if (qp.xl[c] > 0).any() or (qp.xl[d] > 0).any() or (qp.xu[b] <= 0).any() or (qp.xu[s] <= 0).any():
        raise SolverError("structured: a power or a direction of the meter is fixed")
    return replace(device, charge_max_w=KILO * qp.xu[c], discharge_max_w=KILO * qp.xu[d])


def _columns(qp: SiteQP, problem: SiteProblem, device: DeviceData, solution: FleetSolution) -> FloatArray:
    """x of the QP from the plan; kW, kWh, K, V."""
    h, grid = problem.dt_h, problem.grid
    c, d, u = (array[0] / KILO for array in (solution.charge_w, solution.discharge_w, solution.curtail_w))
    x = np.zeros(qp.size)
    flow = h * (device.eta_charge * c - d / device.eta_discharge) - device.leak_wh / KILO
    e = device.energy_wh / KILO + np.cumsum(flow)
    before = np.concatenate([[device.energy_wh / KILO], e[:-1]])
    heat = KILO * (device.temperature_charge_k_per_w * c + device.temperature_discharge_k_per_w * d)
    t, temperature = device.temperature_c, np.empty(qp.n)
    for k in range(qp.n):
        t = device.temperature_a * t + heat[k] + device.temperature_drift_c[k]
        temperature[k] = t
    v = device.voltage_v + KILO * (device.voltage_v_per_wh * before + device.voltage_v_per_w * (c - d))
    net = (grid.load_w - grid.pv_w) / KILO + u + c - d
    b, s = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    blocks = {
        "c": c,
        "d": d,
        "e": e,
        "T": temperature,
        "zE": _over(e, device.energy_min_wh / KILO, device.energy_max_wh / KILO),
        "zT": _over(temperature, device.temperature_min_c, device.temperature_max_c),
        "zV": _over(v, device.voltage_min_v, device.voltage_max_v),
    }
    for name, values in blocks.items():
        x[qp.device(0, name)] = values
    high = max(float(e.max()), device.energy_wh / KILO, device.energy_high_wh / KILO)
    low = min(float(e.min()), device.energy_wh / KILO, device.energy_low_wh / KILO)
    target = device.terminal_energy_wh
    for name, value in (
        ("hi", high),
        ("lo", low),
        ("zD", max(0.0, high - low - device.cycle_depth_wh / KILO)),
        ("zF", 0.0 if target is None else abs(float(e[-1]) - target / KILO)),
    ):
        x[qp.device(0, name)] = value
    x[qp.grid("b")], x[qp.grid("s")], x[qp.grid("u")] = b, s, u
    x[qp.grid("zI")] = np.maximum(b - grid.import_limit_w / KILO, 0.0)
    x[qp.grid("zX")] = np.maximum(s - grid.export_limit_w / KILO, 0.0)
    x[qp.grid("t")] = b - s - qp.b[qp.equality_rows(None, "tracking")]
    x[qp.grid("peak")] = max(grid.peak_incurred_w / KILO, float(b.max()))
    return x


def _over(value: FloatArray, low: float, high: float | FloatArray) -> FloatArray:
    return np.maximum(np.maximum(value - high, low - value), 0.0)


def _duals(
    qp: SiteQP, device: DeviceData, solution: FleetSolution, solver: BatchSolver, x: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Equality and inequality duals."""
    head, rows = solver.multipliers(0)
    kw = max(float(device.charge_max_w.max()), float(device.discharge_max_w.max()), 0.01 * device.capacity_wh, 1.0) / KILO
    inequality = np.zeros(len(qp.gl))
    cold, tapered = np.isfinite(device.temperature_min_c), np.isfinite(device.charge_taper_w).any()
    tapered = tapered or np.isfinite(device.discharge_taper_w).any()
    for name, row, sign, unit in _STEP_DUALS:
        there = {"temperature_min": cold, "charge_taper": tapered, "discharge_taper": tapered}.get(name, True)
        per = MONEY_EUR_PER_KW * (kw * unit if unit != 1.0 else 1.0)
        if there:
            inequality[qp.rows(0, name)] = sign * per * rows[:, row]
    for name, row in _METER_DUALS:
        inequality[qp.meter_rows(name)] = MONEY_EUR_PER_KW * rows[:, row]
    if qp.problem.grid.peak_price_eur_per_kw <= 0:
        inequality[qp.meter_rows("peak")] = 0.0
    for name, row, sign in _HEAD_DUALS:
        inequality[qp.rows(0, name)] = sign * MONEY_EUR_PER_KW * head[row]
    without_bound = ~(np.isfinite(qp.gl) | np.isfinite(qp.gu))
    inequality[without_bound] = 0.0
    equality = np.zeros(len(qp.b))
    equality[qp.equality_rows(0, "energy")] = solution.energy_value_eur_per_kwh[0]
    equality[qp.equality_rows(None, "balance")] = -qp.problem.dt_h * solution.meter_price_eur_per_kwh[0]
    tracked = qp.grid("t")
    equality[qp.equality_rows(None, "tracking")] = qp.p[tracked] * x[tracked]
    push = inequality[qp.rows(0, "temperature_max")] + inequality[qp.rows(0, "temperature_min")]
    ahead, temperature = 0.0, np.empty(qp.n)
    for k in range(qp.n - 1, -1, -1):
        ahead = device.temperature_a * ahead - float(push[k])
        temperature[k] = ahead
    equality[qp.equality_rows(0, "temperature")] = temperature
    return equality, inequality
