"""Training itself: resumed is uninterrupted, a full disk or a crash keeps the last checkpoint, what is judged is exported."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

sys.path.insert(0, str(Path(__file__).parent))

from training_cases import config_text, write_prices

from core.errors import InputError
from envs.sb3 import NativeVecEnv
from envs.vector import PackVectorEnv
from policies.learned.artefact import read_artefact
from serving.dispatch.pack_layout import layout_of
from training.batched_ppo import BatchedPPO, KeptRolloutBuffer
from training.checkpoint import FILE_NAME, Checkpoint, read_checkpoint, write_checkpoint
from training.config_file import parse_config
from training.metrics_log import MetricsLog
from training.rl_data import read_data
from training.rl_export import export
from training.rl_model import Learner, acting, actor_network, make_batch
from training.rl_run import TrainingError, train_seed
from training.rl_state import restore, take
from training.rl_validation import Validator
from training.run_directory import begin, locked
from training.tune import check_space, tune

ALGORITHMS = ("ppo", "sac")


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    return write_prices(tmp_path_factory.mktemp("market") / "prices.csv")


@pytest.fixture(scope="module")
def case(prices):
    def made(algorithm, *overrides):
        read = parse_config(config_text(prices, algorithm), "tiny.yaml", overrides)
        return read.config, read_data(read.config, read.origin)

    return made


@pytest.fixture(scope="module")
def whole(case, tmp_path_factory):
    """An uninterrupted run of each algorithm: config, data, outcome, folder."""
    found = {}
    for algorithm in ALGORITHMS:
        config, data = case(algorithm)
        folder = tmp_path_factory.mktemp(algorithm)
        found[algorithm] = config, data, train_seed(config, data, folder, 3, identity="one"), folder
    return found


def same(a, b):
    assert a.status == b.status == "done"
    assert a.course.validations == b.course.validations
    assert a.course.best_step == b.course.best_step
    for one, other in zip(a.network.layers, b.network.layers, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_array_equal(x, y)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class CrashError(Exception):
    pass


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_result(whole, algorithm, tmp_path):
    config, data, uninterrupted, folder = whole[algorithm]
    count = iter(range(10**9))
    first = train_seed(config, data, tmp_path, 3, identity="one", stop=lambda: next(count) >= 7)
    assert first.status == "stopped"
    assert 0 < first.step < config.steps
    second = train_seed(config, data, tmp_path, 3, identity="one")
    same(uninterrupted, second)
    assert lines(tmp_path) == lines(folder)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_crash_loses_one_checkpoint_interval_at_most(whole, algorithm, tmp_path):
    config, data, uninterrupted, folder = whole[algorithm]

    def crash(progress):
        if progress.step >= 1100:
            raise CrashError

    with pytest.raises(CrashError):
        train_seed(config, data, tmp_path, 3, identity="one", report=crash)
    saved = read_checkpoint(tmp_path / FILE_NAME)
    assert 1100 - config.checkpoint.every_steps - 64 <= saved.state["timesteps"] < 1100
    same(uninterrupted, train_seed(config, data, tmp_path, 3, identity="one"))
    assert lines(tmp_path) == lines(folder)


def test_a_full_disk_leaves_the_previous_checkpoint(whole, tmp_path, monkeypatch):
    config, data, uninterrupted, _ = whole["ppo"]
    from training import files

    real, calls = files.os.fsync, iter(range(10**9))

    def full(handle):
        if next(calls) >= 2:  # after the file and the folder of the first checkpoint
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        train_seed(config, data, tmp_path, 3, identity="one")
    monkeypatch.undo()
    assert read_checkpoint(tmp_path / FILE_NAME).state["timesteps"] == 320
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    same(uninterrupted, train_seed(config, data, tmp_path, 3, identity="one"))


def test_a_checkpoint_that_is_written_in_part_replaces_nothing(tmp_path):
    """A limit on the size of files makes the system itself break a write off in the middle."""
    path = tmp_path / FILE_NAME
    old = Checkpoint(arrays={"a": np.arange(5)}, state={"n": 1})
    write_checkpoint(old, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_checkpoint(Checkpoint(arrays={"a": np.zeros(100_000)}, state={"n": 2}), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found = read_checkpoint(path)
    assert found.state == {"n": 1}
    np.testing.assert_array_equal(found.arrays["a"], np.arange(5))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a pickle in a zip", b"\x80\x04\x95 a pickle", bytes(200)])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(InputError, match=FILE_NAME):
        read_checkpoint(tmp_path / FILE_NAME)


def test_a_checkpoint_of_another_run_is_refused(whole, case, tmp_path):
    config, data, _, folder = whole["ppo"]
    (tmp_path / FILE_NAME).write_bytes((folder / FILE_NAME).read_bytes())
    with pytest.raises(InputError, match="those of this run"):
        train_seed(config, data, tmp_path, 3, identity="two")
    with pytest.raises(InputError, match="those of this run"):
        train_seed(config, data, tmp_path, 4, identity="one")
    wider, data = case("ppo", "network.hidden=[24]")
    with pytest.raises(InputError, match="those of this config"):
        train_seed(wider, data, tmp_path, 3, identity="one")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_taken_is_what_is_restored(case, algorithm):
    config, data = case(algorithm)
    one, other = (Learner(config, data.part("train"), seed) for seed in (0, 1))
    for _ in range(30):
        one.advance()
    arrays, state = take(one.model, one.env)
    ahead = [one.advance() for _ in range(3)]
    restore(other.model, other.env, Checkpoint(arrays=arrays, state=json.loads(json.dumps(state))))
    assert [other.advance() for _ in range(3)] == ahead


def test_best_on_validation_is_what_is_kept_and_patience_ends_it(case, tmp_path):
    config, data = case("ppo", "ppo.learning_rate=0.3", "validation.patience=2", "validation.every_steps=64", "steps=64000")
    found = train_seed(config, data, tmp_path, 0)
    scores = [score for _, score in found.course.validations]
    assert found.step < config.steps
    assert found.course.best == max(scores)
    assert len(scores) == scores.index(max(scores)) + 1 + config.validation.patience
    assert found.score.eur_per_kwh_year == pytest.approx(max(scores), rel=1e-12)
    again = train_seed(config, data, tmp_path, 0)  # a finished run does no more
    assert again.step == found.step


def test_numbers_that_are_none_end_it_and_are_named(case, tmp_path, monkeypatch):
    config, data = case("ppo")
    monkeypatch.setattr(Learner, "advance", _spoilt)
    with pytest.raises(TrainingError, match=r"train/loss is nan.*lower learning_rate"):
        train_seed(config, data, tmp_path, 0)
    assert all(np.isfinite(list(line.values())).all() for line in lines(tmp_path))


def _spoilt(learner):
    learner.model.num_timesteps += 64
    return {"train/loss": float("nan")}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_exported_actor_is_torchs(whole, algorithm):
    """What is judged, exported and served is the model's own deterministic action."""
    config, data, _, _ = whole[algorithm]
    learner = Learner(config, data.part("train"), 5)
    x = np.random.default_rng(0).uniform(-10, 10, (300, learner.env.observation_space.shape[0])).astype(np.float32)
    expected, _ = learner.model.predict(x, deterministic=True)
    np.testing.assert_allclose(acting(actor_network(learner.model), algorithm)(x), expected, atol=1e-5)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_artefact_says_what_serving_asks_for(whole, algorithm, tmp_path):
    config, data, outcome, _ = whole[algorithm]
    made = export(config, data, outcome, tmp_path, 3)
    found = read_artefact(tmp_path / "artefact")
    layout = layout_of(found)
    assert (layout.size, layout.dt_s) == (found.network("actor").inputs, 3600.0)
    assert layout.config == config.env.config
    assert found.metadata.training["data_sha256"] == data.exogenous.sha256()
    assert found.metadata.metrics["validation_eur_per_kwh_year"] == pytest.approx(outcome.course.best, abs=1e-4)
    assert str(config.data.price.path.parent) not in found.files.metadata.decode()
    assert export(config, data, outcome, tmp_path / "again", 3).sha256 == made.sha256


