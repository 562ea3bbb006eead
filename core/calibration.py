"""What a pack was measured to be: factors on its chemistry's parameters, and how well they explain its telemetry.

Here: the value object and how it acts on a parameter row of core.battery. Not here: the fit (core.calibration_fit), where
calibrations are kept (stores.postgres.calibrations).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import PARAMETERS
from core.errors import InputError

FloatArray = NDArray[np.float64]

ACTS_ON: Mapping[str, tuple[str, ...]] = {
    "resistance": ("resistance_per_ah", "lag_scale"),
    "capacity": ("capacity_ah",),
    "cooling": ("cooling_w_per_k",),
    "heat_capacity": ("heat_capacity_j_per_k",),
}
"""Columns of a parameter row (core.battery.ecm.PARAMETERS) that each factor multiplies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Multipliers on what chemistry, nameplate and reported SoH say; 1 is that itself.

    `resistance`: all resistances. `capacity`: the capacity that SoH x nameplate gives. `cooling`: heat given off per kelvin over
    the air. `heat_capacity`: heat taken up per kelvin.
    """

    resistance: float = 1.0
    capacity: float = 1.0
    cooling: float = 1.0
    heat_capacity: float = 1.0

    def __post_init__(self) -> None:
        for name in FACTORS:
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(source="calibration", field=f"{name}_factor", value=value, expected="a finite number > 0")

    def apply(self, parameters: FloatArray) -> FloatArray:
        """A parameter row (or rows, last axis) with the factors in it; the argument stays as it is."""
        result: FloatArray = np.array(parameters, dtype=np.float64)
        for name in FACTORS:
            for column in ACTS_ON[name]:
                result[..., PARAMETERS.index(column)] *= getattr(self, name)
        return result

    def as_parameters(self) -> dict[str, float]:
        """As they stand in a prediction's model_metadata.parameters and in the table: resistance_factor and so on."""
        return {f"{name}_factor": float(getattr(self, name)) for name in FACTORS}

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Factors:
        """The factors among a prediction's parameters; 1 where there is none (a twin that was never calibrated).

        Raises InputError for a factor that is not a finite number above 0.
        """
        found = {}
        for name in FACTORS:
            value = parameters.get(f"{name}_factor", 1.0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(source="calibration", field=f"{name}_factor", value=value, expected="a finite number > 0")
            found[name] = float(value)
        return cls(**found)


FACTORS: tuple[str, ...] = tuple(item.name for item in fields(Factors))
NOMINAL = Factors()
"""The chemistry's own parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A device's factors with their date and score (0-1, see core.calibration_fit.score)."""

    device_id: str
    calibrated_at: datetime
    score: float
    factors: Factors
