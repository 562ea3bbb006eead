"""Prices as learned policies need them: days of history before the interval, and a continuation past the plan's horizon.

Not here: what of the horizon is known and how old it is (serving.dispatch.inputs).
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from core.series import Series
from serving.dispatch.history import unbroken
from stores.connections import Stores
from stores.postgres.series_rows import series_rows

DAY = timedelta(days=1)
BACK = timedelta(days=8)
"""A week, and the day before it that its forecast errors are taken against."""
BEYOND = timedelta(hours=48)
"""A learned value at the end of a plan looks so far past it."""


def long_prices(stores: Stores, site_id: str, name: str, near: Series, starts_at: datetime) -> Series:
    """`near` with the days before it where they are recorded without a gap, continued by the value of 24 hours before."""
    rows = series_rows(stores.pg, site_id, name, starts_at - BACK - timedelta(hours=1), near.start, known_at=starts_at)
    before = unbroken(rows, name)
    start, values = near.start, near.values
    if before is not None and before.end == near.start and before.dt_s == near.dt_s:
        start, values = before.start, np.concatenate([before.values, values])
    per_day = round(DAY.total_seconds() / near.dt_s)
    if len(values) >= per_day:
        wanted = round(BEYOND.total_seconds() / near.dt_s)
        last_day = values[len(values) - per_day :]
        values = np.concatenate([values, np.resize(last_day, wanted)])
    return Series(near.name, start, near.dt_s, values)
