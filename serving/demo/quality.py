"""How good the demo's numbers are: the twin's error one step ahead, and energy by the metrics against energy by telemetry.

Everything is read back from the stores. Not here: money and limits (serving.demo.account).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.devices import DeviceConfig
from stores.connections import Stores
from stores.mongo.records import measured_columns

FloatArray = NDArray[np.float64]
AS_PLANNED_SHARE = 0.02
"""Power went as predicted when its mean is within this share of rated power: the twin cannot know of a changed plan."""
GAP_S = 300.0
"""As in the metrics: samples further apart are not joined."""
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinError:
    """Root mean square of predicted minus measured, one step ahead."""

    predictions: int
    soc_pct: float
    voltage_pct: float
    """Percent of nominal voltage."""
    temperature_k: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PackEnergy:
    """kWh charged and discharged over whole hours by telemetry and metrics_hourly, over whole days by it and metrics_daily."""

    device_id: str
    hours: int
    telemetry: tuple[float, float]
    hourly: tuple[float, float]
    daily: tuple[float, float] | None
    """None without a whole day; like the next."""
    telemetry_of_days: tuple[float, float] | None


def twin_errors(
    stores: Stores, devices: Sequence[DeviceConfig], start: datetime, end: datetime
) -> tuple[TwinError | None, TwinError | None]:
    """Of all predictions in [start, end), and of those whose power went as predicted; None without a comparable one."""
    rows: list[tuple[float, float, float, bool]] = []
    for device in devices:
        measured = measured_columns(
            stores.mongo, device.device_id, start, end + timedelta(seconds=60), ("power", "soc", "voltage", "temperature")
        )
        if len(measured["time_s"]) < 2:
            continue
        rated_w = max(device.max_charge_power_w, device.max_discharge_power_w)
        query = {"device_id": device.device_id, "prediction_timestamp": {"$gte": start, "$lt": end}}
        for document in stores.mongo["digital_twin_predictions"].find(query):
            compared = _compare(document, measured, rated_w)
            if compared is not None:
                rows.append((compared[0], compared[1] / device.nominal_voltage_v * 100.0, compared[2], compared[3]))
    return _error(rows), _error([row for row in rows if row[3]])


def _compare(
    document: Mapping[str, Any], measured: Mapping[str, FloatArray], rated_w: float
) -> tuple[float, float, float, bool] | None:
    """Predicted minus measured SoC, voltage and temperature at the first step's end; whether power went as predicted."""
    profiles = document["predictions"]
    dt_s = document["horizon_hours"] * 3600 / len(profiles["soc_profile"])
    begin_s = document["prediction_timestamp"].timestamp()
    time_s = measured["time_s"]
    if begin_s + dt_s > time_s[-1]:
        return None
    within = (time_s > begin_s) & (time_s <= begin_s + dt_s)
    if not within.any():
        return None
    gaps = [
        profiles[f"{name}_profile"][0] - float(np.interp(begin_s + dt_s, time_s, measured[name]))
        for name in ("soc", "voltage", "temperature")
    ]
    flown_w = float(measured["power"][within].mean())
    return gaps[0], gaps[1], gaps[2], abs(flown_w - document["power_profile"][0]) <= AS_PLANNED_SHARE * rated_w


def _error(rows: Sequence[tuple[float, float, float, bool]]) -> TwinError | None:
    if not rows:
        return None
    soc, voltage, temperature = np.sqrt(np.mean(np.square([row[:3] for row in rows]), axis=0)).tolist()
    return TwinError(predictions=len(rows), soc_pct=soc, voltage_pct=voltage, temperature_k=temperature)


def pack_energies(
    stores: Stores, devices: Sequence[DeviceConfig], zone: ZoneInfo, start: datetime, end: datetime
) -> list[PackEnergy]:
    """Energy of each pack over the whole hours and days of [start, end), which begins at midnight; no metrics: absent."""
    midnights = [start]
    while (after := _next_midnight(midnights[-1], zone)) <= end:
        midnights.append(after)
    found = []
    for device in devices:
        hourly = _documents(stores, "metrics_hourly", device.device_id, start, end - HOUR)
        days = _documents(stores, "metrics_daily", device.device_id, start, midnights[-1] - HOUR)
        if not hourly:
            continue
        found.append(
            PackEnergy(
                device_id=device.device_id,
                hours=len(hourly),
                telemetry=energy_kwh(stores, device.device_id, start, hourly[-1]["timestamp"] + HOUR),
                hourly=_sum(hourly),
                daily=_sum(days) if days else None,
                telemetry_of_days=energy_kwh(stores, device.device_id, start, midnights[-1]) if days else None,
            )
        )
    return found


def _next_midnight(midnight: datetime, zone: ZoneInfo) -> datetime:
    tomorrow = midnight.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, time(0), tzinfo=zone).astimezone(UTC)


def _documents(stores: Stores, name: str, device_id: str, first: datetime, last: datetime) -> list[dict[str, Any]]:
    query = {"device_id": device_id, "timestamp": {"$gte": first, "$lte": last}}
    return list(stores.mongo[name].find(query).sort("timestamp", 1))


def _sum(documents: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    parts = [document["energy_throughput"] for document in documents]
    return sum(float(part["charged"]) for part in parts), sum(float(part["discharged"]) for part in parts)


def energy_kwh(stores: Stores, device_id: str, start: datetime, end: datetime) -> tuple[float, float]:
    """kWh charged and discharged in [start, end), integrated here from the samples: linear between them, split at zero."""
    if end <= start:
        return 0.0, 0.0
    margin = timedelta(seconds=GAP_S)
    measured = measured_columns(stores.mongo, device_id, start - margin, end + margin, ("power",))
    time_s, power_w = measured["time_s"], measured["power"]
    if len(time_s) < 2:
        return 0.0, 0.0
    charged = discharged = 0.0
    low, high = start.timestamp(), end.timestamp()
    for k in range(len(time_s) - 1):
        span_s = time_s[k + 1] - time_s[k]
        a, b = max(low, time_s[k]), min(high, time_s[k + 1])
        if span_s > GAP_S or b <= a:
            continue
        at_a, at_b = (power_w[k] + (power_w[k + 1] - power_w[k]) * (x - time_s[k]) / span_s for x in (a, b))
        if at_a * at_b < 0:
            share = abs(at_a) / (abs(at_a) + abs(at_b))
            parts = [0.5 * at_a * share * (b - a), 0.5 * at_b * (1 - share) * (b - a)]
        else:
            parts = [0.5 * (at_a + at_b) * (b - a)]
        discharged += sum(part for part in parts if part > 0)
        charged -= sum(part for part in parts if part < 0)
    return charged / 3.6e6, discharged / 3.6e6
