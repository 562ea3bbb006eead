"""A pack of equal reference cells, scaled by series count and by capacity.

Here: the API that environments, benchmarks and the twin's comparison use. Not here: the cell (envs.reference.cell).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from core.battery import capacity_ah
from core.devices import DeviceConfig
from core.errors import InputError
from envs.reference.cell import ReferenceCell, cell_model
from envs.reference.parameters import ModelName


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one step of a pack did. Discharge positive; means over the step or values at its end, as named."""

    power_w: float
    """Mean power that flowed."""
    wanted_power_w: float
    share: float
    """Power over wanted power; below 1 when a voltage limit of the cell made the step smaller."""
    current_a: float
    """Mean."""
    heat_w: float
    """At the end."""
    voltage_v: float
    """At the end."""
    temperature_c: float
    """At the end."""
    soc_pct: float
    """At the end."""

    @property
    def derated(self) -> bool:
        """Whether the pack took less than the wanted power."""
        return self.share < 1.0


class ReferencePack:
    """A pack as PyBaMM sees it.

    All cells are equal: cell power is P / (Ns Np), pack voltage Ns V. Np is the pack's nominal capacity over the capacity of the
    published cell (from its electrode balance: 1.78 Ah for Ramadass2004, whatever its label says), so it need not be whole.
    """

    def __init__(
        self,
        config: DeviceConfig,
        model: ModelName = "SPMe",
        *,
        soc_pct: float,
        soh_pct: float = 100.0,
        temperature_c: float = 25.0,
        ambient_c: float = 25.0,
        compiled: bool = True,
    ) -> None:
        source = f"reference pack {config.device_id}"
        if not 0 <= soc_pct <= 100:
            raise InputError(source=source, field="soc_pct", value=soc_pct, expected="0 to 100 %")
        if not (np.isfinite(temperature_c) and np.isfinite(ambient_c)):
            raise InputError(
                source=source, field="temperature", value=(temperature_c, ambient_c), expected="finite degrees Celsius"
            )
        self.capacity_ah = capacity_ah(config, soh_pct)
        self.config, self.model, self.soh_pct = config, model, soh_pct
        shared = cell_model(config.chemistry, model, compiled)
        balance, contact_ohm = shared.aged(soh_pct)
        self.strings = config.nominal_capacity_ah / shared.electrodes.new.capacity_ah
        self.cell = ReferenceCell(
            shared,
            balance=balance,
            contact_ohm=contact_ohm,
            soc=soc_pct / 100.0,
            temperature_c=temperature_c,
            ambient_c=ambient_c,
        )

    @property
    def soc_pct(self) -> float:
        """State of charge, percent of the present capacity."""
        return 100.0 * self.cell.soc

    @property
    def temperature_c(self) -> float:
        """Volume-averaged cell temperature."""
        return self.cell.temperature_c

    @property
    def voltage_v(self) -> float:
        """Pack voltage at the end of the last step (at rest before the first)."""
        return self.config.series_cells * self.cell.voltage_v

    @property
    def ambient_c(self) -> float:
        """Temperature of the air around the cells; may be set between steps."""
        return self.cell.ambient_c

    @ambient_c.setter
    def ambient_c(self, value: float) -> None:
        self.cell.ambient_c = value

    def step(self, power_w: float, dt_s: float) -> StepResult:
        """Hold a power at the terminals (W, discharge positive) for dt_s seconds.

        A step that a cell's voltage window ends early is done again at 0.8, 0.5, 0.25, 0.1 or none of the power. Raises
        InputError when an argument is not usable, RuntimeError when the cells cannot even rest.
        """
        if not np.isfinite(power_w) or not (np.isfinite(dt_s) and dt_s > 0):
            raise InputError(
                source=f"reference pack {self.config.device_id}",
                field="power_w, dt_s",
                value=(power_w, dt_s),
                expected="a finite number, and seconds > 0",
            )
        cells = self.config.series_cells * self.strings
        cell = self.cell.step(power_w / cells, dt_s)
        return StepResult(
            power_w=power_w * cell.share,
            wanted_power_w=power_w,
            share=cell.share,
            current_a=cell.current_a * self.strings,
            heat_w=self.cell.heat_w * cells,
            voltage_v=self.voltage_v,
            temperature_c=self.temperature_c,
            soc_pct=self.soc_pct,
        )
