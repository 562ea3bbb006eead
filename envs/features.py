"""The part of an observation that depends on time alone, and the prices that steps are settled at; made once, gathered later.

No value of a row uses anything that is not known when that row's step begins: the price of the step itself, day-ahead prices that
are published, forecasts that are issued, load, PV and temperature of steps before. tests/unit/test_env_data.py changes the future
and looks for a trace. Not here: the wall clock (envs.clock), what depends on the packs (envs.kernel).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled
from core.errors import InputError
from envs.clock import Clock, clock_at, clock_of
from envs.config import EnvConfig
from envs.data import Exogenous, Part
from envs.layout import CALENDAR, ERROR_HOURS, OBSERVATION_BOUND, PRICE

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PUBLICATION_HOUR = 13
"""Day-ahead prices of a day are known from 13:00 local time of the day before."""
FORECAST_HOUR = 12
"""Price forecasts of a day are made before noon of the day before."""
LEAST_SPREAD_EUR_PER_KWH = 0.002
"""Floor under the trailing week's standard deviation of prices."""
ECONOMICS = (
    "buy_eur_per_kwh", "sell_eur_per_kwh", "mean_eur_per_kwh", "spread_eur_per_kwh", "load_w", "pv_w", "load_forecast_w",
    "pv_forecast_w", "ambient_c", "month_begins",
)  # fmt: skip
"""Columns of `Features.economics`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marginal:
    """An MPC's marginal value of stored energy for each row of a part, as an optional block of the observation."""

    value_eur_per_kwh: FloatArray
    """Shape (rows of the part, points)."""
    soc_pct: FloatArray
    """Where the points lie, rising, shape (points,)."""

    def checked(self, rows: int) -> Marginal:
        """Itself; InputError when shapes do not agree or a value is not finite."""
        expected = (rows, len(self.soc_pct))
        if self.value_eur_per_kwh.shape != expected or len(self.soc_pct) < 2 or (np.diff(self.soc_pct) <= 0).any():
            raise InputError(
                source="marginal values", field="value_eur_per_kwh", value=f"shape {self.value_eur_per_kwh.shape}",
                expected=f"shape {expected}, on two or more rising SoCs",
            )  # fmt: skip
        if not np.isfinite(self.value_eur_per_kwh).all():
            raise InputError(source="marginal values", field="value_eur_per_kwh", value="a NaN or infinity", expected="numbers")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Tables over the rows of a part."""

    rows: NDArray[np.float32]
    """Leading columns of the observation (envs.layout), shape (N, row_width)."""
    economics: FloatArray
    """Shape (N, len(ECONOMICS))."""
    load_ahead_w: NDArray[np.float32]
    """Forecast of the load of the hours ahead, shape (N, load_forecast_hours)."""
    pv_ahead_w: NDArray[np.float32]
    marginal: FloatArray
    """Marginal values less the mean, over the spread; shape (N, points); (N, 0) when there are none."""
    marginal_soc: FloatArray
    first: int
    """First row at which an episode may begin: a week of history lies before it."""
    last: int
    """One past the last row that can be stepped."""


def make_features(part: Part, config: EnvConfig, marginal: Marginal | None = None) -> Features:
    """All tables of a part. InputError when the part is shorter than its history and one episode."""
    data = part.exogenous
    n, per_hour = len(data), round(3600.0 / data.dt_s)
    # A row whose observation is still wanted after the last step must exist: the last row is observed, never stepped.
    first, last = max(part.first_row, 168 * per_hour), n - 1
    if last - first < max(2, config.episode_steps or 2):
        raise InputError(
            source=f"{part.name} part", field="rows", value=f"{max(0, last - first)} after a week of history",
            expected=f"at least {max(2, config.episode_steps or 2)}, one episode",
        )  # fmt: skip
    at, clock = np.arange(n), clock_of(data)
    return _tables(data, config, at, clock, trailing, marginal, (first, last))


def features_at(data: Exogenous, config: EnvConfig, row: int) -> Features:
    """What `make_features` says of one row, without making the others: two rows, of which the second is `row`.

    Of the first only load, PV and temperature count: what was measured last.
    """
    at = np.array([row - 1, row])

    def at_row(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
        found = np.empty((2, 2))
        found[:, :] = np.array(_moments(values, row, window))[:, None]
        return found[0], found[1]

    return _tables(data, config, at, clock_at(data, row), at_row, None, (1, 2))


def _tables(
    data: Exogenous,
    config: EnvConfig,
    at: IntArray,
    clock: Clock,
    trailing_at: Callable[[FloatArray, int], tuple[FloatArray, FloatArray]],
    marginal: Marginal | None,
    steppable: tuple[int, int],
) -> Features:
    """Tables of the rows `at` (R,); the clock's fields and what `trailing_at` gives are of these rows, or of one for all."""
    n, per_hour = len(data), round(3600.0 / data.dt_s)
    week, day = 168 * per_hour, 24 * per_hour
    price = data.price_eur_per_kwh
    mean, spread = trailing_at(price, week)
    spread = np.maximum(spread, LEAST_SPREAD_EUR_PER_KWH)
    forecast = data.price_forecast_eur_per_kwh
    expected_price = forecast if forecast is not None else _before(price, day)
    error = price - expected_price
    disagreement = data.forecast_spread_eur_per_kwh
    disagreement = trailing_at(error, week)[1] if disagreement is None else disagreement[at]
    published = _known_until(clock, PUBLICATION_HOUR, n) if config.information == "published" else at + 1
    issued = _known_until(clock, FORECAST_HOUR, n) if forecast is not None else np.zeros(1, dtype=np.int64)
    published, issued = (np.ascontiguousarray(np.broadcast_to(rows, at.shape)) for rows in (published, issued))
    ahead = np.empty((len(at), config.forecast_hours))
    _ahead(price, expected_price, at, published, issued, day, per_hour, ahead)
    rows = np.empty((len(at), len(CALENDAR) + len(PRICE) + config.forecast_hours))
    for k, column in enumerate((
        *_calendar(clock), (price[at] - mean) / spread, 0.3 * np.log(spread / 0.02), mean / spread,
        *(trailing_at(error, max(1, hours * per_hour))[0] / spread for hours in ERROR_HOURS), disagreement / spread,
    )):  # fmt: skip
        rows[:, k] = column
    rows[:, len(CALENDAR) + len(PRICE) :] = (ahead - mean[:, None]) / spread[:, None]
    points = np.zeros((len(at), 0)), np.zeros(0)
    if marginal is not None:
        given = marginal.checked(n)
        points = (given.value_eur_per_kwh[at] - mean[:, None]) / spread[:, None], np.asarray(given.soc_pct, dtype=np.float64)
        rows = np.concatenate([rows, points[0]], axis=1)
    load_forecast = data.load_forecast_w if data.load_forecast_w is not None else _before(data.load_w, day)
    pv_forecast = data.pv_forecast_w if data.pv_forecast_w is not None else _before(data.pv_w, day)
    economics = np.empty((len(at), len(ECONOMICS)))
    for k, column in enumerate((
        *config.tariff.buy_sell(price[at]), mean, spread, data.load_w[at], data.pv_w[at], load_forecast[at], pv_forecast[at],
        data.ambient_c[at], clock.month_begins,
    )):  # fmt: skip
        economics[:, k] = column
    load_ahead, pv_ahead = (np.empty((len(at), config.load_forecast_hours), dtype=np.float32) for _ in range(2))
    _hours_ahead(load_forecast, data.load_forecast_w is None, at, day, per_hour, load_ahead)
    _hours_ahead(pv_forecast, data.pv_forecast_w is None, at, day, per_hour, pv_ahead)
    return Features(
        rows=np.clip(rows, -OBSERVATION_BOUND, OBSERVATION_BOUND).astype(np.float32),
        economics=economics,
        load_ahead_w=load_ahead,
        pv_ahead_w=pv_ahead,
        marginal=np.ascontiguousarray(points[0]),
        marginal_soc=points[1] / 100.0,
        first=steppable[0],
        last=steppable[1],
    )


