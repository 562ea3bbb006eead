"""Gymnasium's and Stable-Baselines3's contracts, single against batched, seeds, reward, options, bad configs."""

import copy
import pickle
from datetime import UTC, datetime, timedelta

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from core.errors import InputError
from envs import kernel
from envs.features import Marginal
from envs.layout import LAYOUT_VERSION, Layout
from envs.registration import PACK_ID, SITE_ID
from envs.sample import sample_year
from envs.sb3 import NativeVecEnv
from envs.single import PackEnv, SiteEnv
from envs.vector import PackVectorEnv, SiteVectorEnv

DATA = sample_year(20)
FULL = {
    "episode_steps": 40, "grid": {"peak_price_eur_per_kw": 3.0, "import_per_rated": [0.3, 1.0]}, "load_forecast_hours": 6,
    "load_per_rated": [0.5, 1.0], "pv_per_rated": [0.5, 1.0], "projection_cost": 0.1, "information": "revealed",
}  # fmt: skip


def marginal():
    rng = np.random.default_rng(0)
    return Marginal(value_eur_per_kwh=rng.uniform(0, 0.2, (len(DATA), 5)), soc_pct=np.linspace(10, 90, 5))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [PACK_ID, SITE_ID])
def test_the_checkers_pass(name):
    env = gymnasium.make(name)
    check_env(env.unwrapped)
    check_env_sb3(env.unwrapped)
    env.close()


