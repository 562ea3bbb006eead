"""What the energy-value networks see, the same in training and in serving. A changed row is a new version.

Layout `energy-value/1`, for K steps ahead; prices relative to mean and spread (standard deviation + FLOOR) of the last 7 days:

| index | feature | range |
|---|---|---|
| 0, 1 | sine, cosine of the hour of the day, UTC | -1 to 1 |
| 2 | 1 on Saturday and Sunday, UTC | 0, 1 |
| 3 | logarithm of the spread in EUR/MWh, less 3 | -2 to 5 |
| 4 | share of the K steps whose price is published | 0 to 1 |
| 5 | price of the step that is decided | -8 to 8 |
| 6 to 5 + K | prices of the steps after it, as far as known or expected | -8 to 8 |

Its outputs are marginal values of stored energy AFTER the step, empty to full, relative to the same mean and spread.
`energy-value-residual/1`: forecast errors, disagreement of forecasts and the MPC's marginals too; outputs are added to the MPC's.
`energy-value-unforecast/1`: for prices that nobody forecasts: the last hour, the last day, and the profile of the last 7 days.
`energy-value-unforecast/2`: the same by clock hours: medians of the running hour so far, of the last 24, of the 24 that followed
a week ago, and means of the last 7 days at the 24 to come; weekday and season.
Not here: the network (policies.learned.network), forecasts (optimizer.forecast).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
VALUE_LAYOUT = "energy-value/1"
RESIDUAL_LAYOUT = "energy-value-residual/1"
UNFORECAST_LAYOUT = "energy-value-unforecast/1"
CLOCK_LAYOUT = "energy-value-unforecast/2"
RECENT_STEPS = (0, 1, 2, 3, 6, 9, 12)
"""Of `energy-value-unforecast/1`: prices so many steps back; then means of the last 24 hours, one by one."""
UNFORECAST_LAYOUTS = (UNFORECAST_LAYOUT, CLOCK_LAYOUT)
CLOCK_STEPS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)
"""Of `energy-value-unforecast/2`: prices so many steps back, after the median of the running hour."""
FLOOR_EUR_PER_KWH = 0.003
LIMIT = 8.0


def calendar(hour: FloatArray, weekday: NDArray[np.int64]) -> FloatArray:
    """Columns 0 to 2; hour of the day and weekday (Monday 0), both (T,)."""
    angle = hour / 24.0 * 2.0 * np.pi
    return np.stack([np.sin(angle), np.cos(angle), (weekday >= 5).astype(np.float64)], axis=1)


def log_spread(spread: FloatArray) -> FloatArray:
    """Column 3."""
    return np.asarray(np.log(1000.0 * spread) - 3.0, dtype=np.float64)


def value_features(
    hour: FloatArray,
    weekday: NDArray[np.int64],
    prices_eur_per_kwh: FloatArray,
    published_share: FloatArray,
    mean: FloatArray,
    spread: FloatArray,
) -> NDArray[np.float32]:
    """Layout `energy-value/1` of T decisions, (T, 6 + K). `prices_eur_per_kwh` (T, K + 1) begin with that of the step decided."""
    relative = (prices_eur_per_kwh - mean[:, None]) / spread[:, None]
    columns = [calendar(hour, weekday), log_spread(spread)[:, None], published_share[:, None], relative]
    return _bounded(columns)


def unforecast_features(
    hour: FloatArray,
    weekday: NDArray[np.int64],
    recent_eur_per_kwh: FloatArray,
    profile_eur_per_kwh: FloatArray,
    mean: FloatArray,
    spread: FloatArray,
) -> NDArray[np.float32]:
    """Layout `energy-value-unforecast/1`: `recent` (T, R): prices and means of the past, `profile` (T, 24): hourly means."""
    columns = [
        calendar(hour, weekday),
        np.stack([np.sin(hour / 6.0 * np.pi), np.cos(hour / 6.0 * np.pi)], axis=1),
        log_spread(spread)[:, None],
        (np.concatenate([recent_eur_per_kwh, profile_eur_per_kwh], axis=1) - mean[:, None]) / spread[:, None],
    ]
    return _bounded(columns)


def clock_features(
    hour: FloatArray,
    weekday: NDArray[np.int64],
    season: FloatArray,
    within_hour: FloatArray,
    prices_eur_per_kwh: FloatArray,
    mean: FloatArray,
    spread: FloatArray,
) -> NDArray[np.float32]:
    """Layout `energy-value-unforecast/2`; `season` is the part of the year that has passed, `within_hour` that of the hour.

    `prices` (T, R): medians of clock hours, which spikes leave alone, beside the latest prices.
    """
    day, year = hour / 12.0 * np.pi, season * 2.0 * np.pi
    columns = [
        np.stack([np.sin(day), np.cos(day), np.sin(2.0 * day), np.cos(2.0 * day), np.sin(year), np.cos(year)], axis=1),
        2.0 * within_hour[:, None] - 1.0,
        (weekday[:, None] == np.arange(7)[None, :]).astype(np.float64),
        log_spread(spread)[:, None],
        (prices_eur_per_kwh - mean[:, None]) / spread[:, None],
    ]
    return _bounded(columns)


def season_of(since_2000_s: FloatArray) -> FloatArray:
    """Years of 365.25 days since the beginning of 2000, from seconds; the fraction says the season."""
    return np.asarray(since_2000_s / (365.25 * 86400.0), dtype=np.float64)


def residual_features(
    hour: FloatArray,
    weekday: NDArray[np.int64],
    prices_eur_per_kwh: FloatArray,
    recent_errors: FloatArray,
    disagreement: FloatArray,
    marginals: FloatArray,
    mean: FloatArray,
    spread: FloatArray,
) -> NDArray[np.float32]:
    """Layout `energy-value-residual/1`: as above relative to a trailing mean and spread (T,), then errors, then the MPC.

    `recent_errors` (T, E): latest forecast error and its means over longer spans; `disagreement` (T,): between forecasts;
    `marginals` (T, n): the MPC's, of which every (n / 10)-th is shown. All in EUR/kWh.
    """
    scale = spread[:, None]
    every = max(1, marginals.shape[1] // 10)
    columns = [
        calendar(hour, weekday),
        np.stack([np.sin(hour / 6.0 * np.pi), np.cos(hour / 6.0 * np.pi)], axis=1),
        log_spread(spread)[:, None],
        (prices_eur_per_kwh - mean[:, None]) / scale,
        recent_errors / scale,
        disagreement[:, None] / scale,
        (marginals[:, ::every] - mean[:, None]) / scale,
    ]
    return _bounded(columns)


def _bounded(columns: list[FloatArray]) -> NDArray[np.float32]:
    return np.clip(np.concatenate(columns, axis=1), -LIMIT, LIMIT).astype(np.float32)
