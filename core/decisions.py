"""A decision: set points for the devices of a site for one interval, and why.

Here: the value objects that policies return and that the dispatcher records. Not here: how a policy
decides (policies) or how a decision becomes commands (serving.dispatch).
"""

from __future__ import annotations

import json
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


def check_decision(decision: Decision, *, site_id: str, starts_at: datetime, interval_s: int) -> None:
    """Raise InputError unless the decision is for this site and interval and holds no number that is not finite."""
    source = f"decision of {decision.source}"
    for name, value, expected in (
        ("site_id", decision.site_id, site_id),
        ("starts_at", decision.starts_at, starts_at),
        ("interval_s", decision.interval_s, interval_s),
    ):
        if value != expected:
            raise InputError(source=source, field=name, value=value, expected=str(expected))
    for point in decision.set_points:
        if not math.isfinite(point.power_w):
            raise InputError(
                source=source, field=f"power_w of {point.device_id}", value=point.power_w, expected="a finite number"
            )
    if decision.objective_eur is not None and not math.isfinite(decision.objective_eur):
        raise InputError(source=source, field="objective_eur", value=decision.objective_eur, expected="a finite number")
    for name, part in (("plan", decision.plan), ("inputs", decision.inputs)):
        try:
            json.dumps(dict(part), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(source=source, field=name, value=str(error), expected="JSON, every number finite") from None
