"""The compiled step of eight environments at a time: projection, circuit, meter, reward, next observation, next episode.

Environments stand in the lanes of core.lanes, eight to a block; the last block is filled up with stand-ins whose results nobody
reads. Physics is core.battery.ecm's, bounds are core.limits' on the Condition of core.battery.condition: the same numbers as in
device and gate. Single and batched environments run these functions; an environment's result does not depend on its neighbours.
Not here: the order of what is kept and the beginning of an episode (envs.kernel), tables (envs.features, envs.variants).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_TEMPERATURE
from core.battery.ecm import SOC_POINTS, advance, compiled_lean
from core.lane_counts import count8
from core.lane_tables import columns8, copy16, fetch, lined_up, pair, place8, put, take
from core.lanes import LANES, anywhere, least, less, load, magnitude, most, store, where, whole
from envs import kernel
from envs import variants as at
from envs.features import Features
from envs.layout import OBSERVATION_BOUND
from envs.waiting import BLOCKS_AHEAD, BLOCKS_AT_ONCE, project_blocks

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
OWN_COLUMNS = at.PACK_COLUMNS + kernel.SHOWN
"""A pack's row and what is shown of it, in a block's own tables: shape (blocks, P, OWN_COLUMNS, 8)."""
CHUNK = 16
"""Floats that are copied at a time: rows of the observation's table are filled up to whole chunks."""
DEGREES = BY_TEMPERATURE.shape[1]
"""Rows of a cell's table over temperature."""
CIRCUIT, OUTPUT, DESK_ROWS = 0, 4, 9
"""Rows of a thread's scratch (DESK_ROWS, 8): 4 of state, 5 of output."""


def settled_at(features: Features) -> FloatArray:
    """What a step is settled with, by row: buy, sell, mean, spread, load, PV, ambient, month begins; shape (N, 8)."""
    return lined_up(features.economics[:, [0, 1, 2, 3, 4, 5, 8, 9]])


def known_before(features: Features) -> FloatArray:
    """What an observation shows beside its row: load, PV, their forecasts and ambient of the row before, fee, spread; (N, 8)."""
    now, before = features.economics, features.economics[np.maximum(np.arange(len(features.economics)) - 1, 0)]
    columns = [before[:, 4], before[:, 5], before[:, 6], before[:, 7], before[:, 8], now[:, 0] - now[:, 1], now[:, 3], now[:, 3]]
    return lined_up(np.stack(columns, axis=1))


def in_chunks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """The table of rows, each filled up to whole chunks."""
    return lined_up(np.pad(rows, ((0, 0), (0, -rows.shape[1] % CHUNK))))


@compiled_lean
def furnish(
    e: int,
    variant: int,
    site: FloatArray,
    pack: FloatArray,
    shown: NDArray[np.float32],
    own_site: FloatArray,
    own: FloatArray,
) -> None:
    """Write the numbers of a variant into environment e's lane."""
    b, lane = e // LANES, e % LANES
    for k in range(site.shape[1]):
        own_site[b, k, lane] = site[variant, k]
    for p in range(pack.shape[1]):
        for k in range(at.PACK_COLUMNS):
            own[b, p, k, lane] = pack[variant, p, k]
        for k in range(kernel.SHOWN):
            own[b, p, at.PACK_COLUMNS + k, lane] = shown[variant, p, k]


@compiled_lean
def _bounded(value: float) -> float:
    bounded: float = least(most(value, -OBSERVATION_BOUND), OBSERVATION_BOUND)
    return bounded


