"""Rules on the benchmark's plant: one cycle a day, and thresholds on trailing quantiles tuned on the training period."""

from __future__ import annotations

import numpy as np

from training.value_data import Rows, ValueTask
from training.value_score import Run

LOW, HIGH = (0.1, 0.2, 0.3, 0.35), (0.65, 0.7, 0.8, 0.9)


def one_cycle(task: ValueTask, rows: Rows) -> Run:
    """Each day of known prices: full in the cheapest consecutive hours, empty in the dearest later ones, when that pays."""
    plant, price = task.plant, task.price(rows)
    kwh = plant.step_wh / 1000.0
    fill = int(np.ceil(plant.intervals / plant.charge_steps - 1e-9))
    empty = int(np.ceil(plant.intervals / plant.discharge_steps - 1e-9))
    earned, stored = np.zeros(len(price)), np.zeros(len(price))
    day = task.market.steps_per_day
    amounts_in = [min(plant.charge_steps, plant.intervals - k * plant.charge_steps) for k in range(fill)]
    amounts_out = [min(plant.discharge_steps, plant.intervals - k * plant.discharge_steps) for k in range(empty)]
    for first in range(0, len(price) - day + 1, day):
        today = price[first : first + day]
        cost = [sum(a * today[i + k] for k, a in enumerate(amounts_in)) * kwh / plant.eta_charge for i in range(day - fill + 1)]
        sold = [
            sum(a * (today[j + k] - plant.wear_eur_per_kwh) for k, a in enumerate(amounts_out)) * kwh * plant.eta_discharge
            for j in range(day - empty + 1)
        ]
        best, where = 0.0, None
        for i in range(day - fill - empty + 1):
            j = i + fill + int(np.argmax(sold[i + fill :]))
            if sold[j] - cost[i] > best:
                best, where = sold[j] - cost[i], (i, j)
        if where:
            i, j = where
            earned[first + i : first + i + fill] -= [a * today[i + k] * kwh / plant.eta_charge for k, a in enumerate(amounts_in)]
            earned[first + j : first + j + empty] += [
                a * (today[j + k] - plant.wear_eur_per_kwh) * kwh * plant.eta_discharge for k, a in enumerate(amounts_out)
            ]
            stored[first + i + fill - 1 : first + j] = plant.intervals * kwh
    return Run(earned_eur=earned, stored_kwh=stored)


def threshold(task: ValueTask, rows: Rows) -> Run:
    """Full power below one quantile of the last 7 days' prices and above another; the pair that earned most in training."""
    known = (task.split.train[0], task.split.validate[1])
    pairs = [(low, high) for low in LOW for high in HIGH]
    best = max(pairs, key=lambda pair: _threshold(task, known, *pair).total_eur)
    return _threshold(task, rows, *best)


def _threshold(task: ValueTask, rows: Rows, low: float, high: float) -> Run:
    first = max(0, rows[0] - task.week)
    history = task.market.price_eur_per_kwh[first : rows[1]]
    windows = np.lib.stride_tricks.sliding_window_view(history, task.week)
    bounds = np.quantile(windows[::24], [low, high], axis=1)  # anew once a day
    price = task.price(rows)
    at = np.clip((np.arange(len(price)) + rows[0] - first - task.week) // 24, 0, bounds.shape[1] - 1)
    extreme = 10.0 * np.abs(history).max() + 1.0
    marginal = np.where(price < bounds[0][at], extreme, np.where(price > bounds[1][at], -extreme, np.nan))
    plant = task.plant
    middle = np.where(np.isnan(marginal), 0.5 * (price / plant.eta_charge + plant.eta_discharge * price), marginal)
    return task.run(np.repeat(middle[:, None], plant.intervals, axis=1), rows)
