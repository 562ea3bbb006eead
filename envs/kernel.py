"""The compiled step of M environments of P packs: projection, circuit, meter, reward, next observation, next episode.

Physics is core.battery.ecm's, bounds are core.limits' on the Condition of core.battery.condition: the same numbers as in device
and gate. Single and batched environments run this one function; an environment's result does not depend on its neighbours. Not
here: the tables that it gathers from (envs.features, envs.variants), Gymnasium's interfaces.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import advance, compiled_lean, interpolate
from envs import variants as at
from envs.layout import OBSERVATION_BOUND
from envs.projection import project

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
_SITE_FIELDS, _PACK_FIELDS, _SHOWN = 8, 11, 7
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
    """Draw a new episode of environment e: site, first row, temperatures, states of charge; packs at rest."""
    v = min(int(draw(stream, e) * site.shape[0]), site.shape[0] - 1)
    steps = episode_steps if episode_steps > 0 else last - first
    span = last - first - steps + 1
    row = first + min(int(draw(stream, e) * span), span - 1)
    clocks[e, ROW], clocks[e, LEFT], clocks[e, VARIANT] = row, steps, v
    offset = offset_low + (offset_high - offset_low) * draw(stream, e)
    peak = site[v, at.PEAK_FIRST] + (site[v, at.PEAK_LAST] - site[v, at.PEAK_FIRST]) * draw(stream, e)
    accounts[e, OFFSET], accounts[e, PEAK], accounts[e, IDLE_PEAK] = offset, peak, peak
    accounts[e, RETURN] = accounts[e, LENGTH] = 0.0
    ambient = economics[row - 1, AMBIENT] + offset
    for p in range(pack.shape[1]):
        own = pack[v, p]
        state[e, p, 0] = own[at.SOC_FIRST] + (own[at.SOC_LAST] - own[at.SOC_FIRST]) * draw(stream, e)
        state[e, p, 1] = state[e, p, 2] = 0.0
        state[e, p, 3] = ambient + own[at.WARM_FIRST] + (own[at.WARM_LAST] - own[at.WARM_FIRST]) * draw(stream, e)


@compiled_lean
def _bounded(value: float) -> float:
    return min(max(value, -OBSERVATION_BOUND), OBSERVATION_BOUND)


@compiled_lean
def _between(share: float, places: FloatArray, values: FloatArray, row: int) -> float:
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
    at_k += _SITE_FIELDS
    for p in range(pack.shape[1]):
        out[at_k] = _bounded(2.0 * state[e, p, 0] - 1.0)
        out[at_k + 1] = _bounded((state[e, p, 3] - 25.0) / 20.0)
        out[at_k + 2] = _bounded((before[AMBIENT] + accounts[e, OFFSET] - 25.0) / 20.0)
        for k in range(_SHOWN):
            out[at_k + 3 + k] = shown[v, p, k]
        out[at_k + 3 + _SHOWN] = _bounded(pack[v, p, at.WEAR] / spread)
        at_k += _PACK_FIELDS
        if marginal_soc.shape[0] > 0:
            out[at_k] = _bounded(_between(state[e, p, 0], marginal_soc, marginal, t))
            at_k += 1


@compiled_lean
def step_many(
    e_first: int,
    e_last: int,
    actions: NDArray[np.float32],
    stream: NDArray[np.uint64],
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    site: FloatArray,
    pack: FloatArray,
    shown: NDArray[np.float32],
    energy_share: FloatArray,
    spans: FloatArray,
    level_of: IntArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    rows: NDArray[np.float32],
    economics: FloatArray,
    load_ahead: NDArray[np.float32],
    pv_ahead: NDArray[np.float32],
    marginal: FloatArray,
    marginal_soc: FloatArray,
    first: int,
    last: int,
    episode_steps: int,
    offset_low: float,
    offset_high: float,
    dt_s: float,
    substeps: int,
    projection_cost: float,
    potential: bool,
    autoreset: bool,
    observation: NDArray[np.float32],
    final_observation: NDArray[np.float32],
    reward: FloatArray,
    truncated: NDArray[np.bool_],
    results: FloatArray,
    pack_results: FloatArray,
    final_accounts: FloatArray,
    scratch: FloatArray,
) -> None:
    """Step environments e_first to e_last (exclusive); actions (M, P) in [-1, 1], 1 = discharge at rated power; scratch (30,)."""
    packs = pack.shape[1]
    hours = dt_s / 3600.0
    anchors, found, condition, output = scratch[0:2], scratch[2:8].reshape(2, 3), scratch[8:25], scratch[25:30]
    for e in range(e_first, e_last):
        t, v = clocks[e, ROW], clocks[e, VARIANT]
        own, money = site[v], economics[t]
        ambient = money[AMBIENT] + accounts[e, OFFSET]
        net = money[LOAD] * own[at.LOAD_FACTOR] - money[PV] * own[at.PV_FACTOR]
        # Each pack within its own bounds.
        charged, discharged = 0.0, 0.0
        for p in range(packs):
            row, done = pack[v, p], pack_results[e, p]
            cell = int(row[3])
            wish = min(max(float(actions[e, p]), -1.0), 1.0)
            wish *= row[27] if wish > 0.0 else row[26]
            done[WISHED] = wish
            # fmt: off
            done[APPLIED] = project(wish, state[e, p], ambient, row, spans[cell], level_of, by_soc[cell], by_temperature[cell],
                                    dt_s, anchors, found, condition)
            # fmt: on
            if done[APPLIED] > 0.0:
                discharged += done[APPLIED]
            else:
                charged -= done[APPLIED]
        # The sum within the meter's limits, as the gate does: packs are only cut for what they add.
        grid = net + charged - discharged
        if grid > own[at.IMPORT_LIMIT] and charged > 0.0:
            keep = max(0.0, 1.0 - (grid - own[at.IMPORT_LIMIT]) / charged)
            for p in range(packs):
                if pack_results[e, p, APPLIED] < 0.0:
                    pack_results[e, p, APPLIED] *= keep
        elif -grid > own[at.EXPORT_LIMIT] and discharged > 0.0:
            keep = max(0.0, 1.0 - (-grid - own[at.EXPORT_LIMIT]) / discharged)
            for p in range(packs):
                if pack_results[e, p, APPLIED] > 0.0:
                    pack_results[e, p, APPLIED] *= keep
        total, wear, gained_wh, projected = 0.0, 0.0, 0.0, 0.0
        for p in range(packs):
            row, done = pack[v, p], pack_results[e, p]
            cell = int(row[3])
            energy = interpolate(energy_share[cell], state[e, p, 0])
            # fmt: off
            advance(state[e, p], done[APPLIED], ambient, row[0:11], row[30:35], by_soc[cell], by_temperature[cell], substeps,
                    output)
            # fmt: on
            projected += abs(done[WISHED] - output[0])
            done[APPLIED], done[ENDED_V], done[MEAN_A] = output[0], output[1], output[2]
            total += output[0]
            wear += row[at.WEAR] * abs(output[0]) * hours / 1000.0
            gained_wh += row[at.ENERGY] * (interpolate(energy_share[cell], state[e, p, 0]) - energy)
        # Cash is what the packs save: the meter's bill without them less the bill with them.
        grid = net - total
        bill = grid * hours / 1000.0 * (money[BUY] if grid > 0.0 else money[SELL])
        idle_bill = net * hours / 1000.0 * (money[BUY] if net > 0.0 else money[SELL])
        if money[MONTH] > 0.0:
            accounts[e, PEAK] = accounts[e, IDLE_PEAK] = 0.0
        rise = max(0.0, grid - accounts[e, PEAK])
        idle_rise = max(0.0, net - accounts[e, IDLE_PEAK])
        accounts[e, PEAK] += rise
        accounts[e, IDLE_PEAK] += idle_rise
        peak_cost = own[at.PEAK_PRICE] * (rise - idle_rise) / 1000.0
        cash = idle_bill - bill - peak_cost
        worth = gained_wh / 1000.0 * money[MEAN]
        share = projected / own[at.RATED]
        value = cash - wear + (worth if potential else 0.0)
        reward[e] = value / (money[SPREAD] * own[at.SCALE]) - projection_cost * share
        out = results[e]
        out[CASH], out[WEAR_COST], out[POTENTIAL], out[PROJECTED] = cash, wear, worth, share
        out[GRID], out[LOAD_NOW], out[PV_NOW] = grid, money[LOAD] * own[at.LOAD_FACTOR], money[PV] * own[at.PV_FACTOR]
        out[PEAK_COST] = peak_cost
        accounts[e, RETURN] += reward[e]
        accounts[e, LENGTH] += 1.0
        clocks[e, ROW] = t + 1
        clocks[e, LEFT] -= 1
        truncated[e] = clocks[e, LEFT] <= 0
        if truncated[e] and autoreset:
            # fmt: off
            observe(e, clocks, accounts, state, site, pack, shown, rows, economics, load_ahead, pv_ahead, marginal, marginal_soc,
                    final_observation[e])
            for k in range(accounts.shape[1]):
                final_accounts[e, k] = accounts[e, k]
            begin(e, stream, clocks, accounts, state, site, pack, economics, first, last, episode_steps, offset_low, offset_high)
            # fmt: on
        # fmt: off
        observe(e, clocks, accounts, state, site, pack, shown, rows, economics, load_ahead, pv_ahead, marginal, marginal_soc,
                observation[e])
        # fmt: on
