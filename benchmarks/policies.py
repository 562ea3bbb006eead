"""Policies on held-out prices, in percent of perfect foresight on the same plant: MPC, learned energy value, HYBRID, rules.

Run: python -m benchmarks.policies --published prices.csv.gz --reveal Forecasts_DE.csv.gz Forecasts_FR.csv.gz \
         --five-minute-model prices.csv.gz [--five-minute real_time.csv.gz] [--hot prices.csv.gz] [--peak prices.csv.gz]

The plant is 1 MW / 2 MWh, 90 % round trip, 5 EUR per MWh delivered. Every policy acts through the same one-step problem on the
same lattice, so that no limit can be broken. The method does not change from market to market: the MPC's correction, networks and
gate are made from training and validation periods alone. Intervals: 95 %, 4,000 paired week blocks, stored energy marked at the
week's mean price. What a policy was allowed to know is in the table's name; numbers of different names are not comparable.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from benchmarks.common import Table, clean_environment, progress

clean_environment()


from benchmarks.policies_hot import hot_plant  # noqa: E402
from benchmarks.policies_peak import COLUMNS as PEAK_COLUMNS  # noqa: E402
from benchmarks.policies_peak import peak_tariff  # noqa: E402
from benchmarks.policies_rules import one_cycle, threshold  # noqa: E402
from benchmarks.policies_series import five_minute_prices  # noqa: E402
from optimizer.dynamic import Lattice, lattice  # noqa: E402
from training.value_config import FitSettings  # noqa: E402
from training.value_data import Correction, Rows, ValueTask  # noqa: E402
from training.value_market import Information, Market, Split, read_market, split_by_dates, split_by_half  # noqa: E402
from training.value_network import Trained, fit_task  # noqa: E402
from training.value_score import Run, compare  # noqa: E402

PLANT = {"capacity_wh": 2e6, "power_w": 1e6, "round_trip": 0.9025, "wear_eur_per_kwh": 0.005}
HOURLY_STEPS, FIVE_MINUTE_STEPS = 19, 4
FORECASTS, OPINIONS = (
    ("LEAR Ensemble", "DNN Ensemble"),
    (
        "DNN 1",
        "DNN 2",
        "DNN 3",
        "DNN 4",
        "LEAR 56",
        "LEAR 84",
        "LEAR 1092",
        "LEAR 1456",
    ),
)
EDGES = ("2015-01-01", "2022-01-01", "2023-01-01", "2024-01-01", "2025-01-01")


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How networks are made under a kind of information; names as in ValueConfig."""

    fit: FitSettings
    seeds: tuple[int, ...]
    stride: int = 1
    rounds: int = 0
    memory_years: float | None = None


FITS: dict[Information, Learning] = {
    "published": Learning(fit=FitSettings(), seeds=(0,)),
    "hourly_reveal": Learning(
        fit=FitSettings(iterations=1500, learning_rate=2e-3, weight_decay=3e-2, input_noise=0.05, huber_delta=1.0),
        seeds=(0, 1, 2),
    ),
    "no_forecast": Learning(
        fit=FitSettings(
            hidden=(64, 64), iterations=1000, batch=512, learning_rate=1e-3, weight_decay=0.1, input_noise=0.1, dropout=0.1,
            huber_delta=5.0, average=0.998,
        ),
        seeds=(0, 1, 2), stride=3, rounds=2, memory_years=2.0,
    ),
}  # fmt: skip
COLUMNS = ("market, period", "policy", "% of perfect foresight", "less MPC: points [95 %]", "weeks won / lost", "EUR")


def report(table: Table, trained: Trained, rows: Rows, extra: dict[str, Run]) -> None:
    """Rows of one test period."""
    task = trained.task
    price = task.price(rows)
    best = task.run(task.hindsight(rows), rows).total_eur
    start = datetime.fromtimestamp(task.market.start.timestamp() + rows[0] * task.market.dt_s, tz=UTC)
    name = f"{task.market.name}, from {start:%Y-%m-%d}"
    mpc = task.run(trained.marginals(rows, 0.0) if task.information == "hourly_reveal" else task.plan(rows), rows)
    runs = {"MPC": mpc, "energy-value network": task.run(trained.marginals(rows, 1.0), rows)}
    runs[f"HYBRID (gate: {trained.share:g} of the network)"] = task.run(trained.marginals(rows), rows)
    table.add(name, "perfect foresight", "100.00", None, None, round(best))
    for policy, run in (runs | extra).items():
        difference = None if run is mpc else compare(run, mpc, best, price, task.week)
        won = None if difference is None else f"{difference.weeks_won} / {difference.weeks_lost}"
        table.add(name, policy, f"{100 * run.total_eur / best:.2f}", difference and str(difference), won, round(run.total_eur))


def fitted(task: ValueTask, table: Table, seeds: tuple[int, ...] | None = None) -> Trained:
    """Train as this kind of information is trained, and note what it took."""
    how = FITS[task.information]
    trained = fit_task(task, how.fit, seeds or how.seeds, how.stride, rounds=how.rounds, memory_years=how.memory_years)
    fits = ", ".join(f"{fit.cpu_s:.1f}" for fit in trained.fits)
    table.notes.append(
        f"{task.market.name}: training {fits} CPU-s a network, {trained.cpu_s:.1f} with data, targets and tuning; "
        f"MPC's correction phi {task_phi(trained)}; on validation network {trained.metrics['validation_network_pct']:.2f} %, MPC "
        f"{trained.metrics['validation_mpc_pct']:.2f} %, gain at the best share {trained.metrics['validation_best_share']:g}: "
        f"{trained.metrics['validation_gain_points']} points, so that the gate is {trained.share:g}"
    )
    progress(table.notes[-1])
    return trained


