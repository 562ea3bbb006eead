"""Training configs: what is wrong is named with its line, or its override, before anything is trained."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from training_cases import config_text, write_prices

from core.errors import InputError
from policies.learned.artefact import read_artefact
from serving.cli import main
from training.config_file import parse_config
from training.rl_data import read_data, with_files
from training.run_directory import config_sha256
from training.run_directory import config_text as written
from training.schedule import parse_schedule


def line_of(text, needle):
    return next(k for k, line in enumerate(text.splitlines(), 1) if needle in line)


GOOD = config_text("prices.csv")
BAD = [
    ("algorithm: ppo", "algorithm: pppo", "algorithm", "did you mean 'ppo'"),
    ("algorithm: ppo", "algorithm: dqn", "algorithm", "energy_value"),
    ("  n_steps: 8", "  n_stepz: 8", "ppo.n_stepz", "did you mean 'n_steps'"),
    ("    episode_steps: 40", "    episode_step: 40", "env.config.episode_step", "did you mean 'episode_steps'"),
    ("lin_1e-3", "lin_-1e-3", "ppo.learning_rate", "positive"),
    ("lin_1e-3", "lin_fast", "ppo.learning_rate", "lin_7e-4"),
    ("lin_1e-3", "exp_1e-3", "ppo.learning_rate", "cos_7e-4"),
    ("lin_1e-3", "lin_1e-4_1e-3", "ppo.learning_rate", "rises"),
    ("lin_1e-3", "0", "ppo.learning_rate", "starts at 0"),
    ("lin_1e-3", "true", "ppo.learning_rate", "positive number"),
    ("  train: 2020", "  train: 2020-2022", "split.train", "the split leaks"),
    ("  validation: 2021", "  validation: [2021, 2022]", "split.validation", "nothing of test"),
    ("  train: 2020", "  train: [2017, 2020]", "split.train", "without a gap"),
    ("  train: 2020", "  train: 2020-1999", "split.train", "2015-2021"),
    ("  batch_size: 32", "  batch_size: 30", "ppo.batch_size", "a divisor"),
    ("steps: 1600", "steps: 0", "steps", "greater than or equal to 1"),
    ("steps: 1600", "steps: 1600\nseeds: [1, 1]", "seeds", "each once"),
    ("steps: 1600", "steps: 1600\ndevice: cuda", "device", "cpu"),
    ("ppo:\n", "sac: {}\nppo:\n", "sac", "a known key"),
    ("  num_envs: 8", "  num_envs: 8\n  kind: packs", "env.kind", "pack"),
]


@pytest.mark.parametrize(("good", "bad", "field", "words"), BAD)
def test_what_is_wrong_is_named_with_its_line(good, bad, field, words):
    text = GOOD.replace(good, bad, 1)
    with pytest.raises(InputError) as error:
        parse_config(text, "tiny.yaml")
    name = field.rpartition(".")[2]
    line = next(k for k, written in enumerate(text.splitlines(), 1) if written.strip().startswith(f"{name}:"))
    assert str(error.value).startswith(f"tiny.yaml:{line}: {field}")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("override", "source", "words"),
    [
        ("ppo.gama=0.9", "--set ppo.gama", "did you mean 'gamma'"),
        ("ppo.gamma=1.5", "--set ppo.gamma", "less than or equal to 1"),
        ("split.test=2020", "tiny.yaml", "the split leaks"),
        ("split.train=2023", "--set split.train", "the split leaks"),
        ("algorithm=sca", "--set algorithm", "did you mean 'sac'"),
        ("ppo.batch_size=7", "--set ppo.batch_size", "a divisor"),
        ("seeds=[1, 1]", "--set seeds: seeds", "each once"),
        ("env.config.packs.1.soh_pct=[70,80]", "--set env.config.packs.1.soh_pct", "a place from 0 to 0"),
        ("name.first=1", "--set name.first", "a key that holds others"),
        ("ppo.gamma", "command line", "KEY=VALUE"),
        ("=3", "command line", "KEY=VALUE"),
        ("steps=[", "--set steps", "YAML"),
    ],
)
def test_an_override_is_named(override, source, words):
    with pytest.raises(InputError) as error:
        parse_config(GOOD, "tiny.yaml", [override])
    assert str(error.value).startswith(source)
    assert words in str(error.value)


def test_overrides_reach_every_level():
    found = parse_config(
        GOOD, "tiny.yaml",
        ["ppo.learning_rate=cos_2e-3", "env.config.packs.0.soh_pct=[70.0, 80.0]", "seeds=[3,4]", "ppo.ent_coef=1e-3",
         "network.hidden=[8]"],
    ).config  # fmt: skip
    assert found.ppo.learning_rate(1.0) == 2e-3
    assert found.env.config.packs[0].soh_pct == (70.0, 80.0)
    assert found.seeds == (3, 4)
    assert found.ppo.ent_coef == 1e-3
    assert found.network.hidden == (8,)


def test_what_is_written_beside_a_run_reads_back_to_the_same():
    for algorithm in ("ppo", "sac"):
        config = parse_config(config_text("p.csv", algorithm), "tiny.yaml", ["env.config.episode_steps=null"]).config
        again = parse_config(written(config), "config.yaml").config
        assert again == config
        assert again.env.config.episode_steps is None
        assert config_sha256(again) == config_sha256(config)


def test_the_hash_knows_what_decides_the_result():
    base = parse_config(GOOD, "tiny.yaml").config
    same = ["seeds=[5]", "data.price.path=/elsewhere/prices.csv"]
    other = ["ppo.gamma=0.98", "split.validation=2024", "env.config.variants=5", "steps=3200"]
    assert all(config_sha256(parse_config(GOOD, "t", [o]).config) == config_sha256(base) for o in same)
    assert all(config_sha256(parse_config(GOOD, "t", [o]).config) != config_sha256(base) for o in other)


def test_data_that_is_not_there_or_not_enough(tmp_path):
    read = parse_config(GOOD, "tiny.yaml")
    with pytest.raises(InputError, match=rf"tiny\.yaml:{line_of(GOOD, 'price:')}: data\.price\.path: got 'prices\.csv'.*fetch"):
        with_files(read.config, [tmp_path], read.origin)
    write_prices(tmp_path / "prices.csv", days=60)
    text = GOOD.replace("validation: 2021", "validation: 2024")
    read = parse_config(text, "tiny.yaml")
    with pytest.raises(InputError, match=rf"tiny\.yaml:{line_of(text, 'validation:')}: split\.validation"):
        read_data(with_files(read.config, [tmp_path], read.origin), read.origin)
    wrong = parse_config(GOOD, "tiny.yaml", ["data.price.column=price"])
    with pytest.raises(InputError, match=r"prices\.csv:1: column: got 'price'"):
        read_data(with_files(wrong.config, [tmp_path], wrong.origin), wrong.origin)


@given(st.sampled_from(["lin", "cos"]), st.floats(1e-8, 10.0), st.floats(0.0, 1.0), st.lists(st.floats(0.0, 1.0), min_size=2))
def test_a_schedule_falls_from_its_start_to_its_end(shape, start, share, places):
    schedule = parse_schedule(f"{shape}_{start!r}_{start * share!r}")
    assert parse_schedule(str(schedule)) == schedule
    values = [schedule(place) for place in sorted(places)]
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(values))
    assert schedule(1.0) == pytest.approx(start)
    assert schedule(0.0) == pytest.approx(start * share)


@pytest.fixture
def refused(monkeypatch, capfd, tmp_path):
    """What the command line shows: one screen, no traceback, code 2, nothing written."""
    monkeypatch.setenv("PULSEBMS_DATA", str(tmp_path / "data"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pulsebms", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert ended.value.code == 2, out + err
        assert "Traceback" not in out + err
        assert len((out + err).splitlines()) < 15
        assert not (tmp_path / "data" / "runs").exists()
        return out + err

    yield run
    structlog.reset_defaults()


def test_the_command_line_refuses_on_one_screen(refused, tmp_path):
    file = tmp_path / "tiny.yaml"
    assert "absent.yaml" in refused("train", str(tmp_path / "absent.yaml"))
    file.write_text(GOOD.replace("  n_steps: 8", "  n_stepz: 8"))
    assert f"tiny.yaml:{line_of(file.read_text(), 'n_stepz')}: ppo.n_stepz" in refused("train", str(file))
    file.write_text(GOOD)
    assert "data.price.path" in refused("train", str(file))
    assert "--set ppo.gama" in refused("train", str(file), "--set", "ppo.gama=1")
    assert "seeds" in refused("train", str(file), "--seeds", "0,x")
    file.write_text(config_text(write_prices(tmp_path / "prices.csv")))
    assert "--resume" in refused("train", str(file), "--resume", "--run-dir", str(tmp_path / "none"))
    assert "tuning" in refused("tune", str(file))
    assert "metadata.json" in refused("artefact", "show", str(tmp_path))


def test_without_the_extra_the_command_says_which_one(refused, tmp_path, monkeypatch):
    file = tmp_path / "tiny.yaml"
    file.write_text(config_text(write_prices(tmp_path / "prices.csv")))
    monkeypatch.setattr("serving.cli.train_cli.NEEDED", ("torch", "a_package_that_is_not_there"))
    assert "training needs a_package_that_is_not_there" in (shown := refused("train", str(file)))
    assert "pulsebms-optimizer[train]" in shown


VALUE = """\
algorithm: energy_value
name: tiny-value
information: published
data: {{path: {path}, price_column: eur_per_kwh, eur_per_kwh: 1.0}}
split: {{train_from: 2020-11-10, validate_from: 2021-01-01, validate_until: 2021-02-08}}
plant: {{charge_steps: 3}}
fit: {{hidden: [8], iterations: 60, checkpoint_every: 30}}
"""


def test_the_energy_value_network_trains_from_its_file(monkeypatch, capfd, tmp_path):
    file = tmp_path / "value.yaml"
    file.write_text(VALUE.format(path=write_prices(tmp_path / "prices.csv")))
    monkeypatch.setenv("PULSEBMS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(sys, "argv", ["pulsebms", "train", str(file), "--set", "fit.iterations=90"])
    with pytest.raises(SystemExit) as ended:
        main()
    structlog.reset_defaults()
    out, err = capfd.readouterr()
    assert ended.value.code == 0, out + err
    folder = tmp_path / "data" / "runs" / "tiny-value"
    said = read_artefact(folder / "artefact").metadata
    assert said.kind == "energy_value"
    assert said.training["config"]["fit"]["iterations"] == 90
    assert json.loads((folder / "run.json").read_text())["data_sha256"] == said.training["data_sha256"]
    assert parse_config((folder / "config.yaml").read_text(), "config.yaml").config.fit.iterations == 90


def test_dates_without_data_are_named_with_their_line(refused, tmp_path):
    text = VALUE.format(path=write_prices(tmp_path / "prices.csv"))
    for year in (2020, 2021):
        text = text.replace(f"{year}-", f"{year + 20}-")
    file = tmp_path / "value.yaml"
    file.write_text(text)
    command = ("train", str(file), "--run-dir", str(tmp_path / "run"))
    assert f"value.yaml:{line_of(text, 'split:')}: split.train" in refused(*command)
    (tmp_path / "run" / "seed-0").mkdir(parents=True)
    assert "without a run of PPO or SAC" in refused(*command)


def test_an_energy_value_config_is_checked_the_same_way(tmp_path):
    text = VALUE.format(path="prices.csv")
    with pytest.raises(InputError, match=rf"value\.yaml:{line_of(text, 'fit:')}: fit\.iteration.*did you mean 'iterations'"):
        parse_config(text.replace("iterations: 60", "iteration: 60"), "value.yaml")
    leaks = text.replace("validate_from: 2021-01-01", "validate_from: 2020-11-01")
    with pytest.raises(InputError, match=rf"value\.yaml:{line_of(text, 'split:')}: split.*must rise"):
        parse_config(leaks, "value.yaml")


def test_the_command_line_starts_without_training_and_without_torch():
    """A site controller has neither: nothing of them is imported before `train` is asked for."""
    heavy = "{'torch', 'training', 'optuna', 'stable_baselines3'}"
    code = f"import sys, serving.cli.app; print(sorted({{name.partition('.')[0] for name in sys.modules}} & {heavy}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"
