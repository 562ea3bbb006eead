"""Many devices as arrays: what the batched solvers read. One row a device, every field of DeviceData stacked.

Here: the container, stacking, taking apart, and checks that name device, field and value. Not here: meters, solving.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from optimizer.problem import NO_LESS_THAN_NOTHING, DeviceData

FloatArray = NDArray[np.float64]

SCALARS = (
    "energy_wh", "capacity_wh", "energy_min_wh", "energy_max_wh", "cycle_depth_wh", "energy_low_wh", "energy_high_wh", "leak_wh",
    "temperature_c", "temperature_a", "temperature_min_c", "voltage_min_v", "voltage_max_v", "wear_eur_per_kwh", "wear_quadratic",
    "soc_stress_eur_per_h", "soc_stress_centre", "terminal_value_eur_per_kwh", "terminal_energy_wh", "move_weight",
)  # fmt: skip
"""Fields of shape (B,); terminal_energy_wh is NaN where the end is free."""
PROFILES = (
    "charge_max_w", "discharge_max_w", "charge_taper_w", "charge_taper_w_per_wh", "discharge_taper_w", "discharge_taper_w_per_wh",
    "eta_charge", "eta_discharge", "temperature_charge_k_per_w", "temperature_discharge_k_per_w", "temperature_drift_c",
    "temperature_max_c", "voltage_v", "voltage_v_per_wh", "voltage_v_per_w", "reference_w",
)  # fmt: skip
"""Fields of shape (B, N); reference_w is 0 where there is no last plan (and move_weight 0 too)."""
_MAY_BE_INFINITE = {
    "cycle_depth_wh", "temperature_min_c", "temperature_max_c", "voltage_min_v", "voltage_max_v", "charge_taper_w",
    "discharge_taper_w",
}  # fmt: skip
_OPTIONAL = {"terminal_energy_wh"}


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetData:
    """B devices over N steps of one grid of time; names, units and signs as in optimizer.problem.DeviceData."""

    device_ids: tuple[str, ...]
    energy_wh: FloatArray
    capacity_wh: FloatArray
    energy_min_wh: FloatArray
    energy_max_wh: FloatArray
    cycle_depth_wh: FloatArray
    energy_low_wh: FloatArray
    energy_high_wh: FloatArray
    leak_wh: FloatArray
    temperature_c: FloatArray
    temperature_a: FloatArray
    temperature_min_c: FloatArray
    voltage_min_v: FloatArray
    voltage_max_v: FloatArray
    wear_eur_per_kwh: FloatArray
    wear_quadratic: FloatArray
    soc_stress_eur_per_h: FloatArray
    soc_stress_centre: FloatArray
    terminal_value_eur_per_kwh: FloatArray
    terminal_energy_wh: FloatArray
    move_weight: FloatArray
    charge_max_w: FloatArray
    discharge_max_w: FloatArray
    charge_taper_w: FloatArray
    charge_taper_w_per_wh: FloatArray
    discharge_taper_w: FloatArray
    discharge_taper_w_per_wh: FloatArray
    eta_charge: FloatArray
    eta_discharge: FloatArray
    temperature_charge_k_per_w: FloatArray
    temperature_discharge_k_per_w: FloatArray
    temperature_drift_c: FloatArray
    temperature_max_c: FloatArray
    voltage_v: FloatArray
    voltage_v_per_wh: FloatArray
    voltage_v_per_w: FloatArray
    reference_w: FloatArray

    def __post_init__(self) -> None:
        """Raise InputError naming device, field and value when a shape is wrong or a number cannot be."""
        count, steps = len(self.device_ids), self.steps
        for names, shape in ((SCALARS, (count,)), (PROFILES, (count, steps))):
            for name in names:
                value = getattr(self, name)
                if value.shape != shape:
                    raise InputError(source="fleet", field=name, value=f"shape {value.shape}", expected=f"shape {shape}")
                if name not in _OPTIONAL:
                    self._refuse(name, np.isnan(value) if name in _MAY_BE_INFINITE else ~np.isfinite(value), "a finite number")
        self._refuse("capacity_wh", self.capacity_wh <= 0, "a number > 0")
        self._refuse("energy_max_wh", self.energy_max_wh <= self.energy_min_wh, "more than energy_min_wh")
        self._refuse("energy_high_wh", self.energy_high_wh < self.energy_low_wh, "no less than energy_low_wh")
        self._refuse("temperature_a", (self.temperature_a < 0) | (self.temperature_a > 1), "a share in [0, 1]")
        for name in ("charge_max_w", "discharge_max_w", "cycle_depth_wh", *NO_LESS_THAN_NOTHING):
            self._refuse(name, getattr(self, name) < 0, "a number >= 0")
        for name in ("eta_charge", "eta_discharge"):
            self._refuse(name, (getattr(self, name) <= 0) | (getattr(self, name) > 1), "a share in (0, 1]")

    def _refuse(self, name: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            where = np.argwhere(bad)[0]
            index = f"{name}[{where[1]}]" if len(where) > 1 else name
            value = float(getattr(self, name)[tuple(where)])
            raise InputError(source=f"device {self.device_ids[where[0]]}", field=index, value=value, expected=expected)

    @property
    def count(self) -> int:
        """Number of devices B."""
        return len(self.device_ids)

    @property
    def steps(self) -> int:
        """Number of steps N."""
        return int(self.charge_max_w.shape[1])

    def take(self, index: NDArray[np.int64]) -> FleetData:
        """The devices at `index`, in that order."""
        chosen = {name: getattr(self, name)[index] for name in SCALARS + PROFILES}
        return FleetData(device_ids=tuple(self.device_ids[int(i)] for i in index), **chosen)

    def device(self, i: int) -> DeviceData:
        """Device i as DeviceData (energy in proportion to SoC: a curve is not kept here)."""
        values: dict[str, Any] = {name: float(getattr(self, name)[i]) for name in SCALARS}
        values |= {name: getattr(self, name)[i] for name in PROFILES}
        if np.isnan(values["terminal_energy_wh"]):
            values["terminal_energy_wh"] = None
        if values["move_weight"] == 0.0:
            values["reference_w"] = None
        return DeviceData(device_id=self.device_ids[i], **values)


def stack(devices: Sequence[DeviceData]) -> FleetData:
    """DeviceData objects of one horizon as one FleetData.

    Raises InputError when their steps differ, one has wear_segments, or there is none.
    """
    if not devices:
        raise InputError(source="fleet", field="devices", value=0, expected="at least one device")
    steps = len(devices[0].charge_max_w)
    columns: dict[str, FloatArray] = {}
    for device in devices:
        if device.wear_segments is not None:
            raise InputError(
                source=f"device {device.device_id}",
                field="wear_segments",
                value=f"{len(device.wear_segments)} segments",
                expected="None: the batched solvers price throughput; a device with segments is solved by the sparse QP",
            )
    for name in SCALARS:
        values = [getattr(d, name) for d in devices]
        columns[name] = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    for name in PROFILES:
        rows = [getattr(d, name) for d in devices]
        for device, row in zip(devices, rows, strict=True):
            if row is not None and len(row) != steps:
                raise InputError(
                    source=f"device {device.device_id}", field=name, value=f"{len(row)} values", expected=f"{steps} values"
                )
        columns[name] = np.array([np.zeros(steps) if row is None else row for row in rows], dtype=np.float64)
    without = np.array([device.reference_w is None for device in devices])
    columns["move_weight"] = np.where(without, 0.0, columns["move_weight"])
    return FleetData(device_ids=tuple(device.device_id for device in devices), **columns)
