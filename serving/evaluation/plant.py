"""The plants of a replay: packs under power, and what their sensors say. Never the model that a policy plans with, unless asked.

Here: PyBaMM's packs (envs.reference) and the equivalent circuit behind one interface. Not here: their equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np

from core.battery.cells import energy_curve_wh
from core.devices import DeviceConfig, PackState
from core.pack import Pack, circuit_resistance_ohm, ecm_parameters
from core.site import SiteConfig
from envs.reference.pack import ReferencePack
from envs.reference.parameters import ModelName
from serving.evaluation.config import PlantModel

SUBSTEP_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """What one step of a pack did; discharge positive."""

    power_w: float
    """Mean."""
    current_a: float
    """Mean."""
    voltage_v: float
    """At the end."""
    share: float
    """Of the wanted power; below 1 the plant cut the step itself."""


class PlantPack(Protocol):
    """One pack."""

    config: DeviceConfig
    soh_pct: float

    @property
    def soc_pct(self) -> float:
        """True state of charge."""
        ...

    @property
    def temperature_c(self) -> float:
        """Mean of the cells."""
        ...

    def step(self, power_w: float, dt_s: float, ambient_c: float) -> Flow:
        """Hold a power for dt_s."""
        ...

    def state(self, measured_at: datetime) -> PackState:
        """What its sensors say, without error."""
        ...


class _Measured:
    """What both kinds say of themselves in the same way."""

    _pack: Pack | ReferencePack

    @property
    def soc_pct(self) -> float:
        """State of charge."""
        return self._pack.soc_pct

    @property
    def temperature_c(self) -> float:
        """Mean of the cells."""
        return self._pack.temperature_c


class CircuitPack(_Measured):
    """The equivalent circuit: for comparisons with the reference, and where PyBaMM is not installed."""

    _pack: Pack

    def __init__(self, config: DeviceConfig, soc_pct: float, soh_pct: float, temperature_c: float, ambient_c: float) -> None:
        self.config, self.soh_pct = config, soh_pct
        self._pack = Pack(config, soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=temperature_c, ambient_c=ambient_c)

    def step(self, power_w: float, dt_s: float, ambient_c: float) -> Flow:
        """See PlantPack.step."""
        self._pack.ambient_c = ambient_c
        flowed = self._pack.step(power_w, dt_s)
        state = self._pack.state(_ANY_TIME)
        share = 1.0 if abs(power_w) < 1.0 else float(np.clip(flowed / power_w, 0.0, 1.0))
        current = flowed / state.voltage_v
        return Flow(power_w=flowed, current_a=current, voltage_v=state.voltage_v, share=1.0 if share > 0.999 else share)

    def state(self, measured_at: datetime) -> PackState:
        """See PlantPack.state."""
        return self._pack.state(measured_at)


class PybammPack(_Measured):
    """Electrochemical cells."""

    _pack: ReferencePack

    def __init__(
        self, config: DeviceConfig, model: ModelName, soc_pct: float, soh_pct: float, temperature_c: float, ambient_c: float
    ) -> None:
        self.config, self.soh_pct = config, soh_pct
        self._pack = ReferencePack(
            config, model, soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=temperature_c, ambient_c=ambient_c
        )
        self._parameters = ecm_parameters(config, soh_pct)
        self._power_w = self._current_a = 0.0

    def step(self, power_w: float, dt_s: float, ambient_c: float) -> Flow:
        """See PlantPack.step."""
        self._pack.ambient_c = ambient_c
        made = self._pack.step(power_w, dt_s)
        self._power_w, self._current_a = made.power_w, made.power_w / made.voltage_v
        return Flow(power_w=made.power_w, current_a=made.current_a, voltage_v=made.voltage_v, share=made.share)

    def state(self, measured_at: datetime) -> PackState:
        """Current, power and voltage of the step's end; the resistance is what the device's own estimate would be."""
        soc = min(max(self.soc_pct / 100.0, 0.0), 1.0)
        return PackState(
            device_id=self.config.device_id,
            measured_at=measured_at,
            soc_pct=min(max(self.soc_pct, 0.0), 100.0),
            soh_pct=self.soh_pct,
            temperature_c=self.temperature_c,
            voltage_v=self._pack.voltage_v,
            current_a=self._current_a,
            power_w=self._power_w,
            internal_resistance_ohm=circuit_resistance_ohm(self._parameters, soc, self.temperature_c, float(self._parameters[4])),
        )


_ANY_TIME = datetime.fromisoformat("2000-01-01T00:00:00+00:00")


def make_packs(
    site: SiteConfig, devices: tuple[DeviceConfig, ...], start_soc_pct: Mapping[str, float], ambient_c: float, model: PlantModel
) -> list[PlantPack]:
    """The site's packs at rest at the temperature of the air. Raises InputError where PyBaMM is wanted and not installed."""
    found: list[PlantPack] = []
    for device in devices:
        soc, soh = start_soc_pct[device.device_id], site.pack(device.device_id).soh_pct
        if model == "ECM":
            found.append(CircuitPack(device, soc, soh, ambient_c, ambient_c))
        else:
            found.append(PybammPack(device, model, soc, soh, ambient_c, ambient_c))
    return found


def stored_kwh(config: DeviceConfig, soh_pct: float, soc_pct: float) -> float:
    """Energy above 0 % SoC at open circuit."""
    curve = energy_curve_wh(config, soh_pct)
    return float(np.interp(soc_pct, np.linspace(0.0, 100.0, len(curve)), curve)) / 1000.0
