"""The environment's projection is core's bound, and no step under it breaks a limit."""

import numpy as np
import pytest

from core.battery.cells import BY_SOC, BY_TEMPERATURE, LANES_BY_SOC, LANES_BY_TEMPERATURE
from core.battery.condition import true_condition
from core.battery.ecm import compiled_lean
from core.battery.reach_lanes import OCV_WAYS, SPANS, WAYS
from core.devices import Chemistry
from core.lanes import LANES, load, store, where
from core.limits import power_bounds_kernel
from core.pack import Pack
from envs import variants as at
from envs.config import EnvConfig
from envs.data import whole
from envs.engine import Engine
from envs.projection import QUERY_ROWS, WISH, by_both_sides, put_off, searched, within_sure_bounds
from envs.sample import sample_year

WIDE = {
    "soh_pct": (50.0, 100.0), "energy_kwh": (5.0, 2000.0), "power_per_energy": (0.1, 1.5), "soc_min_pct": 5.0,
    "soc_max_pct": 95.0, "temperature_max_c": 40.0, "initial_soc_pct": (5.0, 95.0), "initial_warmth_k": (0.0, 15.0),
    "max_c_rate_per_h": 1.2,
}  # fmt: skip


def engine(num_envs, dt_s=900.0, **changes):
    config = EnvConfig.of({"packs": [WIDE], "ambient_offset_k": (-20.0, 25.0), **changes})
    made = Engine(whole(sample_year(30, dt_s)), config, num_envs, autoreset=True)
    made.seed(list(range(num_envs)))
    made.reset()
    return made


def by_core(wish_w, state, ambient_c, row, dt_s):
    """The same by core's functions alone."""
    cell, condition, bounds = int(row[3]), np.empty((1, 17)), np.empty((1, 4))
    true_condition(state, ambient_c, row[at.CELL_HIGH], row[at.CELL_LOW], row[at.RATINGS], row[at.PARAMETERS], BY_SOC[cell],
                   BY_TEMPERATURE[cell], dt_s, np.empty(2), np.empty((2, 3)), condition[0])  # fmt: skip
    power_bounds_kernel(row[at.LIMITS], condition, dt_s, bounds)
    return min(max(wish_w, -bounds[0, 0]), bounds[0, 1])


@compiled_lean
def project_eight(wishes, states, ambients, rows, dt_s, spans, ways, ocv_ways, by_soc, by_temperature, here, query, out):
    """Eight packs in lanes: out (4, 8), the power, whether only the search can say, what it says, whether heat decides."""
    made, unknown = within_sure_bounds(load(wishes, 0), states, load(ambients, 0), rows, rows[11:26], spans, by_soc,
                                       by_temperature, dt_s, here)  # fmt: skip
    for lane in range(LANES):
        put_off(lane, here, rows, LANES - 1 - lane, query)
    searching, hot = searched(query, spans, ways, ocv_ways, by_temperature, dt_s)
    store(out, 0, made)
    store(out, 1, where(unknown, 1.0, 0.0))
    store(out, 2, searching)
    store(out, 3, where(hot, 1.0, 0.0))


@pytest.mark.parametrize("dt_s", [60.0, 300.0, 900.0, 3600.0])
def test_the_projection_is_the_bound_of_core(dt_s):
    made = engine(1000, dt_s, episode_steps=100)
    rng = np.random.default_rng(1)
    cut = searches = heat = 0
    here, query, out = np.empty((QUERY_ROWS, LANES)), np.empty((QUERY_ROWS, LANES)), np.empty((4, LANES))
    for _ in range(12):
        made.step(rng.uniform(-1, 1, (1000, 1)).astype(np.float32))
        for first in range(0, 1000, LANES):
            rows = made.variants.pack[made.clocks[first : first + LANES, 2], 0]
            states = made.state[first : first + LANES, 0].copy()
            states[:, 0] = np.clip(states[:, 0] + rng.choice([0.0, 1.0], LANES) * rng.normal(0, 0.3, LANES), 0, 1)
            states[:, 3] += rng.choice([0.0, 1.0], LANES) * rng.normal(0, 15, LANES)
            wishes, ambients = rng.normal(0, 1.2, LANES) * rows[:, 27], rng.uniform(-20, 40, LANES)
            project_eight(wishes[None], np.ascontiguousarray(states.T), ambients[None], np.ascontiguousarray(rows.T), dt_s, SPANS,
                          WAYS, OCV_WAYS, LANES_BY_SOC, LANES_BY_TEMPERATURE, here, query, out)  # fmt: skip
            for lane in range(LANES):
                got, wish, state, row = out[0, lane], wishes[lane], states[lane].copy(), rows[lane].copy()
                if out[1, lane]:
                    searches += 1
                    got = out[2, LANES - 1 - lane]
                    assert query[WISH, LANES - 1 - lane] == wish
                if out[1, lane] and out[3, LANES - 1 - lane]:
                    heat += 1
                    got = by_both_sides(wish, state, ambients[lane], row, BY_SOC[int(row[3])], BY_TEMPERATURE[int(row[3])], dt_s,
                                        np.empty(25))  # fmt: skip
                assert got == pytest.approx(by_core(wish, state, ambients[lane], row, dt_s), rel=1e-9, abs=1e-6)
                cut += got != wish
    assert 1000 < cut < 11_000
    assert 500 < searches < 11_500, "both ways were gone"
    assert heat > 20


