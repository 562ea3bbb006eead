"""The record that a load chain is counted on: prices, load less PV, the site's clock, split by days.

Here: reading the files of a config, up to the end of its validation. Not here: counting (training.chain_fit).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import InputError
from core.series import Series
from envs.data import Period
from envs.read import read_series
from policies.learned.load_chain import BoolArray, FloatArray, IntArray, local_clock
from training.chain_config import LEAST_DAYS, ChainConfig
from training.config_file import Origin

Rows = tuple[int, int]
BEFORE = timedelta(days=28)
"""Of record that the validation needs before it: prices of a week, loads of like days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Steps one after another from `start` on, (T,) each, to the end of the validation."""

    start: datetime
    dt_s: float
    price_eur_per_kwh: FloatArray
    load_kw: FloatArray
    """Less PV."""
    kind: IntArray
    hour: IntArray
    month_ends: BoolArray
    train: Rows
    validation: Rows

    def sha256(self) -> str:
        """Of grid and values."""
        digest = hashlib.sha256(f"{self.start.isoformat()} {self.dt_s} {self.train} {self.validation}".encode())
        for values in (self.price_eur_per_kwh, self.load_kw):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def read_record(config: ChainConfig, origin: Origin) -> Record:
    """Raises InputError for a file that cannot be read, and at the line of a part that the files do not cover."""
    data = config.data
    read: dict[str, Series] = {
        name: read_series(
            file.path, file.column, name, time=file.time, scale=file.scale, zone=file.zone, most_missing=file.most_missing
        )
        for name, file in data.files().items()
    }
    split = config.split.periods(data.timezone)
    start = max(series.start for series in read.values())
    start = (start + timedelta(seconds=3599)).replace(minute=0, second=0, microsecond=0)
    end = min(split.validation.end.astimezone(UTC), *(series.end for series in read.values()))
    spans = {}
    for name, period in (("train", split.train), ("validation", split.validation)):
        first, last = max(period.start, start), min(period.end, end)
        if last - first < timedelta(days=LEAST_DAYS[name]):
            raise InputError(
                source=origin.of(f"split.{name}"), field=f"split.{name}", value=str(period),
                expected=f"{LEAST_DAYS[name]} days or more that all files hold: {Period(start, end)}",
            )  # fmt: skip
        spans[name] = (round((first - start).total_seconds() / data.dt_s), round((last - start).total_seconds() / data.dt_s))
    count = spans["validation"][1]
    if spans["validation"][0] * data.dt_s < BEFORE.total_seconds():
        raise InputError(
            source=origin.of("split.validation"), field="split.validation", value=str(split.validation),
            expected=f"{BEFORE.days} days of record before it",
        )  # fmt: skip
    load_w = read["load"].window(start, count, data.dt_s)
    if "pv" in read:
        load_w = load_w - read["pv"].window(start, count, data.dt_s)
    kind, hour, month_ends = local_clock(start, count, data.dt_s, ZoneInfo(data.timezone))
    return Record(
        start=start, dt_s=float(data.dt_s), price_eur_per_kwh=read["price"].window(start, count, data.dt_s),
        load_kw=load_w / 1000.0, kind=kind, hour=hour, month_ends=month_ends, train=spans["train"],
        validation=spans["validation"],
    )  # fmt: skip
