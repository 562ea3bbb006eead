"""device:status:{id} and site:metrics:{site}:{period}, with the contract's fields and TTLs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import redis

DEVICE_TTL_S = 300
METRICS_TTL_S = 3600


def write_status(client: redis.Redis, device_id: str, status: Mapping[str, Any]) -> None:
    """online, last_telemetry, current_soc, current_power, alarm_count, communication_quality; gone after 300 s."""
    client.set(f"device:status:{device_id}", json.dumps(dict(status), allow_nan=False), ex=DEVICE_TTL_S)


def write_statuses(client: redis.Redis, statuses: Mapping[str, Mapping[str, Any]]) -> None:
    """Many devices' statuses in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for device_id, status in statuses.items():
            pipe.set(f"device:status:{device_id}", json.dumps(dict(status), allow_nan=False), ex=DEVICE_TTL_S)
        pipe.execute()


def read_statuses(client: redis.Redis, device_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Statuses of the devices that have one that can be read; others are absent."""
    texts: list[str | None] = client.mget([f"device:status:{name}" for name in device_ids]) if device_ids else []  # type: ignore[assignment]
    found: dict[str, dict[str, Any]] = {}
    for device_id, text in zip(device_ids, texts, strict=True):
        try:
            parsed = json.loads(text) if text is not None else None
        except ValueError:
            continue
        if isinstance(parsed, dict):
            found[device_id] = parsed
    return found


def read_status(client: redis.Redis, device_id: str) -> dict[str, Any] | None:
    """The status, or None when the device has been silent for 300 s."""
    text = client.get(f"device:status:{device_id}")
    if text is None:
        return None
    parsed: dict[str, Any] = json.loads(str(text))
    return parsed


def write_site_metrics(client: redis.Redis, site_id: str, period: str, metrics: Mapping[str, float]) -> None:
    """total_power, total_capacity, average_soc, device_count, online_count, alarm_count; gone after an hour."""
    key = f"site:metrics:{site_id}:{period}"
    with client.pipeline(transaction=True) as pipe:
        pipe.delete(key)
        pipe.hset(key, mapping={name: repr(float(value)) for name, value in metrics.items()})
        pipe.expire(key, METRICS_TTL_S)
        pipe.execute()


def read_site_metrics(client: redis.Redis, site_id: str, period: str) -> dict[str, float]:
    """The metrics as numbers; empty when there are none."""
    found: dict[str, str] = client.hgetall(f"site:metrics:{site_id}:{period}")  # type: ignore[assignment]
    return {name: float(value) for name, value in found.items()}
