"""Exogenous data of an environment on one time grid, and its split into train, validation and test that cannot leak.

Here: `Exogenous` (checked arrays), `Split`, `Part`. Not here: reading files (envs.read), features (envs.features), obtaining data
(stores.datasets): an environment is handed series or paths.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from core.series import Series

FloatArray = NDArray[np.float64]
PartName = Literal["train", "validation", "test"]
PARTS: tuple[PartName, ...] = ("train", "validation", "test")
HISTORY_DAYS = 8
"""Days before a part that its first rows may look back on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exogenous:
    """What happens at a site whatever the packs do; arrays of one shape (N,), value k over [start + k dt, start + (k+1) dt)."""

    start: datetime
    dt_s: float
    price_eur_per_kwh: FloatArray
    load_w: FloatArray
    pv_w: FloatArray
    ambient_c: FloatArray
    price_forecast_eur_per_kwh: FloatArray | None = None
    """Of each local day, as made before noon of the day before."""
    forecast_spread_eur_per_kwh: FloatArray | None = None
    """Disagreement of several forecasts."""
    load_forecast_w: FloatArray | None = None
    pv_forecast_w: FloatArray | None = None
    """Both as known a day ahead."""
    timezone: str = "Europe/Amsterdam"
    """Of days, publication and calendar."""

    def __post_init__(self) -> None:
        if self.start.tzinfo is None:
            raise InputError(
                source="exogenous data", field="start", value=self.start.isoformat(), expected="a time with UTC offset"
            )
        if self.dt_s <= 0 or 3600.0 % self.dt_s:
            raise InputError(source="exogenous data", field="dt_s", value=self.dt_s, expected="a whole part of an hour")
        n = len(self.price_eur_per_kwh)
        for name, values in self.arrays().items():
            if values.shape != (n,):
                raise InputError(source="exogenous data", field=name, value=f"{len(values)} values", expected=f"{n} values")
            if not np.isfinite(values).all():
                at = int(np.argmin(np.isfinite(values)))
                raise InputError(source="exogenous data", field=f"{name}[{at}]", value=values[at], expected="a finite number")

    def __len__(self) -> int:
        return len(self.price_eur_per_kwh)

    def arrays(self) -> dict[str, FloatArray]:
        """The series that are there, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}

    @property
    def end(self) -> datetime:
        """End of the last step."""
        return self.start + timedelta(seconds=self.dt_s * len(self))

    def row(self, at: datetime) -> int:
        """The row that begins at a time; may lie outside of the data."""
        return round((at - self.start).total_seconds() / self.dt_s)

    def rows(self, first: int, last: int) -> Exogenous:
        """Rows [first, last): nothing after `last` remains."""
        cut: dict[str, Any] = {name: value[first:last].copy() for name, value in self.arrays().items()}
        return replace(self, start=self.start + timedelta(seconds=self.dt_s * first), **cut)

    def sha256(self) -> str:
        """Hash of grid and values, for the record of a training run."""
        digest = hashlib.sha256(f"{self.start.astimezone(UTC).isoformat()} {self.dt_s} {self.timezone}".encode())
        for name, values in sorted(self.arrays().items()):
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    @classmethod
    def from_series(
        cls,
        price: Series,
        *,
        dt_s: float = 900.0,
        load: Series | None = None,
        pv: Series | None = None,
        ambient: Series | float = 15.0,
        price_forecast: Series | None = None,
        forecast_spread: Series | None = None,
        load_forecast: Series | None = None,
        pv_forecast: Series | None = None,
        timezone: str = "Europe/Amsterdam",
    ) -> Exogenous:
        """Put series (EUR/kWh, W, deg C) on the price's span with steps of dt_s; what is absent is none: no load, no PV.

        A series on a finer grid is averaged, on a coarser one repeated. Raises InputError when one does not cover the span.
        """
        steps = int((price.end - price.start).total_seconds() // dt_s)

        def on(series: Series | None) -> FloatArray | None:
            return None if series is None else series.window(price.start, steps, dt_s)

        def or_zero(series: Series | None) -> FloatArray:
            return np.zeros(steps) if series is None else series.window(price.start, steps, dt_s)

        return cls(
            start=price.start,
            dt_s=dt_s,
            price_eur_per_kwh=price.window(price.start, steps, dt_s),
            load_w=or_zero(load),
            pv_w=or_zero(pv),
            ambient_c=ambient.window(price.start, steps, dt_s) if isinstance(ambient, Series) else np.full(steps, float(ambient)),
            price_forecast_eur_per_kwh=on(price_forecast),
            forecast_spread_eur_per_kwh=on(forecast_spread),
            load_forecast_w=on(load_forecast),
            pv_forecast_w=on(pv_forecast),
            timezone=timezone,
        )


@dataclass(frozen=True, slots=True)
class Period:
    """[start, end) of one part, aware."""

    start: datetime
    end: datetime

    @classmethod
    def of_years(cls, years: Iterable[int], timezone: str = "Europe/Amsterdam") -> Period:
        """A run of calendar years of a zone; InputError when there is a gap in it."""
        given = sorted(set(years))
        if not given or given != list(range(given[0], given[-1] + 1)):
            raise InputError(source="split", field="years", value=given, expected="a run of years without a gap")
        zone = ZoneInfo(timezone)
        return cls(datetime(given[0], 1, 1, tzinfo=zone), datetime(given[-1] + 1, 1, 1, tzinfo=zone))

    def overlap(self, other: Period) -> Period | None:
        """What two periods share."""
        start, end = max(self.start, other.start), min(self.end, other.end)
        return Period(start, end) if start < end else None

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d} to {self.end:%Y-%m-%d}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Which period is for what. Disjoint, checked when it is made: a test year in training is an error that names it."""

    train: Period
    validation: Period
    test: Period

    def __post_init__(self) -> None:
        for a, b in (("train", "test"), ("train", "validation"), ("validation", "test")):
            shared = getattr(self, a).overlap(getattr(self, b))
            if shared is not None:
                last = (shared.end - timedelta(seconds=1)).year
                years = ", ".join(str(year) for year in range(shared.start.year, last + 1))
                raise InputError(
                    source="split", field=a, value=f"{years} ({shared})", expected=f"nothing of {b}: the split leaks"
                )

    @classmethod
    def by_years(
        cls, train: Iterable[int], validation: Iterable[int], test: Iterable[int], timezone: str = "Europe/Amsterdam"
    ) -> Split:
        """Whole calendar years."""
        a, b, c = (Period.of_years(years, timezone) for years in (train, validation, test))
        return cls(train=a, validation=b, test=c)


