"""A plan made with all prices known, carried out in the environment: the scale that validation scores are read on.

The plan is that of a linear store (optimizer.dynamic) of each pack's size, power and wear; at each step the pack's true state of
charge is looked up in it. Not a strict bound: the environment's pack is not linear. Not here: scores (training.rl_validation).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from core.compiled import kept_on_disk
from envs import variants as at
from envs.engine import Engine
from optimizer.dynamic import lattice, perfect_foresight

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CHARGE_STEPS = 4
"""Intervals of the plan's lattice that full power fills in a step."""
SEEN_ON_D = 2
"""Days after a stretch whose prices the plan knows too: energy left over has a use."""


def foresight_actor(
    engine: Engine, rows: IntArray, sites: IntArray, steps: int, round_trip: float
) -> Callable[[NDArray[np.float32]], FloatArray]:
    """An actor for one run of `steps` steps from `rows` at `sites`, both (M,), of an engine of one pack each."""
    last = len(engine.part.exogenous)
    after = round(SEEN_ON_D * 86_400 / engine.dt_s)
    price = engine.part.exogenous.price_eur_per_kwh
    config = engine.config.packs[0]
    low, high = config.soc_min_pct / 100.0, config.soc_max_pct / 100.0
    plants, tables = [], []
    for row, site in zip(rows.tolist(), sites.tolist(), strict=True):
        pack = engine.variants.pack[site, 0]
        # The environment counts wear on both ways, the lattice on what is delivered.
        plant = lattice(
            capacity_wh=float(pack[at.ENERGY]) * (high - low), power_w=float(engine.variants.site[site, at.RATED]),
            round_trip=round_trip, wear_eur_per_kwh=2.0 * float(pack[at.WEAR]), dt_s=engine.dt_s, charge_steps=CHARGE_STEPS,
        )  # fmt: skip
        plants.append(plant)
        tables.append(perfect_foresight(price[row : min(row + steps + after, last)], plant)[:steps])
    most = max(table.shape[1] for table in tables)
    marginals = np.stack([np.pad(table, ((0, 0), (0, most - table.shape[1]))).astype(np.float32) for table in tables])
    numbers = np.array([[*plant.vector(), plant.intervals] for plant in plants], dtype=np.float64)
    rated = engine.variants.site[sites, at.RATED]
    step = iter(range(steps))

    def act(_: NDArray[np.float32]) -> FloatArray:
        k = next(step)
        soc = np.clip((engine.state[:, 0, 0] - low) / (high - low), 0.0, 1.0)
        wanted = _best_powers(price[rows + k], np.ascontiguousarray(marginals[:, k]), soc, numbers, engine.dt_s / 3600.0)
        return np.asarray(wanted / rated, dtype=np.float64)[:, None]

    return act


@kept_on_disk()
def _best_powers(
    price: FloatArray, marginals: NDArray[np.float32], soc: FloatArray, plants: FloatArray, hours: float
) -> FloatArray:
    """Of each store the power (W, discharge positive) that earns most now and later; marginals (M, n), soc in its window 0-1."""
    out = np.zeros(len(price))
    for e in range(len(price)):
        up, down, ec, ed, wear, kwh, n = plants[e]
        level = soc[e] * n
        move, best, worth, x = 0.0, 0.0, 0.0, level
        # Up in pieces to the next whole level, while the next piece is worth more than it costs.
        while x < min(n, level + up) - 1e-9:
            piece = min(np.floor(x + 1e-9) + 1.0, n, level + up) - x
            worth += piece * kwh * (marginals[e, int(x + 1e-9)] - price[e] / ec)
            x += piece
            if worth > best + 1e-9:
                best, move = worth, x - level
        worth, x = 0.0, level
        while x > max(0.0, level - down) + 1e-9:
            piece = x - max(np.ceil(x - 1e-9) - 1.0, 0.0, level - down)
            worth += piece * kwh * (ed * (price[e] - wear) - marginals[e, int(np.ceil(x - 1e-9)) - 1])
            x -= piece
            if worth > best + 1e-9:
                best, move = worth, x - level
        stored_w = move * kwh * 1000.0 / hours
        out[e] = -stored_w / ec if move > 0.0 else -stored_w * ed
    return out
