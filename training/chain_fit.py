"""Training the load chain from a config: `train_chain(config, origin, run_dir, progress) -> Artefact`.

Here: counting on the training days, the gate, the artefact. The gate is the share of the chain's plan in the set points; it is
chosen on the validation alone, and is 0, the MPC as it is, unless the 95 % interval of the paired difference to the MPC lies
above zero there. Blocks of the interval are months: the tariff bills them. The MPC of this comparison plans a day by the same
dynamic programming on the loads of like days, corrected by the latest error, and keeps the margin below the peak that earned it
most. No step's load is known when its power is chosen. Not here: the config (chain_config), the data (chain_data).
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import InputError
from optimizer.peak_plan import PeakStore, Plant, foresight, plan
from optimizer.peak_walk import walk
from policies.learned.artefact import Artefact
from policies.learned.chain_plan import MONTH_S, SPACING, WEEK_S, Steps, rest_of_month, tail_steps, to_published_end
from policies.learned.load_chain import CHAIN_LAYOUT, Chain, FloatArray, IntArray, count_chain, edges_of, local_clock
from training.artefacts import artefact_of_tensors, write_artefact
from training.chain_config import ChainConfig
from training.chain_data import Record, Rows, read_record
from training.config_file import Origin
from training.value_score import Difference, Run, compare

DAY_S = 86_400.0
PUBLISHED_HOUR = 13
SHARES = (0.25, 0.5, 0.75, 1.0)
MARGINS = (0.0, 0.9, 0.99, 0.999)
"""Quantiles of what the MPC's forecasts missed on the training days: margins that it may keep below the peak. 0: none."""
LEVEL = 0.95
LEAST_MONTHS = 6
"""Of the validation, for a gate other than 0: an interval of fewer blocks says nothing."""
LEAST_DAYS = 27
"""Of a whole month."""
PLAN_LEVELS = 6
DAYS_BACK = (6, 10)
"""Weekends and working days that the MPC takes its loads from."""
Progress = Callable[[str, int, int], object]
"""Called with what is going on, days done, days in all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A chain, its gate, what it reached on the validation."""

    chain: Chain
    share: float
    metrics: dict[str, Any]
    cpu_s: float


