"""Residual on the MPC: the base's table against a direct plan, the sum of base and action, what is seen, config to decision."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))


from core.errors import InputError
from envs import variants as at
from envs.data import Exogenous, whole
from envs.features import published_until
from envs.kernel import CASH, POTENTIAL, ROW, VARIANT, WEAR_COST
from envs.residual import ResidualEngine, with_base
from envs.vector import PackVectorEnv, SiteVectorEnv
from optimizer.dynamic import lattice, rolling
from training.rl_base import expected_prices, mpc_table
from training.rl_config import BaseConfig

START = datetime(2020, 10, 18, 22, tzinfo=UTC)  # local midnight; a day of 25 hours follows within the week
DT_S = 3600.0
PACK = {"chemistry": ["LFP"], "soh_pct": [90.0, 90.0], "energy_kwh": [100.0, 100.0], "power_per_energy": [0.5, 0.5]}
"""One pack: every table is its own."""


def world(days=16, dt_s=DT_S):
    g = np.random.default_rng(1)
    n = round(days * 86_400 / dt_s)
    hours = np.arange(n) * dt_s / 3600.0
    price = 0.1 + 0.06 * np.sin(2 * np.pi * hours / 24) + g.normal(0, 0.02, n)
    nothing = np.zeros(n)
    return Exogenous(start=START, dt_s=dt_s, price_eur_per_kwh=price, load_w=nothing, pv_w=nothing, ambient_c=nothing + 20.0)


def batch(count=6, information="published", pack=PACK, data=None, **config):
    said = {"packs": [pack], "variants": 3, "episode_steps": 60, "substep_s": 300.0, "information": information} | config
    return PackVectorEnv(count, whole(world() if data is None else data), said)


def test_prices_are_known_to_the_end_of_the_local_day_and_from_13_on_of_the_next():
    data = world()
    known = published_until(data)
    for row in range(24 * 9):
        local = (START + timedelta(hours=row)).astimezone(ZoneInfo("Europe/Amsterdam"))
        end = local.replace(hour=0, minute=0) + timedelta(days=2 if local.hour >= 13 else 1)
        assert START + timedelta(hours=int(known[row])) == end.astimezone(UTC)


@pytest.mark.parametrize("information", ["published", "revealed"])
def test_what_is_expected_is_what_the_environment_shows(information):
    made = batch(1, information, data=world(dt_s=1800.0))
    engine = made.engine
    data = engine.part.exogenous
    known = published_until(data) if information == "published" else np.arange(1, len(data) + 1)
    rows = np.arange(engine.features.first, engine.features.last - 60)
    expected = expected_prices(data, known, rows, 48).reshape(len(rows), 24, 2).mean(axis=2)
    columns = [engine.layout.index[f"price_ahead_{k + 1}h"] for k in range(24)]
    mean, spread = engine.features.economics[rows, 2], engine.features.economics[rows, 3]
    for hour in (0, 7, 23):
        shown = []
        for row in rows[::17]:
            observation, _ = made.reset(seed=0, options={"row": row})
            shown.append(observation[0, columns[hour]])
        np.testing.assert_allclose(((expected[:, hour] - mean) / spread)[::17], shown, atol=1e-4)


def direct(engine, row, level, horizon_h=24):
    """Best first step, a share of rated power, of one store by a plan of its own at one row, on a fine lattice."""
    data, pack = engine.part.exogenous, engine.variants.pack[0, 0]
    rated_w = float(engine.variants.site[0, at.RATED])
    table = mpc_table(BaseConfig(horizon_hours=horizon_h), engine)
    hours, efficiency, wear = table.stores[0, 0, :3]
    plant = lattice(
        capacity_wh=hours * rated_w,
        power_w=rated_w,
        round_trip=efficiency**2,
        wear_eur_per_kwh=wear,
        dt_s=data.dt_s,
        charge_steps=60,
    )
    assert wear == pytest.approx(2.0 * pack[at.WEAR])
    known = published_until(data)
    steps = horizon_h - 1
    ahead = expected_prices(data, known, np.array([row]), steps)
    mean = (data.price_eur_per_kwh[row] + ahead.sum()) / (1 + steps)
    marginals = rolling(ahead, np.array([steps]), plant, np.array([0.9 * mean]))[0]
    price, best, found = data.price_eur_per_kwh[row], 0.0, 0.0
    start = round(level * plant.intervals)
    for end in range(max(0, start - plant.discharge_steps), min(plant.intervals, start + plant.charge_steps) + 1):
        kwh = plant.step_wh / 1000.0
        worth = marginals[:end].sum() - marginals[:start].sum()
        move = end - start
        cash = -move * price / efficiency if move > 0 else -move * efficiency * (price - wear)
        if (worth + cash) * kwh > best + 1e-9:
            best, found = (
                (worth + cash) * kwh,
                -move / plant.charge_steps if move > 0 else -move / (plant.charge_steps / efficiency**2),
            )
    return found, best / (rated_w / 1000.0)


def test_the_table_decides_as_a_plan_of_its_own_does():
    engine = batch().engine
    table = mpc_table(BaseConfig(), engine)
    assert table.marginals.shape[1] == 1  # packs that are alike share one table
    low, high = table.stores[0, 0, 3:5]
    curve = table.curves[0, 0]
    decided = []
    for row in range(engine.features.first, engine.features.first + 48):
        for level in (0.0, 0.3, 0.7, 1.0):
            soc = np.interp(low + level * (high - low), curve, np.linspace(0, 1, len(curve)))
            action = table.decide(np.array([row]), np.array([0]), np.array([[soc]])).actions[0, 0]
            decided.append((action, direct(engine, row, level)[0]))
    ours, theirs = np.array(decided).T
    assert np.abs(ours - theirs).mean() < 0.02
    assert (np.abs(ours - theirs) > 0.3).mean() < 0.02  # where two levels are worth the same
    assert {-1.0, 0.0, 1.0} <= set(np.round(theirs, 1))


def test_packs_that_differ_lie_between_their_neighbours_and_earn_what_their_own_plan_earns():
    """A site drawn from wide ranges: what the table says of energy is within a little of a table made for each pack alone."""
    wide = {"chemistry": ["LFP", "NMC"], "energy_kwh": [50.0, 500.0], "replacement_eur_per_kwh": 20.0}
    engine = batch(pack=wide, variants=5).engine
    table = mpc_table(BaseConfig(), engine)
    assert table.marginals.shape[1] > 8
    np.testing.assert_allclose(table.weights.sum(axis=2), 1.0)
    assert (np.diff(table.marginals, axis=2) <= 1e-5).all()
    data, known = engine.part.exogenous, published_until(engine.part.exogenous)
    row = np.array([engine.features.first + 5])
    ahead = expected_prices(data, known, row, 23)
    mean = (data.price_eur_per_kwh[row] + ahead.sum(axis=1)) / 24
    for v in range(5):
        hours, efficiency, wear = table.stores[v, 0, :3]
        plant = lattice(
            capacity_wh=1000 * hours, power_w=1000.0, round_trip=efficiency**2, wear_eur_per_kwh=wear, dt_s=DT_S, charge_steps=40
        )
        own = rolling(ahead, np.array([23]), plant, 0.9 * mean)[0]
        ours = sum(w * table.marginals[5, c] for w, c in zip(table.weights[v, 0], table.corners[v, 0], strict=True))
        assert abs(own.mean() - ours.mean()) < 0.05 * own.mean()


def based(share, count=6, **said):
    made = batch(count, **said)
    return with_base(made, mpc_table(BaseConfig(), made.engine), share)


def test_with_share_0_it_is_the_base_whatever_the_actor_says():
    mixed, plain = based(0.0), batch()
    seen, other = mixed.reset(seed=4)[0], plain.reset(seed=4)[0]
    g = np.random.default_rng(0)
    for _ in range(130):  # beyond the end of the episodes
        np.testing.assert_array_equal(seen[:, :-1], other)
        base = seen[:, -1:].copy()
        one = mixed.step(g.uniform(-1, 1, base.shape).astype(np.float32))
        two = plain.step(base)
        np.testing.assert_array_equal(one[4]["cash_eur"], two[4]["cash_eur"])
        seen, other = one[0], two[0]


def test_the_actors_part_is_added_and_cut_at_rated_power():
    made = based(0.3)
    seen, _ = made.reset(seed=4)
    for action in (1.0, -1.0, 0.5):
        base = seen[:, -1].astype(np.float64)
        seen, _, _, _, info = made.step(np.full((6, 1), action, np.float32))
        rated_w = made.engine.variants.site[made.engine.clocks[:, VARIANT], at.RATED]
        np.testing.assert_allclose(info["intended_w"][:, 0] / rated_w, np.clip(base + 0.3 * action, -1, 1), atol=1e-6)


def test_the_sum_of_rewards_is_money():
    made = based(0.3, potential=True)
    engine = made.engine
    engine.autoreset = False
    made.reset(seed=2)
    scale = engine.variants.site[engine.clocks[:, VARIANT], at.SCALE]
    first = engine._now.worth_eur.copy()
    g, total, money = np.random.default_rng(3), np.zeros(6), np.zeros(6)
    for _ in range(40):
        row, idle = engine.clocks[:, ROW].copy(), engine._now.idle_eur.copy()
        made_now = engine.step(g.uniform(-1, 1, (6, 1)).astype(np.float32))
        total += made_now.reward * engine.features.economics[row, 3] * scale
        money += made_now.results[:, CASH] - made_now.results[:, WEAR_COST] - idle
        assert np.abs(made_now.results[:, POTENTIAL]).max() > 0.0
    np.testing.assert_allclose(total, money + engine._now.worth_eur - first, atol=1e-6 * scale.max())


def test_what_is_left_out_of_the_plan_is_seen_at_once():
    """Steps by the base are worth nothing more; the opposite of what it says loses."""
    made = based(1.0, count=64)
    made.reset(seed=1)
    follow, against = [], []
    for k in range(50):
        base = made.engine._now.actions.copy()
        turned = k % 2 == 1
        reward = made.engine.step((-2.0 * base if turned else 0.0 * base).clip(-1, 1).astype(np.float32)).reward
        (against if turned else follow).append(reward[np.abs(base[:, 0]) > 0.5].copy())
    assert np.abs(np.concatenate(follow)).mean() < 0.3 * -np.concatenate(against).mean()


def test_the_end_of_an_episode_shows_the_base_there():
    made = based(0.3)
    made.reset(seed=4)
    ended = None
    while ended is None or not ended.any():
        row, variant = made.engine.clocks[:, ROW].copy(), made.engine.clocks[:, VARIANT].copy()
        _, _, _, ended, info = made.step(np.zeros((6, 1), np.float32))
    final = info["final_obs"][ended]
    soc = 0.5 * (final[:, [made.engine.layout.index["pack0_soc"]]] + 1.0)
    np.testing.assert_allclose(
        final[:, -1], made.engine.base.decide(row[ended] + 1, variant[ended], soc.astype(np.float64)).actions[:, 0], atol=1e-5
    )


def test_a_site_of_packs_has_a_base_for_each():
    made = SiteVectorEnv(4, whole(world()), {"packs": [PACK, PACK | {"chemistry": ["NMC"]}], "variants": 3, "episode_steps": 60})
    made = with_base(made, mpc_table(BaseConfig(), made.engine), 0.3)
    seen, _ = made.reset(seed=0)
    assert seen.shape == (4, made.engine.layout.size) == (4, len(made.engine.layout.names))
    assert made.engine.layout.names[-2:] == ("pack0_base", "pack1_base")
    seen = made.step(np.zeros((4, 2), np.float32))[0]
    np.testing.assert_array_equal(seen[:, -2:], made.engine._now.actions.astype(np.float32))


def test_the_same_data_make_the_same_table():
    one, other = (mpc_table(BaseConfig(), batch().engine) for _ in range(2))
    np.testing.assert_array_equal(one.marginals, other.marginals)


def test_a_share_beyond_rated_power_is_refused():
    made = batch()
    with pytest.raises(InputError, match="share"):
        ResidualEngine(made.engine, mpc_table(BaseConfig(), made.engine), 1.1)