@compiled_lean
def observe_block(
    b: int,
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    own_site: FloatArray,
    own: FloatArray,
    row_width: int,
    rows: NDArray[np.float32],
    before: FloatArray,
    load_ahead: NDArray[np.float32],
    pv_ahead: NDArray[np.float32],
    marginal: FloatArray,
    marginal_soc: FloatArray,
    out: NDArray[np.float32],
) -> None:
    """The observations of block b, out (blocks x 8, size): envs.kernel.observe for eight environments."""
    stride, width, e_first = accounts.shape[1], out.shape[1], b * LANES
    for lane in range(LANES):
        t = clocks[kernel.ROW, e_first + lane]
        for k in range(0, rows.shape[1], CHUNK):
            copy16(out, (e_first + lane) * width + k, rows, t * rows.shape[1] + k)
        for k in range(load_ahead.shape[1]):
            net = load_ahead[t, k] * own_site[b, at.LOAD_FACTOR, lane] - pv_ahead[t, k] * own_site[b, at.PV_FACTOR, lane]
            out[e_first + lane, row_width + k] = _bounded(net / own_site[b, at.RATED, lane])
    load_w, pv_w, load_forecast, pv_forecast, ambient, fee, spread, _same = columns8(
        before, clocks, kernel.ROW * stride + e_first
    )
    site = own_site[b]
    rated, load_factor, pv_factor = load(site, at.RATED), load(site, at.LOAD_FACTOR), load(site, at.PV_FACTOR)
    load_w, pv_w = load_w * load_factor, pv_w * pv_factor
    missed = load_w - pv_w - load_forecast * load_factor + pv_forecast * pv_factor
    at_k = row_width + load_ahead.shape[1]
    fields = (
        _bounded(load_w / rated),
        _bounded(pv_w / rated),
        _bounded(missed / rated),
        _bounded(load(site, at.IMPORT_LIMIT) / rated),
        _bounded(load(site, at.EXPORT_LIMIT) / rated),
        _bounded(take(accounts, kernel.PEAK * stride + e_first) / rated),
        # A kW of peak costs as much as this many hours of the price's spread, in days.
        _bounded(load(site, at.PEAK_PRICE) / (24.0 * spread)),
        _bounded(fee / spread),
    )
    place8(out, e_first * width + at_k, width, fields)
    at_k += kernel.SITE_FIELDS
    ambient = _bounded((ambient + take(accounts, kernel.OFFSET * stride + e_first) - 25.0) / 20.0)
    for p in range(own.shape[1]):
        pack = own[b, p]
        soc, warm = take(state, p * 4 * stride + e_first), take(state, (p * 4 + 3) * stride + e_first)
        a, c, d = load(pack, at.PACK_COLUMNS), load(pack, at.PACK_COLUMNS + 1), load(pack, at.PACK_COLUMNS + 2)
        f, g = load(pack, at.PACK_COLUMNS + 3), load(pack, at.PACK_COLUMNS + 4)
        hours, share = load(pack, at.PACK_COLUMNS + 5), load(pack, at.PACK_COLUMNS + 6)
        wear = _bounded(load(pack, at.WEAR) / spread)
        # Eleven fields as two overlapping eights.
        first = (_bounded(2.0 * soc - 1.0), _bounded((warm - 25.0) / 20.0), ambient, a, c, d, f, g)
        place8(out, e_first * width + at_k, width, first)
        place8(out, e_first * width + at_k + 3, width, (a, c, d, f, g, hours, share, wear))
        at_k += kernel.PACK_FIELDS
        if marginal_soc.shape[0] > 0:
            for lane in range(LANES):
                here = kernel.between_places(
                    state[p, 0, e_first + lane], marginal_soc, marginal, clocks[kernel.ROW, e_first + lane]
                )
                out[e_first + lane, at_k] = _bounded(here)
            at_k += 1


@compiled_lean
def all_finite(actions: NDArray[np.float32]) -> bool:
    """Whether all of actions (M, P) are numbers."""
    for e in range(actions.shape[0]):
        for p in range(actions.shape[1]):
            if not np.isfinite(actions[e, p]):
                return False
    return True


@compiled_lean
def ask_ahead(b: int, count: int, clocks: IntArray, before: FloatArray, rows: NDArray[np.float32]) -> None:
    """Have the memory bring what block b will be observed with after its step, as envs.waiting.ask_ahead."""
    for e in range(b * LANES, min((b + 1) * LANES, count)):
        after = clocks[kernel.ROW, e] + 1
        fetch(before, after * before.shape[1])
        for k in range(0, rows.shape[1], CHUNK):
            fetch(rows, after * rows.shape[1] + k)


@compiled_lean
def _energy_share(table: FloatArray, cell: float, soc: float) -> float:
    """Stored energy over that of a full pack; table (4 x 101, 1)."""
    position = soc * (SOC_POINTS - 1.0)
    k = least(whole(position), SOC_POINTS - 2.0)
    low, high = pair(table, cell * float(SOC_POINTS) + k, 0)
    share: float = low + (position - k) * (high - low)
    return share


