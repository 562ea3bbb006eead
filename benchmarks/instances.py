"""Receding-horizon fleets: one device behind its own meter, data and dynamics other at every step; and the score of a plan.

A fleet rolls: at each step the window moves on, forecasts are revised, the model is linearised anew (efficiencies, voltage, heat)
and states move by the first decision of a plan plus a disturbance. The same windows are given to every solver. The problem is
that of optimizer.problem without its optional parts: 9 variables a step and 3 of the horizon (867 at 96 steps).
Not here: solvers, matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optimizer.fleet import FleetData
from optimizer.problem import SoftCosts
from optimizer.structured.meters import MeterData

FloatArray = NDArray[np.float64]
SOFT = SoftCosts()
KILO = 1000.0


@dataclass(frozen=True, slots=True)
class Window:
    """What is solved at one step: B devices, each behind a meter of its own."""

    fleet: FleetData
    meters: MeterData
    dt_h: float

    @property
    def count(self) -> int:
        """Devices B."""
        return self.fleet.count

    def first(self, count: int) -> Window:
        """The first `count` devices."""
        index = np.arange(count)
        names = list(MeterData.__dataclass_fields__)
        meters = MeterData(**{name: getattr(self.meters, name)[:count] for name in names})
        return Window(self.fleet.take(index), meters, self.dt_h)


@dataclass(slots=True)
class _World:
    """What does not change while the horizon rolls, and the profiles over all steps; shapes (B,) and (B, total)."""

    capacity_wh: FloatArray
    rated_w: FloatArray
    decay: FloatArray
    heat_k_per_w: FloatArray
    volts_per_w: FloatArray
    import_limit_w: FloatArray
    export_limit_w: FloatArray
    peak_incurred_w: FloatArray
    buy: FloatArray
    sell: FloatArray
    load_w: FloatArray
    pv_w: FloatArray
    ambient_c: FloatArray
    soc_guess: FloatArray


def _day(hours: FloatArray, at_h: FloatArray) -> FloatArray:
    return np.cos(2 * np.pi * (hours[None, :] - at_h[:, None]) / 24.0)


def _world(g: np.random.Generator, count: int, total: int, dt_h: float) -> _World:
    hours = np.arange(total) * dt_h

    def draw(low: float, high: float) -> FloatArray:
        return g.uniform(low, high, count)

    capacity = 1000.0 * draw(40.0, 250.0)
    rated = capacity * draw(0.35, 0.9)
    hourly = np.repeat(g.normal(0.0, 0.015, (count, total // 4 + 1)), 4, axis=1)[:, :total]
    buy = 0.21 + 0.09 * _day(hours, draw(17, 20)) + 0.05 * _day(2 * hours, 2 * draw(7, 9)) + hourly
    buy = np.maximum(buy, 0.03)
    load = (rated * draw(0.1, 0.9))[:, None] * (0.5 + 0.25 * _day(hours, draw(16, 20)) + 0.06 * g.standard_normal((count, total)))
    pv = (rated * draw(0.0, 1.0))[:, None] * np.maximum(0.0, _day(hours, np.full(count, 13.0))) ** 1.5
    load = np.maximum(load, 50.0)
    net = load - pv
    decay = np.exp(-dt_h / draw(1.0, 3.0))
    return _World(
        capacity_wh=capacity,
        rated_w=rated,
        decay=decay,
        heat_k_per_w=(1 - decay) * draw(10.0, 24.0) / rated,
        volts_per_w=draw(20.0, 45.0) / rated,
        import_limit_w=1.15 * np.maximum(net.max(axis=1), 0.0) + 0.3 * rated,
        export_limit_w=1.15 * np.maximum(-net.min(axis=1), 0.0) + 0.6 * rated,
        peak_incurred_w=np.maximum(0.05 * rated, 0.55 * net.max(axis=1)),
        buy=buy,
        sell=buy * draw(0.5, 0.93)[:, None],
        load_w=load,
        pv_w=pv,
        ambient_c=draw(16.0, 30.0)[:, None] + 4.0 * _day(hours, draw(14, 16)),
        soc_guess=0.5 + 0.25 * _day(hours, draw(0, 24)),
    )


Decide = Callable[[Window], tuple[FloatArray, FloatArray]]
"""Charge and discharge of the first step, each (B,), W."""


def rolling(count: int, steps: int, moves: int, decide: Decide, *, seed: int = 7, dt_h: float = 0.25) -> Iterator[Window]:
    """`moves` + 1 successive windows of `steps` steps; `decide` moves the states between them."""
    g = np.random.default_rng(seed)
    world = _world(g, count, steps + moves, dt_h)
    energy = world.capacity_wh * g.uniform(0.15, 0.85, count)
    temperature = world.ambient_c[:, 0] + g.uniform(0.0, 6.0, count)
    peak = world.peak_incurred_w
    for move in range(moves + 1):
        window = _window(g, world, move, steps, dt_h, energy, temperature, peak)
        yield window
        if move == moves:
            return
        charge, discharge = decide(window)
        f = window.fleet
        stored = dt_h * (f.eta_charge[:, 0] * charge - discharge / f.eta_discharge[:, 0])
        energy = energy + stored - f.leak_wh + 1e-3 * world.capacity_wh * g.standard_normal(count)
        energy = np.clip(energy, 0.02 * world.capacity_wh, 0.98 * world.capacity_wh)
        warmed = f.temperature_charge_k_per_w[:, 0] * charge + f.temperature_discharge_k_per_w[:, 0] * discharge
        temperature = f.temperature_a * temperature + warmed + f.temperature_drift_c[:, 0] + 0.1 * g.standard_normal(count)
        seen = window.meters.load_w[:, 0] - window.meters.pv_w[:, 0] + charge - discharge
        peak = np.maximum(peak, seen)


def _window(
    g: np.random.Generator,
    world: _World,
    move: int,
    steps: int,
    dt_h: float,
    energy_wh: FloatArray,
    temperature_c: FloatArray,
    peak_w: FloatArray,
) -> Window:
    count, span = len(energy_wh), slice(move, move + steps)
    full, rated = world.capacity_wh, world.rated_w
    bent = world.soc_guess[:, span] - 0.5  # where the model is linearised

    def noise(size: float) -> FloatArray:
        return size * g.standard_normal((count, steps))

    def rows(value: FloatArray | float) -> FloatArray:
        column = value[:, None] if isinstance(value, np.ndarray) else value
        return np.ascontiguousarray(np.broadcast_to(column, (count, steps)))

    volts = 690.0 + 10.0 * bent + noise(1.0)
    volts_per_wh = (150.0 / full)[:, None] * (1 + 0.1 * bent)
    reachable = rated[:, None] / 760.0 * (volts + volts_per_wh * (0.5 + bent) * full[:, None])
    heat = world.heat_k_per_w[:, None] * (1 + 0.1 * np.abs(bent) + noise(0.02))
    fleet = FleetData(
        device_ids=tuple(map(str, range(count))),
        energy_wh=energy_wh,
        capacity_wh=full,
        energy_min_wh=0.1 * full,
        energy_max_wh=0.9 * full,
        cycle_depth_wh=0.7 * full,
        energy_low_wh=energy_wh,
        energy_high_wh=energy_wh,
        leak_wh=1e-5 * full,
        temperature_c=temperature_c,
        temperature_a=world.decay,
        temperature_min_c=np.full(count, -np.inf),
        voltage_min_v=np.full(count, 690.0),
        voltage_max_v=np.full(count, 832.0),
        wear_eur_per_kwh=np.full(count, 0.01),
        wear_quadratic=np.full(count, 5e-5),
        soc_stress_eur_per_h=np.zeros(count),
        soc_stress_centre=np.full(count, 0.5),
        terminal_value_eur_per_kwh=0.92 * world.buy[:, span].mean(axis=1),
        terminal_energy_wh=np.full(count, np.nan),
        move_weight=np.zeros(count),
        charge_max_w=np.minimum(np.minimum(rated[:, None], reachable), 0.8 * full[:, None]),
        discharge_max_w=np.minimum(np.minimum(rated[:, None], reachable), 0.9 * full[:, None]),
        charge_taper_w=rows(np.inf),
        charge_taper_w_per_wh=rows(0.0),
        discharge_taper_w=rows(np.inf),
        discharge_taper_w_per_wh=rows(0.0),
        eta_charge=np.clip(0.955 - 0.02 * bent + noise(0.004), 0.85, 0.99),
        eta_discharge=np.clip(0.950 + 0.02 * bent + noise(0.004), 0.85, 0.99),
        temperature_charge_k_per_w=heat,
        temperature_discharge_k_per_w=1.05 * heat,
        temperature_drift_c=(1 - world.decay)[:, None] * world.ambient_c[:, span],
        temperature_max_c=rows(38.0),
        voltage_v=volts,
        voltage_v_per_wh=volts_per_wh,
        voltage_v_per_w=world.volts_per_w[:, None] * (1 + 0.2 * np.abs(bent)),
        reference_w=rows(0.0),
    )
    revised = 1 + noise(0.01)
    meters = MeterData(
        buy_eur_per_kwh=np.ascontiguousarray(world.buy[:, span]),
        sell_eur_per_kwh=np.ascontiguousarray(world.sell[:, span]),
        load_w=world.load_w[:, span] * revised,
        pv_w=world.pv_w[:, span] * np.maximum(0.0, 1 + noise(0.01)),
        import_limit_w=rows(np.maximum(world.import_limit_w, peak_w)),
        export_limit_w=rows(world.export_limit_w),
        target_w=rows(0.0),
        peak_price_eur_per_kw=np.full(count, 0.25),
        peak_incurred_w=peak_w,
        curtailable=np.zeros(count),
        curtailment_cost_eur_per_kwh=np.zeros(count),
        tracking_weight=rows(0.0),
    )
    return Window(fleet, meters, dt_h)


def score(window: Window, charge_w: FloatArray, discharge_w: FloatArray) -> FloatArray:
    """Objective of given powers (B, N) cut to their bounds, EUR, shape (B,): dynamics exact, what a limit lacks priced as soft.

    The one accounting for all solvers: an answer that does not quite meet its own equations is charged for what it would do.
    """
    f, m, h = window.fleet, window.meters, window.dt_h
    c = np.clip(charge_w, 0.0, f.charge_max_w) / KILO
    d = np.clip(discharge_w, 0.0, f.discharge_max_w) / KILO
    flow = h * (f.eta_charge * c - d / f.eta_discharge) - (f.leak_wh / KILO)[:, None]
    start = (f.energy_wh / KILO)[:, None]
    energy = start + np.cumsum(flow, axis=1)
    before = np.concatenate([start, energy[:, :-1]], axis=1)
    volts = f.voltage_v + KILO * (f.voltage_v_per_wh * before + f.voltage_v_per_w * (c - d))
    kelvin = f.temperature_c.copy()
    hot = np.empty_like(c)
    for k in range(f.steps):
        warmed = KILO * (f.temperature_charge_k_per_w[:, k] * c[:, k] + f.temperature_discharge_k_per_w[:, k] * d[:, k])
        kelvin = f.temperature_a * kelvin + warmed + f.temperature_drift_c[:, k]
        hot[:, k] = np.maximum(0.0, kelvin - f.temperature_max_c[:, k])
    net = (m.load_w - m.pv_w) / KILO + c - d
    bought, sold = np.maximum(net, 0.0), np.maximum(-net, 0.0)
    peak = np.maximum(bought.max(axis=1), m.peak_incurred_w / KILO)
    depth = np.maximum(energy.max(axis=1), start[:, 0]) - np.minimum(energy.min(axis=1), start[:, 0])

    def beyond(value: FloatArray, low: FloatArray, high: FloatArray) -> FloatArray:
        return np.maximum(0.0, np.maximum(low[:, None] - value, value - high[:, None]))

    def soft(amount: FloatArray, linear: float, quadratic: float) -> FloatArray:
        return (linear * amount + 0.5 * quadratic * amount**2).sum(axis=1)

    off_energy = beyond(energy, f.energy_min_wh / KILO, f.energy_max_wh / KILO)
    off_volts = beyond(volts, f.voltage_min_v, f.voltage_max_v)
    off_grid = np.maximum(bought - m.import_limit_w / KILO, 0.0) + np.maximum(sold - m.export_limit_w / KILO, 0.0)
    cost = h * (m.buy_eur_per_kwh * bought - m.sell_eur_per_kwh * sold).sum(axis=1)
    cost += h * (f.wear_eur_per_kwh[:, None] * (c + d) + f.wear_quadratic[:, None] * (c**2 + d**2)).sum(axis=1)
    cost += m.peak_price_eur_per_kw * peak - f.terminal_value_eur_per_kwh * energy[:, -1]
    cost += soft(off_energy, SOFT.energy_eur_per_kwh, SOFT.energy_quadratic)
    cost += soft(hot, SOFT.temperature_eur_per_k, SOFT.temperature_quadratic)
    cost += soft(off_volts, SOFT.voltage_eur_per_v, SOFT.voltage_quadratic)
    cost += soft(off_grid, SOFT.grid_eur_per_kw, 0.0)
    return cost + SOFT.depth_eur_per_kwh * np.maximum(0.0, depth - f.cycle_depth_wh / KILO)


def relative_error(found_eur: FloatArray, exact_eur: FloatArray) -> FloatArray:
    """(found - exact) over the exact objective's size, of at least one euro."""
    return (found_eur - exact_eur) / np.maximum(1.0, np.abs(exact_eur))
