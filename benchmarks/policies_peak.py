"""Load that nobody forecasts under a peak tariff: a site of 100 kW, a store of 100 kW / 200 kWh, 10 EUR per kW and month.

Load: a profile of working days and weekends, AR(1) noise (12 %, 3 h), and vehicles that come without notice: one begins with
probability 1/40 an hour by day (6 to 20 h, working days) and 1/250 else, 60 to 140 kW for 1 to 3 hours. A step's price and load
are seen when it begins, prices of later ones as published; loads of later ones are expected as the mean of the same hour on the
last days plus 0.5^k of the latest error. The MPC plans 24 h on that, exactly, over stored energy and the month's peak so far; its
margin on expected loads is the one that cost least on the validation year. HYBRID adds the learned value of energy and peak: the
mean of perfect foresight given what is known. Percent are of what perfect foresight saves against an idle store.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np
from numba import njit

from benchmarks.common import Table, progress
from policies.learned.layout import calendar
from policies.learned.network import Mlp
from training.value_config import FitSettings
from training.value_data import Rows, ValueTask
from training.value_fit import fit_network
from training.value_market import look_ahead, trailing
from training.value_network import GATE_LEVEL
from training.value_score import Run, compare

RATED_KW, CAPACITY_KWH, ETA, WEAR, PEAK_EUR_PER_KW = 100.0, 200.0, 0.95, 0.005, 10.0
SOCS, PEAKS, TOP_KW, LEVELS = 21, 25, 480.0, 8
MARGINS_KW, SHARES = (0.0, 10.0, 20.0, 40.0, 60.0), (0.25, 0.5, 0.75, 1.0)
AHEAD = 24


@njit(cache=True)
def _after(soc: float, level: int) -> tuple[float, float]:
    """(soc after, kW taken from the meter) of a level in [-LEVELS, LEVELS], charge positive."""
    kw = RATED_KW * level / LEVELS
    if kw > 0:
        kw = min(kw, (1.0 - soc) * CAPACITY_KWH / ETA)
        return soc + kw * ETA / CAPACITY_KWH, kw
    kw = -min(-kw, soc * CAPACITY_KWH * ETA)
    return soc + kw / ETA / CAPACITY_KWH, kw


@njit(cache=True)
def _at(table: np.ndarray, soc: float, peak: float) -> float:
    x, y = soc * (SOCS - 1), min(peak / TOP_KW, 1.0) * (PEAKS - 1)
    i, j = min(int(x), SOCS - 2), min(int(y), PEAKS - 2)
    a, b = x - i, y - j
    low = (1 - a) * table[i, j] + a * table[i + 1, j]
    return (1 - b) * low + b * ((1 - a) * table[i, j + 1] + a * table[i + 1, j + 1])


@njit(cache=True)
def _best(price: float, load: float, table: np.ndarray, soc: float, peak: float) -> tuple[float, int]:
    best, chosen = 1e300, 0
    for k in range(2 * LEVELS + 1):
        level = (k + 1) // 2 * (1 if k % 2 else -1)
        s, kw = _after(soc, level)
        cost = (load + kw) * price + WEAR * max(-kw, 0.0) + _at(table, s, max(peak, load + kw))
        if cost < best - 1e-9:
            best, chosen = cost, level
    return best, chosen


@njit(cache=True)
def _back(price: float, load: float, table: np.ndarray, out: np.ndarray) -> None:
    for i in range(SOCS):
        for j in range(PEAKS):
            out[i, j] = _best(price, load, table, i / (SOCS - 1.0), TOP_KW * j / (PEAKS - 1.0))[0]


@njit(cache=True)
def _final(energy_eur_per_kwh: float) -> np.ndarray:
    table = np.empty((SOCS, PEAKS))
    for i in range(SOCS):
        for j in range(PEAKS):
            table[i, j] = PEAK_EUR_PER_KW * TOP_KW * j / (PEAKS - 1.0) - energy_eur_per_kwh * CAPACITY_KWH * i / (SOCS - 1.0)
    return table


@njit(cache=True)
def _closed(table: np.ndarray, month_ends: bool) -> np.ndarray:
    """Where a month ends its peak is paid and the next begins at none."""
    if not month_ends:
        return table
    out = np.empty_like(table)
    for j in range(PEAKS):
        out[:, j] = table[:, 0] + PEAK_EUR_PER_KW * TOP_KW * j / (PEAKS - 1.0)
    return out


@njit(cache=True)
def foresight(price: np.ndarray, load: np.ndarray, month_ends: np.ndarray) -> np.ndarray:
    """Cost to go AFTER each hour, (T, SOCS, PEAKS), EUR; all known."""
    out = np.zeros((len(price), SOCS, PEAKS))
    after = _final(0.0)
    for t in range(len(price) - 1, -1, -1):
        out[t] = _closed(after, month_ends[t]) if t < len(price) - 1 else after
        before = np.empty((SOCS, PEAKS))
        _back(price[t], load[t], out[t], before)
        after = before
    return out


@njit(cache=True)
def plan(price_ahead: np.ndarray, load_ahead: np.ndarray, month_ends: np.ndarray, margin: float) -> np.ndarray:
    """The MPC's tables from expected prices and loads (T, AHEAD)."""
    total = len(price_ahead)
    out = np.zeros((total, SOCS, PEAKS))
    for t in range(total):
        steps = min(AHEAD, total - 1 - t)
        after = _final(0.9 * price_ahead[t].mean() if steps == AHEAD else 0.0)
        for k in range(steps - 1, -1, -1):
            if month_ends[t + 1 + k]:
                after = _closed(after, True)
            before = np.empty((SOCS, PEAKS))
            _back(price_ahead[t, k], load_ahead[t, k] + margin, after, before)
            after = before
        out[t] = _closed(after, month_ends[t]) if t < total - 1 else after
    return out


