"""The twin as a plant: the equivalent circuit with a pack's calibration, whose whole state can be put away and taken up again.

Here: `TwinPack`, one of serving.evaluation's plants. Not here: what drives it (serving.shadow.turn, serving.shadow.scoring).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.calibration import NOMINAL, Factors
from core.devices import DeviceConfig
from core.pack import Pack
from serving.evaluation.plant import CircuitPack


class _Calibrated(Pack):
    """A circuit with factors on its parameters."""

    def __init__(self, config: DeviceConfig, factors: Factors, soc_pct: float, soh_pct: float, at_c: float, air_c: float) -> None:
        super().__init__(config, soc_pct=soc_pct, soh_pct=soh_pct, temperature_c=at_c, ambient_c=air_c)
        self._parameters = factors.apply(self._parameters)

    @property
    def memory(self) -> list[list[float]]:
        """State and last outputs of the circuit."""
        return [self._state[0].tolist(), self._last[0].tolist()]

    @memory.setter
    def memory(self, kept: list[list[float]]) -> None:
        self._state, self._last = (np.array([row], dtype=np.float64) for row in kept)


class TwinPack(CircuitPack):
    """One pack on the calibrated circuit; see PlantPack."""

    _pack: _Calibrated

    def __init__(
        self,
        config: DeviceConfig,
        *,
        soc_pct: float,
        soh_pct: float,
        temperature_c: float,
        ambient_c: float,
        factors: Factors = NOMINAL,
    ) -> None:
        self.config, self.soh_pct, self.factors = config, soh_pct, factors
        self._pack = _Calibrated(config, factors, soc_pct, soh_pct, temperature_c, ambient_c)

    def put_away(self) -> dict[str, Any]:
        """JSON-ready: all that the next step depends on, beside the device's configuration."""
        return {"soh_pct": self.soh_pct, "factors": self.factors.as_parameters(), "memory": self._pack.memory,
                "ambient_c": self._pack.ambient_c}  # fmt: skip

    @classmethod
    def taken_up(cls, config: DeviceConfig, kept: Mapping[str, Any]) -> TwinPack:
        """What `put_away` has left. Raises KeyError, TypeError, ValueError or InputError when that is nothing of the kind."""
        memory = [[float(value) for value in row] for row in kept["memory"]]
        if [len(row) for row in memory] != [4, 5] or not np.isfinite([*memory[0], *memory[1]]).all():
            raise ValueError("a state of four and outputs of five finite numbers")
        soc, temperature = memory[0][0], memory[0][3]
        made = cls(
            config,
            soc_pct=100.0 * min(max(soc, 0.0), 1.0),
            soh_pct=float(kept["soh_pct"]),
            temperature_c=temperature,
            ambient_c=float(kept["ambient_c"]),
            factors=Factors.from_parameters(kept["factors"]),
        )
        made._pack.memory = memory
        return made
