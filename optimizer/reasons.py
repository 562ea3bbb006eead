"""Why a slot of a plan is what it is: one reason, and the limits that bind with what they cost.

A limit binds where its shadow price is above PRICE_FLOOR, or where the replayed plan touches it. The first says that the plan
would be another without it; the second alone (price zero) that it is reached but costs nothing. Power bounds need both when there
is a price, because a direction that is forbidden (optimizer.exclusivity) has a reduced cost too. A plan from a source without
duals (the last one shifted) has no prices: its limits are those that it touches, and the plan says so.
Not here: the plan itself, reading the duals (optimizer.shadow).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from core.decisions import Reason
from optimizer.problem import DeviceData, GridData, SiteProblem
from optimizer.replay import Replay
from optimizer.shadow import UNITS, Prices

FloatArray = NDArray[np.float64]
IDLE_SHARE = 1e-3
"""Of the device's largest power in the horizon; less is idle."""
NEAR_SHARE = 2e-3
PRICE_FLOOR = 1e-4
"""EUR per unit; what an interior point leaves on a limit that does not bind is far below."""
STATE_LIMITS = ("soc_max", "soc_min", "cycle_depth")
NEEDS_NEARNESS = {"charge_power", "discharge_power", "no_power"}
WHEN_IDLE = (
    ("no_power", Reason.POWER_LIMIT),
    ("temperature_max", Reason.THERMAL_LIMIT),
    ("temperature_min", Reason.THERMAL_LIMIT),
    ("voltage_max", Reason.VOLTAGE_LIMIT),
    ("voltage_min", Reason.VOLTAGE_LIMIT),
    ("soc_max", Reason.SOC_LIMIT),
    ("soc_min", Reason.SOC_LIMIT),
    ("cycle_depth", Reason.CYCLE_DEPTH),
    ("grid_import", Reason.GRID_LIMIT),
    ("grid_export", Reason.GRID_LIMIT),
)


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit that holds in a slot."""

    name: str
    price_eur: float | None
    """EUR per `unit` more of the limit in this slot; zero where it is touched but costs nothing; None without duals."""

    @property
    def unit(self) -> str:
        """kW, kWh, K or V."""
        return UNITS[self.name]

    def __str__(self) -> str:
        """Such as `soc_max 0.082 EUR/kWh`."""
        if self.price_eur is None or self.price_eur < PRICE_FLOOR:
            return self.name
        return f"{self.name} {self.price_eur:.3g} EUR/{self.unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotPrices:
    """Shadow prices that explain a device's slots; arrays (N,) in EUR/kWh, limits in EUR per their unit."""

    stored: FloatArray
    """Of stored energy."""
    meter: FloatArray
    """Of power at the meter, limits and peak included."""
    limits: Prices = field(default_factory=dict)
    """The device's and the meter's, by name; empty where the source had no duals for them."""


Slots = tuple[tuple[Reason, ...], tuple[tuple[Binding, ...], ...]]


def explain(problem: SiteProblem, power_w: FloatArray, run: Replay, i: int, prices: SlotPrices | None = None) -> Slots:
    """(reason, binding limits, dearest first) of each slot of device i; `power_w` (devices, N).

    Without prices every idle slot of a device that wears is idle because of the spread.
    """
    d = problem.devices[i]
    idle_w = max(1.0, IDLE_SHARE * float(max(d.charge_max_w.max(), d.discharge_max_w.max())))
    near = [_near(problem, d, float(power_w[i, k]), run, i, k) for k in range(problem.steps)]
    bindings = [_binding(near[k], prices, k) for k in range(problem.steps)]
    holding = _holding(problem, d, run, near, bindings, prices)
    reasons = []
    for k in range(problem.steps):
        p = float(power_w[i, k])
        if abs(p) > idle_w:
            reasons.append(_active(problem, d, p, run, i, k, bindings[k]))
        else:
            reasons.append(_idle(problem, d, run, k, holding[k], prices))
    return tuple(reasons), tuple(bindings)


def _holding(
    problem: SiteProblem,
    d: DeviceData,
    run: Replay,
    near: list[dict[str, bool]],
    bindings: list[tuple[Binding, ...]],
    prices: SlotPrices | None,
) -> list[set[str]]:
    """Limits that keep an idle device idle, per slot: those with a price, or without duals those that are touched.

    A limit of the state holds through a whole stretch of slots, and which of them carries its price says nothing. In each of
    them it counts if the device would move without it: at the value that stored energy has beyond the stretch.
    """
    if prices is None or not prices.limits:
        return [{binding.name for binding in slot} for slot in bindings]
    holding = [
        {b.name for b in slot if b.name == "no_power" or (b.price_eur and b.name not in STATE_LIMITS)} for slot in bindings
    ]
    for name in STATE_LIMITS:
        first = 0
        while first < len(near):
            last = first
            while last < len(near) and near[last][name]:
                last += 1
            for k in range(first, last):
                if _would_move(problem.grid, d, run, name, k, float(prices.limits[name][k:last].sum()), prices):
                    holding[k].add(name)
            first = max(last, first + 1)
    return holding


def _would_move(grid: GridData, d: DeviceData, run: Replay, name: str, k: int, ahead: float, prices: SlotPrices) -> bool:
    """Whether charging (discharging) pays where an upper (lower) limit, priced `ahead` in all from here on, did not hold."""
    value, price, wear = float(prices.stored[k]), float(prices.meter[k]), d.wear_eur_per_kwh
    # Where nothing flows the meter's price is anything between the two tariffs; the next kilowatt costs the full one.
    dear = price if run.export_w[k] > 1.0 else max(price, float(grid.buy_eur_per_kwh[k]))
    poor = price if run.import_w[k] > 1.0 else min(price, float(grid.sell_eur_per_kwh[k]))
    up = d.eta_charge[k] * (value + ahead) - wear > dear + PRICE_FLOOR
    down = poor - wear > (value - ahead) / d.eta_discharge[k] + PRICE_FLOOR
    return bool({"soc_max": up, "soc_min": down}.get(name, up or down))


