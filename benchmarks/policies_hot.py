"""A plant that heats, tapers and ages unlike the MPC's model (training.value_plants), published prices.

The MPC plans on the linear plant whose round trip and wear are those that earned most on the validation year, so that it is
as good as a linear model can be. HYBRID: a network learns the value of energy over SoC and temperature from perfect foresight
on the plant as it is, and corrects the MPC's: value = MPC's energy value + share of (learned - MPC's); the step is chosen on the
plant as it is. The share is the gate, from validation. What the step alone brings is in a row of its own.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from benchmarks.common import Table, progress
from policies.learned.network import Mlp
from training.value_config import FitSettings
from training.value_data import Rows, ValueTask
from training.value_fit import fit_network
from training.value_network import GATE_LEVEL
from training.value_plants import SHAPE, foresight, operate_linear, operate_tables
from training.value_score import Run, compare

ROUND_TRIPS, WEARS = (0.9025, 0.86, 0.83, 0.80, 0.77, 0.74, 0.70), (0.003, 0.005, 0.008, 0.012, 0.02)
STRIDE = 2
SHARES = (0.25, 0.5, 0.75, 1.0)
CAPACITY_KWH = 2000.0


def run_of(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Run:
    return Run(earned_eur=found[0], stored_kwh=found[1])


def differences(tables: np.ndarray) -> np.ndarray:
    """EUR per kWh between SoC points, (T, points - 1, temperatures): what the network learns; the level does not matter."""
    return np.diff(tables, axis=1) * (SHAPE[0] - 1) / CAPACITY_KWH


def tables_of(slopes: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The tables of slopes (T, points - 1, temperatures) and of what warmth costs an empty store (T, temperatures)."""
    rise = np.cumsum(slopes, axis=1) * CAPACITY_KWH / (SHAPE[0] - 1)
    return np.concatenate([np.zeros_like(rise[:, :1]), rise], axis=1) + heat[:, None, :]


def mpc_tables(task: ValueTask, rows: Rows) -> np.ndarray:
    """The linear plan's energy value as tables: the same at any temperature."""
    plan = task.plan(rows)
    value = np.concatenate([np.zeros((len(plan), 1)), np.cumsum(plan, axis=1)], axis=1) * task.plant.step_wh / 1000.0
    points = np.linspace(0, 1, SHAPE[0]) * CAPACITY_KWH
    grid = np.arange(value.shape[1]) * task.plant.step_wh / 1000.0
    at = np.stack([np.interp(points, grid, row) for row in value])
    return np.repeat(at[:, :, None], SHAPE[1], axis=2)


def hot_plant(task: ValueTask, table: Table) -> None:
    """Rows of the test periods."""
    begun = time.process_time()
    rows, price = task.split.validate, task.price(task.split.validate)
    choices = [
        replace(task, plant=replace(task.plant, eta_charge=trip**0.5, eta_discharge=trip**0.5, wear_eur_per_kwh=wear))
        for trip in ROUND_TRIPS
        for wear in WEARS
    ]
    linear = max(choices, key=lambda item: operate_linear(price, item.plan(rows), item.plant)[0].sum())
    features, targets = [], []
    first, last = task.split.train
    edge = first + task.week
    mean, spread = task.scale((edge, last))
    seen = task.features((edge, last))
    known = foresight(task.price((edge, last)))
    kept = slice(0, last - edge - 48, STRIDE)
    slopes = (differences(known) - mean[:, None, None]) / spread[:, None, None]
    warmth = (known[:, 0, :] - known[:, 0, :1])[:, 1:] / (1000.0 * spread[:, None])
    features = seen[kept]
    targets = np.concatenate([slopes.reshape(len(slopes), -1), warmth], axis=1)[kept]
    targets = np.clip(targets, -8, 8).astype(np.float32)

    def learned(network: Mlp, part: Rows, inputs: np.ndarray) -> np.ndarray:
        level, scale = task.scale(part)
        out = network(inputs).astype(np.float64)
        count = (SHAPE[0] - 1) * SHAPE[1]
        found = level[:, None, None] + scale[:, None, None] * out[:, :count].reshape(-1, SHAPE[0] - 1, SHAPE[1])
        heat = np.concatenate([np.zeros((len(out), 1)), np.minimum(out[:, count:] * 1000.0 * scale[:, None], 0.0)], axis=1)
        return tables_of(-np.sort(-found, axis=1), heat)

    inputs = task.features(rows)
    best = run_of(operate_tables(price, foresight(price)))

    def score(network: Mlp) -> float:
        return float(operate_tables(price, learned(network, rows, inputs))[0].sum() / best.total_eur)

    fit = fit_network(features, targets, FitSettings(iterations=3000, checkpoint_every=500), score)
    mpc = run_of(operate_linear(price, linear.plan(rows), linear.plant))
    base, said = mpc_tables(linear, rows), learned(fit.network, rows, inputs)
    mixed = {share: run_of(operate_tables(price, share * said + (1 - share) * base)) for share in SHARES}
    share = max(mixed, key=lambda key: mixed[key].total_eur)
    gain = compare(mixed[share], mpc, best.total_eur, price, task.week, level=GATE_LEVEL)
    gate = share if gain.low > 0 else 0.0
    mpc_pct, network_pct = 100 * mpc.total_eur / best.total_eur, 100 * fit.score
    table.notes.append(
        f"plant that heats, tapers, ages: {fit.cpu_s:.1f} CPU-s of training, {time.process_time() - begun:.1f} with data and "
        f"tuning; the MPC's linear model: round trip {linear.plant.eta_charge**2:.3f}, wear {linear.plant.wear_eur_per_kwh:g} "
        f"EUR/kWh; on validation MPC {mpc_pct:.2f} %, network {network_pct:.2f} %, gain at share {share:g}: {gain}, so that the "
        f"gate is {gate:g}"
    )
    progress(table.notes[-1])
    for part in task.split.test:
        _report(table, task, linear, part, learned(fit.network, part, task.features(part)), gate)


def _report(table: Table, task: ValueTask, linear: ValueTask, part: Rows, said: np.ndarray, gate: float) -> None:
    price = task.price(part)
    best = run_of(operate_tables(price, foresight(price)))
    start = datetime.fromtimestamp(task.market.start.timestamp() + part[0] * task.market.dt_s, tz=UTC)
    name = f"{task.market.name}, plant that heats, from {start:%Y-%m-%d}"
    mpc = run_of(operate_linear(price, linear.plan(part), linear.plant))
    plain = run_of(operate_linear(price, task.plan(part), task.plant))
    base = mpc_tables(linear, part)
    hybrid = mpc if gate == 0 else run_of(operate_tables(price, gate * said + (1 - gate) * base))
    table.add(name, "perfect foresight", "100.00", None, None, round(best.total_eur))
    for policy, run in (
        ("MPC, linear model fitted", mpc),
        ("MPC, data sheet", plain),
        ("MPC's energy value, step on the plant as it is", run_of(operate_tables(price, base))),
        ("energy-value network", run_of(operate_tables(price, said))),
        (f"HYBRID (gate: {gate:g} of the network)", hybrid),
    ):
        found = None if run is mpc else compare(run, mpc, best.total_eur, price, task.week)
        won = None if found is None else f"{found.weeks_won} / {found.weeks_lost}"
        share = f"{100 * run.total_eur / best.total_eur:.2f}"
        table.add(name, policy, share, found and str(found), won, round(run.total_eur))
