"""A dispatch signal: net import that the site is asked for over time, with holes where nothing is asked.

Here: the value object and its values on another grid. Not here: where it comes from (serving.series_file, stores), tracking it
(optimizer.problem).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from math import gcd

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SignalStep:
    """Net import (W, export negative) asked for over [starts_at, starts_at + dt_s); whole seconds."""

    starts_at: datetime
    dt_s: float
    net_import_w: float
    known_at: datetime


@dataclass(frozen=True, slots=True)
class DispatchSignal:
    """Steps in any order. Where they overlap the one that became known last holds, among equals the one that starts later."""

    steps: tuple[SignalStep, ...]

    def window(self, start: datetime, steps: int, dt_s: float) -> tuple[FloatArray, NDArray[np.bool_]]:
        """(net import, whether it is asked for) on the grid (start, dt_s, steps); both (steps,).

        A step of the grid counts as asked for when all of it is covered; its value is the mean. Elsewhere the value is 0.
        """
        offsets = [round((step.starts_at - start).total_seconds()) for step in self.steps]
        fine_s = gcd(round(dt_s), *offsets, *(round(step.dt_s) for step in self.steps))
        per_step = round(dt_s) // fine_s
        value, known = np.zeros(steps * per_step), np.zeros(steps * per_step, dtype=np.bool_)
        order = sorted(zip(self.steps, offsets, strict=True), key=lambda pair: (pair[0].known_at, pair[0].starts_at))
        for step, offset in order:
            first = max(0, offset // fine_s)
            last = max(0, (offset + round(step.dt_s)) // fine_s)
            value[first:last], known[first:last] = step.net_import_w, True
        asked = np.asarray(known.reshape(steps, per_step).all(axis=1), dtype=np.bool_)
        mean = value.reshape(steps, per_step).mean(axis=1)
        return np.where(asked, mean, 0.0), asked
