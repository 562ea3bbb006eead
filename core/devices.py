"""What a battery pack is and in which state it was last measured.

Mirrors `device_configurations` and the `measurements` of `telemetry_data`, with units in the
names. Not here: limits (core.limits), physics (core.battery).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from math import isfinite

CYCLE_HOURS = 24
"""max_cycle_depth bounds the swing of the SoC, highest minus lowest, within so many hours."""


class Chemistry(StrEnum):
    """`chemistry_enum` of the contract."""

    LFP = "LFP"
    NMC = "NMC"
    LCO = "LCO"
    NCA = "NCA"


class DeviceStatus(StrEnum):
    """`device_status_enum` of the contract."""

    ONLINE = "online"
    OFFLINE = "offline"
    ERROR = "error"
    MAINTENANCE = "maintenance"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One row of `device_configurations`, as far as decisions need it."""

    device_id: str
    site_id: str
    name: str
    chemistry: Chemistry
    nominal_capacity_ah: float
    """Capacity of the new pack at SoH 100 %."""
    nominal_voltage_v: float
    max_charge_power_w: float
    """Magnitude, at the pack's terminals (AC side of its inverter)."""
    max_discharge_power_w: float
    series_cells: int
    parallel_cells: int
    status: DeviceStatus = DeviceStatus.OFFLINE

    @property
    def nominal_energy_wh(self) -> float:
        """Nameplate energy: nominal capacity times nominal voltage."""
        return self.nominal_capacity_ah * self.nominal_voltage_v


@dataclass(frozen=True, slots=True, kw_only=True)
class PackState:
    """The latest measurement of a pack. Power and current: discharge positive."""

    device_id: str
    measured_at: datetime
    soc_pct: float
    soh_pct: float
    temperature_c: float
    voltage_v: float
    current_a: float
    power_w: float
    internal_resistance_ohm: float
    cell_voltages_v: tuple[float, ...] = ()
    cell_temperatures_c: tuple[float, ...] = ()
    alarm_flags: tuple[str, ...] = ()
    protection: dict[str, bool] = field(default_factory=dict)
    cycle_low_pct: float | None = None
    """Lowest and highest SoC of the last CYCLE_HOURS; None where nobody has looked: a cycle begins here."""
    cycle_high_pct: float | None = None

    @property
    def not_finite(self) -> tuple[str, ...]:
        """Names of the fields that hold NaN or an infinity."""
        numbers = {
            "soc_pct": (self.soc_pct,),
            "soh_pct": (self.soh_pct,),
            "temperature_c": (self.temperature_c,),
            "voltage_v": (self.voltage_v,),
            "current_a": (self.current_a,),
            "power_w": (self.power_w,),
            "internal_resistance_ohm": (self.internal_resistance_ohm,),
            "cell_voltages_v": self.cell_voltages_v,
            "cell_temperatures_c": self.cell_temperatures_c,
        }
        return tuple(name for name, values in numbers.items() if not all(isfinite(value) for value in values))

    @property
    def temperature_spread_k(self) -> float:
        """Hottest minus coldest cell; 0 when the device reports no cells."""
        if not self.cell_temperatures_c:
            return 0.0
        return max(self.cell_temperatures_c) - min(self.cell_temperatures_c)