DUTCH_PRICES = Split.by_years(range(2015, 2022), [2022], [2023, 2024])
"""Train 2015-2021, validate 2022, test 2023 and 2024. Test years are for reports, never for choosing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part's data: its own rows and a week of history before them. What comes after its end is not in it."""

    name: str
    exogenous: Exogenous
    first_row: int
    """Where its own rows begin; earlier ones are history."""

    @property
    def last_row(self) -> int:
        """One past its last row."""
        return len(self.exogenous)

    def narrowed(self, period: Period) -> Part:
        """A shorter stretch of this part, a test year say. InputError when it reaches beyond."""
        data = self.exogenous
        first, last = data.row(period.start), data.row(period.end)
        if first < self.first_row or last > self.last_row or first >= last:
            own = Period(data.start + timedelta(seconds=data.dt_s * self.first_row), data.end)
            raise InputError(source=f"{self.name} part", field="period", value=str(period), expected=f"a stretch of {own}")
        history = max(0, first - round(HISTORY_DAYS * 86_400 / data.dt_s))
        return Part(name=self.name, exogenous=data.rows(history, last), first_row=first - history)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """Data with its split; the only way to the rows is through a part."""

    exogenous: Exogenous
    split: Split

    def part(self, name: PartName) -> Part:
        """Train, validation or test. InputError when the data has no rows of that period."""
        if name not in PARTS:
            raise InputError(source="data set", field="part", value=name, expected=f"one of {', '.join(PARTS)}")
        period: Period = getattr(self.split, name)
        data = self.exogenous
        first, last = max(0, data.row(period.start)), min(len(data), data.row(period.end))
        if first >= last:
            raise InputError(
                source="data set", field=name, value=str(period), expected=f"a period within {Period(data.start, data.end)}"
            )
        history = max(0, first - round(HISTORY_DAYS * 86_400 / data.dt_s))
        return Part(name=name, exogenous=data.rows(history, last), first_row=first - history)


def whole(exogenous: Exogenous, name: str = "all") -> Part:
    """All rows as one part, for tests and for data that is split elsewhere."""
    return Part(name=name, exogenous=exogenous, first_row=0)