def trailing(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over the last `window` values, the present one included; fewer at the beginning."""
    # Centred first: sums of squares of values around zero keep their digits.
    centre = float(values[0])
    sums = np.concatenate([[0.0], np.cumsum(values - centre)])
    squares = np.concatenate([[0.0], np.cumsum(np.square(values - centre))])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(0, end - window)
    count = end - begin
    mean = (sums[end] - sums[begin]) / count
    variance = (squares[end] - squares[begin]) / count - np.square(mean)
    return mean + centre, np.sqrt(np.maximum(variance, 0.0))


@compiled
def _moments(values: FloatArray, row: int, window: int) -> tuple[float, float]:
    """`trailing` at one row."""
    part = values[max(0, row + 1 - window) : row + 1]
    mean = part.mean()
    return mean, np.sqrt(np.square(part - mean).mean())


def _before(values: FloatArray, lag: int) -> FloatArray:
    """The value of `lag` rows before; the first ones stand for themselves."""
    return np.concatenate([values[:lag], values[: max(0, len(values) - lag)]])


def _calendar(clock: Clock) -> list[FloatArray]:
    angles = (clock.hour / 24.0, clock.hour / 12.0, clock.weekday / 7.0, clock.year_share)
    return [part for share in angles for part in (np.sin(2 * np.pi * share), np.cos(2 * np.pi * share))]


def published_until(data: Exogenous) -> IntArray:
    """Row up to which (exclusive) day-ahead prices are published when each row begins, (N,)."""
    return _known_until(clock_of(data), PUBLICATION_HOUR, len(data))


def _known_until(clock: Clock, hour: int, n: int) -> IntArray:
    """Row up to which (exclusive) the values of days are known: this one's, and from `hour` on the next one's."""
    return np.minimum(np.where(clock.hour >= hour, clock.next_day_end, clock.day_end), n)


@compiled
def _ahead(
    price: FloatArray,
    forecast: FloatArray,
    at: IntArray,
    published: IntArray,
    issued: IntArray,
    day: int,
    per_hour: int,
    out: FloatArray,
) -> None:
    """Mean price expected for each hour ahead: published, else forecast, else that of whole days before."""
    for r in range(len(at)):
        for k in range(out.shape[1]):
            total = 0.0
            for j in range(per_hour):
                u = at[r] + 1 + k * per_hour + j
                if u < published[r]:
                    total += price[u]
                elif u < issued[r]:
                    total += forecast[u]
                else:
                    while u >= published[r]:
                        u -= day
                    total += price[max(u, 0)]
            out[r, k] = total / per_hour


@compiled
def _hours_ahead(forecast: FloatArray, naive: bool, at: IntArray, day: int, per_hour: int, out: NDArray[np.float32]) -> None:
    """Mean forecast of each hour ahead, the step's own first; a naive one repeats the last whole day."""
    last = len(forecast) - 1
    for r in range(len(at)):
        for k in range(out.shape[1]):
            total = 0.0
            for j in range(per_hour):
                u = at[r] + k * per_hour + j
                if naive and u >= at[r] + day:  # forecast[u] is the value at u - day, known while u - day < t
                    u -= day
                total += forecast[min(u, last)]
            out[r, k] = total / per_hour