@pytest.mark.parametrize("chemistry", list(Chemistry))
def test_the_condition_is_that_of_a_simulated_pack(chemistry):
    """Device and environment read the same numbers from the same state."""
    made = engine(1, packs=[{"chemistry": (chemistry,), "soh_pct": (80.0, 80.0)}])
    device, row = made.variants.configs[0][0], made.variants.pack[0, 0].copy()
    pack = Pack(device, soc_pct=62.0, soh_pct=80.0, temperature_c=24.0, ambient_c=18.0)
    row[at.CELL_HIGH], row[at.CELL_LOW] = pack._cell_shape.max(), -pack._cell_shape.min()
    for share in (0.8, -0.5, 0.0, 0.9):
        pack.step(share * device.max_charge_power_w, 900.0)
        condition, cell, state = np.empty(17), int(row[3]), pack._state[0]
        true_condition(state, 18.0, row[at.CELL_HIGH], row[at.CELL_LOW], row[at.RATINGS], row[at.PARAMETERS], BY_SOC[cell],
                       BY_TEMPERATURE[cell], 900.0, np.empty(2), np.empty((2, 3)), condition)  # fmt: skip
        np.testing.assert_allclose(condition, pack.condition(900.0).matrix()[0], rtol=1e-12)


def check_limits(made, steps, seed):
    """Random and extreme actions; every limit of every pack after every step."""
    rng = np.random.default_rng(seed)
    m, packs = made.num_envs, made.packs
    index = np.arange(m)
    for _ in range(steps):
        variant, row = made.clocks[:, 2].copy(), made.clocks[:, 0].copy()
        limits, before = made.variants.pack[variant][:, :, at.LIMITS], made.state.copy()
        actions = np.clip(rng.normal(0, 1.5, (m, packs)), -1, 1).astype(np.float32)
        b = made.step(actions)
        going = ~b.truncated  # of the others the state is already that of the next episode
        ambient = made.features.economics[row, 8] + made.accounts[:, 0]
        state, out = made.state, b.pack_results
        power, voltage, current = out[:, :, 1], out[:, :, 2], out[:, :, 3]
        soc, hot = 100 * state[:, :, 0], state[:, :, 3]
        assert np.isfinite(b.observation).all()
        assert np.isfinite(b.reward).all()
        assert (power <= limits[:, :, 1] * (1 + 1e-9)).all()
        assert (-power <= limits[:, :, 0] * (1 + 1e-9)).all()
        assert (np.abs(current) <= limits[:, :, 14] * made.variants.pack[variant][:, :, 0] * 1.001 + 0.01).all()
        moving = np.abs(power) > 1.0
        assert (voltage <= limits[:, :, 5] + 0.1)[moving].all()
        assert (voltage >= limits[:, :, 4] - 0.1)[moving].all()
        low, high = np.minimum(limits[:, :, 11], 100 * before[:, :, 0]), np.maximum(limits[:, :, 12], 100 * before[:, :, 0])
        assert (soc >= low - 0.1)[going].all()  # rest leaks: self-discharge may end below, 0.07 % a day
        assert (soc <= high + 0.01)[going].all()
        warmest = np.maximum(np.maximum(limits[:, :, 9], before[:, :, 3]), ambient[:, None])
        # Long substeps hold their last current's heat for too long (docs/environment.md).
        assert (hot <= warmest + (0.1 if made.config.substep_s <= 60.0 else 0.15))[going].all()
        site = made.variants.site[variant]
        net = b.results[:, 5] - b.results[:, 6]
        assert (b.results[:, 4] <= np.maximum(site[:, at.IMPORT_LIMIT], net) + 1.0).all()
        assert (-b.results[:, 4] <= np.maximum(site[:, at.EXPORT_LIMIT], -net) + 1.0).all()
    return len(index) * steps


TIGHT = {"import_per_rated": (0.1, 1.5), "export_per_rated": (0.1, 1.5)}


@pytest.mark.parametrize(("dt_s", "substep_s"), [(900.0, 60.0), (900.0, 300.0), (300.0, 300.0)])
def test_a_million_random_steps_break_no_limit(dt_s, substep_s):
    made = engine(
        4096, dt_s, substep_s=substep_s, episode_steps=96, grid=TIGHT, load_per_rated=(0.5, 2.0), pv_per_rated=(0.5, 2.0)
    )
    assert check_limits(made, 130, 3) > 500_000


def test_a_site_of_packs_breaks_no_limit():
    made = engine(512, packs=[WIDE] * 3, episode_steps=50, grid=TIGHT, load_per_rated=(0.5, 2.0), pv_per_rated=(0.5, 2.0))
    check_limits(made, 60, 4)


def test_long_steps_have_no_long_substeps():
    config = EnvConfig.of({"substep_s": 300.0})
    assert [config.substeps_of(dt_s) for dt_s in (60.0, 180.0, 300.0, 600.0, 900.0, 1800.0, 3600.0)] == [1, 1, 2, 3, 3, 12, 48]
    assert [EnvConfig.of({}).substeps_of(dt_s) for dt_s in (60.0, 300.0, 900.0, 3600.0)] == [1, 5, 15, 60]


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_a_hundred_million_random_steps_break_no_limit():
    total = 0
    for dt_s, substep_s in ((900.0, 60.0), (900.0, 300.0), (300.0, 60.0), (300.0, 300.0), (3600.0, 300.0)):
        made = engine(
            8192, dt_s, substep_s=substep_s, episode_steps=96, grid=TIGHT, load_per_rated=(0.5, 2.0), pv_per_rated=(0.5, 2.0)
        )
        total += check_limits(made, 2500, int(dt_s + substep_s))
    assert total >= 100_000_000