def task_phi(trained: Trained) -> str:
    """The correction in words."""
    how = trained.task.correction
    return f"{how.phi:g}" + (f", profile of {how.days} days" if trained.task.information == "no_forecast" else "")


def published(path: Path, column: str, unit: float, edges: tuple[str, ...], seeds: int) -> Table:
    """Day-ahead prices known to the end of the day, from 13 h on to the end of the next."""
    table = Table("Published prices", COLUMNS)
    market = read_market(path, column, (), unit)
    split = split_by_dates(market, [date.fromisoformat(edge) for edge in edges])
    task = ValueTask(market=market, split=split, plant=plant(market), information="published")
    for seed in range(seeds):
        trained = fitted(task, table, (seed,))
        for rows in split.test:
            extra = {} if seed else {"one cycle a day": one_cycle(task, rows), "threshold": threshold(task, rows)}
            report(table, trained, rows, extra)
    return table


def reveal(paths: list[Path], column: str, unit: float) -> Table:
    """Each hour's price known when it begins, forecasts of the day before."""
    table = Table("Prices revealed hour by hour", COLUMNS)
    for path in paths:
        market = read_market(path, column, FORECASTS, unit)
        opinions = read_market(path, column, OPINIONS, unit).forecasts_eur_per_kwh
        task = ValueTask(
            market=market, split=split_by_half(market), plant=plant(market), information="hourly_reveal", opinions=opinions
        )
        trained = fitted(task, table)
        rows = trained.task.split.test[0]
        before = {"MPC, forecasts not corrected": task.run(task.plan(rows, Correction(phi=0.0)), rows)}
        report(table, trained, rows, before | {"threshold": threshold(task, rows)})
    return table


def five_minute(market: Market, split: Split, table: Table) -> None:
    """Prices seen when their 5 minutes begin; nobody forecasts them."""
    task = ValueTask(market=market, split=split, plant=plant(market), information="no_forecast", clock_hours=True)
    trained = fitted(task, table)
    for rows in split.test:
        plain = {}
        for name, how in (("MPC, day before", Correction(phi=0.0)), ("MPC, day before, AR(1) 0.9", Correction(phi=0.9))):
            plain[name] = task.run(task.plan(rows, how), rows)
        report(table, trained, rows, plain)


def plant(market: Market) -> Lattice:
    """The plant on the market's steps."""
    return lattice(dt_s=market.dt_s, charge_steps=HOURLY_STEPS if market.dt_s == 3600.0 else FIVE_MINUTE_STEPS, **PLANT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--published", type=Path, help="hourly prices; column --price-column")
    parser.add_argument("--reveal", type=Path, nargs="*", default=[], help="prices and forecasts in the manner of epftoolbox")
    parser.add_argument("--five-minute", type=Path, nargs="*", default=[], help="real 5-minute prices; first half trains")
    parser.add_argument("--five-minute-model", type=Path, help="hourly prices that 5-minute ones are modelled on")
    parser.add_argument("--hot", type=Path, help="hourly prices, for the plant that heats, tapers and ages")
    parser.add_argument("--peak", type=Path, help="hourly prices, for unforecast load under a peak tariff")
    parser.add_argument("--price-column", default="eur_mwh")
    parser.add_argument("--reveal-column", default="Real price")
    parser.add_argument("--eur-per-kwh", type=float, default=1e-3, help="of the files' unit")
    parser.add_argument("--edges", nargs="+", default=EDGES, help="train, validate, test ..., end")
    parser.add_argument("--seeds", type=int, default=3, help="of the published table")
    options = parser.parse_args()
    tables = []
    edges = tuple(options.edges)

    def published_task(path: Path) -> ValueTask:
        market = read_market(path, options.price_column, (), options.eur_per_kwh)
        split = split_by_dates(market, [date.fromisoformat(edge) for edge in edges])
        return ValueTask(market=market, split=split, plant=plant(market), information="published")

    if options.published:
        tables.append(published(options.published, options.price_column, options.eur_per_kwh, edges, options.seeds))
    if options.reveal:
        tables.append(reveal(options.reveal, options.reveal_column, options.eur_per_kwh))
    if options.five_minute or options.five_minute_model:
        table = Table("5-minute prices without a forecast", COLUMNS)
        for path in options.five_minute:
            market = read_market(path, options.price_column, (), options.eur_per_kwh)
            five_minute(market, split_by_half(market), table)
        if options.five_minute_model:
            hourly = read_market(options.five_minute_model, options.price_column, (), options.eur_per_kwh)
            market = five_minute_prices(hourly)
            five_minute(market, split_by_dates(market, [date.fromisoformat(edge) for edge in edges]), table)
        tables.append(table)
    if options.peak:
        table = Table("Unforecast load under a peak tariff, published prices", PEAK_COLUMNS)
        peak_tariff(published_task(options.peak), table)
        tables.append(table)
    if options.hot:
        table = Table("A plant unlike the MPC's model, published prices", COLUMNS)
        hot_plant(published_task(options.hot), table)
        tables.append(table)
    for table in tables:
        print(table.markdown())


if __name__ == "__main__":
    main()
