"""A plan: net set points over the horizon, what they lead to, what they cost, and why. Not here: how it is found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.decisions import Reason
from optimizer.reasons import Binding
from optimizer.shadow import UNITS

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan:
    """One device; arrays have shape (N,). States are those at the END of each slot."""

    device_id: str
    power_w: FloatArray
    """Net, discharge positive."""
    energy_wh: FloatArray
    soc_pct: FloatArray
    temperature_c: FloatArray
    voltage_v: FloatArray
    energy_value_eur_per_kwh: FloatArray
    """Shadow price: what one more stored kWh would be worth at the end of the slot."""
    reasons: tuple[Reason, ...]
    limits: tuple[tuple[Binding, ...], ...]
    """The limits that hold in each slot, dearest first; empty where none does."""

    @property
    def binding(self) -> tuple[str, ...]:
        """Their names, separated by spaces."""
        return tuple(" ".join(binding.name for binding in slot) for slot in self.limits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A site's plan that has passed the replay."""

    dt_s: float
    devices: tuple[DevicePlan, ...]
    grid_import_w: FloatArray
    grid_export_w: FloatArray
    curtail_w: FloatArray
    meter_price_eur_per_kwh: FloatArray
    """Shadow price of power at the meter, limits and peak included."""
    objective_eur: float
    energy_cost_eur: float
    wear_eur: float
    peak_w: float
    solver: str
    status: str
    """`optimal`, or what was wrong on the way: limits that could not be kept, solvers that failed."""
    iterations: int
    solve_s: float
    price_source: str = ""
    """Which solver's duals the shadow prices are; empty when there were none and limits are told by nearness alone."""
    deviation_w: tuple[float | None, ...] = ()
    """Net import minus the dispatch signal in each slot, None where nothing is tracked; empty without a signal."""
    uncertainty: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready: how uncertain inputs were treated, and what the scenarios would cost; empty when not at all."""

    def detail(self, part: DevicePlan, k: int) -> str:
        """What holds a device in slot k, and by how much a signal is missed: `soc_max 0.082 EUR/kWh; +120 W off the signal`."""
        texts = [str(binding) for binding in part.limits[k]]
        if self.deviation_w and (off := self.deviation_w[k]) is not None:
            texts.append(f"{off:+.0f} W off the signal")
        return "; ".join(texts)

    def as_json(self) -> dict[str, Any]:
        """Everything, rounded to what means something, for the decision's record."""
        return {
            "dt_s": self.dt_s,
            "solver": self.solver,
            "status": self.status,
            "objective_eur": round(self.objective_eur, 6),
            "energy_cost_eur": round(self.energy_cost_eur, 6),
            "wear_eur": round(self.wear_eur, 6),
            "peak_w": round(self.peak_w, 1),
            "grid_import_w": np.round(self.grid_import_w - self.grid_export_w, 1).tolist(),
            "curtail_w": np.round(self.curtail_w, 1).tolist(),
            "meter_price_eur_per_kwh": np.round(self.meter_price_eur_per_kwh, 5).tolist(),
            "shadow_prices": f"duals of {self.price_source}" if self.price_source else "none: limits by nearness alone",
            "limit_units": dict(UNITS),
            "deviation_w": [None if value is None else round(value, 1) for value in self.deviation_w],
            "uncertainty": dict(self.uncertainty),
            "devices": [
                {
                    "device_id": part.device_id,
                    "power_w": np.round(part.power_w, 2).tolist(),
                    "soc_pct": np.round(part.soc_pct, 3).tolist(),
                    "temperature_c": np.round(part.temperature_c, 2).tolist(),
                    "energy_value_eur_per_kwh": np.round(part.energy_value_eur_per_kwh, 5).tolist(),
                    "reasons": [reason.value for reason in part.reasons],
                    "binding": [
                        [[b.name, None if b.price_eur is None else round(b.price_eur, 5)] for b in slot] for slot in part.limits
                    ],
                }
                for part in self.devices
            ],
        }
