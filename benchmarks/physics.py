"""Speed and truth of the battery model.

    python -m benchmarks.physics [--chemistry NMC ...] [--no-reference] [--devices 2000]

Speed: packs of all four chemistries over a day, 60 s substeps, in CPU time of one thread (best of five). Truth (needs the extra
`twin`): errors on the eight unseen days beside an energy bucket with a fitted efficiency, which is what a planner without a model
uses; and on four of those days with a cell aged to 80 %, which no fit has seen. PASS or FAIL against the acceptance figures.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np

from core.ageing import forecast
from core.battery.cells import BY_SOC, BY_TEMPERATURE
from core.battery.ecm import simulate
from core.devices import Chemistry, DeviceConfig
from core.pack import ecm_parameters
from envs.reference.compare import ACCEPTED, accepted, circuit_day, error, fitted_cell
from envs.reference.days import FIT_DAYS, UNSEEN_DAYS, CellDay, simulate_day

TARGET_DAYS_PER_S = 12_000.0
REPEATS = 5


def best_cpu_s(work: Callable[[], object]) -> float:
    """Least CPU time of a few repeats, the first of which is thrown away."""
    taken = []
    for _ in range(REPEATS + 1):
        begin = time.process_time()
        work()
        taken.append(time.process_time() - begin)
    return min(taken[1:])


def speed(devices: int) -> bool:
    rng = np.random.default_rng(0)
    configs = [
        DeviceConfig(
            device_id=str(k), site_id="s", name=str(k), chemistry=list(Chemistry)[k % 4], nominal_capacity_ah=100,
            nominal_voltage_v=360, max_charge_power_w=2e4, max_discharge_power_w=2e4, series_cells=100, parallel_cells=20,
        )
        for k in range(devices)
    ]  # fmt: skip
    parameters = np.stack([ecm_parameters(c, 70.0 + k % 30) for k, c in enumerate(configs)])
    passed = True
    for dt_s in (900.0, 60.0):
        steps = int(86_400 / dt_s)
        power = np.repeat(rng.uniform(-9e3, 9e3, (devices, 96)), steps // 96, axis=1)
        ambient, history = np.full((devices, steps), 20.0), np.empty((devices, steps, 9))

        start = np.tile([0.5, 0.0, 0.0, 20.0], (devices, 1))
        arguments = (power, parameters, ambient, BY_SOC, BY_TEMPERATURE, dt_s, history)
        rate = devices / best_cpu_s(lambda a=arguments, s=start: simulate(s.copy(), *a))
        good = rate >= TARGET_DAYS_PER_S
        if dt_s == 900.0:
            passed = good
        print(f"circuit, steps of {dt_s:3.0f} s: {rate:8,.0f} device-days per CPU second ({1e6 / rate:.0f} us a day)")
    soc, warm = rng.uniform(10, 90, (500, 97)), rng.uniform(10, 30, (500, 97))
    for chemistry in Chemistry:
        taken = best_cpu_s(lambda c=chemistry: forecast(c, np.full(500, 80.0), soc, warm, 900.0))
        print(f"ageing {chemistry.value}: {500 / taken:,.0f} device-days per CPU second, rainflow included")
    print(
        f"{'PASS' if passed else 'FAIL'}: at least {TARGET_DAYS_PER_S:,.0f} device-days per second with quarter-hour profiles\n"
    )
    return passed


def bucket_soc(day: CellDay, wh: float, efficiency: float) -> np.ndarray:
    """SoC (0-1) at the end of each minute if energy out cost 1/efficiency and energy in brought efficiency of itself."""
    per_minute = np.repeat(day.power_w, len(day.soc) // len(day.power_w)) / 60.0
    moved = np.where(per_minute > 0, per_minute / efficiency, per_minute * efficiency)
    return day.day.soc - np.cumsum(moved) / wh


def bucket_error_pct(days: Sequence[CellDay], wh: float, efficiency: float) -> float:
    gaps = np.concatenate([bucket_soc(day, wh, efficiency) - day.soc for day in days])
    return float(100 * np.sqrt(np.mean(gaps**2)))


def truth(chemistry: Chemistry) -> bool:
    known = [simulate_day(chemistry, day) for day in FIT_DAYS]
    unseen = [simulate_day(chemistry, day) for day in UNSEEN_DAYS]
    cell = fitted_cell(chemistry)
    found = error([circuit_day(cell, day) for day in unseen], unseen)
    wh = float(cell.parameters[0] * np.trapezoid(cell.by_soc[0, :, 0], dx=0.01))
    efficiency = min(np.linspace(0.85, 1.0, 301), key=lambda eta: bucket_error_pct(known, wh, eta))
    peer = bucket_error_pct(unseen, wh, efficiency)
    aged = [simulate_day(chemistry, day, soh_pct=80.0) for day in UNSEEN_DAYS[:4]]
    old_cell = fitted_cell(chemistry, 80.0)
    old = error([circuit_day(old_cell, day) for day in aged], aged)
    most, passed = ACCEPTED[chemistry], accepted(chemistry, found)
    print(
        f"{chemistry.value}: {'PASS' if passed else 'FAIL'}  voltage {found.voltage_mv:.2f} mV (<= {most.voltage_mv:g}), "
        f"SoC {found.soc_pct:.3f} % (<= {most.soc_pct:g}), temperature {found.temperature_k:.3f} K (<= {most.temperature_k:g}); "
        f"bucket with efficiency {efficiency:.3f}: SoC {peer:.2f} %; "
        f"cell at 80 % SoH, not fitted: {old.voltage_mv:.1f} mV, {old.soc_pct:.2f} %, {old.temperature_k:.2f} K",
        flush=True,
    )
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chemistry", nargs="*", choices=[c.value for c in Chemistry], default=[c.value for c in Chemistry])
    parser.add_argument("--devices", type=int, default=2000)
    parser.add_argument("--no-reference", action="store_true", help="speed only; needs no PyBaMM")
    options = parser.parse_args()
    verdicts = [speed(options.devices)]
    if not options.no_reference:
        verdicts += [truth(Chemistry(name)) for name in options.chemistry]
    if not all(verdicts):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
