"""The meter's part of a site: a small QP that meets the fleet's answer to a price, and a lower bound for a given price.

With X = X0 - S (price - price0) the fleet's cost of moving to X is -price0'(X - X0) + 1/2 (X - X0)' S^-1 (X - X0); S = L L' and
X = X0 + L y turn it into -price0'L y + 1/2 y'y. The meter adds what optimizer.problem says of import, export, peak,
curtailment and
tracking. Powers in kW over the fleet's power, money in EUR/kWh, so that numbers are of order one. Limits are hard at first; where
holding them would cost more than their slack does, the slack comes in. Not here: devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import piqp
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky

from core.errors import SolverError
from optimizer.problem import GridData, SoftCosts

FloatArray = NDArray[np.float64]
RIDGE = 1e-9
"""Added to the sensitivity's diagonal, of its mean: steps in which no device can move."""
EPS = 1e-9
BOUND_EPS = 1e-8


@dataclass(frozen=True, slots=True)
class MeterAnswer:
    """Meter's price (N,) and the net power of the fleet (N,) in kW that goes with it."""

    price_eur_per_kwh: FloatArray
    fleet_kw: FloatArray
    curtail_kw: FloatArray
    slack: bool
    """Whether a limit of the meter had to give way."""
    limits: Mapping[str, FloatArray]
    """Shadow prices of the meter's limits (`grid_import`, `grid_export`, `peak`), (N,), EUR per kW more during the step."""


