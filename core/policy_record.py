"""A row of `optimization_policies`. Not here: what the policy does (policies), its ranking's SQL (stores.postgres)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRecord:
    """Every column that decides; `policy_id` is None before the row exists."""

    policy_id: str | None
    site_id: str
    name: str
    policy_type: str
    """"MPC", "RL" or "HYBRID"."""
    config: Mapping[str, Any]
    model_version: str | None = None
    training_date: datetime | None = None
    performance_metrics: Mapping[str, Any] | None = None
    horizon_hours: int | None = None
    update_interval_seconds: int | None = None
    status: str = "inactive"
    deployed_at: datetime | None = None
    performance_score: float | None = None
