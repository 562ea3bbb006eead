"""A decision: set points for the devices of a site for one interval, and why.

Here: the value objects that policies return and that the dispatcher records. Not here: how a policy
decides (policies) or how a decision becomes commands (serving.dispatch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from core.errors import InputError


class Reason(StrEnum):
    """Why a slot of a plan, or a set point, is what it is."""

    PRICE_LOW = "price_low"
    PRICE_HIGH = "price_high"
    SELF_CONSUMPTION = "self_consumption"
    PEAK_SHAVING = "peak_shaving"
    SOC_LIMIT = "soc_limit"
    SOC_RECOVERY = "soc_recovery"
    THERMAL_LIMIT = "thermal_limit"
    VOLTAGE_LIMIT = "voltage_limit"
    POWER_LIMIT = "power_limit"
    GRID_LIMIT = "grid_limit"
    CYCLE_DEPTH = "cycle_depth"
    TRACKING = "tracking"
    RESERVE = "reserve"
    IDLE_SPREAD = "idle_spread_below_wear"
    IDLE = "idle"
    HOLD = "hold"
    STOP = "stop"
    RULE = "rule"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPoint:
    """Net power of one device for the interval; discharge positive, W."""

    device_id: str
    power_w: float
    reason: Reason
    detail: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.power_w):
            raise InputError(
                source=f"decision for {self.device_id}",
                field="power_w",
                value=self.power_w,
                expected="a finite number",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Set points of all devices of a site for [starts_at, starts_at + interval_s)."""

    site_id: str
    starts_at: datetime
    interval_s: int
    set_points: tuple[SetPoint, ...]
    source: str
    """Name of the policy that decided, or "rule", "hold", "stop"."""
    policy_id: str | None = None
    solver: str = ""
    objective_eur: float | None = None
    passed_over: tuple[tuple[str, str], ...] = ()
    """(policy name, why it did not decide), better ones first."""
    plan: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready plan over the horizon with reasons, stored beside the decision."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready source and age of each input."""