@njit(cache=True)
def operate(price: np.ndarray, load: np.ndarray, month_ends: np.ndarray, tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """EUR saved against an idle store at each hour (peaks paid when they rise), kWh stored; both (T,)."""
    saved, stored = np.zeros(len(price)), np.zeros(len(price))
    soc, peak, idle = 0.5, 0.0, 0.0
    for t in range(len(price)):
        level = _best(price[t], load[t], tables[t], soc, peak)[1]
        soc, kw = _after(soc, level)
        bought = load[t] + kw
        saved[t] = -kw * price[t] - WEAR * max(-kw, 0.0)
        saved[t] -= PEAK_EUR_PER_KW * (max(bought - peak, 0.0) - max(load[t] - idle, 0.0))
        peak, idle = max(peak, bought), max(idle, load[t])
        stored[t] = soc * CAPACITY_KWH
        if month_ends[t]:
            peak, idle = 0.0, 0.0
    return saved, stored


def site_load(hours: np.ndarray, weekday: np.ndarray, seed: int = 0) -> np.ndarray:
    """The model above, kW, (T,)."""
    g = np.random.default_rng(seed)
    work = weekday < 5
    profile = np.where(work, 70 + 60 * np.exp(-(((hours - 13) / 4.5) ** 2)), 65 + 15 * np.exp(-(((hours - 15) / 5) ** 2)))
    noise, left = np.zeros(len(hours)), np.exp(-1 / 3)
    draws = g.normal(size=len(hours))
    for t in range(1, len(hours)):
        noise[t] = left * noise[t - 1] + 0.12 * np.sqrt(1 - left**2) * draws[t]
    load = profile * (1 + noise)
    begins = g.random(len(hours)) < np.where(work & (hours >= 6) & (hours < 20), 1 / 40, 1 / 250)
    for t in np.flatnonzero(begins).tolist():
        load[t : t + int(g.integers(1, 4))] += g.uniform(60, 140)
    return np.clip(load, 20, TOP_KW - RATED_KW)


def peak_tariff(task: ValueTask, table: Table) -> None:
    """Rows of the test periods."""
    begun = time.process_time()
    market = task.market
    price, hours, weekday = market.price_eur_per_kwh, market.hour(), market.weekday()
    load = site_load(hours, weekday)
    days = [(market.start + timedelta(hours=k)).date() for k in range(0, len(price) + 24, 24)]
    month = np.repeat([day.month for day in days], 24)[: len(price) + 1]
    day_of_month = np.repeat([day.day for day in days], 24)[: len(price)]
    month_ends = np.append(month[1 : len(price)] != month[: len(price) - 1], True)
    now = np.arange(len(price))[:, None]
    ahead = now + 1 + np.arange(AHEAD)
    past = [load[np.maximum(ahead - 24 * back, 0)] * (ahead - 24 * back <= now) for back in range(1, 9)]
    known = sum((ahead - 24 * back <= now).astype(float) for back in range(1, 9))
    expected = sum(past) / np.maximum(known, 1)
    usual = np.mean([load[np.maximum(now[:, 0] - 24 * back, 0)] for back in range(1, 8)], axis=0)
    expected += (load - usual)[:, None] * 0.5 ** np.arange(1, AHEAD + 1)
    prices = look_ahead(market, "published", AHEAD).price_eur_per_kwh
    mean, deviation = trailing(price, 168)
    spread = deviation + 0.003
    features = np.concatenate(
        [
            calendar(hours, weekday), (np.roll(weekday, -24) >= 5)[:, None], (day_of_month / 31.0)[:, None],
            np.log(1000 * spread)[:, None] - 3, (mean[:, None] - 0.08) * 10,
            (np.concatenate([price[:, None], prices], axis=1) - mean[:, None]) / spread[:, None],
            np.stack([load, *(np.roll(load, k) for k in (1, 2, 3))], axis=1) / 100 - 1, expected / 100 - 1,
        ],
        axis=1,
    ).clip(-8, 8).astype(np.float32)  # fmt: skip

    def part(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return price[rows[0] : rows[1]], load[rows[0] : rows[1]], month_ends[rows[0] : rows[1]]

    def run(rows: Rows, tables: np.ndarray) -> Run:
        saved, stored = operate(*part(rows), tables)
        return Run(earned_eur=saved, stored_kwh=stored)

    def mpc(rows: Rows, margin: float) -> np.ndarray:
        return plan(prices[rows[0] : rows[1]], expected[rows[0] : rows[1]], month_ends[rows[0] : rows[1]], margin)

    first, last = task.split.train[0] + 336, task.split.train[1]
    truth = foresight(*part((first, last)))
    truth -= truth.mean(axis=(1, 2), keepdims=True)
    targets = (truth / 500.0).reshape(len(truth), -1).astype(np.float32)[: -24 * 31]
    rows = task.split.validate
    best = run(rows, foresight(*part(rows)))

    def learned(network: Mlp, at: Rows) -> np.ndarray:
        return 500.0 * network(features[at[0] : at[1]]).astype(np.float64).reshape(-1, SOCS, PEAKS)

    def score(network: Mlp) -> float:
        return run(rows, learned(network, rows)).total_eur / best.total_eur

    settings = FitSettings(iterations=3000, checkpoint_every=500, huber_delta=1.0, weight_decay=1e-2, learning_rate=2e-3)
    fit = fit_network(features[first:last][: len(targets)], targets, settings, score)
    tried = {margin: run(rows, mpc(rows, margin)) for margin in MARGINS_KW}
    margin = max(tried, key=lambda key: tried[key].total_eur)
    base, said = mpc(rows, margin), learned(fit.network, rows)
    base -= base.mean(axis=(1, 2), keepdims=True)
    mixed = {share: run(rows, share * said + (1 - share) * base) for share in SHARES}
    share = max(mixed, key=lambda key: mixed[key].total_eur)
    gain = compare(mixed[share], tried[margin], best.total_eur, price[rows[0] : rows[1]], 168, level=GATE_LEVEL)
    gate = share if gain.low > 0 else 0.0
    mpc_pct, network_pct = 100 * tried[margin].total_eur / best.total_eur, 100 * fit.score
    table.notes.append(
        f"peak tariff: {fit.cpu_s:.1f} CPU-s of training, {time.process_time() - begun:.1f} with data and tuning; "
        f"MPC's margin {margin:g} kW; on validation MPC {mpc_pct:.2f} %, network {network_pct:.2f} %, gain at "
        f"share {share:g}: {gain}, so that the gate is {gate:g}"
    )
    progress(table.notes[-1])
    for test in task.split.test:
        top = run(test, foresight(*part(test)))
        start = datetime.fromtimestamp(market.start.timestamp() + test[0] * 3600, tz=UTC)
        name = f"{market.name}, peak tariff, from {start:%Y-%m-%d}"
        base, said = mpc(test, margin), learned(fit.network, test)
        chosen = run(test, base)
        base -= base.mean(axis=(1, 2), keepdims=True)
        table.add(name, "perfect foresight", "100.00", None, None, round(top.total_eur))
        for policy, found in (
            (f"MPC, margin {margin:g} kW", chosen),
            ("MPC, no margin", run(test, mpc(test, 0.0))),
            ("energy-value network", run(test, said)),
            (f"HYBRID (gate: {gate:g} of the network)", chosen if gate == 0 else run(test, gate * said + (1 - gate) * base)),
        ):
            difference = None if found is chosen else compare(found, chosen, top.total_eur, price[test[0] : test[1]], 168)
            won = None if difference is None else f"{difference.weeks_won} / {difference.weeks_lost}"
            percent = f"{100 * found.total_eur / top.total_eur:.2f}"
            table.add(name, policy, percent, difference and str(difference), won, round(found.total_eur))
