"""Random sites of many packs for tests and benchmarks: chemistry, size and state of health all different.

Here: numbers shaped like those that optimizer.linearise derives (tapers, voltage and temperature models, leak, depth), over more
steps than a horizon, so that it can roll. Not here: real sites.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import PROFILES, FleetData
from optimizer.problem import GridData

FloatArray = NDArray[np.float64]

CHEMISTRIES = (
    # usable SoC range (%), cycles to end, volts of a pack at 0 and 100 %, one-way efficiency
    (10.0, 90.0, 6000.0, 715.0, 745.0, 0.965),
    (15.0, 85.0, 3000.0, 640.0, 790.0, 0.955),
    (15.0, 85.0, 1500.0, 650.0, 800.0, 0.945),
    (10.0, 85.0, 2000.0, 640.0, 790.0, 0.955),
)
"""LFP, NMC, LCO, NCA, rounded."""
KINDS = ("peak", "grid", "both", "track", "curtail", "infeasible")


@dataclass(slots=True)
class Scenario:
    """A site over more steps than its horizon; `window` gives the problem seen at a step, `advance` the next states."""

    dt_s: float
    steps: int
    grid: GridData
    fleet: FleetData

    def window(self, start: int = 0, price_revision: FloatArray | None = None) -> tuple[GridData, FleetData]:
        """GridData and FleetData of steps start .. start + steps; `price_revision` (steps,) is added to both prices."""
        span = slice(start, start + self.steps)
        profiles: dict[str, Any] = {name: np.ascontiguousarray(getattr(self.fleet, name)[:, span]) for name in PROFILES}
        fleet = replace(self.fleet, **profiles)
        revision = np.zeros(self.steps) if price_revision is None else price_revision
        names = ("load_w", "pv_w", "import_limit_w", "export_limit_w")
        cut = {name: getattr(self.grid, name)[span] for name in names}
        return (
            replace(
                self.grid,
                buy_eur_per_kwh=self.grid.buy_eur_per_kwh[span] + revision,
                sell_eur_per_kwh=self.grid.sell_eur_per_kwh[span] + revision,
                target_w=None if self.grid.target_w is None else self.grid.target_w[span],
                **cut,
            ),
            fleet,
        )

    def advance(self, energy_wh: FloatArray, temperature_c: FloatArray, net_import_w: float) -> None:
        """Take the states (B,) and the meter's net import after a step as those of now."""
        fleet = self.fleet
        self.fleet = replace(
            fleet,
            energy_wh=energy_wh,
            temperature_c=temperature_c,
            energy_low_wh=np.minimum(fleet.energy_low_wh, energy_wh),
            energy_high_wh=np.maximum(fleet.energy_high_wh, energy_wh),
        )
        self.grid = replace(self.grid, peak_incurred_w=max(self.grid.peak_incurred_w, net_import_w))


