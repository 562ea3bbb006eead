"""What the MPC decides at each row of a part and at any state of charge: the base that a residual actor is added to.

The plan is that of a linear store, made anew at each step from what is known then (optimizer.dynamic.rolling): prices do not
answer to what one pack does, so that it is a table over time and stored energy. Packs differ in hours of energy, losses and wear:
tables are made on a grid over these, a pack's marginals lie between those of its neighbours, and its step is decided by its own
power, losses and wear. The horizon, what is expected of prices that are not known (the value of 24 hours before) and the worth of
what is left at the end are the serving MPC's. Not here: adding the actor's part (envs.residual).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC
from core.battery.condition import open_circuit
from core.battery.ecm import compiled
from core.pack import step_resistance_ohm
from envs import variants as at
from envs.data import Exogenous
from envs.engine import Engine
from envs.features import published_until
from envs.residual import Decided
from optimizer.dynamic import Lattice, lattice, rolling
from training.rl_config import BaseConfig

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CELLS = 16
"""Equal parts of the usable energy in a table."""
GRID = (6, 2, 2)
"""Tables along hours of energy, wear and efficiency; one where packs do not differ."""
CHARGE_STEPS = 4
"""Intervals of a plan's lattice that full power fills in a step."""
CHUNK = 20_000
"""Rows whose expected prices are held in memory at once."""
HALF, ROOM_C = 0.5, 25.0
"""State of charge and temperature at which a pack's losses are taken, at rated power."""
TIE_EUR_PER_KWH = 1e-7
SAME = 1e-9
HOURS, EFFICIENCY, WEAR = range(3)
"""First columns of MpcTable.stores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MpcTable:
    """Marginal values of stored energy after each row's step, on a grid of stores."""

    marginals: NDArray[np.float32]
    """EUR/kWh, shape (rows, tables, CELLS), not rising with energy; rows before `first` are left out."""
    first: int
    price: FloatArray
    """EUR/kWh, of all rows."""
    hours: float
    """Of a step."""
    corners: IntArray
    """The eight tables around each variant's pack, (V, P, 8)."""
    weights: FloatArray
    """What each of them counts, (V, P, 8)."""
    stores: FloatArray
    """Hours of usable energy, one-way efficiency, wear in EUR per kWh delivered, lowest and highest energy as shares of a full
    pack, rated power in kW; (V, P, 6)."""
    curves: FloatArray
    """Energy over that of a full pack at 0, 1, ..., 100 % SoC, (V, P, 101)."""

    def decide(self, row: IntArray, variant: IntArray, soc: FloatArray) -> Decided:
        """See envs.residual.Base."""
        found = Decided(np.empty(soc.shape), np.empty(len(soc)), np.empty(len(soc)))
        _decide(
            self.price, self.marginals, self.first, self.corners, self.weights, self.stores, self.curves, self.hours,
            np.ascontiguousarray(row), np.ascontiguousarray(variant), np.ascontiguousarray(soc), *found,
        )  # fmt: skip
        return found


def mpc_table(base: BaseConfig, engine: Engine) -> MpcTable:
    """The table of an engine's part and packs. The same data and config make the same numbers."""
    stores = _stores(engine)
    corners, weights, tables = _on_grid(stores, engine.dt_s)
    data, first, last = engine.part.exogenous, engine.features.first, engine.features.last
    steps = round(base.horizon_hours * 3600.0 / data.dt_s) - 1
    known = published_until(data) if engine.config.information == "published" else np.arange(1, len(data) + 1)
    marginals = np.empty((last + 1 - first, len(tables), CELLS), dtype=np.float32)
    for begin in range(first, last + 1, CHUNK):
        rows = np.arange(begin, min(last + 1, begin + CHUNK))
        ahead = expected_prices(data, known, rows, steps)
        mean = (data.price_eur_per_kwh[rows] + ahead.sum(axis=1)) / (1 + steps)
        counted = np.full(len(rows), steps, dtype=np.int64)
        for k, plant in enumerate(tables):
            found = rolling(ahead, counted, plant, base.terminal_value_share * mean)
            marginals[rows - first, k] = _resampled(found)
    return MpcTable(
        marginals=marginals, first=first, price=data.price_eur_per_kwh, hours=data.dt_s / 3600.0, corners=corners,
        weights=weights, stores=stores, curves=engine.variants.energy_share[engine.variants.pack[:, :, 3].astype(np.int64)],
    )  # fmt: skip