def test_rollouts_are_those_of_stable_baselines(case):
    config, data = case("ppo")

    def filled(kind, **extra):
        torch.manual_seed(0)
        env = NativeVecEnv(make_batch(config, data.part("train"), 8, config.env.config))
        model = kind("MlpPolicy", env, n_steps=100, batch_size=80, seed=1, device="cpu", **extra)
        _, callback = model._setup_learn(800)
        model.collect_rollouts(env, callback, model.rollout_buffer, 100)
        return model.rollout_buffer

    theirs, ours = filled(PPO), filled(BatchedPPO, rollout_buffer_class=KeptRolloutBuffer)
    for name in ("observations", "actions", "rewards", "values", "log_probs", "episode_starts", "advantages", "returns"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-5, err_msg=name)
    assert theirs.episode_starts[1:].any()
    first = ours.observations
    list(ours.get(80))
    ours.reset()
    assert ours.observations is first


def test_a_validation_is_the_same_whatever_was_judged_before(case):
    config, data = case("ppo")
    validator = Validator(config, data.part("validation"))
    idle = validator.score(lambda x: np.zeros((len(x), 1)))
    assert idle.eur_per_kwh_year == pytest.approx(0.0, abs=0.05)
    assert idle.wear_eur_per_kwh_year == 0.0
    rng = np.random.default_rng(0)
    wild = validator.score(lambda x: rng.uniform(-1, 1, (len(x), 1)))
    assert validator.score(lambda x: np.zeros((len(x), 1))) == idle
    rule = validator.score(lambda x: np.sign(x[:, 8:9]))  # the price against the trailing week's mean
    assert wild.eur_per_kwh_year < 0.0 < rule.eur_per_kwh_year < validator.foresight()
    engine = validator.batch.engine
    assert engine.features.first >= engine.part.first_row
    assert not np.array_equal(engine.variants.site, Learner(config, data.part("train"), 0).env.batched.engine.variants.site)


