"""What a telemetry document must be: the contract's units, ranges and signs, and the fields that are derived from it.

Here: one document judged (`judge`), many judged fast (`suspects` finds those that `judge` must look at), normal form and
identity (`normalise`). Not here: files (serving.telemetry_import), the store (stores.mongo.ingest), a file as a whole
(core.telemetry_soc).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

Document = dict[str, Any]

RANGES: Mapping[str, tuple[float, float, str]] = {
    "voltage": (0.0, 5_000.0, "V"),
    "current": (-50_000.0, 50_000.0, "A, negative = charging"),
    "power": (-1e8, 1e8, "W, negative = charging"),
    "temperature": (-100.0, 200.0, "°C"),
    "soc": (0.0, 100.0, "%"),
    "soh": (1.0, 100.0, "% (not a share of 1)"),
    "internal_resistance": (0.0, 1_000.0, "Ohm"),
}
"""Lowest, highest (both allowed) and unit of each measurement. SoH at or below 1 is a share, not a percentage: refused."""
CELL_RANGES: Mapping[str, tuple[float, float, str]] = {
    "voltages": (-10.0, 10.0, "V"),
    "temperatures": (-100.0, 200.0, "°C"),
    "balancing_status": (0.0, 1.0, "0 or 1"),
}
FUTURE = timedelta(minutes=5)
"""A device's clock may be ahead by this much; more is a wrong clock or a wrong offset."""
RETENTION = timedelta(days=90)
"""The contract's TTL of telemetry_data: an older document would be deleted within a minute."""
EXPIRY_MARGIN = timedelta(hours=2)
SIGN_FLOOR_W = 200.0
"""Below this, standby losses may give power and current different signs."""
UNIT_FLOOR_W = 1_000.0
UNIT_RATIO = 10.0
"""Power and voltage x current differ by losses; by ten times only when a unit is wrong (kW, mV, mA)."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_QUARTER = timedelta(minutes=15)
_NAMES = tuple(RANGES)
_LOW, _HIGH = (np.array([bounds[k] for bounds in RANGES.values()]) for k in (0, 1))
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBERS = {float, int}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a document is set aside: a short reason that is counted, and the field, value and expectation to mend it."""

    reason: str
    field: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.field} is {str(self.value)[:80]!r}, expected {self.expected}"


def parse_stamp(value: object) -> datetime | None:
    """A datetime, an ISO 8601 text or MongoDB's {"$date": text or ms} as a datetime (maybe naive); None otherwise."""
    if isinstance(value, Mapping) and set(value) == {"$date"}:
        value = value["$date"]
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e14:
            return EPOCH + value * _MS
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value if isinstance(value, datetime) else None


def judge(document: object, now: datetime) -> Verdict | None:
    """None when the document may be stored, else the first thing that is wrong with it. `now`: aware, the plant's present."""
    if not isinstance(document, Mapping):
        return Verdict("shape", "document", document, "an object")
    for name in document:
        if not isinstance(name, str) or name.startswith("$") or name == "_id":
            return Verdict("shape", str(name), document[name], "the contract's fields")
    for name in ("site_id", "device_id"):
        value = document.get(name)
        if type(value) is not str or not 0 < len(value) <= 255 or _CONTROL.search(value) or not _encodes(value):
            return Verdict("identity", name, value, "a text of 1 to 255 characters")
    return (
        _judge_stamp(document, now)
        or _judge_measurements(document.get("measurements"))
        or _judge_cells(document.get("cell_data", {}))
        or _judge_safety(document.get("safety", {}))
        or _judge_metadata(document.get("metadata", {}))
    )


