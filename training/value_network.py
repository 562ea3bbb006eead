"""Training the energy-value network from a config: `train_value(config, run_dir, progress) -> Artefact`.

Here: the order of work, the gate between network and MPC, the artefact. The gate is the share of the network in what energy is
said to be worth; the rest is the MPC's. It is chosen on validation alone, and is 0, the MPC as it is, where the interval of the
paired difference there reaches zero. Not here: the config (value_config), one fit (value_fit), data (value_data), the command
line.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from optimizer.dynamic import FloatArray, lattice
from policies.learned.artefact import Artefact
from policies.learned.network import Mlp
from training.artefacts import make_artefact, write_artefact
from training.value_config import FitSettings, ValueConfig
from training.value_data import Rows, Said, ValueTask, tuned
from training.value_fit import Fit, fit_network
from training.value_market import Split, read_market, split_by_dates, split_by_half
from training.value_score import compare

SHARES = (0.25, 0.5, 0.75, 1.0)
GATE_LEVEL = 0.95
Progress = Callable[[str, int, int, float], object]
"""Called with what is going on, iterations done, iterations in all, validation score (share of perfect foresight)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """Networks, gate, and what they reached on validation."""

    task: ValueTask
    fits: tuple[Fit, ...]
    share: float
    metrics: dict[str, Any]
    cpu_s: float
    """Data, targets, tuning and fits together."""

    def network(self) -> Callable[[Any], Any]:
        """The mean of the networks."""
        return mean_network([fit.network for fit in self.fits])

    def marginals(self, rows: Rows, share: float | None = None) -> FloatArray:
        """What HYBRID says that energy is worth on a range; with share 1 the network alone. (T, n)."""
        part = self.share if share is None else share
        plan = self.task.plan(rows) if part < 1.0 or self.task.information == "hourly_reveal" else None
        if part == 0.0 and plan is not None:
            return plan
        said = self.task.value(self.network(), rows, self.task.features(rows, plan), plan)  # type: ignore[arg-type]
        return said if plan is None or part == 1.0 else np.asarray(part * said + (1.0 - part) * plan)


def mean_network(networks: list[Mlp]) -> Callable[[Any], Any]:
    """Mean output of several networks."""
    if len(networks) == 1:
        return networks[0]
    return lambda x: np.mean([network(x) for network in networks], axis=0)


def task_of(config: ValueConfig) -> ValueTask:
    """The data of a config, split; raises InputError for a file that cannot be read or a split that leaks."""
    data = config.data
    market = read_market(data.path, data.price_column, data.forecast_columns, data.eur_per_kwh)
    opinions = None
    if data.opinion_columns:
        opinions = read_market(data.path, data.price_column, data.opinion_columns, data.eur_per_kwh).forecasts_eur_per_kwh
    plant = lattice(dt_s=market.dt_s, **config.plant.model_dump())
    split = config.split
    if split.half:
        made: Split = split_by_half(market, split.validation_days)
    else:
        dates = (split.train_from, split.validate_from, split.validate_until)
        made = split_by_dates(market, [item for item in dates if item is not None])
    return ValueTask(
        market=market, split=made, plant=plant, information=config.information, opinions=opinions, clock_hours=config.clock_hours
    )


