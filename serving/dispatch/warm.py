"""Makes a process ready for its ticks: compiles, or loads from the cache on disk, what the first would otherwise wait for."""

from __future__ import annotations

import gc
from datetime import UTC, datetime

import numpy as np

from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, clamp, tightest
from core.pack import Pack
from core.twin import predict
from serving.dispatch.replay import replay

GC_THRESHOLD = 50_000
"""Objects made before the garbage collector looks again: a tick of ten thousand commands makes many at once, which all stay to
its end, and looking through them again and again took a fifth of its processor time."""


def settle_memory() -> None:
    """What has been loaded by now stays for good: the collector need not look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def warm_kernels() -> None:
    """Run each compiled kernel of gate and policies once, on a pack of no site."""
    device = DeviceConfig(
        device_id="warm",
        site_id="warm",
        name="warm",
        chemistry=Chemistry.NMC,
        nominal_capacity_ah=100.0,
        nominal_voltage_v=370.0,
        max_charge_power_w=1000.0,
        max_discharge_power_w=1000.0,
        series_cells=100,
        parallel_cells=1,
    )
    at = datetime(2026, 1, 1, tzinfo=UTC)
    limits = tightest(device, [ConstraintRow(row_id="warm", device_id="warm")], at)
    pack = Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=20.0)
    pack.step(100.0, 60.0)
    clamp(100.0, limits, pack.condition(60.0), 60.0)
    state = pack.state(at)
    predict(device, state, np.zeros(4), dt_s=900.0, start=at, ambient_c=20.0)
    replay([device], {"warm": state}, {"warm": limits}, {}, {"warm": 100.0}, interval_s=60.0, ambient_c=20.0)