def scenario(
    count: int,
    steps: int = 96,
    *,
    kind: str = "peak",
    seed: int = 0,
    dt_s: float = 900.0,
    extra_steps: int = 0,
    stressed: bool = False,
    negative: bool = False,
) -> Scenario:
    """A site of `count` packs. Kinds: what binds at the meter (KINDS); `stressed` puts states outside limits and blocks
    directions.

    Raises ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is none of {KINDS}")
    g = np.random.default_rng(seed)
    total = steps + extra_steps
    grid_of_time = np.arange(total, dtype=np.float64) * (dt_s / 3600.0)
    buy, sell = _prices(g, grid_of_time, negative=negative)
    fleet = _fleet(g, count, total, dt_s, float(buy.mean()))
    if stressed:
        fleet = _stress(g, fleet)
    return Scenario(dt_s, steps, _grid(g, kind, fleet, buy, sell, grid_of_time, steps), fleet)


def _day(hours: FloatArray, at: float | FloatArray) -> FloatArray:
    return np.asarray(np.cos(2 * np.pi * (hours - at) / 24.0), dtype=np.float64)


def _prices(g: np.random.Generator, hours: FloatArray, *, negative: bool) -> tuple[FloatArray, FloatArray]:
    n = len(hours)
    wholesale = 0.10 + 0.05 * _day(hours, g.uniform(17, 20)) + 0.04 * _day(2 * hours, 2 * g.uniform(7, 9))
    wholesale = wholesale + np.repeat(g.normal(0, 0.015, n // 4 + 1), 4)[:n]
    if negative:
        wholesale = wholesale - 0.35 * np.exp(-(((hours % 24 - 13) / 2.0) ** 2))
    return wholesale + 0.08, wholesale - 0.01


def _fleet(g: np.random.Generator, count: int, n: int, dt_s: float, mean_price: float) -> FleetData:
    def column(low: float, high: float) -> FloatArray:
        return g.uniform(low, high, count)

    def rows(values: FloatArray, noise: float = 0.0) -> FloatArray:
        return np.ascontiguousarray(values[:, None] * (1.0 + noise * g.standard_normal((count, n))))

    h = dt_s / 3600.0
    table = np.array(CHEMISTRIES)[g.integers(0, len(CHEMISTRIES), count)]
    soh = column(0.7, 1.0)
    full = 1000.0 * column(20.0, 250.0) * soh
    rated = full / soh * column(0.3, 0.9)
    low, high = full * table[:, 0] / 100.0, full * table[:, 1] / 100.0
    energy = low + (high - low) * column(0.03, 0.97)
    slope = 0.75 * rated / (0.03 * full)
    keep = np.exp(-h / column(1.0, 3.0))
    hours = np.arange(n, dtype=np.float64) * h
    ambient = np.asarray(column(12.0, 30.0)[:, None] + 4.0 * _day(hours, g.uniform(14, 16, (count, 1))), dtype=np.float64)
    heat = (1 - keep) * column(8.0, 24.0) / rated / soh
    volts = (table[:, 4] - table[:, 3]) / full
    efficiency = table[:, 5] - 0.03 * (1 - soh)
    v_per_w = column(20.0, 40.0) / rated / soh
    return FleetData(
        device_ids=tuple(f"pack-{i:05d}" for i in range(count)),
        energy_wh=energy,
        capacity_wh=full,
        energy_min_wh=low,
        energy_max_wh=high,
        cycle_depth_wh=full * column(0.5, 0.9),
        energy_low_wh=np.maximum(low, energy - 0.1 * full * g.random(count)),
        energy_high_wh=np.minimum(high, energy + 0.1 * full * g.random(count)),
        leak_wh=1e-5 * full,
        temperature_c=ambient[:, 0] + column(0.0, 6.0),
        temperature_a=keep,
        temperature_min_c=np.full(count, -5.0),
        voltage_min_v=table[:, 3] - 8.0,
        voltage_max_v=table[:, 4] + 8.0,
        wear_eur_per_kwh=150.0 / (2.0 * table[:, 2]) / soh,
        wear_quadratic=column(0.0, 1e-4) * 50e3 / rated,
        soc_stress_eur_per_h=full / 1000.0 * column(0.0, 2e-4),
        soc_stress_centre=np.full(count, 0.5),
        terminal_value_eur_per_kwh=0.9 * mean_price * column(0.9, 1.1),
        terminal_energy_wh=np.where(g.random(count) < 0.8, np.nan, low + (high - low) * column(0.3, 0.7)),
        move_weight=np.where(g.random(count) < 0.5, 0.0, 1e-5 * 50e3 / rated),
        charge_max_w=rows(rated * column(0.7, 1.0), 0.02),
        discharge_max_w=rows(rated * column(0.8, 1.0), 0.02),
        charge_taper_w=rows(0.25 * rated + slope * high),
        charge_taper_w_per_wh=rows(slope),
        discharge_taper_w=rows(0.25 * rated - slope * low),
        discharge_taper_w_per_wh=rows(slope),
        eta_charge=np.clip(rows(efficiency, 0.004), 0.85, 0.99),
        eta_discharge=np.clip(rows(efficiency, 0.004), 0.85, 0.99),
        temperature_charge_k_per_w=rows(heat, 0.02),
        temperature_discharge_k_per_w=rows(1.05 * heat, 0.02),
        temperature_drift_c=(1 - keep)[:, None] * ambient,
        temperature_max_c=rows(column(36.0, 45.0)),
        voltage_v=rows(table[:, 3], 0.001),
        voltage_v_per_wh=rows(volts),
        voltage_v_per_w=rows(v_per_w, 0.02),
        reference_w=rows(rated * column(-0.3, 0.3)),
    )


def _stress(g: np.random.Generator, fleet: FleetData) -> FleetData:
    """States outside limits, blocked directions, sizes over two orders of magnitude, no limit on voltage here and there."""
    count = fleet.count

    def some(share: float) -> NDArray[np.bool_]:
        return np.asarray(g.random(count) < share)

    full = fleet.capacity_wh
    energy = np.where(some(0.1), full * g.uniform(0.0, 0.1, count), fleet.energy_wh)
    energy = np.where(some(0.1), full * g.uniform(0.9, 1.0, count), energy)
    scale = np.where(some(0.3), 10.0 ** g.uniform(-1.0, 1.0, count), 1.0)
    charge, discharge = fleet.charge_max_w.copy(), fleet.discharge_max_w.copy()
    charge[some(0.05)] = 0.0
    discharge[some(0.05)] = 0.0
    values: dict[str, Any] = {
        "energy_wh": energy,
        "energy_low_wh": np.minimum(fleet.energy_low_wh, energy),
        "energy_high_wh": np.maximum(fleet.energy_high_wh, energy),
        "temperature_c": np.where(some(0.15), g.uniform(36.0, 55.0, count), fleet.temperature_c),
        "voltage_max_v": np.where(some(0.1), np.inf, np.where(some(0.1), fleet.voltage_max_v - 25.0, fleet.voltage_max_v)),
        "voltage_min_v": np.where(some(0.1), -np.inf, fleet.voltage_min_v),
        "cycle_depth_wh": np.where(some(0.1), np.inf, np.where(some(0.05), 0.05 * full, fleet.cycle_depth_wh)),
        "charge_max_w": charge,
        "discharge_max_w": discharge,
    }
    fleet = replace(fleet, **values)
    grows = ("energy_wh", "capacity_wh", "energy_min_wh", "energy_max_wh", "cycle_depth_wh", "energy_low_wh", "energy_high_wh",
             "leak_wh", "terminal_energy_wh", "charge_max_w", "discharge_max_w", "charge_taper_w", "discharge_taper_w",
             "reference_w", "soc_stress_eur_per_h")  # fmt: skip
    shrinks = ("temperature_charge_k_per_w", "temperature_discharge_k_per_w", "voltage_v_per_wh", "voltage_v_per_w",
               "wear_quadratic", "move_weight")  # fmt: skip

    def scaled(name: str, factor: FloatArray) -> FloatArray:
        value: FloatArray = getattr(fleet, name)
        return value * (factor if value.ndim == 1 else factor[:, None])

    changes: dict[str, Any] = {name: scaled(name, scale) for name in grows} | {
        name: scaled(name, 1.0 / scale) for name in shrinks
    }
    return replace(fleet, **changes)


def _grid(
    g: np.random.Generator, kind: str, fleet: FleetData, buy: FloatArray, sell: FloatArray, hours: FloatArray, steps: int
) -> GridData:
    n = len(hours)
    power = float(np.maximum(fleet.charge_max_w, fleet.discharge_max_w).max(axis=1).sum())
    load = power * (0.35 + 0.15 * _day(hours, g.uniform(16, 20)) + 0.02 * g.standard_normal(n)).clip(0.02)
    pv = power * g.uniform(0.3, 0.6) * np.maximum(0.0, _day(hours, 13.0)) ** 1.5
    net = load - pv
    highest, lowest = float(net.max()), float(net.min())
    room_in, room_out = {
        "peak": (1.05 * highest, max(0.4 * power, -1.05 * lowest)),
        "grid": (highest - 0.12 * power, max(0.1 * power, -lowest - 0.1 * power)),
        "both": (highest - 0.06 * power, max(0.15 * power, -lowest - 0.05 * power)),
        "track": (1.1 * highest, max(0.4 * power, -1.05 * lowest)),
        "curtail": (highest, max(0.05 * power, -lowest - 0.25 * power)),
        "infeasible": (highest - 0.1 * power, 0.2 * power),
    }[kind]
    limit_in = np.full(n, room_in)
    if kind == "infeasible":
        bad = slice(steps // 3, steps // 3 + 3)
        limit_in[bad] = np.maximum(0.0, net[bad] - 1.5 * power)
        load = load.copy()
        load[bad] += 1.5 * power
    tracked = kind == "track"
    signal = net.mean() + 0.15 * power * np.repeat(np.sign(g.normal(size=n // 8 + 1)), 8)[:n]
    peak = {"peak": 0.25, "both": 0.1, "track": 0.05}.get(kind, 0.0)
    return GridData(
        buy_eur_per_kwh=buy,
        sell_eur_per_kwh=sell,
        load_w=load,
        pv_w=pv,
        import_limit_w=limit_in,
        export_limit_w=np.full(n, room_out),
        peak_price_eur_per_kw=peak,
        peak_incurred_w=0.5 * max(highest, 0.0),
        curtailable=kind == "curtail",
        curtailment_cost_eur_per_kwh=0.005 if kind == "curtail" else 0.0,
        target_w=signal if tracked else None,
        tracking_weight=0.2 / (power / 1000.0) if tracked else 0.0,
    )
