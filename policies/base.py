"""The one protocol of all policies, and what a policy sees.

Here: Observation, Policy, PolicyUnableError. Not here: how an observation is gathered (serving.dispatch.inputs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.decisions import Decision
from core.devices import DeviceConfig, PackState
from core.errors import PulseBmsError
from core.limits import PackLimits
from core.predictions import Prediction
from core.series import Series
from core.signal import DispatchSignal
from core.site import SiteConfig

FloatArray = NDArray[np.float64]


class PolicyUnableError(PulseBmsError):
    """The policy cannot decide on this observation; the message is the reason that goes on record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPower:
    """Net power of one device in the last plan; shape (N,), discharge positive."""

    starts_at: datetime
    dt_s: float
    power_w: FloatArray

    def window(self, start: datetime, steps: int, dt_s: float) -> FloatArray:
        """The plan on another grid, its last value held beyond its end; shape (steps,)."""
        offset_s = (start - self.starts_at).total_seconds()
        index = np.floor((offset_s + dt_s * np.arange(steps)) / self.dt_s + 1e-9).astype(int)
        clipped: FloatArray = self.power_w[np.clip(index, 0, len(self.power_w) - 1)]
        return clipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that a policy may know when it decides for [starts_at, starts_at + interval_s).

    Devices that may not be commanded (no state, no limits) are left out; series start at or before `starts_at`.
    """

    site: SiteConfig
    starts_at: datetime
    interval_s: int
    devices: tuple[DeviceConfig, ...]
    limits: Mapping[str, PackLimits]
    states: Mapping[str, PackState]
    predictions: Mapping[str, Prediction]
    price_eur_per_kwh: Series
    load_w: Series
    pv_w: Series
    ambient_c: Series
    peak_incurred_w: float = 0.0
    """Highest import of the billing month so far."""
    signal: DispatchSignal | None = None
    """Net import that the site is asked for; None when nothing is."""
    errors: Mapping[str, Series] = field(default_factory=dict)
    """`load_w`, `pv_w`, `price_eur_per_kwh` -> past forecast errors (actual minus forecast) up to `starts_at`, without gaps;
    a quantity without a record is absent. The price's are those of taking the day before."""
    price_known_until: datetime | None = None
    """Prices from here on are those of the day before; None when all are known."""
    last_plan: Mapping[str, PlannedPower] = field(default_factory=dict)
    missing_predictions: Mapping[str, str] = field(default_factory=dict)
    """Device -> why it has no usable prediction."""
    inputs: Mapping[str, object] = field(default_factory=dict)
    """JSON-ready source and age of each input, for the record."""

    @property
    def ends_at(self) -> datetime:
        """End of the interval."""
        return self.starts_at + timedelta(seconds=self.interval_s)


class Policy(Protocol):
    """Anything that decides."""

    @property
    def name(self) -> str:
        """Unique within a site."""
        ...

    def decide(self, observation: Observation) -> Decision:
        """Set points for every device of the observation.

        Raises PolicyUnableError when the observation lacks what the policy needs; must not keep state that a
        restart would lose and that changes what it decides.
        """
        ...
