"""The peers that model in cvxpy: the problem as its user reads it, built anew at each step or once with parameters (DPP).

What cvxpy does to a problem before a solver sees it is part of its price, so that `solve` is timed with it. Not here: matrices.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import cvxpy as cp
import numpy as np

from benchmarks.instances import KILO, SOFT, FloatArray, Window
from benchmarks.solvers import Answer, Peer

Data = dict[str, Any]
NOT_NEGATIVE = {"wear_quadratic"}


def data_of(window: Window, i: int) -> dict[str, FloatArray | float]:
    """Everything that changes from step to step, in kW and kWh."""
    f, m, h = window.fleet, window.meters, window.dt_h
    return {
        "energy": f.energy_wh[i] / KILO,
        "energy_min": f.energy_min_wh[i] / KILO,
        "energy_max": f.energy_max_wh[i] / KILO,
        "depth": f.cycle_depth_wh[i] / KILO,
        "leak": f.leak_wh[i] / KILO,
        "stored": h * f.eta_charge[i],
        "drawn": h / f.eta_discharge[i],
        "temperature": f.temperature_c[i],
        "decay": f.temperature_a[i],
        "heat_charge": KILO * f.temperature_charge_k_per_w[i],
        "heat_discharge": KILO * f.temperature_discharge_k_per_w[i],
        "drift": f.temperature_drift_c[i],
        "temperature_max": f.temperature_max_c[i],
        "volts": f.voltage_v[i],
        "volts_per_kwh": KILO * f.voltage_v_per_wh[i],
        "volts_per_kw": KILO * f.voltage_v_per_w[i],
        "volts_min": f.voltage_min_v[i],
        "volts_max": f.voltage_max_v[i],
        "charge_max": f.charge_max_w[i] / KILO,
        "discharge_max": f.discharge_max_w[i] / KILO,
        "buy": h * m.buy_eur_per_kwh[i],
        "sell": h * m.sell_eur_per_kwh[i],
        "need": (m.load_w[i] - m.pv_w[i]) / KILO,
        "import_max": m.import_limit_w[i] / KILO,
        "export_max": m.export_limit_w[i] / KILO,
        "peak": m.peak_incurred_w[i] / KILO,
        "peak_price": m.peak_price_eur_per_kw[i],
        "wear": h * f.wear_eur_per_kwh[i],
        "wear_quadratic": h * f.wear_quadratic[i],
        "value": f.terminal_value_eur_per_kwh[i],
    }


def state(steps: int, v: Data) -> tuple[cp.Problem, cp.Variable, cp.Variable]:
    """The reference problem; `v` holds numbers or parameters. Returns the problem, charge and discharge."""
    c, d, b, s = (cp.Variable(steps, nonneg=True) for _ in range(4))
    off_e, off_t, off_v = (cp.Variable(steps, nonneg=True) for _ in range(3))
    e, t = cp.Variable(steps + 1), cp.Variable(steps + 1)
    peak, high, low = cp.Variable(), cp.Variable(), cp.Variable()
    volts = v["volts"] + cp.multiply(v["volts_per_kwh"], e[:-1]) + cp.multiply(v["volts_per_kw"], c - d)
    constraints = [
        e[0] == v["energy"],
        e[1:] == e[:-1] + cp.multiply(v["stored"], c) - cp.multiply(v["drawn"], d) - v["leak"],
        t[0] == v["temperature"],
        t[1:] == v["decay"] * t[:-1] + cp.multiply(v["heat_charge"], c) + cp.multiply(v["heat_discharge"], d) + v["drift"],
        b - s == v["need"] + c - d,
        c <= v["charge_max"],
        d <= v["discharge_max"],
        b <= v["import_max"],
        s <= v["export_max"],
        b <= peak,
        peak >= v["peak"],
        e[1:] <= v["energy_max"] + off_e,
        e[1:] >= v["energy_min"] - off_e,
        t[1:] <= v["temperature_max"] + off_t,
        volts <= v["volts_max"] + off_v,
        volts >= v["volts_min"] - off_v,
        e <= high,
        e >= low,
        high - low <= v["depth"],
    ]
    cost = (
        v["buy"] @ b
        - v["sell"] @ s
        + v["wear"] * cp.sum(c + d)
        + v["wear_quadratic"] * (cp.sum_squares(c) + cp.sum_squares(d))
        + v["peak_price"] * peak
        - v["value"] * e[steps]
    )
    for off, linear, quadratic in (
        (off_e, SOFT.energy_eur_per_kwh, SOFT.energy_quadratic),
        (off_t, SOFT.temperature_eur_per_k, SOFT.temperature_quadratic),
        (off_v, SOFT.voltage_eur_per_v, SOFT.voltage_quadratic),
    ):
        cost = cost + linear * cp.sum(off) + 0.5 * quadratic * cp.sum_squares(off)
    return cp.Problem(cp.Minimize(cost), constraints), c, d


class Modelled(Peer):
    """Common to the cvxpy peers."""

    solver: str
    options: ClassVar[dict[str, Any]]

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._data: Data

    def load(self, window: Window, i: int) -> None:
        self._data = data_of(window, i)

    def _run(self, problem: cp.Problem, c: cp.Variable, d: cp.Variable) -> Answer:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the status says the same
                problem.solve(solver=self.solver, **self.options)
        except cp.error.SolverError as error:
            return self._nothing(str(error))
        if c.value is None or d.value is None:
            return self._nothing(problem.status)
        solved = problem.status == cp.OPTIMAL
        iterations = int(problem.solver_stats.num_iters or 0)
        return Answer(KILO * c.value, KILO * d.value, solved, problem.status, iterations)

    def _nothing(self, why: str) -> Answer:
        return Answer(np.zeros(self.steps), np.zeros(self.steps), False, why, 0)


OSQP_OPTIONS: dict[str, Any] = {"eps_abs": 1e-4, "eps_rel": 1e-4, "max_iter": 20_000}


class Rebuilt(Modelled):
    """What most scripts do: state the problem at each step, solve, throw away."""

    name = "cvxpy rebuilt + OSQP"
    solver = cp.OSQP
    options = OSQP_OPTIONS

    def solve(self) -> Answer:
        return self._run(*state(self.steps, self._data))


class Parametrised(Modelled):
    """Stated once with parameters, by the rules of disciplined parametrised programming (Agrawal et al., 2019)."""

    def __init__(self, steps: int) -> None:
        super().__init__(steps)
        self._kept: tuple[cp.Problem, cp.Variable, cp.Variable] | None = None
        self._parameters: dict[str, cp.Parameter] = {}

    def solve(self) -> Answer:
        if self._kept is None:
            self._parameters = {
                name: cp.Parameter(np.shape(value), nonneg=name in NOT_NEGATIVE) for name, value in self._data.items()
            }
            self._kept = state(self.steps, self._parameters)
            if not self._kept[0].is_dpp():
                raise AssertionError("the parametrised problem breaks the rules of DPP: it would be rebuilt at each step")
        for name, value in self._data.items():
            self._parameters[name].value = value
        return self._run(*self._kept)


class DppOsqp(Parametrised):
    """With OSQP, warm from the last solution as cvxpy does it."""

    name = "cvxpy DPP + OSQP"
    solver = cp.OSQP
    options = OSQP_OPTIONS | {"warm_start": True}


class DppClarabel(Parametrised):
    """With Clarabel at its defaults."""

    name = "cvxpy DPP + Clarabel"
    solver = cp.CLARABEL
    options: ClassVar[dict[str, Any]] = {}