@pytest.mark.parametrize(("single", "batched"), [(PackEnv, PackVectorEnv), (SiteEnv, SiteVectorEnv)])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_single_and_batched_agree_step_by_step(single, batched, size):
    """Also over the ends of episodes, whatever the size of the batch and however many threads."""
    many = batched(size, DATA, FULL, marginal(), threads=2 if size == 7 else 1)
    observations, _ = many.reset(seed=11)
    chosen = sorted({0, size // 2, size - 1})
    ones = {e: single(DATA, FULL, marginal()) for e in chosen}
    for e, one in ones.items():
        np.testing.assert_allclose(one.reset(seed=11 + e)[0], observations[e], atol=1e-9)
    rng = np.random.default_rng(size)
    for _ in range(100):
        actions = rng.uniform(-1.2, 1.2, many.action_space.shape).astype(np.float32)
        observations, rewards, _, truncated, info = many.step(actions)
        for e, one in ones.items():
            got, reward, _, ended, own = one.step(actions[e])
            assert reward == pytest.approx(rewards[e], abs=1e-9)
            assert ended == truncated[e]
            for key in (*kernel.RESULTS, *kernel.PACK_RESULTS):
                np.testing.assert_allclose(own[key], info[key][e], rtol=1e-9, atol=1e-9)
            if ended:
                np.testing.assert_allclose(got, info["final_obs"][e], atol=1e-9)
                got, _ = one.reset()
            np.testing.assert_allclose(got, observations[e], atol=1e-9)
    many.close()


def test_one_observation_is_that_of_the_block():
    """Serving observes with envs.kernel.observe, environments with the block's own."""
    many = SiteVectorEnv(11, DATA, FULL, marginal())
    many.reset(seed=2)
    engine = many.engine
    features, drawn = engine.features, engine.variants
    for k in range(60):
        seen = many.step(np.sin(np.full((11, 3), k, np.float32)))[0]
        for e in range(11):
            out = np.empty(many.layout.size, np.float32)
            kernel.observe(e, engine.clocks, engine.accounts, engine.state, drawn.site, drawn.pack, drawn.shown, features.rows,
                           features.economics, features.load_ahead_w, features.pv_ahead_w, features.marginal,
                           features.marginal_soc, out)  # fmt: skip
            np.testing.assert_allclose(out, seen[e], rtol=1e-6, atol=1e-6)


def test_a_restored_batch_goes_on_as_the_saved_one():
    first, second = (PackVectorEnv(9, DATA, FULL) for _ in range(2))
    first.reset(seed=1)
    second.reset(seed=2)
    actions = np.sin(np.arange(9, dtype=np.float32))[:, None]
    first.step(actions)
    second.engine.restore({name: values.copy() for name, values in first.engine.snapshot().items()})
    for _ in range(50):
        for a, b in zip(first.step(actions)[:4], second.step(actions)[:4], strict=True):
            np.testing.assert_array_equal(a, b)


def test_make_vec_makes_the_native_batch():
    many = gymnasium.make_vec(PACK_ID, num_envs=3, vectorization_mode="vector_entry_point", config={"episode_steps": 5})
    assert isinstance(many.unwrapped, PackVectorEnv)
    assert many.reset(seed=0)[0].shape == (3, many.unwrapped.layout.size)


def test_the_same_seed_is_the_same_run_and_another_is_not():
    def run(seed):
        many = PackVectorEnv(4, DATA, FULL)
        many.reset(seed=seed)
        return np.stack([many.step(np.full((4, 1), 0.3, np.float32))[1] for _ in range(90)])

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()


def test_the_adapter_gives_stable_baselines_what_it_expects():
    venv = NativeVecEnv(PackVectorEnv(8, DATA, {"episode_steps": 10}))
    venv.seed(5)
    first = venv.reset().copy()
    venv.seed(5)
    np.testing.assert_array_equal(venv.reset(), first)
    total = np.zeros(8)
    before = None
    for k in range(10):
        observation, reward, done, infos = venv.step(np.full((8, 1), 0.2, np.float32))
        total += reward
        if before is not None:  # the last observation is still there while the next one is made
            np.testing.assert_array_equal(before[0], before[1])
        before = (observation, observation.copy())
        assert done.all() == (k == 9)
    for e in range(8):
        assert infos[e]["TimeLimit.truncated"]
        assert infos[e]["episode"]["l"] == 10
        assert infos[e]["episode"]["r"] == pytest.approx(total[e], rel=1e-5)
        assert infos[e]["terminal_observation"].shape == observation[e].shape
    assert (venv.batched.engine.clocks[:, kernel.LEFT] == 10).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_ppo_learns_on_it():
    from stable_baselines3 import PPO

    model = PPO("MlpPolicy", NativeVecEnv(PackVectorEnv(16, DATA, {"episode_steps": 40})), n_steps=32, batch_size=128, seed=0)
    model.learn(1024)
    assert np.isfinite(model.policy.optimizer.param_groups[0]["lr"])
    assert model.num_timesteps == 1024


def test_the_reward_is_its_parts():
    env = PackEnv(DATA, FULL)
    env.reset(seed=3)
    engine = env.engine
    for k in range(30):
        row, variant = engine.clocks[0, kernel.ROW], engine.clocks[0, kernel.VARIANT]
        economics, site, pack = engine.features.economics[row], engine.variants.site[variant], engine.variants.pack[variant, 0]
        peaks, soc = engine.accounts[0, 1:3].copy(), engine.state[0, 0, 0]
        _, reward, _, _, info = env.step(np.array([np.sin(k)], np.float32))
        power_w = info["applied_w"][0]
        load_w, pv_w = economics[4] * site[3], economics[5] * site[4]
        net_kw, grid_kw = (load_w - pv_w) / 1e3, (load_w - pv_w - power_w) / 1e3
        bill = [kw * 0.25 * (economics[0] if kw > 0 else economics[1]) for kw in (net_kw, grid_kw)]
        peak = [max(0.0, kw * 1e3 - p) / 1e3 * 3.0 for kw, p in zip((grid_kw, net_kw), peaks, strict=True)]
        cash = bill[0] - bill[1] - peak[0] + peak[1]
        wear = pack[37] * abs(power_w) * 0.25 / 1e3
        curve = engine.variants.energy_share[int(pack[3])]
        stored = np.diff(np.interp([soc, engine.state[0, 0, 0]], np.linspace(0, 1, 101), curve))[0] * pack[38] / 1e3
        cut = abs(info["intended_w"][0] - power_w) / site[2]
        expected = (cash - wear + stored * economics[2]) / (economics[3] * site[5]) - 0.1 * cut
        assert reward == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert info["cash_eur"] == pytest.approx(cash, rel=1e-9, abs=1e-12)
        assert info["wear_eur"] == pytest.approx(wear)


def test_every_field_has_a_name_and_a_place():
    env = SiteEnv(DATA, FULL, marginal())
    observation, _ = env.reset(seed=0, options={"soc_pct": [20.0, 50.0, 80.0], "row": 700, "temperature_c": 35.0})
    index = env.layout.index
    assert len(index) == len(observation) == env.observation_space.shape[0]
    assert observation[index["pack0_soc"]] == pytest.approx(-0.6)
    assert observation[index["pack2_soc"]] == pytest.approx(0.6)
    assert observation[index["pack1_temperature"]] == pytest.approx(0.5)
    assert observation[index["pack0_is_lfp"]] == 1
    assert observation[index["pack1_is_nmc"]] == 1
    economics = env.engine.features.economics[700]
    price = DATA.price_eur_per_kwh[700]
    assert observation[index["price"]] == pytest.approx((price - economics[2]) / economics[3], rel=1e-5)
    soc, values = np.linspace(0.1, 0.9, 5), env.engine.features.marginal[700]
    assert observation[index["pack1_marginal_here"]] == pytest.approx(np.interp(0.5, soc, values), rel=1e-5)
    assert env.layout.describe()["layout_version"] == LAYOUT_VERSION == env.metadata["layout_version"]
    assert Layout(1, 24).row_width == len(Layout(1, 24).names) - 8 - 11


def test_an_evaluation_sets_what_is_else_drawn():
    env = PackEnv(DATA, {"episode_steps": None})
    start = DATA.start + timedelta(days=9)
    options = {"start": start, "soc_pct": 50.0, "variant": 3, "steps": 5, "ambient_offset_k": 0.0, "peak_w": 1e4}
    _, info = env.reset(seed=1, options=options)
    assert datetime.fromisoformat(info["time"]) == start
    assert info["variant"] == 3
    ended = [env.step(np.zeros(1, np.float32))[3] for _ in range(5)]
    assert ended == [False] * 4 + [True]
    with pytest.raises(InputError, match="reset first"):
        env.step(np.zeros(1, np.float32))
    with pytest.raises(InputError, match=r"soc_pc.*did you mean 'soc_pct'"):
        env.reset(options={"soc_pc": 1})
    with pytest.raises(InputError, match="row"):
        env.reset(options={"start": datetime(2019, 1, 1, tzinfo=UTC)})


def test_idle_costs_nothing_but_time():
    env = PackEnv(DATA, {"episode_steps": 50, "potential": False})
    env.reset(seed=0)
    for _ in range(50):
        _, reward, terminated, _, info = env.step(np.zeros(1, np.float32))
        assert reward == 0.0
        assert info["cash_eur"] == info["wear_eur"] == 0.0
        assert not terminated


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"episode_step": 5}, r"episode_step.*did you mean 'episode_steps'"),
        ({"packs": [{"chemistri": ["LFP"]}]}, r"packs\.0\.chemistri.*did you mean 'chemistry'"),
        ({"grid": {"peak_price": 1.0}}, r"grid\.peak_price.*did you mean"),
        ({"packs": [{"soh_pct": [90.0, 80.0]}]}, "two rising numbers"),
        ({"packs": [{"soh_pct": [0.8, 0.9]}]}, "from 30 to 100"),
        ({"substep_s": 900.0}, "300"),
        ({"packs": [{"chemistry": ["LTO"]}]}, "LFP"),
        ({"episode_steps": 100_000}, "one episode"),
    ],
)
def test_bad_configs_are_named(bad, words):
    with pytest.raises(InputError, match=words):
        PackEnv(DATA, bad)


def test_bad_actions_are_named():
    many = PackVectorEnv(3, DATA)
    many.reset(seed=0)
    with pytest.raises(InputError, match=r"environment 1: action of pack 0"):
        many.step(np.array([[0.0], [np.nan], [0.0]], np.float32))
    with pytest.raises(InputError, match="shape"):
        many.step(np.zeros((2, 1), np.float32))
    with pytest.raises(InputError, match="one pack"):
        PackEnv(DATA, {"packs": [{}, {}]})


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_an_environment_is_not_copied_by_accident(how):
    """Compiled steps know its arrays by their addresses."""
    made = PackVectorEnv(2, DATA, {"episode_steps": 96})
    with pytest.raises(TypeError, match="snapshot"):
        how(made.engine)
    made.close()
