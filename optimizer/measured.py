"""Is a measured state what its units say? Asked before anything is planned from it.

Here: a pack's configuration and measurement, each against itself and against the other. Not here: telemetry as it comes in
(core.telemetry_soc, stores.mongo.ingest), ageing of a measurement (serving).
"""

from __future__ import annotations

import numpy as np

from core.battery.cells import CELLS
from core.devices import DeviceConfig, PackState
from core.errors import InputError

SHARE_PCT = 1.0
"""A state of charge at or below this may be a share of 1 where percent is due."""
VOLTAGE_MARGIN = 0.03
"""The open-circuit voltage of a pack of this SoC is not exceeded by more than this share: resistance and balance explain less."""


def check_measured(config: DeviceConfig, state: PackState) -> None:
    """Raise InputError naming device, field and value when configuration or state cannot be, or SoC is a share of 1.

    A state of charge of 0.5 is a percentage that can be. It is told by the voltage: at rest (current and measured resistance
    taken out) a pack at 0.5 % has the lowest voltage of its curve; one that is half full has that of the middle.
    """
    source = f"device {config.device_id}"
    for name in ("nominal_capacity_ah", "series_cells", "max_charge_power_w", "max_discharge_power_w"):
        value = getattr(config, name)
        low_enough = value < 0 if name.startswith("max") else value <= 0
        if not np.isfinite(value) or low_enough:
            raise InputError(source=source, field=name, value=value, expected="a number > 0")
    for name in ("soc_pct", "soh_pct", "temperature_c", "voltage_v", "current_a", "internal_resistance_ohm"):
        value = getattr(state, name)
        if not np.isfinite(value):
            raise InputError(source=source, field=name, value=value, expected="a finite number")
    if not 0.0 <= state.soc_pct <= 100.0:
        raise InputError(source=source, field="soc_pct", value=state.soc_pct, expected="percent, 0 to 100")
    if 0.0 < state.soc_pct <= SHARE_PCT:
        _refuse_share(config, state, source)


def _refuse_share(config: DeviceConfig, state: PackState, source: str) -> None:
    table = CELLS[config.chemistry].ocv_table()
    grid = np.linspace(0.0, 100.0, len(table))
    as_percent, as_share = (config.series_cells * float(np.interp(x, grid, table)) for x in (SHARE_PCT, 100.0 * state.soc_pct))
    rest_v = state.voltage_v + state.current_a * state.internal_resistance_ohm
    if rest_v > as_percent * (1 + VOLTAGE_MARGIN) and abs(rest_v - as_share) < abs(rest_v - as_percent):
        raise InputError(
            source=source,
            field="soc_pct",
            value=state.soc_pct,
            expected=f"percent, not a share of 1: {rest_v:.1f} V at rest are not those of an empty pack ({as_percent:.1f} V at "
            f"{SHARE_PCT:g} %) but near those at {100 * state.soc_pct:.0f} % ({as_share:.1f} V)",
        )
