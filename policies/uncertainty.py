"""What an MPC makes of forecasts that were wrong before: corrected ones, and futures to plan for.

Here: from the errors in an Observation to corrected series and scenario problems. Not here: the models (optimizer.forecast,
optimizer.paths), the plan (policies.mpc).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from optimizer.forecast import fit_errors
from optimizer.paths import Past, TooShortError, draw, on_grid
from optimizer.problem import SiteProblem
from policies.base import Observation

FloatArray = NDArray[np.float64]
PRICE = "price_eur_per_kwh"
DAY_S = 86_400.0
NEAR_S = 3 * 3600.0
"""Errors of PV and load differ between noon and night: those of about the same time of day are looked at."""


@dataclass(slots=True)
class Outlook:
    """Load and PV over the horizon after correction, and the record that it rests on."""

    observation: Observation
    steps: int
    dt_s: float
    correct: bool
    pasts: dict[str, Past] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    """JSON-ready: what was corrected by how much, per quantity."""

    def series(self, name: str, forecast: FloatArray) -> FloatArray:
        """`load_w` or `pv_w` over the horizon, (N,), never negative; PV that is forecast as none (at night) stays none."""
        errors = self.observation.errors.get(name)
        if errors is None:
            return forecast
        try:
            values, lag_steps = on_grid(errors, self.observation.starts_at, self.dt_s)
        except InputError as error:
            self.notes[name] = f"not corrected: {error}"
            return forecast
        if not len(values):
            return forecast
        model = fit_errors(values, self.dt_s, self.steps + lag_steps)
        self.pasts[name] = Past(values, lag_steps, model if self.correct else None)
        if not self.correct:
            return forecast
        leads = lag_steps + 1 + np.arange(self.steps, dtype=np.int64)
        shift = model.expected(float(values[-1]), leads)
        self.notes[name] = {
            "errors": model.count,
            "latest_w": round(float(values[-1]), 1),
            "lag_steps": lag_steps,
            "phi": round(model.phi, 4),
            "first_step_w": round(float(shift[0]), 1),
        }
        return self.within(name, forecast, forecast + shift)

    def import_risk_w(self, level: float) -> float:
        """How far (W, >= 0) net import of the next step comes above what is forecast for it, with chance 1 - level: the quantile
        of what the corrected forecasts of load less PV have missed so far within NEAR_S of this time of day; 0 without a record.
        """
        missed: dict[str, FloatArray] = {}
        for name, past in self.pasts.items():
            origins = np.arange(len(past.errors) - past.lag_steps - 1)
            if not len(origins):
                return 0.0
            missed[name] = past.missed(origins, 1)[:, 0]
        if not missed:
            return 0.0
        count = min(len(values) for values in missed.values())
        net = sum(values[-count:] * (1.0 if name == "load_w" else -1.0) for name, values in missed.items())
        lag = max(past.lag_steps for past in self.pasts.values())
        away_s = (lag + 1 + np.arange(count)[::-1]) * self.dt_s % DAY_S
        near = np.minimum(away_s, DAY_S - away_s) <= NEAR_S
        return max(0.0, float(np.quantile(np.asarray(net)[near], level))) if near.any() else 0.0

    def within(self, name: str, forecast: FloatArray, value: FloatArray) -> FloatArray:
        """Values that can be."""
        if name == "pv_w":
            peak_w = 1000.0 * self.observation.site.pv.kwp
            return np.where(forecast > 0, np.clip(value, 0.0, np.maximum(peak_w, forecast)), 0.0)
        return np.maximum(value, 0.0)

    def scenarios(self, problem: SiteProblem, count: int) -> tuple[list[SiteProblem], dict[str, Any]]:
        """Problems that differ in load, PV and those prices that are not known yet; and what they were drawn from.

        Raises TooShortError when a quantity that is uncertain has no long enough record.
        """
        pasts = {"load_w": self.pasts.get("load_w")}
        if problem.grid.pv_w.any():
            pasts["pv_w"] = self.pasts.get("pv_w")
        if self._prices_end():
            pasts[PRICE] = self._price_past()
        missing = [name for name, past in pasts.items() if past is None]
        if missing:
            raise TooShortError(f"no record of errors of {', '.join(missing)}")
        known = {name: past for name, past in pasts.items() if past is not None}
        paths, days = draw(known, self.observation.starts_at, self.steps, self.dt_s, count)
        found = [self._scenario(problem, {name: path[s] for name, path in paths.items()}) for s in range(len(days))]
        return found, {"days_ago": list(days), "quantities": sorted(known)}

    def _prices_end(self) -> bool:
        """Whether some price of the horizon is not known."""
        until = self.observation.price_known_until
        return until is not None and until < self.observation.starts_at + timedelta(seconds=self.steps * self.dt_s)

    def _price_past(self) -> Past | None:
        errors = self.observation.errors.get(PRICE)
        if errors is None:
            return None
        try:
            values, lag_steps = on_grid(errors, self.observation.starts_at, self.dt_s)
        except InputError as error:
            raise TooShortError(str(error)) from None
        return Past(values, lag_steps, None)

    def _scenario(self, problem: SiteProblem, deviation: Mapping[str, FloatArray]) -> SiteProblem:
        grid, site = problem.grid, self.observation.site
        changed: dict[str, Any] = {}
        for name, base in (("load_w", grid.load_w), ("pv_w", grid.pv_w)):
            if name in deviation:
                changed[name] = self.within(name, base, base + deviation[name])
        known_until = self.observation.price_known_until
        if PRICE in deviation and known_until is not None:
            price = self.observation.price_eur_per_kwh.window(self.observation.starts_at, self.steps, self.dt_s)
            first = int((known_until - self.observation.starts_at).total_seconds() // self.dt_s)
            unknown = np.arange(self.steps) >= first
            buy, sell = site.tariff.buy_sell(price + np.where(unknown, deviation[PRICE], 0.0))
            changed |= {"buy_eur_per_kwh": buy, "sell_eur_per_kwh": sell}
        return replace(problem, grid=replace(grid, **changed))
