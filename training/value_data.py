"""One supervised task: a market, a plant, what may be known; features, targets, the MPC, and money earned on any range of steps.

The method is the same for every market: what differs is `Information` alone. The MPC is the table of (time, energy) that a plan
made anew at each step amounts to, since prices do not answer to what one plant does. Not here: fitting (training.value_fit).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.dynamic import FloatArray, IntArray, Lattice, followed, non_increasing, operate, perfect_foresight, rolling
from policies.learned.layout import (
    CLOCK_LAYOUT,
    CLOCK_STEPS,
    FLOOR_EUR_PER_KWH,
    RECENT_STEPS,
    RESIDUAL_LAYOUT,
    UNFORECAST_LAYOUT,
    VALUE_LAYOUT,
    clock_features,
    residual_features,
    unforecast_features,
    value_features,
)
from policies.learned.network import Mlp
from training.value_market import Information, Market, Split, look_ahead, same_time_of_day, trailing
from training.value_score import Run, block_values

Array32 = NDArray[np.float32]
Rows = tuple[int, int]
LAYOUTS: dict[Information, str] = {
    "published": VALUE_LAYOUT,
    "hourly_reveal": RESIDUAL_LAYOUT,
    "no_forecast": UNFORECAST_LAYOUT,
}
WEEK_H = 168
AHEAD_H = 36
PLAN_CHUNK = 20_000
"""Steps whose forecasts are held in memory at once."""
FIT_CHUNK_D = 90
DROPPED_D = 2
"""Before the end of a range hindsight is cut short: those days are not learned from."""
TARGET_LIMIT = 8.0
PHIS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
ERROR_SPANS_H = (3, 12, 24)
Said = Callable[[Rows, Array32, FloatArray | None], FloatArray]
"""What energy is said to be worth on a range with these features and, for hourly_reveal, this plan, (T, n)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """How the MPC's forecasts are corrected: phi^k of the latest error is left after k steps; days of the profile
    (no_forecast)."""

    phi: float = 0.0
    days: int = 1


