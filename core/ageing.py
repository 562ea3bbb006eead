"""Ageing over a horizon, as the contract's degradation_forecast asks for it.

A pack reports its state of health, not how it came by it. So the state behind a SoH is that of a pack which lost its capacity
under one reference use; from there the formulas of its chemistry (core.battery.ageing_models) take it through the horizon. Not
here: SoH estimation.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from core.battery.ageing_models import MODELS, AgeingModel, Health
from core.battery.stress import Stress, stress
from core.devices import Chemistry

FloatArray = NDArray[np.float64]
LOSS_AT_END_PCT = 20.0
"""Capacity loss that ends a life, of which the *_life_consumed are percents."""
REFERENCE_SOC = (0.5, 0.8, 0.5, 0.2, 0.5)
"""Reference use: SoC at 0, 6, 12, 18 and 24 h of each day ..."""
REFERENCE_TEMPERATURE_C = 25.0
OLDEST_YEARS = 200.0
_AGES = 2000


def degradation(
    chemistry: Chemistry, soc_pct: FloatArray, temperature_c: FloatArray, dt_s: float, soh_pct: float = 100.0
) -> dict[str, float]:
    """The forecast of one pack: soc_pct and temperature_c (N,) at times dt_s apart, the horizon's start among them."""
    return forecast(chemistry, np.array([soh_pct]), soc_pct[None, :], temperature_c[None, :], dt_s)[0]


def forecast(
    chemistry: Chemistry, soh_pct: FloatArray, soc_pct: FloatArray, temperature_c: FloatArray, dt_s: float
) -> list[dict[str, float]]:
    """Forecasts of n packs of one chemistry: soh_pct (n,), soc_pct and temperature_c (n, N) at times dt_s apart, N >= 2.

    Percent of the new pack's capacity and resistance; cycle_life_consumed and calendar_life_consumed are the cyclic and the
    calendar loss as percent of LOSS_AT_END_PCT.
    """
    model = MODELS[chemistry]
    before = state_at(chemistry, soh_pct)
    start = model.health(before)
    use = stress(np.clip(soc_pct, 0.0, 100.0) / 100.0, temperature_c, dt_s).of_new(start.capacity)
    end = model.health(model.advance(before, use))
    return [_document(start, end, k) for k in range(len(before))]


def advance(chemistry: Chemistry, state: FloatArray, soc: FloatArray, temperature_c: FloatArray, dt_s: float) -> FloatArray:
    """Ageing state (n, 5) after a stretch: soc (a share) and temperature (n, N). At most about a day at a time keeps the mean
    conditions meaningful."""
    model = MODELS[chemistry]
    return model.advance(state, stress(soc, temperature_c, dt_s).of_new(model.health(state).capacity))


def state_at(chemistry: Chemistry, soh_pct: FloatArray) -> FloatArray:
    """State of packs that came to a SoH (n,) by the reference use; shape (n, 5)."""
    model = MODELS[chemistry]
    days, capacity = _reference_life(chemistry)
    age = np.interp(-np.asarray(soh_pct) / 100.0, -capacity, days)
    return model.advance(model.new(len(age)), _reference_day().repeated(age))


@cache
def _reference_life(chemistry: Chemistry) -> tuple[FloatArray, FloatArray]:
    """Ages in days and the capacity left at each, under the reference use."""
    model: AgeingModel = MODELS[chemistry]
    days = np.concatenate([[0.0], np.geomspace(0.5, OLDEST_YEARS * 365.25, _AGES)])
    capacity = model.health(model.advance(model.new(len(days)), _reference_day().repeated(days))).capacity
    return days, np.minimum.accumulate(capacity)


@cache
def _reference_day() -> Stress:
    soc = np.interp(np.arange(25.0), 6.0 * np.arange(5.0), REFERENCE_SOC)
    return stress(soc[None, :], np.full((1, 25), REFERENCE_TEMPERATURE_C), 3600.0)


def _document(start: Health, end: Health, k: int) -> dict[str, float]:
    calendar = 100.0 * float(end.calendar_loss[k] - start.calendar_loss[k])
    cyclic = 100.0 * float(end.cyclic_loss[k] - start.cyclic_loss[k])
    return {
        "capacity_fade_percent": 100.0 * float(start.capacity[k] - end.capacity[k]),
        "resistance_growth_percent": 100.0 * float(end.resistance[k] - start.resistance[k]),
        "cycle_life_consumed": 100.0 * cyclic / LOSS_AT_END_PCT,
        "calendar_life_consumed": 100.0 * calendar / LOSS_AT_END_PCT,
    }