@dataclass(frozen=True, slots=True)
class Meter:
    """The site's meter in kW and EUR/kWh; arrays (N,)."""

    dt_h: float
    buy: FloatArray
    sell: FloatArray
    base_kw: FloatArray
    """Load less PV."""
    import_kw: FloatArray
    export_kw: FloatArray
    pv_kw: FloatArray
    """What may be curtailed."""
    curtail_cost: float
    peak_price: float
    """EUR/kW over dt_h: in the unit of an energy price."""
    peak_kw: float
    limit_price: float
    """What a limit's slack may cost in the unit of an energy price: above whatever power can cost at the meter, not above what
    leaving the packs' own limits costs."""
    penalty: float
    """What it is said to cost, EUR/kWh."""
    target_kw: FloatArray
    tracking: FloatArray
    """EUR per kW^2 and hour."""
    ceiling_kw: FloatArray
    """More than import or export can ever be."""

    @staticmethod
    def of(grid: GridData, dt_h: float, soft: SoftCosts, fleet_kw: FloatArray) -> Meter:
        """From the problem's data; fleet_kw (N,) is the most that all devices together can move."""
        n = len(grid.buy_eur_per_kwh)
        weights = grid.tracking_weights()
        dearest = 4.0 * float(np.abs(np.concatenate([grid.buy_eur_per_kwh, grid.sell_eur_per_kwh])).max())
        dearest += grid.peak_price_eur_per_kw / dt_h
        target = np.zeros(n) if grid.target_w is None else np.where(weights > 0, grid.target_w, 0.0) / 1000.0
        return Meter(
            dt_h=dt_h,
            buy=grid.buy_eur_per_kwh,
            sell=grid.sell_eur_per_kwh,
            base_kw=(grid.load_w - grid.pv_w) / 1000.0,
            import_kw=grid.import_limit_w / 1000.0,
            export_kw=grid.export_limit_w / 1000.0,
            pv_kw=grid.pv_w / 1000.0 if grid.curtailable else np.zeros(n),
            curtail_cost=grid.curtailment_cost_eur_per_kwh,
            peak_price=grid.peak_price_eur_per_kw / dt_h,
            peak_kw=grid.peak_incurred_w / 1000.0,
            limit_price=min(soft.grid_eur_per_kw / dt_h, max(soft.energy_eur_per_kwh, dearest)),
            penalty=soft.grid_eur_per_kw / dt_h,
            target_kw=target,
            tracking=weights,
            ceiling_kw=(np.abs(grid.load_w) + grid.pv_w) / 1000.0 + fleet_kw + 1.0,
        )

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.buy)

    def cost(self, net_kw: FloatArray, curtail_kw: FloatArray) -> float:
        """EUR of net import (N,), slack of limits included."""
        bought, sold = np.maximum(net_kw, 0.0), np.maximum(-net_kw, 0.0)
        over = np.maximum(bought - self.import_kw, 0.0) + np.maximum(sold - self.export_kw, 0.0)
        energy = self.buy * bought - self.sell * sold + self.curtail_cost * curtail_kw + self.penalty * over
        tracked = self.tracking * (net_kw - self.target_kw) ** 2
        return float(self.dt_h * ((energy + tracked).sum() + self.peak_price * max(self.peak_kw, bought.max(initial=0.0))))

    def respond(self, price: FloatArray, predicted_kw: FloatArray, sensitivity: FloatArray, unit_kw: float) -> MeterAnswer:
        """Price and fleet power that are best for the meter, the fleet answering linearly; raises SolverError."""
        scaled = sensitivity / unit_kw
        ridge = RIDGE * max(float(np.trace(scaled)) / self.steps, 1e-12)
        try:
            factor = cholesky(scaled + ridge * np.eye(self.steps), lower=True)
        except (LinAlgError, ValueError) as error:
            raise SolverError(f"meter: sensitivity of the fleet is not positive definite ({error})") from error
        answer = self._solve(price, predicted_kw, factor, unit_kw, slack=False)
        if answer is None or float(np.abs(answer.price_eur_per_kwh).max()) > self.limit_price:
            answer = self._solve(price, predicted_kw, factor, unit_kw, slack=True)
        if answer is None:
            raise SolverError("meter: no answer to the fleet")
        return answer

    def _solve(
        self, price: FloatArray, predicted_kw: FloatArray, factor: FloatArray, unit_kw: float, *, slack: bool
    ) -> MeterAnswer | None:
        n, eye = self.steps, np.eye(self.steps)
        curtailed = bool((self.pv_kw > 0).any())
        blocks = ["y", "b", "s", *(["u"] if curtailed else []), *(["i", "x"] if slack else [])]
        at = {name: slice(i * n, (i + 1) * n) for i, name in enumerate(blocks)}
        width = len(blocks) * n + 1
        hessian, linear = np.zeros((width, width), order="F"), np.zeros(width)
        low, high = np.zeros(width), np.full(width, np.inf)
        low[at["y"]] = -np.inf
        hessian[at["y"], at["y"]] = eye
        linear[at["y"]] = -factor.T @ price
        linear[at["b"]], linear[at["s"]] = self.buy, -np.minimum(self.sell, self.buy)
        linear[-1], low[-1] = self.peak_price, self.peak_kw / unit_kw
        if self.tracking.any():
            weight = np.diag(2.0 * self.tracking * unit_kw)
            pull = 2.0 * self.tracking * self.target_kw
            hessian[at["b"], at["b"]] = hessian[at["s"], at["s"]] = weight
            hessian[at["b"], at["s"]] = hessian[at["s"], at["b"]] = -weight
            linear[at["b"]] -= pull
            linear[at["s"]] += pull
        balance = np.zeros((n, width), order="F")
        balance[:, at["y"]], balance[:, at["b"]], balance[:, at["s"]] = -factor, eye, -eye
        if curtailed:
            balance[:, at["u"]] = -eye
            linear[at["u"]], high[at["u"]] = self.curtail_cost, self.pv_kw / unit_kw
        rows = [np.zeros((n, width))]
        rows[0][:, at["b"]], rows[0][:, -1] = eye, -1.0
        limits = [np.zeros(n)]
        if slack:
            for name, beyond, limit in (("b", "i", self.import_kw), ("s", "x", self.export_kw)):
                row = np.zeros((n, width))
                row[:, at[name]], row[:, at[beyond]] = eye, -eye
                rows.append(row)
                limits.append(np.minimum(limit, self.ceiling_kw) / unit_kw)
                linear[at[beyond]] = self.limit_price
        else:
            high[at["b"]], high[at["s"]] = self.import_kw / unit_kw, self.export_kw / unit_kw
        upper = np.concatenate(limits)
        solver = piqp.DenseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = EPS
        rhs = (self.base_kw + predicted_kw) / unit_kw
        matrix = np.asfortranarray(np.vstack(rows))
        solver.setup(hessian, linear, balance, rhs, matrix, np.full(len(upper), -np.inf), upper, low, high)
        if solver.solve() != piqp.PIQP_SOLVED:
            return None
        x = np.array(solver.result.x)
        answer = MeterAnswer(
            price_eur_per_kwh=-np.array(solver.result.y),
            fleet_kw=predicted_kw + unit_kw * (factor @ x[at["y"]]),
            curtail_kw=unit_kw * x[at["u"]] if curtailed else np.zeros(n),
            slack=slack,
            limits=self._limit_prices(np.array(solver.result.z_u), np.array(solver.result.z_bu), at, slack=slack),
        )
        finite = np.isfinite(answer.price_eur_per_kwh).all() and np.isfinite(answer.fleet_kw).all()
        return answer if finite else None

    def _limit_prices(
        self, of_rows: FloatArray, of_bounds: FloatArray, at: Mapping[str, slice], *, slack: bool
    ) -> dict[str, FloatArray]:
        """From the multipliers of the QP: rows are those of the peak, then of limits with slack; else limits are bounds."""
        rows, above = self.dt_h * of_rows.reshape(-1, self.steps), self.dt_h * of_bounds
        held = (rows[1], rows[2]) if slack else (above[at["b"]], above[at["s"]])
        peak = rows[0] if self.peak_price > 0 else np.zeros(self.steps)
        return dict(zip(("grid_import", "grid_export", "peak"), (np.maximum(x, 0.0) for x in (*held, peak)), strict=True))

    def lower_bound(self, price: FloatArray, unit_kw: float) -> float:
        """Least of the meter's cost less h price'(net import less load and PV), EUR: its part of the dual bound.

        Raises SolverError when the QP is not solved.
        """
        n = self.steps
        eye, none = sp.identity(n, format="csc"), sp.csc_matrix((n, n))
        # b s u i x t, peak
        ones, zero = sp.csc_matrix(np.ones((n, 1))), sp.csc_matrix((n, 1))
        linear = np.concatenate([
            self.buy - price, price - self.sell, self.curtail_cost + price, np.full(2 * n, self.limit_price), np.zeros(n),
            [self.peak_price],
        ])  # fmt: skip
        curve = np.concatenate([np.zeros(5 * n), 2.0 * self.tracking * unit_kw, [0.0]])
        tracked = sp.hstack([eye, -eye, none, none, none, -eye, zero], format="csc")
        rows = sp.vstack([
            sp.hstack([eye, none, none, none, none, none, -ones]), sp.hstack([eye, none, none, -eye, none, none, zero]),
            sp.hstack([none, eye, none, none, -eye, none, zero]),
        ], format="csc")  # fmt: skip
        ceiling = self.ceiling_kw / unit_kw
        upper = np.concatenate([
            np.zeros(n), np.minimum(self.import_kw, self.ceiling_kw) / unit_kw, np.minimum(self.export_kw,
            self.ceiling_kw) / unit_kw,
        ])  # fmt: skip
        low = np.concatenate([np.zeros(5 * n), np.full(n, -np.inf), [self.peak_kw / unit_kw]])
        high = np.concatenate([ceiling, ceiling, self.pv_kw / unit_kw, ceiling, ceiling, np.full(n, np.inf), [np.inf]])
        free = high > low
        solver = piqp.SparseSolver()
        solver.settings.eps_abs = solver.settings.eps_rel = BOUND_EPS
        solver.setup(
            sp.diags(curve[free], format="csc"), linear[free], tracked[:, free], self.target_kw / unit_kw, rows[:, free],
            np.full(3 * n, -np.inf), upper, low[free], high[free],
        )  # fmt: skip
        status = solver.solve()
        if status != piqp.PIQP_SOLVED:
            raise SolverError(f"meter's lower bound: {status}")
        info = solver.result.info
        least = min(float(info.primal_obj), float(info.dual_obj))
        return self.dt_h * (unit_kw * least + float(price @ self.base_kw))
