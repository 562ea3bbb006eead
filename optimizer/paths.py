"""Scenarios from past forecast errors: what the corrected forecasts missed on earlier days, at the same time of day, together.

A path is one past day's: load, PV and price of the same day, so that they keep what they have to do with each other. Days are
drawn without repetition by a generator seeded with the time that is planned for: the same inputs give the same scenarios.
Not here: fitting the correction (optimizer.forecast), planning on scenarios (optimizer.scenarios).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from core.series import Series
from optimizer.forecast import ErrorModel, residual_paths

FloatArray = NDArray[np.float64]
MIN_DAYS = 3
"""Fewer past days say too little of what may happen."""


class TooShortError(ValueError):
    """The record of errors does not reach back far enough; the message says of which quantity and how far."""


UNCORRECTED = ErrorModel(dt_s=3600.0, count=0, mean=0.0, phi=0.0, gain_by_hour=np.zeros(1))
"""Expects no error."""


@dataclass(frozen=True, slots=True)
class Past:
    """Errors of one quantity on the plan's grid, oldest first; `lag_steps` steps lie between the last one and the plan."""

    errors: FloatArray
    lag_steps: int
    model: ErrorModel | None
    """The correction that is applied; None when the forecast is taken as it is."""

    def missed(self, origins: NDArray[np.int64], steps: int) -> FloatArray:
        """What the correction still missed after each of these errors, (origins, steps): see residual_paths."""
        return residual_paths(self.errors, self.model or UNCORRECTED, origins, steps, self.lag_steps)


def on_grid(series: Series, start: datetime, dt_s: float) -> tuple[FloatArray, int]:
    """(values, lag) of a series on the grid of a plan: means over dt_s, steps missing between the last one and `start`.

    Raises InputError when the grids do not line up.
    """
    lag_steps = max(0, int(np.ceil((start - series.end).total_seconds() / dt_s - 1e-9)))
    end = start - timedelta(seconds=lag_steps * dt_s)
    count = int(((end - series.start).total_seconds() + 1e-6) // dt_s)
    if count < 1:
        return np.zeros(0), lag_steps
    return series.window(end - timedelta(seconds=count * dt_s), count, dt_s), lag_steps


def draw(
    pasts: Mapping[str, Past], starts_at: datetime, steps: int, dt_s: float, count: int
) -> tuple[dict[str, FloatArray], tuple[int, ...]]:
    """(deviations from the corrected forecast, each (S, steps); the days ago that they are of), S <= count.

    Raises TooShortError when fewer than MIN_DAYS days can be drawn from.
    """
    per_day = round(86_400.0 / dt_s)
    if abs(per_day * dt_s - 86_400.0) > 1e-6:
        raise TooShortError(f"steps of {dt_s:g} s do not divide a day")
    days: set[int] | None = None
    for name, past in pasts.items():
        nearest_day = int(np.ceil((past.lag_steps + steps) / per_day - 1e-9))
        farthest = (len(past.errors) - 1) // per_day
        usable = set(range(max(1, nearest_day), farthest + 1))
        if len(usable) < MIN_DAYS:
            needed = nearest_day + MIN_DAYS - 1
            has = len(past.errors) / per_day
            raise TooShortError(f"errors of {name} reach back {has:.1f} days without a gap, scenarios need {needed} and one step")
        days = usable if days is None else days & usable
    if not days or len(days) < MIN_DAYS:
        raise TooShortError("no quantity has a record of errors" if not days else "the records share too few days")
    known = np.array(sorted(days))
    generator = np.random.default_rng(int(starts_at.timestamp()))
    chosen = np.sort(generator.choice(known, size=min(count, len(known)), replace=False))
    paths = {}
    for name, past in pasts.items():
        origins = len(past.errors) - 1 - chosen * per_day
        paths[name] = past.missed(origins, steps)
    return paths, tuple(int(day) for day in chosen)
