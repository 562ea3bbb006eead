"""Config of the load chain's training (`algorithm: load_chain`); every key is checked, unknown ones are refused.

Here: the models. Not here: reading the data (training.chain_data), counting and the gate (training.chain_fit), files and lines
(training.config_file).
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, Field, field_validator

from core.devices import Chemistry
from core.errors import InputError
from core.site import Tariff
from core.yamlconfig import ConfigModel, Number
from envs.data import Period, Split
from training.rl_config import SeriesFile

_YEARS = re.compile(r"^\s*(\d{4})(?:\s*-\s*(\d{4}))?\s*$")
_DAYS = re.compile(r"^\s*(\d{4}-\d{2}-\d{2})\s+to\s+(\d{4}-\d{2}-\d{2})\s*$")
LEAST_DAYS = {"train": 56, "validation": 31}


def _span(value: object) -> object:
    """2022, "2015-2021", or "2025-01-01 to 2025-07-01" (the last day not of it), as the first day and the day after the last."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(one, date) for one in value):
        return tuple(value)
    text = value if isinstance(value, str) else ""
    try:
        if found := _YEARS.match(text):
            return date(int(found[1]), 1, 1), date(int(found[2] or found[1]) + 1, 1, 1)
        if found := _DAYS.match(text):
            return date.fromisoformat(found[1]), date.fromisoformat(found[2])
    except ValueError:
        pass
    raise ValueError('a year, years as 2015-2021, or days as "2025-01-01 to 2025-07-01"')


Span = Annotated[tuple[date, date], BeforeValidator(_span)]
Positive = Annotated[Number, Field(gt=0.0)]
NotNegative = Annotated[Number, Field(ge=0.0)]


class ChainData(ConfigModel):
    """The site's own record: its load, PV where it has some, and the prices of the same time."""

    price: SeriesFile
    load: SeriesFile
    """Consumption behind the meter, W (`scale` turns another unit into it), mean of each step."""
    pv: SeriesFile | None = None
    """Needed where the site has PV: the chain is then that of load less PV."""
    dt_s: Literal[900, 1800, 3600] = 900
    """The interval of the site's policies. Coarser files are repeated, finer ones averaged."""
    timezone: str = "Europe/Amsterdam"

    @field_validator("timezone")
    @classmethod
    def _zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("an IANA time zone such as Europe/Amsterdam") from None
        return name

    def files(self) -> dict[str, SeriesFile]:
        """Those that are there, by name."""
        given = {"price": self.price, "load": self.load, "pv": self.pv}
        return {name: file for name, file in given.items() if file is not None}


class ChainSplit(ConfigModel):
    """Local days; each part after the one before. What comes after the validation is the test and is not read."""

    train: Span
    validation: Span
    test: Span | None = None

    def periods(self, timezone: str) -> Split:
        """Raises InputError naming the part that is too short, out of order, or leaks into another."""
        zone, parts = ZoneInfo(timezone), {"train": self.train, "validation": self.validation}
        end = date.min
        for name, (first, after) in (parts | ({} if self.test is None else {"test": self.test})).items():
            least = timedelta(days=LEAST_DAYS.get(name, 1))
            if after - first < least:
                raise InputError(
                    source="split", field=name, value=f"{first} to {after}", expected=f"{least.days} days or more, rising"
                )
            if first < end:
                raise InputError(
                    source="split", field=name, value=f"{first} to {after}", expected=f"days from {end} on: the split leaks"
                )
            end = after
        made = [Period(*(datetime.combine(day, time(0), tzinfo=zone) for day in span)) for span in parts.values()]
        test = self.test or (self.validation[1], self.validation[1])
        return Split(
            train=made[0], validation=made[1], test=Period(*(datetime.combine(day, time(0), tzinfo=zone) for day in test))
        )


class ChainStore(ConfigModel):
    """The store that the gate is chosen with: the site's packs together."""

    capacity_wh: Positive
    """Between the limits of the state of charge."""
    power_w: Positive
    round_trip: Annotated[Number, Field(gt=0.25, le=1.0)] = 0.9025
    wear_eur_per_kwh: NotNegative = 0.005
    """Per kWh delivered."""


class ChainConfig(ConfigModel):
    """A training of the load chain. Unknown keys are refused."""

    algorithm: Literal["load_chain"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    data: ChainData
    split: ChainSplit
    store: ChainStore
    peak_eur_per_kw: Positive
    """Of a calendar month's highest import."""
    tariff: Tariff = Tariff()
    chemistries: Annotated[tuple[Chemistry, ...], Field(min_length=1)] = tuple(Chemistry)

    @field_validator("chemistries", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value