@dataclass(frozen=True, kw_only=True)
class ValueTask:
    """See the module. `opinions` (T, M): single forecasts, whose disagreement is a feature; the market's own without."""

    market: Market
    split: Split
    plant: Lattice
    information: Information
    correction: Correction = Correction()
    opinions: FloatArray | None = None
    clock_hours: bool = False
    """Only with no_forecast: features by clock hours, layout CLOCK_LAYOUT."""

    @property
    def layout(self) -> str:
        """Name and version of the features."""
        return CLOCK_LAYOUT if self.clock_hours else LAYOUTS[self.information]

    @property
    def horizon_steps(self) -> int:
        """Steps that the MPC plans ahead."""
        return (24 if self.information == "no_forecast" else AHEAD_H) * self.market.steps_per_hour

    @property
    def week(self) -> int:
        """Steps in a week: the block of the bootstrap."""
        return WEEK_H * self.market.steps_per_hour

    def price(self, rows: Rows) -> FloatArray:
        """EUR/kWh, (T,)."""
        return self.market.price_eur_per_kwh[rows[0] : rows[1]]

    def scale(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """Mean and spread of the last 7 days, both (T,)."""
        first = max(0, rows[0] - self.week)
        mean, deviation = trailing(self.market.price_eur_per_kwh[first : rows[1]], self.week)
        cut = rows[0] - first
        return mean[cut:], deviation[cut:] + FLOOR_EUR_PER_KWH

    def plan(self, rows: Rows, correction: Correction | None = None) -> FloatArray:
        """The MPC's marginals, (T, n)."""
        how = correction or self.correction
        parts = []
        for first in range(rows[0], rows[1], PLAN_CHUNK):
            end = min(rows[1], first + PLAN_CHUNK)
            ahead = look_ahead(self.market, self.information, self.horizon_steps, (first, end), how.days)
            left = np.minimum(self.horizon_steps, rows[1] - 1 - np.arange(first, end))
            parts.append(rolling(ahead.corrected(how.phi), left, self.plant))
        return np.concatenate(parts)

    def hindsight(self, rows: Rows) -> FloatArray:
        """Marginals when every price of the range is known, (T, n)."""
        return perfect_foresight(self.price(rows), self.plant)

    def run(self, marginals: FloatArray, rows: Rows) -> Run:
        """Act by the marginals on a range, from an empty store."""
        earned, level = operate(self.price(rows), marginals, self.plant)
        return Run(earned_eur=earned, stored_kwh=level.astype(np.float64) * (self.plant.step_wh / 1000.0))

    def features(self, rows: Rows, plan: FloatArray | None = None) -> Array32:
        """The layout's features, (T, F); `plan` is needed for hourly_reveal."""
        a, b = rows
        hour, weekday = self.market.hour()[a:b], self.market.weekday()[a:b]
        mean, spread = self.scale(rows)
        if self.clock_hours:
            season, within = self.market.season()[a:b] % 1.0, hour % 1.0
            return clock_features(hour, weekday, season, within, self._clock_prices(rows), mean, spread)
        if self.information == "no_forecast":
            return unforecast_features(hour, weekday, self._recent(rows), self._profile(rows), mean, spread)
        steps = self.horizon_steps if self.information == "published" else 24 * self.market.steps_per_hour
        ahead = look_ahead(self.market, self.information, steps, rows)
        prices = np.concatenate([self.price(rows)[:, None], ahead.price_eur_per_kwh], axis=1)
        if self.information == "published":
            return value_features(hour, weekday, prices, ahead.published_share, mean, spread)
        if plan is None:
            raise ValueError("features of hourly_reveal need the plan")
        return residual_features(hour, weekday, prices, self._errors(rows), self._disagreement(rows), plan, mean, spread)

    def _errors(self, rows: Rows) -> FloatArray:
        first = max(0, rows[0] - self.week)
        error = self.market.price_eur_per_kwh[first : rows[1]] - self.market.forecasts_eur_per_kwh[first : rows[1]].mean(axis=1)
        hourly = self.market.steps_per_hour
        columns = [error, *(trailing(error, span * hourly)[0] for span in ERROR_SPANS_H), trailing(error, self.week)[1]]
        return np.stack(columns, axis=1)[rows[0] - first :]

    def _disagreement(self, rows: Rows) -> FloatArray:
        single = self.market.forecasts_eur_per_kwh if self.opinions is None else self.opinions
        return np.asarray(single[rows[0] : rows[1]].std(axis=1))

    def _recent(self, rows: Rows) -> FloatArray:
        hourly, price = self.market.steps_per_hour, self.market.price_eur_per_kwh
        first = max(0, rows[0] - 2 * self.market.steps_per_day)
        part = price[first : rows[1]]
        now = np.arange(rows[0] - first, rows[1] - first)
        hour_mean = trailing(part, hourly)[0]
        columns = [part[np.maximum(now - lag, 0)] for lag in RECENT_STEPS]
        return np.stack(columns + [hour_mean[np.maximum(now - k * hourly, 0)] for k in range(24)], axis=1)

    def _profile(self, rows: Rows) -> FloatArray:
        hourly, day = self.market.steps_per_hour, self.market.steps_per_day
        profile = same_time_of_day(self.market, 7)
        step = self.market.step_of_day()[rows[0] : rows[1]]
        midnight = np.arange(rows[0], rows[1]) - step
        hours = np.arange(24)[None, :] * hourly + (step // hourly * hourly)[:, None]
        start = midnight[:, None] + hours % day
        sums = np.concatenate([[0.0], np.cumsum(profile)])
        begin = np.clip(start, 0, len(profile) - 1)
        end = np.minimum(begin + hourly, len(profile))
        return np.asarray((sums[end] - sums[begin]) / (end - begin))

    def _clock_prices(self, rows: Rows) -> FloatArray:
        hourly, price = self.market.steps_per_hour, self.market.price_eur_per_kwh
        early = int(self.market.step_of_day()[0]) % hourly  # steps of the first clock hour before the data begin
        late = -(early + len(price)) % hourly
        by_hour = np.concatenate([np.full(early, price[0]), price, np.full(late, price[-1])]).reshape(-1, hourly)
        now = np.arange(rows[0], rows[1])
        hour, within = (now + early) // hourly, (now + early) % hourly
        whole = np.median(by_hour, axis=1)
        running = by_hour[hour[0] : hour[-1] + 1]
        so_far = np.stack([np.median(running[:, : k + 1], axis=1) for k in range(hourly)], axis=1)[hour - hour[0], within]
        ahead = hour[:, None] + np.arange(24)[None, :]
        past = whole[np.maximum(hour[:, None] - 1 - np.arange(24)[None, :], 0)]
        days = [whole[np.maximum(ahead - 24 * k, 0)] for k in range(1, 8)]  # days[6]: what followed a week ago
        latest = price[np.maximum(now[:, None] - np.array(CLOCK_STEPS), 0)]
        return np.concatenate([so_far[:, None], latest, past, days[6], np.mean(days, axis=0)], axis=1)

    def value(self, network: Mlp, rows: Rows, features: Array32, plan: FloatArray | None) -> FloatArray:
        """What the network says that energy is worth, (T, n); `plan` is its base for hourly_reveal."""
        mean, spread = self.scale(rows)
        base = plan if self.information == "hourly_reveal" and plan is not None else mean[:, None]
        return non_increasing(base + spread[:, None] * network(features))

    def supervised(self, rows: Rows, stride: int = 1, said: Said | None = None) -> tuple[Array32, Array32]:
        """Features and targets at `learned_steps`. Targets: what energy was worth in hindsight, or, with `said`, to one who acted
        by that."""
        xs, ys = [], []
        for part, kept in self._parts(rows, stride):
            plan = self.plan(part) if self.information == "hourly_reveal" else None
            features = self.features(part, plan)
            mean, spread = self.scale(part)
            base = mean[:, None] if plan is None else plan
            worth = self.hindsight(part) if said is None else followed(self.price(part), said(part, features, plan), self.plant)
            target = (worth - base) / spread[:, None]
            ys.append(np.clip(target, -TARGET_LIMIT, TARGET_LIMIT).astype(np.float32)[kept])
            xs.append(features[kept])
        return np.concatenate(xs), np.concatenate(ys)

    def learned_steps(self, rows: Rows, stride: int = 1) -> IntArray:
        """Every `stride`-th step of a range, without its first week and the last days of each part."""
        return np.concatenate([np.arange(*part)[kept] for part, kept in self._parts(rows, stride)])

    def _parts(self, rows: Rows, stride: int) -> Iterator[tuple[Rows, slice]]:
        day = self.market.steps_per_day
        span = rows[1] - rows[0] if self.market.steps_per_hour == 1 else FIT_CHUNK_D * day
        for first in range(rows[0] + self.week, rows[1] - DROPPED_D * day, span):
            part = (first, min(rows[1], first + span))
            yield part, slice(0, part[1] - part[0] - DROPPED_D * day, stride)


def tuned(task: ValueTask) -> ValueTask:
    """The task with the MPC's correction that was best on training and validation, by the mean share of perfect foresight of a
    week.

    Every week counts the same, so that one week of spikes does not choose. Test data are not touched.
    """
    if task.information == "published":
        return task
    rows = (task.split.train[0], task.split.validate[1]) if task.market.steps_per_hour == 1 else task.split.validate
    price = task.price(rows)
    best = np.maximum(block_values(task.run(task.hindsight(rows), rows), price, task.week), 1e-9)
    found: dict[Correction, float] = {}
    for days in (1,) if task.information == "hourly_reveal" else (1, 7):
        for phi in PHIS:
            how = Correction(phi=phi, days=days)
            found[how] = float(np.mean(block_values(task.run(task.plan(rows, how), rows), price, task.week) / best))
    return replace(task, correction=max(found, key=lambda how: found[how]))
