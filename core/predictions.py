"""A digital-twin prediction: what a pack will do under a planned power profile.

Mirrors a document of `digital_twin_predictions`; profiles hold one value per step, the value at
the END of the step (power: the mean over it). Not here: how it is computed (core.twin) or kept (stores.mongo).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
MODEL_TYPE = "ECM-2RC"
"""What the twin runs (core.battery.ecm): two RC pairs, one on voltage and one on the surface state of charge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Arrays have shape (N,), N = steps over `horizon_hours`; discharge power is positive."""

    device_id: str
    prediction_timestamp: datetime
    """Start of the first step."""
    horizon_hours: int
    soc_pct: float
    """Initial state, as measured."""
    soh_pct: float
    temperature_c: float
    internal_resistance_ohm: float
    power_profile_w: FloatArray
    voltage_profile_v: FloatArray
    temperature_profile_c: FloatArray
    soc_profile_pct: FloatArray
    efficiency_profile: FloatArray
    """One-way energy efficiency (0-1) of the step, in the direction of its power; at rest that of a small current."""
    degradation: dict[str, float] = field(default_factory=dict)
    """capacity_fade_percent, resistance_growth_percent, cycle_life_consumed, calendar_life_consumed."""
    model_type: str = MODEL_TYPE
    """What computed it: a label says what ran."""
    calibration_date: datetime | None = None
    calibration_score: float | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return len(self.power_profile_w)

    @property
    def dt_s(self) -> float:
        """Length of a step in seconds."""
        return self.horizon_hours * 3600.0 / self.steps