def test_no_scale_where_a_price_is_not_all_that_counts(case):
    for override in ("env.config.tariff.tax_eur_per_kwh=0.01", "env.config.grid.peak_price_eur_per_kw=3.0"):
        config, data = case("ppo", override)
        assert Validator(config, data.part("validation")).foresight() is None


def test_metrics_after_the_checkpoint_are_cut_off(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.record(step, {"x": step / 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "x"')
    with MetricsLog(tmp_path, 2) as log:
        log.record(4, {"x": 9.0})
        with pytest.raises(ValueError, match="JSON"):
            log.record(5, {"x": float("inf")})
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4]


def test_a_run_directory_knows_what_ran(case, tmp_path):
    config, data = case("ppo")
    sha = data.exogenous.sha256()
    with pytest.raises(InputError, match="--resume"):
        begin(tmp_path / "run", config, sha, "tiny.yaml", resume=True)
    assert begin(tmp_path / "run", config, sha, "tiny.yaml", resume=False) == []
    with pytest.raises(InputError, match="--run-dir"):
        begin(tmp_path / "run", config, sha, "tiny.yaml", resume=False)
    assert begin(tmp_path / "run", config, sha, "tiny.yaml", resume=True) == []
    with pytest.raises(InputError, match=r"ppo\.gamma: 0\.9 \(was 0\.99\)"):
        begin(tmp_path / "run", case("ppo", "ppo.gamma=0.9")[0], sha, "tiny.yaml", resume=True)
    with pytest.raises(InputError, match="data"):
        begin(tmp_path / "run", config, "0" * 64, "tiny.yaml", resume=True)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["data_sha256"] == sha
    assert record["packages"]["torch"]
    record["packages"]["torch"] = "1.0"
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    (remark,) = begin(tmp_path / "run", config, sha, "tiny.yaml", resume=True)
    assert "packages have changed" in remark


def test_two_trainings_do_not_share_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(InputError, match="in use"), locked(tmp_path, wait_s=0.0):
        pass
    with locked(tmp_path, wait_s=0.0):
        pass


def test_a_snapshot_of_another_size_is_refused():
    one, other = PackVectorEnv(4), PackVectorEnv(5)
    with pytest.raises(ValueError, match="shape"):
        other.engine.restore(one.engine.snapshot())


TUNING = """\
tuning:
  warmup_validations: 1
  space:
    ppo.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true, text: "lin_{}"}
    ppo.gamma: {choices: [0.9, 0.99]}
    ppo.n_epochs: {low: 1, high: 3, whole: true}
"""


def tuned_case(prices, change=("", "")):
    text = config_text(prices).replace("steps: 1600", "steps: 640") + TUNING
    return parse_config(text.replace(*change) if change[0] else text, "tiny.yaml")


def checked(text):
    read = parse_config(text, "tiny.yaml")
    check_space(read.config, read)


def test_a_search_is_continued_and_says_what_was_best(prices, tmp_path):
    read = tuned_case(prices)
    asked = iter([False] * 12 + [True] * 10**6)
    first = tune(read, tmp_path, 3, folders=[tmp_path], stop=lambda: next(asked))
    assert first.stopped
    assert first.trials < 3
    broken = first.trials
    told = []
    second = tune(read, tmp_path, 3, folders=[tmp_path], told=lambda number, settings, progress: told.append((number, settings)))
    assert (second.trials, second.stopped) == (3, False)
    assert min(number for number, _ in told) > broken
    best = parse_config(read.origin.text, "tiny.yaml", second.overrides).config
    assert 1e-4 <= best.ppo.learning_rate.start <= 1e-2
    assert best.ppo.n_epochs in (1, 2, 3)
    values = [
        max(line["validation/eur_per_kwh_year"] for line in lines(folder) if "validation/best" in line)
        for folder in tmp_path.glob("trial-*")
        if any("validation/best" in line for line in lines(folder))
    ]
    assert second.value in [pytest.approx(value) for value in values]
    assert tune(read, tmp_path, 3, folders=[tmp_path], told=pytest.fail).trials == 3
    with pytest.raises(InputError, match="another config"):
        tune(tuned_case(prices, ("num_envs: 8", "num_envs: 16")), tmp_path, 4, folders=[tmp_path])
    with pytest.raises(InputError, match=r"tuning\.space.*another name"):
        tune(tuned_case(prices, ("[0.9, 0.99]", "[0.9, 0.95, 0.99]")), tmp_path, 4, folders=[tmp_path])


def test_overrides_hold_in_every_trial(prices, tmp_path):
    read = parse_config(config_text("elsewhere.csv") + TUNING, "tiny.yaml", ["steps=384", f"data.price.path={prices}"])
    told = []
    tune(read, tmp_path, 2, folders=[tmp_path], told=lambda number, _settings, progress: told.append((number, progress.steps)))
    assert set(told) == {(0, 384), (1, 384)}


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        (("ppo.gamma:", "ppo.gama:"), "ppo.gama", "did you mean 'gamma'"),
        (("choices: [0.9, 0.99]", "choices: [0.9, 1.5]"), "ppo.gamma", "less than or equal to 1"),
        (("lin_{}", "log_{}"), "ppo.learning_rate", "lin_7e-4"),
        (("low: 1, high: 3", "low: 3, high: 1"), "ppo.n_epochs", "low below high"),
        (("low: 1, high: 3", "low: 1"), "ppo.n_epochs", "either choices"),
    ],
)
def test_a_search_that_cannot_be_is_named_with_its_line(prices, change, key, words):
    text = config_text(prices) + TUNING.replace(*change)
    line = next(k for k, written in enumerate(text.splitlines(), 1) if f"{key}:" in written)
    with pytest.raises(InputError, match=rf"tiny\.yaml:{line}: .*{words}"):
        checked(text)
