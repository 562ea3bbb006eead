"""Prices for supervised training: reading them, splitting them by time, and what may be known at each step.

Here: Market, Split, Ahead. Three kinds of knowledge, and results of different kinds are never compared:
`published`: day-ahead prices are known to the end of the day, from PUBLISHED_HOUR on to the end of the next;
`hourly_reveal`: a step's price is known when it begins; later ones from forecasts made the day before, out at FORECAST_HOUR;
`no_forecast`: the same without forecasts: later prices are those of the day before.
What lies beyond is taken from a week before. Not here: the plant (optimizer.dynamic), features (policies.learned.layout).
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from optimizer.dynamic import FloatArray, IntArray
from policies.learned.artefact import sha256_of
from policies.learned.layout import season_of

Information = Literal["published", "hourly_reveal", "no_forecast"]
PUBLISHED_HOUR = 13
FORECAST_HOUR = 12
LONGEST_GAP = 6
"""Missing steps in a row that are interpolated; a longer gap is an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """One price zone on a uniform grid, UTC or the market's own clock; arrays (T,)."""

    name: str
    start: datetime
    dt_s: float
    price_eur_per_kwh: FloatArray
    forecasts_eur_per_kwh: FloatArray
    """One column a forecast, (T, M); M is 0 without."""
    sha256: str
    """Of the file."""

    @property
    def steps_per_hour(self) -> int:
        """Steps in an hour."""
        return round(3600.0 / self.dt_s)

    @property
    def steps_per_day(self) -> int:
        """Steps in a day."""
        return 24 * self.steps_per_hour

    def step_of_day(self) -> IntArray:
        """Steps since midnight."""
        first = round((self.start - self.start.replace(hour=0, minute=0)).total_seconds() / self.dt_s)
        return (first + np.arange(len(self.price_eur_per_kwh), dtype=np.int64)) % self.steps_per_day

    def hour(self) -> FloatArray:
        """Hour of the day with its fraction."""
        return np.asarray(self.step_of_day() / self.steps_per_hour, dtype=np.float64)

    def weekday(self) -> IntArray:
        """0 on Monday."""
        first = round((self.start - self.start.replace(hour=0, minute=0)).total_seconds() / self.dt_s)
        days = (first + np.arange(len(self.price_eur_per_kwh), dtype=np.int64)) // self.steps_per_day
        return (self.start.weekday() + days) % 7

    def season(self) -> FloatArray:
        """Years of 365.25 days since the beginning of 2000, of which the fraction says the season."""
        first = (self.start - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()
        seconds = first + self.dt_s * np.arange(len(self.price_eur_per_kwh))
        return season_of(np.asarray(seconds, dtype=np.float64))

    def index(self, day: date) -> int:
        """First step at or after the start of a day, within [0, T]."""
        at = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return int(np.clip(np.ceil((at - self.start).total_seconds() / self.dt_s), 0, len(self.price_eur_per_kwh)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Half-open ranges of steps, in order of time and apart. The test is for reports."""

    train: tuple[int, int]
    validate: tuple[int, int]
    test: tuple[tuple[int, int], ...] = ()

    def checked(self, source: str, first_usable: int = 0) -> Split:
        """Itself; raises InputError naming the range that is empty, or that overlaps or precedes an earlier one."""
        ranges = [("train", self.train), ("validate", self.validate), *(("test", item) for item in self.test)]
        end = first_usable
        for name, (a, b) in ranges:
            if b <= a:
                raise InputError(source=source, field=f"split.{name}", value=(a, b), expected="a range that holds data")
            if a < end:
                raise InputError(
                    source=source, field=f"split.{name}", value=(a, b), expected=f"steps from {end} on: ranges must not overlap"
                )
            end = b
        return self


def split_by_half(market: Market, validation_days: int = 60) -> Split:
    """First half for training, its last days for validation, second half for the test."""
    half = len(market.price_eur_per_kwh) // 2 // market.steps_per_day * market.steps_per_day
    edge = half - validation_days * market.steps_per_day
    found = Split(train=(0, edge), validate=(edge, half), test=((half, len(market.price_eur_per_kwh)),))
    return found.checked(market.name)


def split_by_dates(market: Market, edges: Sequence[date]) -> Split:
    """[start of training, of validation, of each test period, end], in order."""
    at = [market.index(edge) for edge in edges]
    pairs = list(pairwise(at))
    if len(pairs) < 2:
        raise InputError(source=market.name, field="split", value=[str(e) for e in edges], expected="at least three dates")
    return Split(train=pairs[0], validate=pairs[1], test=tuple(pairs[2:])).checked(market.name)


def read_market(path: Path, price_column: str, forecast_columns: Sequence[str] = (), eur_per_kwh: float = 1e-3) -> Market:
    """Read a CSV (also .gz) whose first column is a stamp. `eur_per_kwh` turns the file's unit into EUR/kWh (EUR/MWh: 0.001).

    Raises InputError naming file, line and column for what cannot be read, and for gaps of more than LONGEST_GAP steps.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a readable CSV file") from None
    rows = list(csv.reader(text.splitlines()))
    if len(rows) < 50:
        raise InputError(source=str(path), field="rows", value=len(rows), expected="at least two days of prices")
    header, columns = rows[0], [price_column, *forecast_columns]
    for name in columns:
        if name not in header:
            raise InputError(source=str(path), field="columns", value=header, expected=f"a column {name!r}")
    where = [header.index(name) for name in columns]
    stamps, values = [], np.full((len(rows) - 1, len(columns)), np.nan)
    for line, row in enumerate(rows[1:], start=2):
        try:
            at = datetime.fromisoformat(row[0].replace("Z", "+00:00"))
            stamps.append(at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC))
            values[line - 2] = [float(row[k]) if row[k] else np.nan for k in where]
        except (ValueError, IndexError) as error:
            raise InputError(
                source=f"{path}:{line}", field="row", value=row[:4], expected=f"stamp and numbers ({error})"
            ) from None
    dt_s = float(np.median(np.diff([at.timestamp() for at in stamps[:200]])))
    if not dt_s > 0 or 3600.0 % dt_s:
        raise InputError(source=str(path), field="stamps", value=f"{dt_s:g} s apart", expected="an hour, or a whole part of one")
    filled = _on_grid(path, stamps, values, dt_s) * eur_per_kwh
    return Market(
        name=path.name.split(".")[0],
        start=stamps[0],
        dt_s=dt_s,
        price_eur_per_kwh=np.ascontiguousarray(filled[:, 0]),
        forecasts_eur_per_kwh=np.ascontiguousarray(filled[:, 1:]),
        sha256=sha256_of(raw),
    )


def _on_grid(path: Path, stamps: list[datetime], values: FloatArray, dt_s: float) -> FloatArray:
    at = np.array([(stamp - stamps[0]).total_seconds() for stamp in stamps]) / dt_s
    if (np.diff(at) <= 0).any() or np.abs(at - np.round(at)).max() > 1e-6:
        bad = stamps[int(np.argmax(np.diff(at) <= 0)) + 1]
        raise InputError(source=str(path), field="stamps", value=bad.isoformat(), expected=f"rising stamps every {dt_s:g} s")
    grid = np.full((round(at[-1]) + 1, values.shape[1]), np.nan)
    grid[np.round(at).astype(int)] = values
    steps = np.arange(len(grid))
    for column in range(grid.shape[1]):
        known = np.flatnonzero(np.isfinite(grid[:, column]))
        longest = int(np.diff(known).max(initial=1)) - 1 if len(known) > 1 else len(grid)
        if longest > LONGEST_GAP or known[0] > 0 or known[-1] < len(grid) - 1:
            first = stamps[0] + timedelta(seconds=dt_s * int(known[int(np.argmax(np.diff(known)))] if len(known) > 1 else 0))
            raise InputError(
                source=str(path),
                field="gap",
                value=f"{longest} steps after {first}",
                expected=f"at most {LONGEST_GAP} missing in a row",
            )
        grid[:, column] = np.interp(steps, known, grid[known, column])
    return grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What is known or expected at each step of the K steps after it."""

    price_eur_per_kwh: FloatArray
    """(T, K)."""
    steps: IntArray
    """How many of them lie within the data, (T,)."""
    published_share: FloatArray
    """(T,)."""
    error_eur_per_kwh: FloatArray
    """Latest error: price now less what was expected of it; 0 where prices are published. (T,)."""

    def corrected(self, phi: float) -> FloatArray:
        """(T, K): the share phi^k of the latest error is taken to be left k steps later (AR(1))."""
        left = phi ** np.arange(1, self.price_eur_per_kwh.shape[1] + 1)
        return self.price_eur_per_kwh + self.error_eur_per_kwh[:, None] * left


def look_ahead(
    market: Market, information: Information, horizon_steps: int, rows: tuple[int, int] | None = None, days: int = 1
) -> Ahead:
    """What a policy may know at the steps `rows` (all when left out) under `information`.

    Nothing of it comes from after the step but what is published or forecast. Without forecasts a step is expected to be the mean
    of the same time on the last `days` days.
    """
    price, day = market.price_eur_per_kwh, market.steps_per_day
    first, end = rows or (0, len(price))
    now = np.arange(first, end, dtype=np.int64)
    target = now[:, None] + 1 + np.arange(horizon_steps, dtype=np.int64)[None, :]
    inside = np.minimum(target, len(price) - 1)
    step = market.step_of_day()[first:end]
    midnight = now - step
    error, known = np.zeros(len(now)), np.zeros_like(target, dtype=bool)
    if information == "published":
        early = step < PUBLISHED_HOUR * market.steps_per_hour
        until = midnight + np.where(early, day, 2 * day)
        known = target < until[:, None]
        expected = np.where(known, price[inside], price[_back(target, until[:, None] - 1, 7 * day)])
    elif information == "hourly_reveal":
        if not market.forecasts_eur_per_kwh.shape[1]:
            raise InputError(source=market.name, field="forecasts", value="none", expected="forecast columns for hourly_reveal")
        mean = market.forecasts_eur_per_kwh.mean(axis=1)
        early = step < FORECAST_HOUR * market.steps_per_hour
        until = midnight + np.where(early, day, 2 * day)
        expected = np.where(target < until[:, None], mean[inside], price[_back(target, now[:, None], 7 * day)])
        error = price[first:end] - mean[first:end]
    else:
        profile = same_time_of_day(market, days)
        same = np.minimum(_same_day(target, midnight, day), len(price) - 1)
        expected = price[_back(target, now[:, None], day)] if days == 1 else profile[same]
        error = price[first:end] - profile[first:end]
    return Ahead(
        price_eur_per_kwh=np.ascontiguousarray(expected),
        steps=np.minimum(horizon_steps, end - 1 - now),
        published_share=known.mean(axis=1),
        error_eur_per_kwh=error,
    )


def same_time_of_day(market: Market, days: int) -> FloatArray:
    """Mean of the prices at the same time of the last `days` days, today's left out; the first day's own; (T,)."""
    price, day = market.price_eur_per_kwh, market.steps_per_day
    total = len(price)
    rows = -(-total // day)
    padded = np.concatenate([price, np.full(rows * day - total, price[-1])]).reshape(rows, day)
    sums = np.concatenate([np.zeros((1, day)), np.cumsum(padded, axis=0)])
    index = np.arange(rows)
    begin = np.maximum(index - days, 0)
    count = np.maximum(index - begin, 1)[:, None]
    found = np.where((index > 0)[:, None], (sums[index] - sums[begin]) / count, padded)
    return np.ascontiguousarray(found.reshape(-1)[:total])


def _same_day(target: IntArray, midnight: IntArray, day: int) -> IntArray:
    """Steps of the present day (whose profile is known) at the targets' time of day."""
    found: IntArray = midnight[:, None] + (target - midnight[:, None]) % day
    return found


def _back(target: IntArray, last_known: NDArray[np.int64], period: int) -> IntArray:
    """The latest known step that is whole periods before the target; the first step where the data begin."""
    periods = np.maximum(1, -((last_known - target) // period))
    return np.asarray(np.maximum(target - periods * period, 0), dtype=np.int64)


def trailing(values: FloatArray, window: int) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation over the last `window` values up to and including each; both (T,). Fewer at the start."""
    first = np.concatenate([[0.0], np.cumsum(values)])
    second = np.concatenate([[0.0], np.cumsum(values**2)])
    end = np.arange(1, len(values) + 1)
    begin = np.maximum(0, end - window)
    count = end - begin
    mean = (first[end] - first[begin]) / count
    return mean, np.sqrt(np.maximum((second[end] - second[begin]) / count - mean**2, 0.0))
