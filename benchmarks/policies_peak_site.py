"""The load chain as a policy row, on a site at quarter hours: the modelled load as a CSV to train on, and whole months replayed.

    python -m benchmarks.policies_peak_site --write-load site_load.csv          # 2015 to 2024, seed 0
    pulsebms train configs/rl/load_chain.yaml --set data.load.path=site_load.csv
    python -m benchmarks.policies_peak_site --artefact .pulsebms/runs/load-chain --load site_load.csv --months 2023-02 2023-06

Each month is one replay of serving.evaluation on the circuit's packs, through the dispatcher's gate, in quarter hours: MPC row
and HYBRID row see what a dispatcher would gather. The load is that of policies_peak_load in quarters; a vehicle comes at any
moment of one. Nobody forecasts it: the forecast is the mean of the last like days, the MPC corrects it by its latest errors and
keeps below the peak by what it missed (`peak_chance`). Unlike in policies_peak, no load is seen when a power is chosen.
"""

from __future__ import annotations

import argparse
import csv
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np

from benchmarks.common import Table, clean_environment, progress

clean_environment()

import structlog  # noqa: E402

from benchmarks.policies_peak_plant import FloatArray  # noqa: E402
from core.limits import tightest  # noqa: E402
from core.policy_record import PolicyRecord  # noqa: E402
from core.series import Series  # noqa: E402
from core.site import SiteConfig  # noqa: E402
from envs.read import read_series  # noqa: E402
from policies.base import Policy  # noqa: E402
from policies.learned.artefact import Artefact, read_artefact  # noqa: E402
from policies.learned.load_chain import IntArray, local_clock  # noqa: E402
from serving.dispatch.policy_factory import policy_of  # noqa: E402
from serving.evaluation.account import account  # noqa: E402
from serving.evaluation.baselines import Idle  # noqa: E402
from serving.evaluation.config import Faults  # noqa: E402
from serving.evaluation.plant import make_packs  # noqa: E402
from serving.evaluation.replay import replay  # noqa: E402
from serving.evaluation.world import BACK_DAYS, BEYOND_DAYS, PUBLICATION_HOUR, World  # noqa: E402
from training.chain_fit import usual_of_days  # noqa: E402

ZONE = ZoneInfo("Europe/Amsterdam")
DT_S, PER_DAY = 900.0, 96
HIGHEST_KW = 380.0
COLUMNS = (
    "month",
    "policy",
    "saved, EUR",
    "peak, kW",
    "of it by the peak, EUR",
    "full cycles",
    "decided itself, %",
    "ms, median / p99",
)
SITE = {
    "site_id": "peak-site", "name": "Site of vehicles that come without notice", "timezone": "Europe/Amsterdam",
    "ambient_c": 20.0, "grid": {"import_limit_w": 480e3, "export_limit_w": 480e3, "peak_price_eur_per_kw": 10.0},
    "packs": [{
        "device_id": "pack", "name": "NMC", "chemistry": "NMC", "nominal_capacity_ah": 850.0, "nominal_voltage_v": 370.0,
        "max_charge_power_w": 100e3, "max_discharge_power_w": 100e3, "series_cells": 100, "soh_pct": 80.0,
        "initial_soc_pct": 50.0, "replacement_eur_per_kwh": 20.0,
        "constraints": [{
            "max_cell_voltage": 4.2, "min_cell_voltage": 3.0, "max_charge_current": 400.0, "max_discharge_current": 400.0,
            "min_soc": 10.0, "max_soc": 90.0, "max_cycle_depth": 80.0, "max_cell_temperature": 50.0,
        }],
    }],
}  # fmt: skip


def quarter_load(kind: IntArray, hour: IntArray, seed: int) -> FloatArray:
    """The model of policies_peak_load.site_load in quarters of an hour, kW, (T,)."""
    g = np.random.default_rng(seed)
    work = kind == 1
    profile = np.where(work, 70 + 60 * np.exp(-(((hour - 13) / 4.5) ** 2)), 65 + 15 * np.exp(-(((hour - 15) / 5) ** 2)))
    noise, left = np.zeros(len(hour)), np.exp(-0.25 / 3)
    draws = 0.12 * np.sqrt(1 - left**2) * g.normal(size=len(hour))
    for t in range(1, len(hour)):
        noise[t] = left * noise[t - 1] + draws[t]
    load = profile * (1 + noise)
    begins = g.random(len(hour)) < np.where(work & (hour >= 6) & (hour < 20), 1 / 160, 1 / 1000)
    for t in np.flatnonzero(begins).tolist():
        first, length, power = g.uniform(), int(g.integers(4, 13)), g.uniform(60, 140)
        load[t : t + 1] += (1 - first) * power
        load[t + 1 : t + length] += power
        load[t + length : t + length + 1] += first * power
    return np.clip(load, 20, HIGHEST_KW)