def fit_task(
    task: ValueTask,
    settings: FitSettings,
    seeds: tuple[int, ...] = (0,),
    stride: int = 1,
    progress: Progress | None = None,
    *,
    rounds: int = 0,
    memory_years: float | None = None,
) -> Trained:
    """Tune the MPC's correction, fit one network a seed, choose the gate. Looks at training and validation data only.

    Hindsight overrates waiting: it knows the next spike. In each of the `rounds` the networks go on from where they are, to what
    energy was worth to one who acted by their mean.
    """
    begun = time.process_time()
    task = tuned(task)
    rows = task.split.validate
    best = task.run(task.hindsight(rows), rows)
    plan = task.plan(rows)
    mpc = task.run(plan, rows)
    seen = task.features(rows, plan)

    def score(network: Any) -> float:  # noqa: ANN401 - a network or a mean of networks
        return task.run(task.value(network, rows, seen, plan), rows).total_eur / best.total_eur

    drawn = _draw(task, stride, memory_years)
    fits: list[Fit] = []
    for turn in range(rounds + 1):
        features, targets = task.supervised(task.split.train, stride, _said(task, fits) if fits else None)
        features, targets = features[drawn], targets[drawn]
        before, fits = fits, []
        for k, seed in enumerate(seeds):
            name = f"seed {seed}" + (f", round {turn}" if turn else "")
            told = None if progress is None else (lambda done, total, at, n=name: progress(n, done, total, at))
            start = before[k].network if before else None
            fit = fit_network(features, targets, settings, score, seed=seed + 1000 * turn, start=start, progress=told)
            fits.append(
                replace(fit, cpu_s=fit.cpu_s + before[k].cpu_s, history=before[k].history + fit.history) if before else fit
            )
    said = task.value(mean_network([fit.network for fit in fits]), rows, seen, plan)  # type: ignore[arg-type]
    runs = {share: task.run(share * said + (1.0 - share) * plan, rows) for share in SHARES}
    share = max(runs, key=lambda key: runs[key].total_eur)
    gain = compare(runs[share], mpc, best.total_eur, task.price(rows), task.week, level=GATE_LEVEL)
    metrics = {
        "validation_network_pct": round(100.0 * runs[1.0].total_eur / best.total_eur, 3),
        "validation_mpc_pct": round(100.0 * mpc.total_eur / best.total_eur, 3),
        "validation_best_share": share,
        "validation_gain_points": [round(gain.points, 3), round(gain.low, 3), round(gain.high, 3)],
        "correction_phi": task.correction.phi,
        "correction_days": task.correction.days,
        "best_at": [fit.best_at for fit in fits],
    }
    chosen = share if gain.low > 0.0 else 0.0
    return Trained(task=task, fits=tuple(fits), share=chosen, metrics=metrics, cpu_s=time.process_time() - begun)


def _said(task: ValueTask, fits: list[Fit]) -> Said:
    network: Any = mean_network([fit.network for fit in fits])
    return lambda rows, features, plan: task.value(network, rows, features, plan)


def _draw(task: ValueTask, stride: int, memory_years: float | None) -> Any:  # noqa: ANN401 - an index of NumPy
    """Which of the training rows are learned from: all, or as many, drawn with the recent ones more often."""
    if memory_years is None:
        return slice(None)
    steps = task.learned_steps(task.split.train, stride)
    age = (task.split.train[1] - steps) * task.market.dt_s / (365.25 * 86400.0)
    weight = np.exp(-age / memory_years)
    return np.sort(np.random.default_rng(0).choice(len(steps), len(steps), p=weight / weight.sum()))


def train_value(config: ValueConfig, run_dir: Path, progress: Progress | None = None) -> Artefact:
    """Train by a config and write `run_dir/artefact` and `run_dir/metrics.json`.

    Takes seconds to a minute and starts anew when it was killed: same config, same data, same result. Raises InputError for data
    that cannot be read and OSError when nothing can be written; what was in `run_dir/artefact` then stays or fails its hash.
    """
    trained = fit_task(
        task_of(config), config.fit, config.seeds, config.stride, progress, rounds=config.rounds, memory_years=config.memory_years
    )
    task = trained.task
    artefact = make_artefact(
        {f"value{k}": fit.network for k, fit in enumerate(trained.fits)},
        kind="residual" if config.information == "hourly_reveal" else "energy_value",
        layout=task.layout,
        chemistries=config.chemistries,
        information=("day_ahead_price_eur_per_kwh",),
        parameters={
            "share": trained.share,
            "horizon_steps": task.horizon_steps,
            "dt_s": task.market.dt_s,
            "information": config.information,
            "correction_phi": task.correction.phi,
            "correction_days": task.correction.days,
        },
        plant={**config.plant.model_dump(), "intervals": task.plant.intervals},
        metrics=trained.metrics,
        training={
            "config": config.model_dump(mode="json", exclude={"data": {"path"}}),
            "data_file": config.data.path.name,
            "data_sha256": task.market.sha256,
            "cpu_s": round(trained.cpu_s, 2),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in ("numpy", "numba", "torch", "safetensors")},
        },
    )
    write_artefact(artefact, run_dir / "artefact")
    record = {"sha256": artefact.sha256, "cpu_s": trained.cpu_s, **trained.metrics}
    record["history"] = [[list(point) for point in fit.history] for fit in trained.fits]
    (run_dir / "metrics.json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return artefact
