"""A made-up year, so that an environment can be made without files: for tests and for trying out, never for results.

Not here: real data (envs.read, stores.datasets).
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from envs.data import Exogenous


def sample_year(days: int = 60, dt_s: float = 900.0, seed: int = 0, *, with_forecast: bool = True) -> Exogenous:
    """`days` days from 2020-01-01 UTC: prices with two daily peaks and AR(1) noise (some below zero), load, sun, temperature."""
    rng = np.random.default_rng(seed)
    per_hour = round(3600.0 / dt_s)
    hours = days * 24
    clock = np.arange(hours) % 24
    level = 0.08 + 0.03 * np.cos(2 * np.pi * (clock - 19) / 24) + 0.03 * np.cos(4 * np.pi * (clock - 8) / 24)
    made = level + _autoregressive(rng, hours, 0.85, 0.03)
    forecast = level + 0.7 * (made - level) + _autoregressive(rng, hours, 0.7, 0.01)
    step = np.arange(hours * per_hour) / per_hour
    cloud = np.repeat(rng.uniform(0.2, 1.0, days), 24 * per_hour)
    sun = np.maximum(0.0, np.cos(2 * np.pi * (step - 12.0) / 24.0)) * cloud
    load = 1.0 + 0.5 * np.cos(2 * np.pi * (step - 18.0) / 24.0) + _autoregressive(rng, len(step), 0.97, 0.1)
    return Exogenous(
        start=datetime(2020, 1, 1, tzinfo=UTC),
        dt_s=dt_s,
        price_eur_per_kwh=np.repeat(made, per_hour),
        load_w=60e3 * np.maximum(0.1, load),
        pv_w=120e3 * sun,
        ambient_c=12.0 + 6.0 * np.cos(2 * np.pi * (step - 15.0) / 24.0),
        price_forecast_eur_per_kwh=np.repeat(forecast, per_hour) if with_forecast else None,
    )


def _autoregressive(rng: np.random.Generator, n: int, keep: float, deviation: float) -> np.ndarray:
    noise = rng.standard_normal(n) * deviation * np.sqrt(1.0 - keep**2)
    values = np.empty(n)
    state = 0.0
    for k in range(n):
        state = keep * state + noise[k]
        values[k] = state
    return values
