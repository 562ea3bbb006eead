"""Site problems for the optimizer's tests: one plain battery, and random sites with every feature on."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from optimizer.problem import DeviceData, GridData, SiteProblem


def plain_device(n: int, **changes: Any) -> DeviceData:
    """100 kWh, 50 kW, 95 % each way, 10 to 90 %, half full, nothing else in the way."""
    ones = np.ones(n)
    device = DeviceData(
        device_id="pack",
        energy_wh=50e3,
        capacity_wh=100e3,
        energy_min_wh=10e3,
        energy_max_wh=90e3,
        cycle_depth_wh=np.inf,
        energy_low_wh=50e3,
        energy_high_wh=50e3,
        charge_max_w=50e3 * ones,
        discharge_max_w=50e3 * ones,
        charge_taper_w=np.inf * ones,
        charge_taper_w_per_wh=0 * ones,
        discharge_taper_w=np.inf * ones,
        discharge_taper_w_per_wh=0 * ones,
        eta_charge=0.95 * ones,
        eta_discharge=0.95 * ones,
        leak_wh=0.0,
        temperature_c=25.0,
        temperature_a=0.9,
        temperature_charge_k_per_w=0 * ones,
        temperature_discharge_k_per_w=0 * ones,
        temperature_drift_c=2.5 * ones,
        temperature_min_c=-np.inf,
        temperature_max_c=np.inf * ones,
        voltage_v=400 * ones,
        voltage_v_per_wh=0 * ones,
        voltage_v_per_w=0 * ones,
        voltage_min_v=-np.inf,
        voltage_max_v=np.inf,
        wear_eur_per_kwh=0.0,
    )
    return replace(device, **changes)


def plain_site(buy: Any, *devices: DeviceData, dt_s: float = 900.0, **grid: Any) -> SiteProblem:
    """A site with import prices `buy`; export at 2 ct less, no load, no PV, 1 MW at the meter unless given."""
    price = np.asarray(buy, dtype=float)
    ones = np.ones(len(price))
    data: dict[str, Any] = {
        "buy_eur_per_kwh": price,
        "sell_eur_per_kwh": price - 0.02,
        "load_w": 0 * ones,
        "pv_w": 0 * ones,
        "import_limit_w": 1e6 * ones,
        "export_limit_w": 1e6 * ones,
    }
    data.update(grid)
    return SiteProblem(dt_s=dt_s, grid=GridData(**data), devices=devices or (plain_device(len(price)),))


def _random_device(g: np.random.Generator, i: int, n: int, h: float, dt_s: float) -> DeviceData:
    full = g.uniform(20e3, 200e3)
    rated = full * g.uniform(0.3, 0.9)
    soc = g.uniform(0.12, 0.88)
    slope = 0.75 * rated / (0.03 * full)
    keep = float(np.exp(-h / g.uniform(1.0, 3.0)))
    heat = (1 - keep) * g.uniform(8.0, 25.0) / rated
    ambient = g.uniform(15.0, 30.0) + 3 * g.normal(size=n)
    return DeviceData(
        device_id=f"pack-{i}",
        energy_wh=soc * full,
        capacity_wh=full,
        energy_min_wh=0.1 * full,
        energy_max_wh=0.9 * full,
        cycle_depth_wh=full * g.uniform(0.4, 0.9),
        energy_low_wh=full * max(0.05, soc - g.uniform(0.0, 0.1)),
        energy_high_wh=full * min(0.95, soc + g.uniform(0.0, 0.1)),
        charge_max_w=rated * g.uniform(0.7, 1.0, n),
        discharge_max_w=rated * g.uniform(0.7, 1.0, n),
        charge_taper_w=np.full(n, 0.25 * rated + slope * 0.9 * full),
        charge_taper_w_per_wh=np.full(n, slope),
        discharge_taper_w=np.full(n, 0.25 * rated - slope * 0.1 * full),
        discharge_taper_w_per_wh=np.full(n, slope),
        eta_charge=g.uniform(0.92, 0.98, n),
        eta_discharge=g.uniform(0.92, 0.98, n),
        leak_wh=1e-5 * full,
        temperature_c=25.0,
        temperature_a=keep,
        temperature_charge_k_per_w=np.full(n, heat),
        temperature_discharge_k_per_w=np.full(n, 1.05 * heat),
        temperature_drift_c=(1 - keep) * ambient,
        temperature_min_c=-10.0,
        temperature_max_c=np.full(n, g.uniform(33.0, 45.0)),
        voltage_v=690 + g.normal(0, 1.0, n),
        voltage_v_per_wh=np.full(n, 130 / full),
        voltage_v_per_w=np.full(n, g.uniform(20, 40) / rated),
        voltage_min_v=685.0,
        voltage_max_v=g.uniform(815.0, 840.0),
        wear_eur_per_kwh=g.uniform(0.0, 0.03),
        wear_quadratic=g.uniform(0.0, 3e-4),
        soc_stress_eur_per_h=g.uniform(0.0, 0.05),
        soc_stress_centre=0.5,
        terminal_value_eur_per_kwh=g.uniform(0.1, 0.25),
        terminal_energy_wh=None if g.random() < 0.5 else full * g.uniform(0.3, 0.7),
        reference_w=rated * g.uniform(-0.5, 0.5, n),
        move_weight=g.uniform(0.0, 3e-4),
    )


def random_site(seed: int, steps: int = 24, devices: int = 2, *, negative: bool = False, dt_s: float = 900.0) -> SiteProblem:
    """A site with every feature on; `negative` digs a hole of negative prices."""
    g = np.random.default_rng(seed)
    h, n = dt_s / 3600, steps
    hours = np.arange(n) * h + g.uniform(0, 24)
    packs = tuple(_random_device(g, i, n, h, dt_s) for i in range(devices))
    power = sum(float(d.discharge_max_w.max()) for d in packs)
    buy = 0.2 + 0.08 * np.cos(2 * np.pi * (hours - 19) / 24) + 0.06 * np.cos(4 * np.pi * (hours - 8) / 24) + g.normal(0, 0.02, n)
    if negative:
        buy = buy - g.uniform(0.2, 0.5) * np.exp(-(((np.arange(n) - n * g.uniform(0.3, 0.7)) / (0.15 * n + 1)) ** 2))
    load = power * (0.3 + 0.15 * np.cos(2 * np.pi * (hours - 18) / 24) + 0.05 * g.random(n))
    pv = power * g.uniform(0, 0.8) * np.maximum(0, np.cos(2 * np.pi * (hours - 13) / 24))
    grid = GridData(
        buy_eur_per_kwh=buy,
        sell_eur_per_kwh=np.minimum(buy - 0.01, 0.8 * buy),
        load_w=load,
        pv_w=pv,
        import_limit_w=np.full(n, g.uniform(0.6, 1.5) * power),
        export_limit_w=np.full(n, g.uniform(0.4, 1.0) * power),
        peak_price_eur_per_kw=g.uniform(0.0, 0.3),
        peak_incurred_w=0.4 * power,
        curtailable=bool(g.random() < 0.5),
        curtailment_cost_eur_per_kwh=0.005,
        target_w=load * g.uniform(0.5, 1.2, n),
        tracking_weight=g.choice([0.0, 1e-4]),
    )
    return SiteProblem(dt_s=dt_s, grid=grid, devices=packs)


@pytest.fixture(scope="session")
def make_device() -> Callable[..., DeviceData]:
    return plain_device


@pytest.fixture(scope="session")
def make_site() -> Callable[..., SiteProblem]:
    return plain_site


@pytest.fixture(scope="session")
def make_random_site() -> Callable[..., SiteProblem]:
    return random_site
