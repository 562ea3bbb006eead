"""Real trainings killed with -9: the next command goes on from the last checkpoint, to the artefact of an uninterrupted one."""

import json
import os
import signal
import sys
from pathlib import Path

import processes
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from training_cases import config_text, write_prices

from training.checkpoint import read_checkpoint
from training.config_file import read_config
from training.rl_data import read_data
from training.rl_export import export
from training.rl_run import train_seed
from training.run_directory import config_sha256

pytestmark = pytest.mark.timeout(240)
LONG = ["steps=16000", "validation.every_steps=4000", "checkpoint.every_steps=1000", "validation.patience=1000"]
"""Some seconds of training, so that a kill meets it in the middle."""


@pytest.fixture
def run(tmp_path):
    """What a person types, and the same training without interruption."""
    file = tmp_path / "tiny.yaml"
    file.write_text(config_text(write_prices(tmp_path / "prices.csv")))
    folder = tmp_path / "run"
    arguments = ["train", str(file), "--run-dir", str(folder), *(word for one in LONG for word in ("--set", one))]
    return file, folder, arguments, {"PULSEBMS_DATA": str(tmp_path / "data")}


def checkpoint_of(folder):
    path = folder / "seed-0" / "checkpoint.safetensors"
    return read_checkpoint(path) if path.exists() else None


def worker_of(folder):
    """The process that trains: it names the folder and is a session of its own."""
    for pid in processes.using(folder):
        if b"training.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    return None


def begun(folder, log, arguments, environment, beyond=0):
    """Started, and trained beyond a step; the command's process and the worker's pid."""
    process = processes.start(arguments, environment, log, program=("-m", "serving.cli"))
    try:
        what = f"a checkpoint beyond {beyond}"
        found = processes.until(lambda: (c := checkpoint_of(folder)) and c.state["timesteps"] > beyond, what, 90.0)
        assert found
        worker = processes.until(lambda: worker_of(folder), "a worker")
    except BaseException:
        process.terminate()
        process.wait(60)
        raise
    return process, worker


def uninterrupted(file, folder):
    found = read_config(file, LONG)
    data = read_data(found.config, found.origin)
    identity = f"{config_sha256(found.config)[:16]} {data.exogenous.sha256()[:16]}"
    outcome = train_seed(found.config, data, folder, 0, identity=identity)
    return export(found.config, data, outcome, folder, 0)


def test_killed_with_its_command_and_resumed_it_ends_in_the_same_artefact(run, tmp_path):
    file, folder, arguments, environment = run
    process, worker = begun(folder, tmp_path / "log", arguments, environment)
    os.kill(process.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    process.wait(30)
    kept = checkpoint_of(folder).state["timesteps"]
    assert 0 < kept < 16000, "the kill came too late to show anything"
    again = processes.run([*arguments, "--resume"], environment, timeout_s=120)
    assert again.returncode == 0, again.stdout + again.stderr
    whole = uninterrupted(file, tmp_path / "whole")
    result = json.loads((folder / "result.json").read_text())
    assert result["sha256"] == whole.sha256
    assert (folder / "seed-0" / "metrics.jsonl").read_text() == (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert worker_of(folder) is None


@pytest.mark.full
def test_interrupted_in_every_manner_it_ends_in_the_same_artefact(run, tmp_path):
    """Ctrl-C, then the worker killed, then the command killed, each time continued."""
    file, folder, arguments, environment = run
    process, _ = begun(folder, tmp_path / "log1", arguments, environment)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "to go on: pulsebms train" in (tmp_path / "log1").read_text()
    assert worker_of(folder) is None

    resumed = [*arguments, "--resume"]
    before = checkpoint_of(folder).state["timesteps"]
    process, worker = begun(folder, tmp_path / "log2", resumed, environment, before)
    os.kill(worker, signal.SIGKILL)
    assert process.wait(60) == 2
    shown = (tmp_path / "log2").read_text()
    assert "seed 0: killed by signal 9" in shown
    assert "Traceback" not in shown

    before = checkpoint_of(folder).state["timesteps"]
    process, worker = begun(folder, tmp_path / "log3", resumed, environment, before)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    processes.until(lambda: worker_of(folder) is None, "the worker ends by itself", 60.0)
    assert checkpoint_of(folder).state["timesteps"] < 16000

    again = processes.run(resumed, environment, timeout_s=120)
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((folder / "result.json").read_text())["sha256"] == uninterrupted(file, tmp_path / "whole").sha256
