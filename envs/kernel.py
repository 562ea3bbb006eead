"""What environments keep of their state, the beginning of an episode, and the observation of one environment; compiled.

`observe` is written for one environment, as serving needs it; envs.block has the same for eight at once. Not here: the step
(envs.block), the tables that it gathers from (envs.features, envs.variants), Gymnasium's interfaces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled_lean
from envs import variants as at
from envs.layout import OBSERVATION_BOUND

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BUY, SELL, MEAN, SPREAD, LOAD, PV, LOAD_FORECAST, PV_FORECAST, AMBIENT, MONTH = range(10)
"""Columns of envs.features.ECONOMICS."""
CASH, WEAR_COST, POTENTIAL, PROJECTED, GRID, LOAD_NOW, PV_NOW, PEAK_COST = range(8)
RESULTS = ("cash_eur", "wear_eur", "potential_eur", "projected_share", "grid_w", "load_w", "pv_w", "peak_eur")
"""Columns of the results of a step, shape (M, 8): what the reward is made of, and the meter. Cash holds the peak's cost."""
WISHED, APPLIED, ENDED_V, MEAN_A = range(4)
PACK_RESULTS = ("intended_w", "applied_w", "voltage_v", "current_a")
"""Columns of the packs' results, shape (M, P, 4); power and current are the step's means, voltage that of its end."""
ROW, LEFT, VARIANT = range(3)
"""Columns of the clocks, shape (M, 3): row of the data, steps left, site."""
OFFSET, PEAK, IDLE_PEAK, RETURN, LENGTH = range(5)
"""Columns of the accounts, shape (M, 5): temperature offset (K), peak with and without packs (W), return and steps so far."""
SITE_FIELDS, PACK_FIELDS, SHOWN = 8, 11, 7
_MULTIPLY_1, _MULTIPLY_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled_lean
def draw(stream: NDArray[np.uint64], e: int) -> float:
    """Next number in [0, 1) of an environment's own stream: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    stream[e] += _GOLDEN
    x = stream[e]
    x = (x ^ (x >> np.uint64(30))) * _MULTIPLY_1
    x = (x ^ (x >> np.uint64(27))) * _MULTIPLY_2
    x ^= x >> np.uint64(31)
    return float(x >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@compiled_lean
def begin(
    e: int,
    stream: NDArray[np.uint64],
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    site: FloatArray,
    pack: FloatArray,
    economics: FloatArray,
    first: int,
    last: int,
    episode_steps: int,
    offset_low: float,
    offset_high: float,
) -> None:
    """Draw a new episode of environment e: site, first row, temperatures, states of charge; packs at rest.

    clocks (3, M), accounts (5, M) and state (P, 4, M): the environments lie side by side.
    """
    v = min(int(draw(stream, e) * site.shape[0]), site.shape[0] - 1)
    steps = episode_steps if episode_steps > 0 else last - first
    span = last - first - steps + 1
    row = first + min(int(draw(stream, e) * span), span - 1)
    clocks[ROW, e], clocks[LEFT, e], clocks[VARIANT, e] = row, steps, v
    offset = offset_low + (offset_high - offset_low) * draw(stream, e)
    peak = site[v, at.PEAK_FIRST] + (site[v, at.PEAK_LAST] - site[v, at.PEAK_FIRST]) * draw(stream, e)
    accounts[OFFSET, e], accounts[PEAK, e], accounts[IDLE_PEAK, e] = offset, peak, peak
    accounts[RETURN, e] = accounts[LENGTH, e] = 0.0
    ambient = economics[row - 1, AMBIENT] + offset
    for p in range(pack.shape[1]):
        own = pack[v, p]
        state[p, 0, e] = own[at.SOC_FIRST] + (own[at.SOC_LAST] - own[at.SOC_FIRST]) * draw(stream, e)
        state[p, 1, e] = state[p, 2, e] = 0.0
        state[p, 3, e] = ambient + own[at.WARM_FIRST] + (own[at.WARM_LAST] - own[at.WARM_FIRST]) * draw(stream, e)


@compiled_lean
def _bounded(value: float) -> float:
    return min(max(value, -OBSERVATION_BOUND), OBSERVATION_BOUND)


@compiled_lean
def between_places(share: float, places: FloatArray, values: FloatArray, row: int) -> float:
    """A row of values at a place between rising places, held at the ends."""
    last = places.shape[0] - 1
    if share >= places[last]:
        return float(values[row, last])
    k = 0
    while k < last - 1 and share > places[k + 1]:
        k += 1
    part = max(0.0, (share - places[k]) / (places[k + 1] - places[k]))
    return float(values[row, k] + part * (values[row, k + 1] - values[row, k]))


@compiled_lean
def observe(
    e: int,
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    site: FloatArray,
    pack: FloatArray,
    shown: NDArray[np.float32],
    rows: NDArray[np.float32],
    economics: FloatArray,
    load_ahead: NDArray[np.float32],
    pv_ahead: NDArray[np.float32],
    marginal: FloatArray,
    marginal_soc: FloatArray,
    out: NDArray[np.float32],
) -> None:
    """The observation of environment e, out (layout.size,), before its next step."""
    t, v = clocks[e, ROW], clocks[e, VARIANT]
    own, money, before = site[v], economics[t], economics[t - 1]
    rated, spread = own[at.RATED], money[SPREAD]
    width = rows.shape[1]
    for k in range(width):
        out[k] = rows[t, k]
    at_k = width
    for k in range(load_ahead.shape[1]):
        out[at_k + k] = _bounded((load_ahead[t, k] * own[at.LOAD_FACTOR] - pv_ahead[t, k] * own[at.PV_FACTOR]) / rated)
    at_k += load_ahead.shape[1]
    load, pv = before[LOAD] * own[at.LOAD_FACTOR], before[PV] * own[at.PV_FACTOR]
    missed = load - pv - before[LOAD_FORECAST] * own[at.LOAD_FACTOR] + before[PV_FORECAST] * own[at.PV_FACTOR]
    out[at_k] = _bounded(load / rated)
    out[at_k + 1] = _bounded(pv / rated)
    out[at_k + 2] = _bounded(missed / rated)
    out[at_k + 3] = _bounded(own[at.IMPORT_LIMIT] / rated)
    out[at_k + 4] = _bounded(own[at.EXPORT_LIMIT] / rated)
    out[at_k + 5] = _bounded(accounts[e, PEAK] / rated)
    # A kW of peak costs as much as this many hours of the price's spread, in days.
    out[at_k + 6] = _bounded(own[at.PEAK_PRICE] / (24.0 * spread))
    out[at_k + 7] = _bounded((money[BUY] - money[SELL]) / spread)
    at_k += SITE_FIELDS
    for p in range(pack.shape[1]):
        out[at_k] = _bounded(2.0 * state[e, p, 0] - 1.0)
        out[at_k + 1] = _bounded((state[e, p, 3] - 25.0) / 20.0)
        out[at_k + 2] = _bounded((before[AMBIENT] + accounts[e, OFFSET] - 25.0) / 20.0)
        for k in range(SHOWN):
            out[at_k + 3 + k] = shown[v, p, k]
        out[at_k + 3 + SHOWN] = _bounded(pack[v, p, at.WEAR] / spread)
        at_k += PACK_FIELDS
        if marginal_soc.shape[0] > 0:
            out[at_k] = _bounded(between_places(state[e, p, 0], marginal_soc, marginal, t))
            at_k += 1