def _encodes(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def _judge_stamp(document: Mapping[str, Any], now: datetime) -> Verdict | None:
    raw = document.get("timestamp")
    stamp = parse_stamp(raw)
    if stamp is None:
        return Verdict("timestamp", "timestamp", raw, "an ISO 8601 time")
    offset = stamp.utcoffset()
    if offset is None:
        return Verdict("naive_timestamp", "timestamp", raw, "a time with its UTC offset")
    if offset % _QUARTER or not timedelta(hours=-12) <= offset <= timedelta(hours=14):
        return Verdict("wrong_offset", "timestamp", raw, "a UTC offset in use somewhere (-12:00 to +14:00, quarters)")
    if stamp > now + FUTURE:
        return Verdict("future", "timestamp", raw, f"not after {now.isoformat(timespec='seconds')} (wrong clock or offset?)")
    if stamp < now - RETENTION + EXPIRY_MARGIN:
        return Verdict("expired", "timestamp", raw, "not older than the 90 days that telemetry is kept")
    utc = stamp.astimezone(UTC)
    for name, derived in (("day", f"{utc:%Y-%m-%d}"), ("hour", utc.hour)):
        given = document.get(name)
        if given is not None and given != derived:
            return Verdict("wrong_offset", name, given, f"{derived!r}, which the timestamp gives in UTC")
    return None


def _number(value: object) -> float | None:
    """The value as a float; None when it is no finite number that BSON holds (a bool is none, an integer has 64 bits)."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    return float(value) if type(value) is int and abs(value) < 2**63 else None


def _judge_number(value: object, low: float, high: float) -> bool:
    number = _number(value)
    return number is not None and low <= number <= high


def _judge_measurements(measured: object) -> Verdict | None:
    if not isinstance(measured, Mapping):
        return Verdict("shape", "measurements", measured, "an object")
    for name, (low, high, unit) in RANGES.items():
        value = measured.get(name)
        number = _number(value)
        if number is None:
            return Verdict("not_a_number", f"measurements.{name}", value, f"a finite number, {unit}")
        if not low <= number <= high or (name == "soh" and number == low):
            return Verdict("range", f"measurements.{name}", value, f"{low:g} to {high:g} {unit}")
    power_w, product_w = float(measured["power"]), float(measured["voltage"]) * float(measured["current"])
    if power_w * product_w < 0 and min(abs(power_w), abs(product_w)) > SIGN_FLOOR_W:
        return Verdict("sign", "measurements.power", power_w, f"the sign of the current ({measured['current']:g} A)")
    small, large = sorted((abs(power_w), abs(product_w)))
    if large > UNIT_FLOOR_W and small * UNIT_RATIO < large:
        return Verdict("unit", "measurements.power", power_w, f"W, near voltage x current = {product_w:.0f} W")
    return None


def _judge_cells(cells: object) -> Verdict | None:
    if not isinstance(cells, Mapping):
        return Verdict("shape", "cell_data", cells, "an object")
    for name, (low, high, unit) in CELL_RANGES.items():
        values = cells.get(name, [])
        if type(values) is not list:
            return Verdict("shape", f"cell_data.{name}", values, "a list")
        for k, value in enumerate(values):
            if not _judge_number(value, low, high) or (name == "balancing_status" and value not in (0, 1)):
                return Verdict("cell_data", f"cell_data.{name}[{k}]", value, f"{low:g} to {high:g} {unit}")
    return None


def _judge_safety(safety: object) -> Verdict | None:
    if not isinstance(safety, Mapping):
        return Verdict("shape", "safety", safety, "an object")
    flags = safety.get("alarm_flags", [])
    if type(flags) is not list or not all(type(flag) is str and flag and _encodes(flag) for flag in flags):
        return Verdict("safety", "safety.alarm_flags", flags, "a list of texts")
    states = safety.get("protection_status", {})
    if not isinstance(states, Mapping) or not all(type(state) is bool for state in states.values()):
        return Verdict("safety", "safety.protection_status", states, "true or false for each protection")
    return None


def _judge_metadata(metadata: object) -> Verdict | None:
    if not isinstance(metadata, Mapping):
        return Verdict("shape", "metadata", metadata, "an object")
    for name, high in (("data_quality", 1.0), ("communication_latency", 1e9)):
        if name in metadata and not _judge_number(metadata[name], 0.0, high):
            return Verdict("quality" if high == 1.0 else "range", f"metadata.{name}", metadata[name], f"0 to {high:g}")
    chemistry = metadata.get("chemistry")
    if chemistry is not None and (type(chemistry) is not str or not _encodes(chemistry)):
        return Verdict("shape", "metadata.chemistry", chemistry, "a text")
    return None


# Many at once


def suspects(documents: Sequence[Any], now: datetime) -> NDArray[np.bool_]:
    """True where `judge` must decide; False only where it would find nothing. Shape (N,).

    Numbers are judged as arrays. A batch that does not have the usual shape is halved until the odd ones are alone.
    """
    try:
        return _suspects(documents, now)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        if len(documents) <= 8:
            return np.ones(len(documents), dtype=bool)
        half = len(documents) // 2
        return np.concatenate([suspects(documents[:half], now), suspects(documents[half:], now)])


_TOP = itemgetter("site_id", "device_id", "timestamp", "measurements")
_MEASURED = itemgetter(*_NAMES)
_KNOWN = {"site_id", "device_id", "timestamp", "measurements", "cell_data", "safety", "metadata"}


def _suspects(documents: Sequence[Any], now: datetime) -> NDArray[np.bool_]:
    count = len(documents)
    if count == 0:
        return np.zeros(0, dtype=bool)
    sites, devices, stamps, measured = zip(*map(_TOP, documents), strict=True)
    if set(map(type, documents)) != {dict} or not set().union(*map(set, _distinct_keys(documents))) <= _KNOWN:
        raise ValueError("unusual fields")
    # Few different names: each is judged once.
    plain = {
        name: type(name) is str and 0 < len(name) <= 255 and name.isascii() and name.isprintable() for name in {*sites, *devices}
    }
    odd = ~np.fromiter((plain[site] and plain[device] for site, device in zip(sites, devices, strict=True)), bool, count)
    seconds = np.fromiter(map(_utc_seconds, stamps), np.float64, count)
    lowest, highest = (now - RETENTION + EXPIRY_MARGIN).timestamp() + 1.0, (now + FUTURE).timestamp() - 1.0
    odd |= ~((seconds >= lowest) & (seconds <= highest))
    flat = list(chain.from_iterable(map(_MEASURED, measured)))
    if not set(map(type, flat)) <= _NUMBERS:
        raise ValueError("not numbers")
    values = np.array(flat, dtype=np.float64).reshape(count, len(_NAMES))
    odd |= ~np.all((values >= _LOW) & (values <= _HIGH), axis=1) | (values[:, _NAMES.index("soh")] <= 1.0)
    power_w, product_w = values[:, 2], values[:, 0] * values[:, 1]
    small, large = np.minimum(abs(power_w), abs(product_w)), np.maximum(abs(power_w), abs(product_w))
    odd |= ((power_w * product_w < 0) & (small >= SIGN_FLOOR_W)) | ((large >= UNIT_FLOOR_W) & (small * UNIT_RATIO <= large))
    _plain_cells(_objects(documents, "cell_data"))
    _plain_safety(_objects(documents, "safety"))
    for metadata in _objects(documents, "metadata"):
        quality, latency = metadata.get("data_quality", 0.0), metadata.get("communication_latency", 0.0)
        if not (type(quality) in _NUMBERS and type(latency) in _NUMBERS and 0 <= quality <= 1 and 0 <= latency <= 1e9):
            raise ValueError("metadata")
        if not (chemistry := metadata.get("chemistry", "")).isascii():
            raise ValueError(chemistry)
    return odd


def _objects(documents: Sequence[Document], name: str) -> list[Document]:
    found = [document.get(name, {}) for document in documents]
    if set(map(type, found)) != {dict}:
        raise ValueError(name)
    return found


def _distinct_keys(documents: Sequence[Document]) -> set[tuple[str, ...]]:
    return set(map(tuple, documents))


def _utc_seconds(stamp: object) -> float:
    """Seconds since 1970; NaN (a suspect) unless the stamp is in UTC, the common case."""
    if type(stamp) is datetime and stamp.tzinfo is UTC:
        return stamp.timestamp()
    parsed = parse_stamp(stamp)
    return parsed.timestamp() if parsed is not None and parsed.tzinfo is UTC else math.nan


def _plain_cells(cells: Sequence[Mapping[str, Any]]) -> None:
    for name, (low, high, _) in CELL_RANGES.items():
        lists = [cell.get(name, ()) for cell in cells]
        if not set(map(type, lists)) <= {list, tuple} or (tuple in set(map(type, filter(None, lists)))):
            raise ValueError(name)
        flat = list(chain.from_iterable(lists))
        if name == "balancing_status":
            if not set(flat) <= {0, 1} or not set(map(type, flat)) <= _NUMBERS:
                raise ValueError(name)
            continue
        if not set(map(type, flat)) <= _NUMBERS:
            raise ValueError(name)
        values = np.array(flat, dtype=np.float64)
        if not np.all((values >= low) & (values <= high)):
            raise ValueError(name)


def _plain_safety(safety: Sequence[Mapping[str, Any]]) -> None:
    lists = [entry.get("alarm_flags", []) for entry in safety]
    if set(map(type, lists)) != {list}:
        raise ValueError("alarm_flags")
    for flag in set(chain.from_iterable(lists)):
        if type(flag) is not str or not flag or not flag.isascii():
            raise ValueError("alarm_flags")
    states = [entry.get("protection_status", {}) for entry in safety]
    if not set(map(type, chain.from_iterable(state.values() for state in states))) <= {bool}:
        raise ValueError("protection_status")


def normalise(document: Mapping[str, Any]) -> tuple[Document, int]:
    """A judged document as it is stored (timestamp in UTC to the millisecond, day and hour derived), and its stamp in ms."""
    stamp = document["timestamp"]
    if type(stamp) is not datetime:
        stamp = parse_stamp(stamp)
    if stamp.tzinfo is not UTC:
        stamp = stamp.astimezone(UTC)
    if stamp.microsecond % 1000:
        stamp = stamp.replace(microsecond=stamp.microsecond // 1000 * 1000)
    stamp_ms = round(stamp.timestamp() * 1000.0)  # exact: whole milliseconds far below 2**53
    return {**document, "timestamp": stamp, "day": _day(stamp_ms // 86_400_000), "hour": stamp.hour}, stamp_ms


_DAYS: dict[int, str] = {}


def _day(number: int) -> str:
    if number not in _DAYS:
        if len(_DAYS) > 1000:
            _DAYS.clear()
        _DAYS[number] = f"{EPOCH + timedelta(days=number):%Y-%m-%d}"
    return _DAYS[number]