@compiled_lean
def _settle(
    e_first: int,
    net: float,
    total: float,
    wear: float,
    gained_wh: float,
    projected: float,
    buy: float,
    sell: float,
    mean: float,
    spread: float,
    month: float,
    here: FloatArray,
    hours: float,
    projection_cost: float,
    potential: bool,
    accounts: FloatArray,
    reward: FloatArray,
    results: FloatArray,
) -> None:
    """Money, peaks and reward of a block's step, of net load (W) without packs, total power of the packs, wear, stored energy."""
    m = accounts.shape[1]
    # Cash is what the packs save: the meter's bill without them less the bill with them; what is bought, then what is sold.
    grid = net - total
    saved = (most(net, 0.0) - most(grid, 0.0)) * buy + (least(net, 0.0) - least(grid, 0.0)) * sell
    fresh = less(0.0, month)
    peak = where(fresh, 0.0, take(accounts, kernel.PEAK * m + e_first))
    idle_peak = where(fresh, 0.0, take(accounts, kernel.IDLE_PEAK * m + e_first))
    rise, idle_rise = most(0.0, grid - peak), most(0.0, net - idle_peak)
    put(accounts, kernel.PEAK * m + e_first, peak + rise)
    put(accounts, kernel.IDLE_PEAK * m + e_first, idle_peak + idle_rise)
    peak_cost = load(here, at.PEAK_PRICE) * (rise - idle_rise) / 1000.0
    cash = saved * hours / 1000.0 - peak_cost
    worth = gained_wh / 1000.0 * mean
    share = projected / load(here, at.RATED)
    value = cash - wear
    if potential:
        value = value + worth
    value = value / (spread * load(here, at.SCALE)) - projection_cost * share
    put(reward, e_first, value)
    put(results, kernel.CASH * m + e_first, cash)
    put(results, kernel.WEAR_COST * m + e_first, wear)
    put(results, kernel.POTENTIAL * m + e_first, worth)
    put(results, kernel.PROJECTED * m + e_first, share)
    put(results, kernel.GRID * m + e_first, grid)
    put(results, kernel.PEAK_COST * m + e_first, peak_cost)
    put(accounts, kernel.RETURN * m + e_first, take(accounts, kernel.RETURN * m + e_first) + value)
    put(accounts, kernel.LENGTH * m + e_first, take(accounts, kernel.LENGTH * m + e_first) + 1.0)