def _binding(near: Mapping[str, bool], prices: SlotPrices | None, k: int) -> tuple[Binding, ...]:
    if prices is None or not prices.limits:
        return tuple(Binding(name, None) for name, holds in near.items() if holds)
    found = []
    for name, holds in near.items():
        price = float(prices.limits[name][k])
        if holds or (price > PRICE_FLOOR and name not in NEEDS_NEARNESS):
            found.append(Binding(name, price if price > PRICE_FLOOR else 0.0))
    return tuple(sorted(found, key=lambda binding: -(binding.price_eur or 0.0)))


def _before(d: DeviceData, run: Replay, i: int, k: int) -> float:
    return d.energy_wh if k == 0 else float(run.energy_wh[i, k - 1])


def _near(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int) -> dict[str, bool]:
    near = NEAR_SHARE * d.capacity_wh
    energy, before = float(run.energy_wh[i, k]), _before(d, run, i, k)
    taper_c = d.charge_taper_w[k] - d.charge_taper_w_per_wh[k] * before
    taper_d = d.discharge_taper_w[k] + d.discharge_taper_w_per_wh[k] * before
    path = run.energy_wh[i]
    high = max(d.energy_wh, d.energy_high_wh, float(path.max()))
    low = min(d.energy_wh, d.energy_low_wh, float(path.min()))
    deep = high - low >= d.cycle_depth_wh - near and (energy >= high - near or energy <= low + near)
    most = 1 - NEAR_SHARE
    grid, target = problem.grid, d.terminal_energy_wh
    return {
        "no_power": d.charge_max_w[k] <= 0 and d.discharge_max_w[k] <= 0,
        "soc_max": energy >= d.energy_max_wh - near,
        "soc_min": energy <= d.energy_min_wh + near,
        "cycle_depth": deep,
        "terminal_energy": target is not None and k == problem.steps - 1 and abs(energy - target) <= near,
        "charge_power": p < 0 and -p >= most * d.charge_max_w[k],
        "charge_taper": p < 0 and -p >= most * taper_c,
        "discharge_power": p > 0 and p >= most * d.discharge_max_w[k],
        "discharge_taper": p > 0 and p >= most * taper_d,
        "temperature_max": run.temperature_c[i, k] >= d.temperature_max_c[k] - 0.05,
        "temperature_min": run.temperature_c[i, k] <= d.temperature_min_c + 0.05,
        "voltage_max": run.voltage_v[i, k] >= d.voltage_max_v - 0.05,
        "voltage_min": run.voltage_v[i, k] <= d.voltage_min_v + 0.05,
        "grid_import": run.import_w[k] > 0 and run.import_w[k] >= grid.import_limit_w[k] * most,
        "grid_export": run.export_w[k] > 0 and run.export_w[k] >= grid.export_limit_w[k] * most,
        "peak": grid.peak_price_eur_per_kw > 0 and run.import_w[k] > 0 and run.import_w[k] >= run.peak_w * most,
    }


def _meter_limit(grid: GridData, run: Replay, k: int) -> Reason:
    """RESERVE where the meter itself has room and only what plans leave free of it is reached."""
    for flow, limit, reserve in (
        (run.import_w[k], grid.import_limit_w[k], grid.import_reserve_w),
        (run.export_w[k], grid.export_limit_w[k], grid.export_reserve_w),
    ):
        if reserve > 0 and flow > 0 and limit * (1 - NEAR_SHARE) <= flow < limit + reserve * (1 - NEAR_SHARE):
            return Reason.RESERVE
    return Reason.GRID_LIMIT


def _tracked(grid: GridData, k: int) -> bool:
    return bool(grid.tracking_weights()[k] > 0)


def _idle(problem: SiteProblem, d: DeviceData, run: Replay, k: int, holding: set[str], prices: SlotPrices | None) -> Reason:
    if "peak" in holding and prices is not None:
        return Reason.PEAK_SHAVING
    for name, reason in WHEN_IDLE:
        if name in holding:
            return _meter_limit(problem.grid, run, k) if reason is Reason.GRID_LIMIT else reason
    if _tracked(problem.grid, k):
        return Reason.TRACKING
    if d.wear_eur_per_kwh <= 0:
        return Reason.IDLE
    if prices is None:
        return Reason.IDLE_SPREAD
    stored, price = prices.stored[k], prices.meter[k]
    pays_without_wear = stored * d.eta_charge[k] > price or price > stored / d.eta_discharge[k]
    return Reason.IDLE_SPREAD if pays_without_wear else Reason.IDLE


def _active(problem: SiteProblem, d: DeviceData, p: float, run: Replay, i: int, k: int, bound: tuple[Binding, ...]) -> Reason:
    grid, before = problem.grid, _before(d, run, i, k)
    names = {binding.name for binding in bound}
    if (p > 0 and before > d.energy_max_wh) or (p < 0 and before < d.energy_min_wh):
        return Reason.SOC_RECOVERY
    if _tracked(grid, k):
        return Reason.TRACKING
    if p > 0:
        if "grid_import" in names:
            return _meter_limit(grid, run, k)
        return Reason.PEAK_SHAVING if "peak" in names else Reason.PRICE_HIGH
    if "grid_export" in names:
        return _meter_limit(grid, run, k)
    return Reason.SELF_CONSUMPTION if grid.pv_w[k] > grid.load_w[k] else Reason.PRICE_LOW