def write_load(path: Path, seed: int) -> None:
    """2015 to 2024 as a CSV with the columns time and load_w."""
    start = datetime(2014, 12, 31, 23, tzinfo=UTC)
    count = round((datetime(2025, 1, 5, tzinfo=UTC) - start).total_seconds() / DT_S)
    kind, hour, _ = local_clock(start, count, DT_S, ZONE)
    load = quarter_load(kind, hour, seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(("time", "load_w"))
        out.writerows(((start + timedelta(seconds=k * DT_S)).isoformat(), round(1000 * load[k])) for k in range(count))


def world_of(month: date, prices: Series, load: Series) -> World:
    """A month of the site; its forecast is made from what was measured until the day before the one that it is for."""
    site = SiteConfig.model_validate(SITE)
    after = date(month.year + month.month // 12, month.month % 12 + 1, 1)
    start, end = (datetime(day.year, day.month, day.day, tzinfo=ZONE).astimezone(UTC) for day in (month, after))
    steps = round((end - start).total_seconds() / DT_S)
    begin, first = start - timedelta(days=BACK_DAYS), BACK_DAYS * PER_DAY
    count = first + steps + BEYOND_DAYS * PER_DAY
    history = 28
    longer = load.window(begin - timedelta(days=history), count + history * PER_DAY, DT_S)
    kind, hour, _ = local_clock(begin - timedelta(days=history), len(longer), DT_S, ZONE)
    usual = usual_of_days(longer, kind[PER_DAY // 2 :: PER_DAY], PER_DAY)
    day, slot = np.divmod(np.arange(len(longer)), PER_DAY)
    forecast = usual[np.maximum(day - 1, 0), kind[PER_DAY // 2 :: PER_DAY][day], slot][history * PER_DAY :]
    hour = hour[history * PER_DAY :]
    midnights = np.append(np.flatnonzero((hour[1:] == 0) & (hour[:-1] == 23)) + 1, [count, count])
    today = np.searchsorted(midnights, np.arange(count), side="right")
    known = np.where(hour >= PUBLICATION_HOUR, midnights[np.minimum(today + 1, len(midnights) - 1)], midnights[today])
    device = site.packs[0].device_config(site.site_id)
    limits = tightest(device, [spec.row("pack", "0") for spec in site.packs[0].constraints], start)
    nothing = np.zeros(count)
    return World(
        site=site, devices=(device,), limits={"pack": limits}, start=start, steps=steps, dt_s=DT_S, first=first,
        price=prices.window(begin, count, DT_S), expected=np.full(count, np.nan), price_known_until=known.astype(np.int64),
        expected_until=np.zeros(count, dtype=np.int64), load_w=longer[history * PER_DAY :], pv_w=nothing,
        load_forecast_w=forecast, pv_forecast_w=nothing, ambient_c=np.full(count, 20.0), start_soc_pct={"pack": 50.0},
    )  # fmt: skip


def row(name: str, policy_type: str, artefact: Artefact | None, config: dict[str, object]) -> PolicyRecord:
    """A row of optimization_policies as `pulsebms artefact register` writes it."""
    given = dict(config) if artefact is None else {"artefact": artefact.sha256, **config}
    return PolicyRecord(
        policy_id=None, site_id="peak-site", name=name, policy_type=policy_type, horizon_hours=24,
        update_interval_seconds=round(DT_S), config=given,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write-load", type=Path, help="write the modelled load there and end")
    parser.add_argument("--seed", type=int, default=0, help="of the modelled load")
    parser.add_argument("--artefact", type=Path, help="a run's directory, or an artefact's")
    parser.add_argument("--load", type=Path, help="the load's CSV")
    parser.add_argument("--prices", type=Path, default=Path(".pulsebms/datasets/nl_day_ahead.csv"))
    parser.add_argument("--price-column", default="eur_per_kwh")
    parser.add_argument("--eur-per-kwh", type=float, default=1.0, help="of the price file's unit")
    parser.add_argument("--scenarios", action="store_true", help="also an MPC that plans for scenarios of past errors; slow")
    parser.add_argument("--months", nargs="*", default=["2023-03", "2023-09"])
    options = parser.parse_args()
    if options.write_load:
        write_load(options.write_load, options.seed)
        return
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(40)
    )  # solvers that hand over to the next are not told
    folder = options.artefact / "artefact" if (options.artefact / "artefact").is_dir() else options.artefact
    artefact = read_artefact(folder)
    prices = read_series(
        options.prices, options.price_column, "price_eur_per_kwh", scale=options.eur_per_kwh, zone="UTC", most_missing=6
    )
    load = read_series(options.load, "load_w", "load_w")
    table = Table("A row of the load chain at quarter hours, whole months", COLUMNS)
    sums: dict[str, list[float]] = {}
    for text in options.months:
        world = world_of(date.fromisoformat(f"{text}-01"), prices, load)
        policies: dict[str, Policy] = {
            "idle": Idle(),
            "MPC": policy_of(row("mpc", "MPC", None, {})),
            "HYBRID, load chain": policy_of(row("chain", "HYBRID", artefact, {}), artefact.files),
        }
        if options.scenarios:
            policies["MPC, scenarios"] = policy_of(row("mpc", "MPC", None, {"uncertainty": "scenarios"}))
        idle_eur = idle_peak_eur = 0.0
        for name, policy in policies.items():
            begun = time.process_time()
            trace = replay(policy, world, make_packs(world.site, world.devices, world.start_soc_pct, 20.0, "ECM"), Faults())
            found = account(trace, world)
            if name == "idle":
                idle_eur, idle_peak_eur = found.j_eur, found.peak_eur
            saved = found.j_eur - idle_eur
            sums.setdefault(name, []).append(saved)
            low, high = 1000 * np.quantile(trace.latency_s, [0.5, 0.99])
            table.add(
                text, name, round(saved, 1), round(float(trace.grid_w.max()) / 1000, 1), round(found.peak_eur - idle_peak_eur, 1),
                round(found.full_cycles, 1), round(100 * float(trace.decided.mean()), 1), f"{low:.0f} / {high:.0f}",
            )  # fmt: skip
            progress(
                f"{text} {name}: {saved:.1f} EUR, {time.process_time() - begun:.0f} CPU-s, broken limits {len(trace.violations)}"
            )
    said = "; ".join(f"{name} {sum(values):.0f} EUR" for name, values in sums.items() if name != "idle")
    table.notes.append(f"gate {artefact.metadata.parameters['share']}; sum of {len(options.months)} months: {said}")
    print(table.markdown())


if __name__ == "__main__":
    main()