@compiled_lean
def step_blocks(
    b_first: int,
    b_last: int,
    count: int,
    actions: NDArray[np.float32],
    stream: NDArray[np.uint64],
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    own_site: FloatArray,
    own: FloatArray,
    site: FloatArray,
    pack: FloatArray,
    shown: NDArray[np.float32],
    energy_share: FloatArray,
    spans: FloatArray,
    ways: FloatArray,
    ocv_ways: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    cell_by_soc: FloatArray,
    cell_by_temperature: FloatArray,
    row_width: int,
    rows: NDArray[np.float32],
    settled: FloatArray,
    before: FloatArray,
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
    desk: FloatArray,
    queries: FloatArray,
    owners: IntArray,
) -> bool:
    """Step blocks b_first to b_last (exclusive) of `count` environments; actions (count, P) in [-1, 1], 1 = discharge at rated
    power. Whether any episode ended.

    Arrays of environments have M >= count columns, a multiple of eight: clocks (3, M), accounts (5, M), state (P, 4, M), results
    (8, M), pack_results (P, 4, M). desk (DESK_ROWS, 8), queries and owners (envs.waiting) are a thread's scratch.
    """
    packs, m = own.shape[1], accounts.shape[1]
    hours = dt_s / 3600.0
    circuit, output = desk[CIRCUIT : CIRCUIT + 4], desk[OUTPUT : OUTPUT + 5]
    any_ended = False
    for b in range(b_first, b_last):
        e_first = b * LANES
        if (b - b_first) % BLOCKS_AT_ONCE == 0:
            # fmt: off
            project_blocks(b, min(b + BLOCKS_AT_ONCE, b_last), count, actions, clocks, accounts, state, own, pack, spans, ways,
                           ocv_ways, by_soc, by_temperature, cell_by_soc, cell_by_temperature, settled, dt_s, pack_results,
                           circuit, queries, owners)
            # fmt: on
        ask_ahead(b + BLOCKS_AHEAD, count, clocks, before, rows)
        # Stand-ins that fill up the last block stay at row 0.
        buy, sell, mean, spread, load_w, pv_w, ambient, month = columns8(settled, clocks, kernel.ROW * m + e_first)
        ambient = ambient + take(accounts, kernel.OFFSET * m + e_first)
        here = own_site[b]
        load_w, pv_w = load_w * load(here, at.LOAD_FACTOR), pv_w * load(here, at.PV_FACTOR)
        net = load_w - pv_w
        charged = discharged = 0.0 * net
        for p in range(packs):
            applied = take(pack_results, (p * 4 + kernel.APPLIED) * m + e_first)
            discharged = discharged + most(applied, 0.0)
            charged = charged + most(-applied, 0.0)
        # The sum within the meter's limits, as the gate does: packs are only cut for what they add.
        grid = net + charged - discharged
        over_import, over_export = grid - load(here, at.IMPORT_LIMIT), -grid - load(here, at.EXPORT_LIMIT)
        keep_charge = keep_discharge = 0.0 * net + 1.0
        if anywhere(less(0.0, most(over_import, over_export))):
            keep_charge = where(less(0.0, over_import), most(0.0, 1.0 - over_import / most(charged, 1e-300)), 1.0)
            keep_discharge = where(less(0.0, over_export), most(0.0, 1.0 - over_export / most(discharged, 1e-300)), 1.0)
        total = wear = gained_wh = projected = 0.0 * net
        for p in range(packs):
            base, mine = p * 4 * m + e_first, own[b, p]
            cell, wished = load(mine, 3), take(pack_results, base + kernel.WISHED * m)
            applied = take(pack_results, base + kernel.APPLIED * m)
            applied = applied * where(less(0.0, applied), keep_discharge, keep_charge)
            for k in range(4):
                store(circuit, k, take(state, base + k * m))
            energy = _energy_share(energy_share, cell, load(circuit, 0))
            soc_row, temperature_row = cell * float(SOC_POINTS), cell * float(DEGREES)
            # fmt: off
            advance(circuit, applied, ambient, mine[0:11], mine[30:35], by_soc, by_temperature, soc_row, temperature_row,
                    substeps, output)
            # fmt: on
            for k in range(4):
                put(state, base + k * m, load(circuit, k))
            done = load(output, 0)
            put(pack_results, base + kernel.APPLIED * m, done)
            put(pack_results, base + kernel.ENDED_V * m, load(output, 1))
            put(pack_results, base + kernel.MEAN_A * m, load(output, 2))
            projected = projected + magnitude(wished - done)
            total = total + done
            wear = wear + load(mine, at.WEAR) * magnitude(done) * hours / 1000.0
            gained_wh = gained_wh + load(mine, at.ENERGY) * (_energy_share(energy_share, cell, load(circuit, 0)) - energy)
        # fmt: off
        _settle(e_first, net, total, wear, gained_wh, projected, buy, sell, mean, spread, month, here, hours, projection_cost,
                potential, accounts, reward, results)
        # fmt: on
        put(results, kernel.LOAD_NOW * m + e_first, load_w)
        put(results, kernel.PV_NOW * m + e_first, pv_w)
        ended = False
        if e_first + LANES <= count:
            ended = count8(clocks, kernel.ROW * m + e_first, clocks, kernel.LEFT * m + e_first, truncated, e_first)
        else:
            for e in range(e_first, count):
                clocks[kernel.ROW, e] += 1
                clocks[kernel.LEFT, e] -= 1
                truncated[e] = clocks[kernel.LEFT, e] <= 0
                ended = ended or truncated[e]
        any_ended = any_ended or ended
        # fmt: off
        observe_block(b, clocks, accounts, state, own_site, own, row_width, rows, before, load_ahead, pv_ahead, marginal,
                      marginal_soc, observation)
        if ended and autoreset:
            for e in range(e_first, min(e_first + LANES, count)):
                if truncated[e]:
                    for k in range(observation.shape[1]):
                        final_observation[e, k] = observation[e, k]
                    for k in range(accounts.shape[0]):
                        final_accounts[k, e] = accounts[k, e]
                    kernel.begin(e, stream, clocks, accounts, state, site, pack, economics, first, last, episode_steps,
                                 offset_low, offset_high)
                    furnish(e, clocks[kernel.VARIANT, e], site, pack, shown, own_site, own)
            observe_block(b, clocks, accounts, state, own_site, own, row_width, rows, before, load_ahead, pv_ahead,
                          marginal, marginal_soc, observation)
        # fmt: on
    return any_ended
