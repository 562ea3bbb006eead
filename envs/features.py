"""The part of an observation that depends on time alone, and the prices that steps are settled at; made once, gathered later.

No value of a row uses anything that is not known when that row's step begins: the price of the step itself, day-ahead prices that
are published, forecasts that are issued, load, PV and temperature of steps before. tests/unit/test_env_data.py changes the future
and looks for a trace. Not here: what depends on the packs (envs.kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled
from core.errors import InputError
from envs.config import EnvConfig
from envs.data import Exogenous, Part
from envs.layout import ERROR_HOURS, OBSERVATION_BOUND

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
PUBLICATION_HOUR = 13
"""Day-ahead prices of a day are known from 13:00 local time of the day before."""
FORECAST_HOUR = 12
"""Price forecasts of a day are made before noon of the day before."""
LEAST_SPREAD_EUR_PER_KWH = 0.002
"""Floor under the trailing week's standard deviation of prices."""
SHORT_HOURS = 20 * 24
"""No zone's clock is put on and back within this: equal offsets at both ends are those between, too."""
EPOCH_ORDINAL = 719_163
"""Proleptic ordinal of 1 January 1970 (datetime.date.toordinal)."""
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
    week, day = 168 * per_hour, 24 * per_hour
    # A row whose observation is still wanted after the last step must exist: the last row is observed, never stepped.
    first, last = max(part.first_row, week), n - 1
    if last - first < max(2, config.episode_steps or 2):
        raise InputError(
            source=f"{part.name} part", field="rows", value=f"{max(0, last - first)} after a week of history",
            expected=f"at least {max(2, config.episode_steps or 2)}, one episode",
        )  # fmt: skip
    local = _local(data)
    price = data.price_eur_per_kwh
    mean, spread = trailing(price, week)
    spread = np.maximum(spread, LEAST_SPREAD_EUR_PER_KWH)
    forecast = data.price_forecast_eur_per_kwh
    expected_price = forecast if forecast is not None else _before(price, day)
    error = price - expected_price
    disagreement = data.forecast_spread_eur_per_kwh
    if disagreement is None:
        disagreement = trailing(error, week)[1]
    published = _known_until(local, PUBLICATION_HOUR, n) if config.information == "published" else np.arange(1, n + 1)
    issued = _known_until(local, FORECAST_HOUR, n) if forecast is not None else np.zeros(n, dtype=np.int64)
    ahead = np.empty((n, config.forecast_hours))
    _ahead(price, expected_price, published, issued, day, per_hour, ahead)
    z = [(price - mean) / spread, 0.3 * np.log(spread / 0.02), mean / spread]
    z += [_smooth(error, hours * per_hour) / spread for hours in ERROR_HOURS]
    z += [disagreement / spread]
    block = [*_calendar(local), *z, *((ahead - mean[:, None]) / spread[:, None]).T]
    points = np.zeros((n, 0)), np.zeros(0)
    if marginal is not None:
        given = marginal.checked(n)
        points = (given.value_eur_per_kwh - mean[:, None]) / spread[:, None], np.asarray(given.soc_pct, dtype=np.float64)
        block += list(points[0].T)
    buy, sell = config.tariff.buy_sell(price)
    load_forecast = data.load_forecast_w if data.load_forecast_w is not None else _before(data.load_w, day)
    pv_forecast = data.pv_forecast_w if data.pv_forecast_w is not None else _before(data.pv_w, day)
    columns = (buy, sell, mean, spread, data.load_w, data.pv_w, load_forecast, pv_forecast, data.ambient_c, local.month_begins)
    return Features(
        rows=np.ascontiguousarray(np.clip(np.stack(block, axis=1), -OBSERVATION_BOUND, OBSERVATION_BOUND), dtype=np.float32),
        economics=np.ascontiguousarray(np.stack([np.asarray(c, dtype=np.float64) for c in columns], axis=1)),
        load_ahead_w=_hours_ahead(load_forecast, data.load_forecast_w is None, day, per_hour, config.load_forecast_hours),
        pv_ahead_w=_hours_ahead(pv_forecast, data.pv_forecast_w is None, day, per_hour, config.load_forecast_hours),
        marginal=np.ascontiguousarray(points[0]),
        marginal_soc=points[1] / 100.0,
        first=first,
        last=last,
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


def _smooth(values: FloatArray, window: int) -> FloatArray:
    return trailing(values, max(1, window))[0]


def _before(values: FloatArray, lag: int) -> FloatArray:
    """The value of `lag` rows before; the first ones stand for themselves."""
    return values[np.maximum(np.arange(len(values)) - lag, np.arange(len(values)) % lag)]


@dataclass(frozen=True, slots=True)
class _Local:
    """A zone's wall clock over the rows."""

    hour: FloatArray
    """0 to 24, with its fraction."""
    weekday: FloatArray
    """0 to 7 with the fraction of the day, Monday first."""
    year_share: FloatArray
    day_end: IntArray
    """Row at which the local day ends; may lie beyond the data."""
    next_day_end: IntArray
    month_begins: FloatArray


def _offsets_s(start: datetime, hours: int, zone: ZoneInfo) -> NDArray[np.int64]:
    """Seconds that the zone's clock is ahead of UTC at `start` and each hour after it, (hours,)."""

    def at(hour: int) -> int:
        return int(((start + timedelta(hours=hour)).astimezone(zone).utcoffset() or timedelta()).total_seconds())

    if hours <= SHORT_HOURS and at(0) == at(hours - 1):
        return np.full(hours, at(0), dtype=np.int64)
    return np.array([at(k) for k in range(hours)], dtype=np.int64)


def _local(data: Exogenous) -> _Local:
    zone, n, per_hour = ZoneInfo(data.timezone), len(data), round(3600.0 / data.dt_s)
    hours = n // per_hour + 2
    clock_s = int(data.start.timestamp()) + 3600 * np.arange(hours) + _offsets_s(data.start, hours, zone)
    dates = clock_s.astype("datetime64[s]").astype("datetime64[D]")
    of_row = np.arange(n) // per_hour
    fraction = (np.arange(n) % per_hour) / per_hour

    def rows(values: NDArray[Any]) -> FloatArray:
        return np.asarray(values, dtype=np.float64)[of_row]

    hour = rows(clock_s // 3600 % 24 + clock_s // 60 % 60 / 60) + fraction
    date = rows(dates.astype(np.int64) + EPOCH_ORDINAL) + np.floor(hour / 24.0)
    hour = np.mod(hour, 24.0)
    month = rows(dates.astype("datetime64[M]").astype(np.int64) % 12 + 1)
    year_day = (dates - dates.astype("datetime64[Y]").astype("datetime64[D]")).astype(np.int64)
    # Row at which each local date begins; from the last ones of the data on by the zone's clock.
    changes = np.concatenate([[0], np.flatnonzero(np.diff(date)) + 1])
    number = np.searchsorted(changes, np.arange(n), side="right")
    day = 24 * per_hour
    begins = np.concatenate([changes, [changes[-1] + day, changes[-1] + 2 * day, changes[-1] + 3 * day]])
    return _Local(
        hour=hour,
        weekday=np.mod(date - 1.0, 7.0) + hour / 24.0,
        year_share=rows(year_day / 366.0),
        day_end=begins[number].astype(np.int64),
        next_day_end=begins[number + 1].astype(np.int64),
        month_begins=np.concatenate([[0.0], (np.diff(month) != 0).astype(np.float64)]),
    )


def _calendar(local: _Local) -> list[FloatArray]:
    angles = (local.hour / 24.0, local.hour / 12.0, local.weekday / 7.0, local.year_share)
    return [part for share in angles for part in (np.sin(2 * np.pi * share), np.cos(2 * np.pi * share))]


def _known_until(local: _Local, hour: int, n: int) -> IntArray:
    """Row up to which (exclusive) the values of days are known: this one's, and from `hour` on the next one's."""
    return np.minimum(np.where(local.hour >= hour, local.next_day_end, local.day_end), n)


@compiled
def _ahead(
    price: FloatArray,
    forecast: FloatArray,
    published: IntArray,
    issued: IntArray,
    day: int,
    per_hour: int,
    out: FloatArray,
) -> None:
    """Mean price expected for each hour ahead: published, else forecast, else that of whole days before."""
    for t in range(len(price)):
        for k in range(out.shape[1]):
            total = 0.0
            for j in range(per_hour):
                u = t + 1 + k * per_hour + j
                if u < published[t]:
                    total += price[u]
                elif u < issued[t]:
                    total += forecast[u]
                else:
                    while u >= published[t]:
                        u -= day
                    total += price[max(u, 0)]
            out[t, k] = total / per_hour


def _hours_ahead(forecast: FloatArray, naive: bool, day: int, per_hour: int, hours: int) -> NDArray[np.float32]:
    """Mean forecast of each hour ahead, the step's own first; a naive one repeats the last whole day."""
    n = len(forecast)
    out = np.empty((n, hours), dtype=np.float32)
    rows = np.arange(n)
    for k in range(hours):
        total = np.zeros(n)
        for j in range(per_hour):
            u = rows + k * per_hour + j
            if naive:  # forecast[u] is the value at u - day, known while u - day < t
                u = np.where(u >= rows + day, u - day, u)
            total += forecast[np.minimum(u, n - 1)]
        out[:, k] = total / per_hour
    return out