def train_chain(config: ChainConfig, origin: Origin, run_dir: Path, progress: Progress = lambda *_: None) -> Artefact:
    """Count, choose the gate, write `run_dir/artefact` and `run_dir/metrics.json`.

    The same config and data give the same artefact. Raises InputError for data that cannot be read or counted, OSError when
    nothing can be written.
    """
    record = read_record(config, origin)
    try:
        fitted = fit_chain(record, config, progress)
    except ValueError as error:
        raise InputError(source=origin.of("data.load"), field="data.load", value="its values", expected=str(error)) from None
    artefact = artefact_of_tensors(
        fitted.chain.tensors(),
        kind="load_chain",
        layout=CHAIN_LAYOUT,
        chemistries=config.chemistries,
        information=("day_ahead_price_eur_per_kwh",),
        parameters={
            "share": fitted.share,
            "dt_s": record.dt_s,
            "net_of_pv": config.data.pv is not None,
            "timezone": config.data.timezone,
            "states": fitted.chain.states,
        },
        plant=config.store.model_dump(),
        metrics=fitted.metrics,
        training={
            "config": config.model_dump(mode="json", exclude={"data": {name: {"path"} for name in config.data.files()}}),
            "data_sha256": record.sha256(),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("numpy", "numba", "safetensors")},
        },
    )
    write_artefact(artefact, run_dir / "artefact")
    said = {"sha256": artefact.sha256, "cpu_s": round(fitted.cpu_s, 2), **fitted.metrics}
    (run_dir / "metrics.json").write_text(json.dumps(said, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return artefact


def fit_chain(record: Record, config: ChainConfig, progress: Progress = lambda *_: None) -> Fitted:
    """Looks at training and validation only. Raises ValueError for loads and prices of which nothing can be learned."""
    begun = time.process_time()
    train = slice(*record.train)
    load, kind, hour = record.load_kw[train], record.kind[train], record.hour[train]
    chain = count_chain(load, kind, hour, edges_of(load, kind, hour))
    chain = replace(chain, **{name: getattr(chain, name).astype(np.float32).astype(float) for name in Chain.__slots__})
    store = _store(config, record, chain)
    judged = _Judged(record, chain, store, config)
    best = judged.foresight()
    margins = {q: float(np.quantile(judged.missed(), q)) if q else 0.0 for q in MARGINS}
    if not best.total_eur > 0:
        raise ValueError("loads and prices of the validation with which a store could save something: foresight saves nothing")
    runs = judged.runs([(0.0, kw) for kw in margins.values()], progress)
    by_margin = dict(zip(margins, runs, strict=True))
    quantile = max(by_margin, key=lambda q: by_margin[q].total_eur)
    mpc = by_margin[quantile]
    found = dict(zip(SHARES, judged.runs([(share, margins[quantile]) for share in SHARES], progress), strict=True))
    share = max(found, key=lambda key: found[key].total_eur)
    gain = judged.compare(found[share], mpc, best.total_eur)
    months = judged.whole_months
    chosen = share if gain.low > 0.0 and months >= LEAST_MONTHS else 0.0
    metrics = {
        "validation_months": months,
        "validation_saved_eur": {
            "perfect foresight": round(best.total_eur, 2), "mpc": round(mpc.total_eur, 2),
            "load chain alone": round(found[1.0].total_eur, 2),
        },
        "validation_mpc_pct": round(100.0 * mpc.total_eur / best.total_eur, 3),
        "validation_chain_pct": round(100.0 * found[1.0].total_eur / best.total_eur, 3),
        "validation_best_share": share,
        "validation_gain_points": [round(gain.points, 3), round(gain.low, 3), round(gain.high, 3)],
        "months_won_lost": [gain.weeks_won, gain.weeks_lost],
        "mpc_margin_quantile": quantile,
        "mpc_margin_kw": round(margins[quantile], 3),
    }  # fmt: skip
    return Fitted(chain=chain, share=chosen, metrics=metrics, cpu_s=time.process_time() - begun)


def _store(config: ChainConfig, record: Record, chain: Chain) -> PeakStore:
    store, eta = config.store, float(np.sqrt(config.store.round_trip))
    power_kw = store.power_w / 1000.0
    top_kw = 1.01 * (max(chain.highest_kw, float(record.load_kw[slice(*record.train)].max())) + power_kw)
    return PeakStore(
        charge_kw=power_kw, discharge_kw=power_kw, capacity_kwh=store.capacity_wh / 1000.0, eta_charge=eta, eta_discharge=eta,
        wear_eur_per_kwh=store.wear_eur_per_kwh, peak_eur_per_kw=config.peak_eur_per_kw, top_kw=top_kw,
        dt_h=record.dt_s / 3600.0, spacing=SPACING,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class LikeDays:
    """What the last days of each type say of a load at each midnight."""

    mean_kw: FloatArray
    """(days, 2, steps of a day)."""
    kind: IntArray
    """Of each day; one more than there is data."""
    offset: int
    """Steps by which the first day is short."""

    @classmethod
    def of(cls, record: Record) -> LikeDays:
        """Days begin where the record's first local midnight would: an hour off in half of the year, for all days alike."""
        per_day = round(DAY_S / record.dt_s)
        offset = int(record.hour[0]) * per_day // 24
        load = np.concatenate([np.full(offset, record.load_kw[0]), record.load_kw])
        days = -(-len(load) // per_day)
        noon = np.clip(np.arange(days) * per_day + per_day // 2 - offset, 0, len(record.kind) - 1)
        kind = record.kind[noon]
        local = record.start + timedelta(seconds=(days * per_day + per_day // 2 - offset) * record.dt_s)
        return cls(mean_kw=usual_of_days(load, kind, per_day), kind=np.append(kind, int(local.weekday() < 5)), offset=offset)

    def at(self, now: IntArray, target: IntArray) -> FloatArray:
        """What is expected at steps `now` of steps `target`, of the same day or the next; kW."""
        per_day = self.mean_kw.shape[2]
        day, slot = (now + self.offset) // per_day, (target + self.offset) % per_day
        return np.asarray(self.mean_kw[day, self.kind[np.minimum((target + self.offset) // per_day, len(self.kind) - 1)], slot])


def usual_of_days(load: FloatArray, work: IntArray, per_day: int) -> FloatArray:
    """What the last days of each type (DAYS_BACK of them) say at each midnight, (len(work), 2, per_day). Days of which nothing is
    past: the mean of the days before them, or their own.
    """
    days = load[: len(load) // per_day * per_day].reshape(-1, per_day)
    out = np.zeros((len(work), 2, per_day))
    for kind in (0, 1):
        alike = np.flatnonzero(work[: len(days)] == kind)
        for day in range(len(work)):
            past = alike[: np.searchsorted(alike, day)][-DAYS_BACK[kind] :]
            out[day, kind] = days[past].mean(axis=0) if len(past) else days[: max(day, 1)].mean(axis=0)
    return out


class _Judged:
    """The validation, and who is tried on it."""

    def __init__(self, record: Record, chain: Chain, store: PeakStore, config: ChainConfig) -> None:
        self.record, self.chain, self.store = record, chain, store
        self.plant: Plant = store.plant()
        self.planning: Plant = replace(store, levels=PLAN_LEVELS).plant()
        self.zone = ZoneInfo(config.data.timezone)
        self.per_day = round(DAY_S / record.dt_s)
        buy, sell = config.tariff.buy_sell(record.price_eur_per_kwh)
        self.buy, self.sell = np.ascontiguousarray(buy), np.minimum(sell, buy)
        first, last = record.validation
        self.months: IntArray = np.concatenate(
            [[0], np.flatnonzero(record.month_ends[first : last - 1]) + 1, [last - first]]
        ).astype(np.int64)
        self.usual = LikeDays.of(record)
        error = self._error()
        before, after = error[:-1], error[1:]
        self.left = float(np.clip(np.dot(after, before) / np.maximum(np.dot(before, before), 1e-9), 0.0, 1.0))
        """Of the latest error, a step later."""

    @property
    def whole_months(self) -> int:
        """Of the validation: a cut one is a block, but says little."""
        return int((np.diff(self.months) >= LEAST_DAYS * self.per_day).sum())

    def missed(self) -> FloatArray:
        """How far the MPC's forecast of the next step was too low on the training days, kW, >= 0."""
        error = self._error()
        return np.maximum(error[1:] - self.left * error[:-1], 0.0)

    def _error(self) -> FloatArray:
        """Of the training days: load less what like days said of it."""
        now = np.arange(*self.record.train)
        return np.asarray(self.record.load_kw[now] - self.usual.at(now, now))

    def foresight(self) -> Run:
        """All known."""
        part = slice(*self.record.validation)
        buy, sell, load, ends = self.buy[part], self.sell[part], self.record.load_kw[part], self.record.month_ends[part]
        tables = foresight(self.plant, buy, sell, load, ends)
        saved, stored = walk(
            self.plant, buy, sell, load, ends, load[:, None], np.ones((len(load), 1)), tables[:, None], load, tables, 1.0, 0.0,
            np.array([0.5, 0.0, 0.0]),
        )  # fmt: skip
        return Run(earned_eur=np.asarray(saved), stored_kwh=np.asarray(stored))

    def runs(self, tried: list[tuple[float, float]], progress: Progress) -> list[Run]:
        """Of each share and margin below the peak, day by day as prices come out."""
        record, (first, last) = self.record, self.record.validation
        published = np.flatnonzero((record.hour[1:] == PUBLISHED_HOUR) & (record.hour[:-1] != PUBLISHED_HOUR)) + 1
        midnights = np.append(np.flatnonzero((record.hour[1:] == 0) & (record.hour[:-1] != 0)) + 1, len(record.hour))
        days = [int(k) for k in published if k + self.per_day + 8 > first and k < last]
        accounts = [np.array([0.5, 0.0, 0.0]) for _ in tried]
        parts: list[list[Any]] = [[] for _ in tried]
        need_chain, need_plan = any(share > 0 for share, _ in tried), any(share < 1 for share, _ in tried)
        what = "load chain" if need_chain else "MPC"
        for number, begin in enumerate(days):
            after = midnights[midnights > begin]
            until = int(after[min(1, len(after) - 1)])
            end = min(days[number + 1] if number + 1 < len(days) else last, last, until)
            rows = (max(begin, first), end)
            if rows[0] >= rows[1]:
                continue
            made = self._chain(begin, until, rows) if need_chain else self._no_chain(rows)
            planned = self._plan(until, rows) if need_plan else self._no_plan(rows)
            for k, (share, margin_kw) in enumerate(tried):
                part = slice(*rows)
                parts[k].append(walk(
                    self.plant, self.buy[part], self.sell[part], record.load_kw[part], record.month_ends[part], *made, *planned,
                    share, margin_kw, accounts[k],
                ))  # fmt: skip
            progress(what, number + 1, len(days))
        return [
            Run(earned_eur=np.concatenate([saved for saved, _ in part]), stored_kwh=np.concatenate([kwh for _, kwh in part]))
            for part in parts
        ]

    def _chain(self, begin: int, until: int, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Loads and chances of the states of each step, (T, B), and tables after it, by the prices published at `begin`."""
        record, chain = self.record, self.chain
        count = round(MONTH_S / record.dt_s)
        at = record.start + timedelta(seconds=until * record.dt_s)
        kind, hour, ends = local_clock(at, count, record.dt_s, self.zone)
        count, week = tail_steps(ends, record.dt_s), slice(until - round(WEEK_S / record.dt_s), until)
        beyond = Steps(
            buy_eur_per_kwh=np.resize(self.buy[week], count), sell_eur_per_kwh=np.resize(self.sell[week], count),
            kind=kind[:count], hour=hour[:count], month_ends=ends[:count],
        )  # fmt: skip
        near = slice(begin, until)
        steps = Steps(
            buy_eur_per_kwh=self.buy[near], sell_eur_per_kwh=self.sell[near], kind=record.kind[near], hour=record.hour[near],
            month_ends=record.month_ends[near],
        )  # fmt: skip
        tables = to_published_end(self.plant, chain, steps, rest_of_month(self.store, chain, beyond))
        now = np.arange(*rows)
        before = chain.state(record.load_kw[now - 1], record.kind[now - 1], record.hour[now - 1])
        chance = chain.moves[record.kind[now], record.hour[now], before]
        return chain.loads(record.kind[now], record.hour[now]), chance, tables[rows[0] - begin + 1 : rows[1] - begin + 1]

    def _no_chain(self, rows: Rows) -> tuple[FloatArray, FloatArray, FloatArray]:
        count = rows[1] - rows[0]
        return np.zeros((count, 1)), np.zeros((count, 1)), np.zeros((1, 1, len(self.plant.number), self.plant.peaks))

    def _plan(self, until: int, rows: Rows) -> tuple[FloatArray, FloatArray]:
        """The load that the MPC expects of each step, (T,), and its tables after it."""
        record, ahead = self.record, self.per_day
        now = np.arange(*rows)
        target = now[:, None] + np.arange(ahead + 1)
        inside = np.minimum(target, len(record.load_kw) - 1)
        week = round(WEEK_S / record.dt_s)
        seen = np.where(target < until, inside, target - week * (-((until - 1 - target) // week)))
        error = record.load_kw[now - 1] - self.usual.at(now - 1, now - 1)
        load = self.usual.at(now[:, None], target) + error[:, None] * self.left ** np.arange(1, ahead + 2)
        ahead_of = np.arange(rows[0], rows[1] + ahead + 1)
        known = len(record.month_ends)
        ends = np.where(ahead_of < known, record.month_ends[np.minimum(ahead_of, known - 1)], False)  # beyond the record none
        tables = plan(
            self.planning, self.buy[seen[:, 1:]], self.sell[seen[:, 1:]], np.ascontiguousarray(load[:, 1:]), ends, 0.0,
            np.zeros(len(ends)),
        )  # fmt: skip
        return np.ascontiguousarray(load[:, 0]), np.asarray(tables)

    def _no_plan(self, rows: Rows) -> tuple[FloatArray, FloatArray]:
        return np.zeros(rows[1] - rows[0]), np.zeros((1, len(self.plant.number), self.plant.peaks))

    def compare(self, run: Run, other: Run, best_eur: float) -> Difference:
        """Paired by months."""
        price = self.record.price_eur_per_kwh[slice(*self.record.validation)]
        return compare(run, other, best_eur, price, self.months, level=LEVEL)
