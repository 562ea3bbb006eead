"""Series from CSV files (also gzipped), with stamps that say their zone.

Here: one column of a file as a checked Series. Not here: the project's own datasets (stores.datasets), the split (envs.data).
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import InputError, nearest
from core.series import Series, check_series


def read_series(
    path: Path, column: str, name: str, *, time: str = "", scale: float = 1.0, zone: str | None = None, most_missing: int = 0
) -> Series:
    """A column of a CSV file, times `scale` (0.001 turns EUR/MWh into EUR/kWh).

    `time` names the column of stamps, by default the first one. Stamps without an offset are refused unless `zone` says whose
    clock they show (an IANA name; UTC for most published prices). Up to `most_missing` steps in a row that are absent are filled
    linearly; so are empty cells then. InputError names file, line, value and what was expected.
    """
    text = _text(path)
    rows = csv.reader(io.StringIO(text))
    header = next(rows, [])
    at_value, at_time = _column(header, column, path), _column(header, time, path) if time else 0
    stamps: list[datetime] = []
    values: list[float] = []
    for line, row in enumerate(rows, start=2):
        if not any(row):
            continue
        where = f"{path}:{line}"
        if len(row) <= max(at_value, at_time):
            raise InputError(source=where, field="row", value=",".join(row), expected=f"{len(header)} columns")
        if most_missing > 0 and not row[at_value].strip():
            continue  # as absent as a missing line
        stamps.append(_stamp(row[at_time], zone, where, header[at_time]))
        values.append(_number(row[at_value], where, column) * scale)
    stamps, values = _filled(stamps, values, most_missing, str(path))
    return check_series(name, stamps, values, source=str(path))


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(source=str(path), field="file", value="not there", expected="a CSV file, also .gz") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a readable CSV file, also .gz") from None


def _column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise InputError(source=f"{path}:1", field="column", value=name, expected="a column of the file" + nearest(name, header))
    return header.index(name)


def _stamp(text: str, zone: str | None, where: str, field: str) -> datetime:
    try:
        stamp = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InputError(source=where, field=field, value=text, expected="a time such as 2020-01-31T13:00+00:00") from None
    if stamp.tzinfo is None:
        if zone is None:
            raise InputError(source=where, field=field, value=text, expected="a time with its UTC offset, or a zone for the file")
        stamp = stamp.replace(tzinfo=ZoneInfo(zone))
    return stamp


def _number(text: str, where: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(source=where, field=field, value=text, expected="a finite number")
    return value


def _filled(stamps: list[datetime], values: list[float], most: int, source: str) -> tuple[list[datetime], list[float]]:
    """Fill gaps of whole steps; longer ones are left for check_series to name."""
    if len(stamps) < 2 or most < 1:
        return stamps, values
    steps = [(b - a).total_seconds() for a, b in itertools.pairwise(stamps)]
    dt_s = min((step for step in steps if step > 0), default=0.0)
    out_stamps, out_values = stamps[:1], values[:1]
    for k, step in enumerate(steps):
        missing = round(step / dt_s) - 1 if dt_s > 0 else 0
        if 0 < missing <= most and abs(step - (missing + 1) * dt_s) < 1e-6:
            for j in range(1, missing + 1):
                out_stamps.append(stamps[k] + timedelta(seconds=j * dt_s))
                out_values.append(values[k] + (values[k + 1] - values[k]) * j / (missing + 1))
        out_stamps.append(stamps[k + 1])
        out_values.append(values[k + 1])
    return out_stamps, out_values
