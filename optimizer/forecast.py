"""Online correction of a forecast by its own latest errors.

A forecast that was too low an hour ago is probably too low now. The error e (actual minus forecast) is taken as an AR(1)
process around its mean (Box and Jenkins, Time Series Analysis, 1970): after h steps phi^h of it is left. Beside it stands
the regression of the error at a lead on the error now, pooled over the leads of one hour; with much data it decides, with
little the AR(1), with none nothing is corrected. Mean and gains shrink by their sampling error (positive part of James and
Stein, 1961; variances of Bartlett, J. R. Stat. Soc. Suppl. 8, 1946): what could be chance is not corrected. Everything is fitted
on the past alone. Not here: forecasts themselves, and drawing scenarios (optimizer.scenarios).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
DAY_S = 86_400.0
DAYS_TO_TRUST = 1.0
"""Days of errors at which half of the AR(1) correction is applied: neighbouring errors are alike, so days are what counts."""
DAYS_TO_POOL = 7.0
"""Days of errors at which the regression of each lead hour has as much say as the AR(1)."""
WINDOW_DAYS = 28.0
"""Older errors are forgotten: seasons change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorModel:
    """How much of a forecast's error is left after a time."""

    dt_s: float
    count: int
    """Errors that it was fitted on."""
    mean: float
    phi: float
    """Share of the error's distance from the mean that is left after one step (AR(1))."""
    gain_by_hour: FloatArray
    """The same after 0-1 h, 1-2 h ...; what is applied. Shape (H,)."""

    def gain(self, leads: NDArray[np.int64]) -> FloatArray:
        """Share of the latest error that is left `leads` steps after it (1, 2, ...); of the shape of `leads`."""
        hour = np.floor((leads - 1) * self.dt_s / 3600.0 + 1e-9).astype(np.int64)
        share: FloatArray = np.where(
            hour < len(self.gain_by_hour), self.gain_by_hour[np.minimum(hour, len(self.gain_by_hour) - 1)], 0
        )
        return share

    def expected(self, latest: float | FloatArray, leads: NDArray[np.int64]) -> FloatArray:
        """Error to expect `leads` steps after one of `latest`; several of these in a column, (L, 1), give a row each."""
        return np.asarray(self.mean + self.gain(leads) * (latest - self.mean), dtype=np.float64)


def fit_errors(errors: FloatArray, dt_s: float, steps: int) -> ErrorModel:
    """Fit on errors (N,), oldest first, one every dt_s, for leads of up to `steps` steps. None at all correct nothing."""
    recent = np.asarray(errors, dtype=np.float64)[-max(2, round(WINDOW_DAYS * DAY_S / dt_s)) :]
    hours = max(1, int(np.ceil(steps * dt_s / 3600.0 - 1e-9)))
    none = ErrorModel(dt_s=dt_s, count=len(recent), mean=0.0, phi=0.0, gain_by_hour=np.zeros(hours))
    if len(recent) < 2:
        return none
    days = len(recent) * dt_s / DAY_S
    trust = days / (days + DAYS_TO_TRUST)
    raw = recent - recent.mean()
    alike = float(np.clip(raw[:-1] @ raw[1:] / max(float(raw[:-1] @ raw[:-1]), 1e-300), 0.0, 0.999))
    variance = float(recent.var()) * (1 + alike) / (1 - alike) / len(recent)
    mean = trust * _shrunk(float(recent.mean()), variance)
    centred = recent - mean
    power = float(centred[:-1] @ centred[:-1])
    if power <= 0.0:
        return ErrorModel(dt_s=dt_s, count=len(recent), mean=mean, phi=0.0, gain_by_hour=np.zeros(hours))
    phi = float(np.clip(centred[:-1] @ centred[1:] / power, 0.0, 1.0))
    gains = np.array([_hour_gain(centred, hour, dt_s, phi) for hour in range(hours)])
    return ErrorModel(dt_s=dt_s, count=len(recent), mean=mean, phi=phi, gain_by_hour=trust * gains)


def _hour_gain(centred: FloatArray, hour: int, dt_s: float, phi: float) -> float:
    """AR(1) and regression, mixed by how much data the regression has."""
    first = int(np.floor(hour * 3600.0 / dt_s + 1e-9)) + 1
    last = max(first, int(np.floor((hour + 1) * 3600.0 / dt_s + 1e-9)))
    leads = range(first, last + 1)
    modelled = float(np.mean([phi**lead for lead in leads]))
    products = power = 0.0
    pairs = 0
    for lead in leads:
        before, after = centred[:-lead], centred[lead:]
        pairs += len(after)
        products += float(before @ after)
        power += float(before @ before)
    if power <= 0.0:
        return modelled
    days = pairs / len(leads) * dt_s / DAY_S
    share = days / (days + DAYS_TO_POOL)
    mixed = float(np.clip((1 - share) * modelled + share * products / power, 0.0, 1.0))
    return _shrunk(mixed, _bartlett(phi, float(np.mean(leads))) / max(1.0, pairs / len(leads)))


def _bartlett(phi: float, lead: float) -> float:
    """Variance, times the number of pairs, of the autocorrelation of an AR(1) at a lead; 1 - phi^2 at lead 1."""
    p = min(phi, 0.9999) ** 2
    left = p**lead
    return float(max(0.0, (1 + p) * (1 - left) / (1 - p) - 2 * lead * left))


def _shrunk(value: float, variance: float) -> float:
    return value * (1.0 - variance / value**2) if value**2 > variance else 0.0


def corrected(forecast: FloatArray, errors: FloatArray, dt_s: float, lag_steps: int = 0) -> FloatArray:
    """Forecast (N,) plus the error to expect; `errors` are those of the steps before it, oldest first.

    `lag_steps` steps lie between the last known error and the forecast's first step.
    """
    steps = len(forecast)
    model = fit_errors(errors, dt_s, steps + lag_steps)
    if model.count == 0:
        return np.array(forecast, dtype=np.float64)
    leads = lag_steps + 1 + np.arange(steps, dtype=np.int64)
    return np.asarray(forecast + model.expected(float(errors[-1]), leads), dtype=np.float64)


def corrected_at(actual: FloatArray, forecast: FloatArray, now: int, steps: int, dt_s: float) -> FloatArray:
    """Corrected forecast of steps [now, now + steps) from what is known at `now`: forecasts, and actual values before it."""
    window = max(2, round(WINDOW_DAYS * DAY_S / dt_s))
    start = max(0, now - window)
    return corrected(forecast[now : now + steps], actual[start:now] - forecast[start:now], dt_s)


def residual_paths(
    errors: FloatArray, model: ErrorModel, origins: NDArray[np.int64], steps: int, lag_steps: int = 0
) -> FloatArray:
    """What the correction still missed on past occasions; shape (origins, steps).

    An origin o is the index of the last error then known; its path covers the `steps` steps after `lag_steps` more. Raises
    IndexError when a path would leave the errors at either end.
    """
    leads = lag_steps + 1 + np.arange(steps, dtype=np.int64)
    if len(origins) and (origins.min() < 0 or origins.max() + leads[-1] >= len(errors)):
        raise IndexError(f"paths of {leads[-1]} steps from {origins.min()} to {origins.max()} in {len(errors)} errors")
    column = np.asarray(origins, dtype=np.int64)[:, None]
    return np.asarray(errors[column + leads] - model.expected(errors[column], leads), dtype=np.float64)
