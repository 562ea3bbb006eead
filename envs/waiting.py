"""Wishes of all packs within their own bounds; those for which only a search can say wait until there are eight; compiled.

Blocks go through envs.projection.within_sure_bounds; what a pack that must be searched for needs is copied into a lane of a
query. Not here: what a bound is (envs.projection), the meter's limits and the step (envs.block).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.battery.ecm import compiled_lean
from core.lane_tables import columns8, fetch, held, put, take
from core.lanes import LANES, anywhere, least, less, load, most, store, where
from envs import kernel
from envs.projection import QUERY_ROWS, WISH, by_both_sides, put_off, searched, within_sure_bounds

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BLOCKS_AT_ONCE = 32
"""Blocks whose packs are projected before they are stepped."""
QUERIES = BLOCKS_AT_ONCE + 1
"""All that can wait, and one for the block that is looked at; an array of queries has the shape (QUERIES, QUERY_ROWS, 8)."""
BLOCKS_AHEAD = 4
"""What is read of large tables is asked for so many blocks before."""
SCRATCH = 25
"""Numbers that envs.projection.by_both_sides works in: they fit into four rows of a query."""


@compiled_lean
def ask_ahead(b: int, count: int, clocks: IntArray, settled: FloatArray) -> None:
    """Have the memory bring what block b's step is settled with.

    Environments stand at rows far apart, and the tables are larger than the caches: asked for only when it is needed, each line
    is waited for.
    """
    for e in range(b * LANES, min((b + 1) * LANES, count)):
        fetch(settled, clocks[kernel.ROW, e] * settled.shape[1])


@compiled_lean
def search_all(
    count: int,
    p: int,
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    pack: FloatArray,
    spans: FloatArray,
    ways: FloatArray,
    ocv_ways: FloatArray,
    by_temperature: FloatArray,
    cell_by_soc: FloatArray,
    cell_by_temperature: FloatArray,
    settled: FloatArray,
    dt_s: float,
    queries: FloatArray,
    owners: IntArray,
    pack_results: FloatArray,
) -> None:
    """Search for the packs p that wait, `count` of them; owners (QUERIES x 8,): the environment of each."""
    scratch = queries[QUERIES - 1].reshape(QUERY_ROWS * LANES)
    for first in range(0, count, LANES):
        query = queries[first // LANES]
        for slot in range(count - first, LANES):  # the last query is filled up with copies
            for k in range(QUERY_ROWS):
                query[k, slot] = query[k, 0]
        made, hot = searched(query, spans, ways, ocv_ways, by_temperature, dt_s)
        answers = queries[QUERIES - 1, QUERY_ROWS - 1]
        store(queries[QUERIES - 1], QUERY_ROWS - 1, made)
        for slot in range(min(LANES, count - first)):
            e = owners[first + slot]
            pack_results[p, kernel.APPLIED, e] = answers[slot]
            if held(hot, slot):
                row = pack[clocks[kernel.VARIANT, e], p]
                cell, circuit = int(row[3]), scratch[SCRATCH : SCRATCH + 4]
                for k in range(4):
                    circuit[k] = state[p, k, e]
                ambient = settled[clocks[kernel.ROW, e], 6] + accounts[kernel.OFFSET, e]
                # fmt: off
                pack_results[p, kernel.APPLIED, e] = by_both_sides(query[WISH, slot], circuit, ambient, row, cell_by_soc[cell],
                                                                  cell_by_temperature[cell], dt_s, scratch)
                # fmt: on


@compiled_lean
def project_blocks(
    b_first: int,
    b_last: int,
    count: int,
    actions: NDArray[np.float32],
    clocks: IntArray,
    accounts: FloatArray,
    state: FloatArray,
    own: FloatArray,
    pack: FloatArray,
    spans: FloatArray,
    ways: FloatArray,
    ocv_ways: FloatArray,
    by_soc: FloatArray,
    by_temperature: FloatArray,
    cell_by_soc: FloatArray,
    cell_by_temperature: FloatArray,
    settled: FloatArray,
    dt_s: float,
    pack_results: FloatArray,
    circuit: FloatArray,
    queries: FloatArray,
    owners: IntArray,
) -> None:
    """Wishes of all packs of blocks b_first to b_last (at most BLOCKS_AT_ONCE) and what of them their own bounds allow, into
    pack_results; circuit (4, 8) is scratch."""
    m, packs = accounts.shape[1], own.shape[1]
    here = queries[QUERIES - 1]
    for p in range(packs):
        waiting = 0
        for b in range(b_first, b_last):
            if p == 0:
                ask_ahead(b + BLOCKS_AHEAD, count, clocks, settled)
            e_first = b * LANES
            base = p * 4 * m + e_first
            if packs == 1 and e_first + LANES <= count:
                store(here, WISH, take(actions, e_first))
            else:
                for lane in range(LANES):
                    here[WISH, lane] = actions[min(e_first + lane, count - 1), p]
            _0, _1, _2, _3, _4, _5, ambient, _6 = columns8(settled, clocks, kernel.ROW * m + e_first)
            ambient = ambient + take(accounts, kernel.OFFSET * m + e_first)
            for k in range(4):
                store(circuit, k, take(state, base + k * m))
            wished = least(most(load(here, WISH), -1.0), 1.0)
            wished = wished * where(less(0.0, wished), load(own[b, p], 27), load(own[b, p], 26))
            # fmt: off
            made, unknown = within_sure_bounds(wished, circuit, ambient, own[b, p], own[b, p, 11:26], spans, by_soc,
                                               by_temperature, dt_s, here)
            # fmt: on
            put(pack_results, base + kernel.WISHED * m, wished)
            put(pack_results, base + kernel.APPLIED * m, made)
            if anywhere(unknown):
                for lane in range(min(LANES, count - e_first)):
                    if held(unknown, lane):
                        put_off(lane, here, own[b, p], waiting % LANES, queries[waiting // LANES])
                        owners[waiting] = e_first + lane
                        waiting += 1
        # fmt: off
        search_all(waiting, p, clocks, accounts, state, pack, spans, ways, ocv_ways, by_temperature, cell_by_soc,
                   cell_by_temperature, settled, dt_s, queries, owners, pack_results)
        # fmt: on
