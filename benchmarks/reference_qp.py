"""The reference problem as matrices, as lean as a user of a QP library would write it: 9 N + 3 variables, kW, kWh, K, V, EUR.

    min 1/2 x' diag(p) x + q'x   s.t.  A x = b,  gl <= G x <= gu,  xl <= x <= xu

Variables by step: c d b s zE zT zV e T; then peak, highest and lowest energy. Import, export and cycle depth are hard here; their
soft limits in optimizer.problem are exact penalties, so that the optimum is the same where it can be met, as in these fleets.
The pattern is that of all devices; `fill` writes one device's values. Not here: solvers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from benchmarks.instances import KILO, SOFT, FloatArray, Window

IntArray = NDArray[np.int64]
C, D, B, S, Z_E, Z_T, Z_V, E, T = range(9)
WIDTH = 9
ROWS = 8
"""Inequalities of a step."""


@dataclass(slots=True)
class Values:
    """The problem of one device."""

    p: FloatArray
    q: FloatArray
    a: sp.csc_matrix
    b: FloatArray
    g: sp.csc_matrix
    gl: FloatArray
    gu: FloatArray
    xl: FloatArray
    xu: FloatArray

    def hessian(self) -> sp.csc_matrix:
        """diag(p) with its whole diagonal stored."""
        n = len(self.p)
        return sp.csc_matrix((self.p, np.arange(n), np.arange(n + 1)), shape=(n, n))


class _Pattern:
    """A matrix whose entries are given as (rows, columns); `matrix` takes their values in that order."""

    def __init__(self, entries: list[tuple[IntArray, IntArray]], shape: tuple[int, int]) -> None:
        rows = np.concatenate([e[0] for e in entries])
        columns = np.concatenate([e[1] for e in entries])
        self._order = np.lexsort((rows, columns))
        self._rows = rows[self._order]
        self._pointers = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=shape[1]))])
        self._lengths = [len(e[0]) for e in entries]
        self._shape = shape

    def matrix(self, values: list[FloatArray | float]) -> sp.csc_matrix:
        parts = [np.broadcast_to(value, (length,)) for value, length in zip(values, self._lengths, strict=True)]
        data = np.concatenate(parts)[self._order]
        return sp.csc_matrix((data, self._rows, self._pointers), shape=self._shape)


class ReferenceQP:
    """Pattern for `steps` steps."""

    def __init__(self, steps: int) -> None:
        n = self.steps = steps
        self.size = WIDTH * n + 3
        self.peak, self.high, self.low = WIDTH * n, WIDTH * n + 1, WIDTH * n + 2
        self.columns = np.arange(WIDTH * n).reshape(n, WIDTH)
        x, k = self.columns.T, np.arange(n)
        later = k[1:]

        def at(column: int) -> IntArray:
            return np.full(n, column)

        self._equal = _Pattern(
            [
                (3 * k, x[E]), (3 * later, x[E][:-1]), (3 * k, x[C]), (3 * k, x[D]),
                (3 * k + 1, x[T]), (3 * later + 1, x[T][:-1]), (3 * k + 1, x[C]), (3 * k + 1, x[D]),
                (3 * k + 2, x[B]), (3 * k + 2, x[S]), (3 * k + 2, x[C]), (3 * k + 2, x[D]),
            ],
            (3 * n, self.size),
        )  # fmt: skip
        r = ROWS * k
        volts = [
            entry
            for j in (3, 4)
            for entry in (
                (r + j, x[C]), (r + j, x[D]), (ROWS * later + j, x[E][:-1]), (r + j, x[Z_V]),
            )
        ]  # fmt: skip
        one = np.array([ROWS * n])
        self._unequal = _Pattern(
            [
                (r, x[E]), (r, x[Z_E]), (r + 1, x[E]), (r + 1, x[Z_E]), (r + 2, x[T]), (r + 2, x[Z_T]), *volts,
                (r + 5, x[B]), (r + 5, at(self.peak)), (r + 6, x[E]), (r + 6, at(self.high)),
                (r + 7, x[E]), (r + 7, at(self.low)),
                (one, np.array([self.high])), (one, np.array([self.low])),
            ],
            (ROWS * n + 1, self.size),
        )  # fmt: skip

    def fill(self, window: Window, i: int) -> Values:
        """The problem of device i."""
        n, h, f, m = self.steps, window.dt_h, window.fleet, window.meters
        first = np.arange(n) == 0
        energy = f.energy_wh[i] / KILO
        decay = f.temperature_a[i]
        a = self._equal.matrix(
            [
                1.0, -1.0, -h * f.eta_charge[i], h / f.eta_discharge[i],
                1.0, -decay, -KILO * f.temperature_charge_k_per_w[i], -KILO * f.temperature_discharge_k_per_w[i],
                1.0, -1.0, -1.0, 1.0,
            ]
        )  # fmt: skip
        b = np.empty((n, 3))
        b[:, 0] = -f.leak_wh[i] / KILO + first * energy
        b[:, 1] = f.temperature_drift_c[i] + first * decay * f.temperature_c[i]
        b[:, 2] = (m.load_w[i] - m.pv_w[i]) / KILO
        per_kw, per_kwh = KILO * f.voltage_v_per_w[i], KILO * f.voltage_v_per_wh[i]
        volts = [per_kw, -per_kw, per_kwh[1:]]
        g = self._unequal.matrix(
            [1.0, -1.0, 1.0, 1.0, 1.0, -1.0, *volts, -1.0, *volts, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
        )
        gl, gu = np.full((n, ROWS), -np.inf), np.full((n, ROWS), np.inf)
        idle = f.voltage_v[i] + first * per_kwh * energy
        gu[:, 0], gl[:, 1], gu[:, 2] = f.energy_max_wh[i] / KILO, f.energy_min_wh[i] / KILO, f.temperature_max_c[i]
        gu[:, 3], gl[:, 4] = f.voltage_max_v[i] - idle, f.voltage_min_v[i] - idle
        gu[:, 5], gu[:, 6], gl[:, 7] = 0.0, 0.0, 0.0
        xl, xu = np.zeros((n, WIDTH)), np.full((n, WIDTH), np.inf)
        xl[:, (E, T)] = -np.inf
        xu[:, C], xu[:, D] = f.charge_max_w[i] / KILO, f.discharge_max_w[i] / KILO
        xu[:, B], xu[:, S] = m.import_limit_w[i] / KILO, m.export_limit_w[i] / KILO
        p, q = np.zeros((n, WIDTH)), np.zeros((n, WIDTH))
        p[:, (C, D)] = 2 * h * f.wear_quadratic[i]
        q[:, (C, D)] = h * f.wear_eur_per_kwh[i]
        q[:, B], q[:, S] = h * m.buy_eur_per_kwh[i], -h * m.sell_eur_per_kwh[i]
        q[:, (Z_E, Z_T, Z_V)] = SOFT.energy_eur_per_kwh, SOFT.temperature_eur_per_k, SOFT.voltage_eur_per_v
        p[:, (Z_E, Z_T, Z_V)] = SOFT.energy_quadratic, SOFT.temperature_quadratic, SOFT.voltage_quadratic
        q[-1, E] = -f.terminal_value_eur_per_kwh[i]
        border_low = [m.peak_incurred_w[i] / KILO, energy, -np.inf]
        border_high = [np.inf, np.inf, energy]
        return Values(
            p=np.append(p.ravel(), np.zeros(3)),
            q=np.append(q.ravel(), [m.peak_price_eur_per_kw[i], 0.0, 0.0]),
            a=a,
            b=b.ravel(),
            g=g,
            gl=np.append(gl.ravel(), -np.inf),
            gu=np.append(gu.ravel(), f.cycle_depth_wh[i] / KILO),
            xl=np.append(xl.ravel(), border_low),
            xu=np.append(xu.ravel(), border_high),
        )

    def powers_w(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Charge and discharge (N,) of a solution."""
        return KILO * x[self.columns[:, C]], KILO * x[self.columns[:, D]]


def shift(values: FloatArray, steps: int, width: int) -> FloatArray:
    """Values of `steps` steps of `width` each (and a rest) moved one step on, the last repeated."""
    body = values[: steps * width].reshape(steps, width)
    return np.concatenate([body[1:].ravel(), body[-1], values[steps * width :]])
