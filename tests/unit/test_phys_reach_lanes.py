"""The search of eight packs at once finds what core.battery.reach.side finds for each."""

import numpy as np
import pytest

from core.battery.cells import BY_SOC, BY_TEMPERATURE, LANES_BY_TEMPERATURE
from core.battery.ecm import compiled_lean
from core.battery.reach import side
from core.battery.reach_lanes import OCV_WAYS, SPANS, WAYS, sides
from core.lanes import LANES, less, load, store
from core.pack import ecm_parameters, power_ratings
from envs.config import EnvConfig
from envs.sample import sample_year
from envs.variants import draw_variants

FIELDS = (
    "charge", "rated_w", "behind_v", "spare_v", "window_v", "q_ah", "cells", "scale", "cell", "lag_scale", "soc", "coldest_c",
    "built_1", "built_lag", "anchor_a", "anchor_b",
)  # fmt: skip


@compiled_lean
def eight(given, dt_s, spans, ways, ocv_ways, by_temperature, out):
    slope, step_ohm, full_ohm = sides(
        less(0.5, load(given, 0)), load(given, 1), load(given, 2), load(given, 3), load(given, 4), load(given, 5), load(given, 6),
        load(given, 7), load(given, 8), load(given, 9), spans, ways, ocv_ways, by_temperature, load(given, 10), load(given, 11),
        dt_s, load(given, 12), load(given, 13), load(given, 14), load(given, 15),
    )  # fmt: skip
    store(out, 0, slope)
    store(out, 1, step_ohm)
    store(out, 2, full_ohm)


def packs(count, seed, dt_s):
    """Parameters (count, 11) and the fields (16, count) of packs of all kinds, states and sides."""
    config = EnvConfig.of({"packs": [{"soh_pct": (50.0, 100.0), "power_per_energy": (0.1, 2.0)}], "variants": 64})
    drawn, rng = draw_variants(config, sample_year(20)), np.random.default_rng(seed)
    parameters, given = np.empty((count, 11)), np.empty((len(FIELDS), count))
    for k in range(count):
        v = int(rng.integers(64))
        device = drawn.configs[v][0]
        own, ratings = ecm_parameters(device, float(drawn.soh_pct[v, 0])), power_ratings(device)
        charge = int(rng.integers(2))
        soc = rng.choice([rng.uniform(0, 0.2), rng.uniform(), rng.uniform(0.85, 1), 0.0, 1.0, 0.01 * rng.integers(101)])
        anchors = np.clip(soc + rng.choice([0.0, 0.002, 0.03]) * rng.normal(0, 1, 2), 0, 1)
        table = BY_SOC[int(own[3])]
        behind_v = own[1] * np.interp(anchors[0], np.linspace(0, 1, 101), table[:, 0]) + rng.normal(0, 2)
        built = 1 - np.exp(-dt_s / own[4:6])
        parameters[k] = own
        given[:, k] = (
            charge, ratings[1 - charge], behind_v, abs(rng.normal(0, 1)), ratings[3 if charge else 2], own[0], own[1],
            own[2] * rng.choice([1.0, 1.4]), own[3], own[10], soc, rng.uniform(-45, 60), *built, *anchors,
        )  # fmt: skip
    return parameters, given


def both_ways(parameters, given, dt_s):
    """What side and sides find; shape (2, 3, count)."""
    found = np.empty((2, 3, given.shape[1]))
    tables = SPANS, WAYS, OCV_WAYS, LANES_BY_TEMPERATURE
    for k in range(given.shape[1]):
        charge, rated, behind, spare, window, _q, _n, scale, cell, _lag, soc, coldest, built_1, built_lag, *anchors = given[:, k]
        out = np.empty(3)
        side(-rated if charge else rated, behind, spare, window, parameters[k], BY_SOC[int(cell)], BY_TEMPERATURE[int(cell)], soc,
             coldest, dt_s, built_1, built_lag, scale / parameters[k, 2], np.array(anchors), out)  # fmt: skip
        found[0, :, k] = out
    for first in range(0, given.shape[1], LANES):
        out = np.empty((3, LANES))
        eight(np.ascontiguousarray(given[:, first : first + LANES]), dt_s, *tables, out)
        found[1, :, first : first + LANES] = out
    return found


@pytest.mark.parametrize("dt_s", [60.0, 300.0, 900.0, 3600.0])
def test_eight_find_what_each_finds(dt_s):
    one, many = both_ways(*packs(4000, int(dt_s), dt_s), dt_s)
    np.testing.assert_allclose(many, one, rtol=1e-12, atol=0)


def test_a_lane_that_is_no_number_leaves_its_neighbours_alone():
    parameters, given = packs(LANES, 3, 900.0)
    right = both_ways(parameters, given, 900.0)[1]
    for name in ("rated_w", "behind_v", "spare_v", "window_v", "cells", "soc", "coldest_c", "anchor_a", "anchor_b"):
        for bad in (np.nan, np.inf) if name != "cells" else (np.nan,):
            spoilt = given.copy()
            spoilt[FIELDS.index(name), 2] = bad
            out = np.empty((3, LANES))
            eight(spoilt, 900.0, SPANS, WAYS, OCV_WAYS, LANES_BY_TEMPERATURE, out)
            assert np.isnan(out[:, 2]).all(), name
            np.testing.assert_array_equal(np.delete(out, 2, 1), np.delete(right, 2, 1))