def expected_prices(data: Exogenous, known: IntArray, rows: IntArray, steps: int) -> FloatArray:
    """What is expected at each of the rows of the `steps` steps after it: published, else the value of whole days before;
    EUR/kWh, (rows, steps)."""
    day = round(86_400.0 / data.dt_s)
    later = rows[:, None] + np.arange(1, steps + 1)
    late = np.maximum(0, later - known[rows][:, None] + 1)
    found: FloatArray = data.price_eur_per_kwh[np.maximum(later - day * -(-late // day), 0)]
    return found


def _stores(engine: Engine) -> FloatArray:
    """See MpcTable.stores."""
    variants, found = engine.variants, np.empty((*engine.variants.pack.shape[:2], 6))
    places = np.linspace(0.0, 1.0, variants.energy_share.shape[1])
    for v, packs in enumerate(variants.configs):
        for p, device in enumerate(packs):
            row, given = variants.pack[v, p], engine.config.packs[p]
            parameters = row[at.PARAMETERS]
            window = np.array([given.soc_min_pct, given.soc_max_pct]) / 100.0
            low, high = np.interp(window, places, variants.energy_share[int(parameters[3])])
            rated_w = device.max_discharge_power_w
            open_v = open_circuit(parameters, BY_SOC[int(parameters[3])], HALF, ROOM_C)
            lost = rated_w * step_resistance_ohm(parameters, HALF, ROOM_C, engine.dt_s) / open_v**2
            efficiency = np.sqrt((1.0 - lost) * parameters[6] / (1.0 + lost))
            found[v, p] = row[at.ENERGY] * (high - low) / rated_w, efficiency, 2.0 * row[at.WEAR], low, high, rated_w / 1000.0
    return found


def _on_grid(stores: FloatArray, dt_s: float) -> tuple[IntArray, FloatArray, list[Lattice]]:
    """Corners and weights (MpcTable), and the plants of the tables."""
    axes, near, parts = [], [], []
    for column, count in zip((HOURS, WEAR, EFFICIENCY), GRID, strict=True):
        values = np.log(stores[:, :, column]) if column == HOURS else stores[:, :, column]
        low, high = float(values.min()), float(values.max())
        axis = np.linspace(low, high, count) if high - low > SAME else np.array([low])
        place = (values - low) / max(high - low, SAME) * (len(axis) - 1)
        below = np.minimum(place.astype(np.int64), max(0, len(axis) - 2))
        axes.append(axis)
        near.append((below, np.minimum(below + 1, len(axis) - 1)))
        parts.append((1.0 - place + below, place - below))
    sizes = [len(axis) for axis in axes]
    corners, weights = np.empty((*stores.shape[:2], 8), dtype=np.int64), np.empty((*stores.shape[:2], 8))
    for k, way in enumerate(product((0, 1), repeat=3)):
        corners[..., k] = np.ravel_multi_index([near[a][side] for a, side in enumerate(way)], sizes)
        weights[..., k] = np.prod([parts[a][side] for a, side in enumerate(way)], axis=0)
    plants = []
    for log_hours, wear, efficiency in product(*axes):
        hours, dt_h = float(np.exp(log_hours)), dt_s / 3600.0
        fine = int(np.ceil(CELLS * dt_h * efficiency / hours))
        plant = lattice(
            capacity_wh=1000.0 * hours, power_w=1000.0, round_trip=float(efficiency**2), wear_eur_per_kwh=float(wear), dt_s=dt_s,
            charge_steps=max(CHARGE_STEPS, fine),
        )  # fmt: skip
        plants.append(plant)
    return corners, weights, plants


def _resampled(marginals: FloatArray) -> FloatArray:
    """Means over CELLS equal parts of the lattice's levels, (T, CELLS)."""
    n = marginals.shape[1]
    sums = np.concatenate([np.zeros((len(marginals), 1)), np.cumsum(marginals, axis=1)], axis=1)
    edges = np.linspace(0.0, n, CELLS + 1)
    whole = np.minimum(edges.astype(np.int64), n - 1)
    at_edges = sums[:, whole] + (edges - whole) * marginals[:, whole]
    return np.asarray(np.diff(at_edges, axis=1) * (CELLS / n), dtype=np.float64)


@compiled
def _decide(
    price: FloatArray,
    marginals: NDArray[np.float32],
    first: int,
    corners: IntArray,
    weights: FloatArray,
    stores: FloatArray,
    curves: FloatArray,
    hours: float,
    row: IntArray,
    variant: IntArray,
    soc: FloatArray,
    actions: FloatArray,
    worth_eur: FloatArray,
    idle_eur: FloatArray,
) -> None:
    """Charge while energy is worth more than it costs, else discharge while it is worth less than it brings."""
    points, cells = curves.shape[2] - 1, marginals.shape[2]
    worth = np.empty(cells)
    for e in range(soc.shape[0]):
        v, now = variant[e], price[row[e]]
        table = marginals[row[e] - first]
        worth_eur[e] = idle_eur[e] = 0.0
        for p in range(soc.shape[1]):
            store_h, efficiency, wear, low, high, rated_kw = stores[v, p]
            place = min(max(soc[e, p], 0.0), 1.0) * points
            k = min(int(place), points - 1)
            energy = curves[v, p, k] + (place - k) * (curves[v, p, k + 1] - curves[v, p, k])
            level = min(max((energy - low) / (high - low), 0.0), 1.0) * cells
            worth[:] = 0.0
            for c in range(corners.shape[2]):
                if weights[v, p, c] > 0.0:
                    for k in range(cells):
                        worth[k] += weights[v, p, c] * table[corners[v, p, c], k]
            up, down = hours * efficiency / store_h * cells, hours / efficiency / store_h * cells
            # The lattice has all wear on what is delivered, the environment on both ways: half of it belongs to what is stored.
            early = 0.5 * efficiency * wear
            worth += early
            buy = now / efficiency + early
            sell = efficiency * (now - wear) + early
            cell_kwh = store_h * rated_kw / cells
            end = _best_end(worth, level, min(float(cells), level + up), max(0.0, level - down), buy, min(sell, buy))
            actions[e, p] = (level - end) / (up if end > level else down)
            promised = _stored(worth, end) - (end - level) * (buy if end > level else sell)
            end = _best_end(worth, 0.0, min(float(cells), up), 0.0, buy, min(sell, buy))
            empty = _stored(worth, end) - end * buy
            worth_eur[e] += cell_kwh * (promised - empty)
            idle_eur[e] += cell_kwh * empty


@compiled
def _best_end(worth: FloatArray, level: float, top: float, bottom: float, buy: float, sell: float) -> float:
    """The level to go to: worth (n,) EUR/kWh does not rise, levels are counted in its cells."""
    x = level
    while x < top - SAME and worth[int(x + SAME)] > buy + TIE_EUR_PER_KWH:
        x = min(top, np.floor(x + SAME) + 1.0)
    if x > level:
        return x
    while x > bottom + SAME and worth[int(np.ceil(x - SAME)) - 1] < sell - TIE_EUR_PER_KWH:
        x = max(bottom, np.ceil(x - SAME) - 1.0)
    return x


@compiled
def _stored(worth: FloatArray, level: float) -> float:
    """Worth of all energy up to a level, EUR/kWh x cells."""
    total, whole = 0.0, int(level)
    for k in range(whole):
        total += worth[k]
    return total + (level - whole) * worth[whole] if whole < worth.shape[0] else total
