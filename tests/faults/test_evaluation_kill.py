"""Real evaluators killed with -9, two of them at once, policies that crash, hang and raise: nothing lost or half-written.

The plant is the circuit and the prices are made up, so that a whole evaluation takes seconds.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

import processes
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import evaluation_cases
from evaluator import without_clock

from serving.evaluation.result_cache import ResultCache

pytestmark = pytest.mark.timeout(900)
DAYS = ("2023-03-06", "2023-03-07", "2023-03-08")
WAIT_S = 400.0
"""No test waits so long but where kernels are compiled for the first time on a busy machine."""
PROGRAM = (str(Path(__file__).parent / "evaluator.py"),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Config and prices: three days, each a block of its own; seven policies."""
    place = tmp_path_factory.mktemp("config")
    less_wear = {"name": "half", "config": {"wear_weight": 0.5}, "horizon_hours": 12}
    made = evaluation_cases.config(place, weeks=DAYS, policies=[less_wear])
    (place / "config.json").write_text(json.dumps(made.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    return place


def arguments(folder, out, workers=1):
    return ["evaluate", "--config", str(folder / "config.json"), "--workers", str(workers), "--out", str(out)]


def environment(data):
    return {"PULSEBMS_DATA": str(data), "COLUMNS": "80"}


def cached(data):
    return list((data / "evaluations" / "cache").glob("*/*.json"))


def said(out):
    return without_clock(json.loads((out / "evaluation.json").read_text()))


@pytest.fixture(scope="module")
def whole_data(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def whole(folder, whole_data):
    """An evaluation that nobody disturbed: its document and what it printed."""
    data = whole_data
    found = processes.run(arguments(folder, data / "out", workers=2), environment(data), timeout_s=WAIT_S)
    assert found.returncode == 0, found.stdout + found.stderr
    return said(data / "out"), found, len(cached(data))


def end_in_the_middle(folder, data, log, how):
    """Start an evaluator, wait until it has kept one more result, end it, and see its processes end."""
    before = len(cached(data))
    process = processes.start(arguments(folder, data / "out"), environment(data), log)
    try:
        processes.until(lambda: len(cached(data)) > before, f"more than {before} results", WAIT_S)
        assert len(processes.using(data)) > 1, "workers are at work"
    finally:
        os.kill(process.pid, how)
        process.wait(30)
    processes.until(lambda: not processes.using(data), "its children end by themselves", 60.0)
    return process.returncode


def test_killed_or_interrupted_and_started_again_it_ends_in_the_same_scores_to_the_last_digit(
    folder, whole, whole_data, tmp_path
):
    document, _, jobs = whole
    data = tmp_path / "data"
    # A job that somebody else has, as it seems: however late it is told to end, an evaluator has not come to its end.
    held = ResultCache(data / "evaluations" / "cache").claim(cached(whole_data)[0].stem)
    for k, (how, code) in enumerate(((signal.SIGKILL, -9), (signal.SIGINT, 130))):
        assert end_in_the_middle(folder, data, tmp_path / f"log{k}", how) == code
        for path in cached(data):
            assert json.loads(path.read_text())["status"] == "ok", "each result that is there is whole"
        assert not (data / "out" / "evaluation.json").exists()
    assert "the same command goes on" in (tmp_path / "log1").read_text()
    kept = len(cached(data))
    assert 1 < kept < jobs
    held.release()
    again = processes.run(arguments(folder, data / "out"), environment(data), timeout_s=WAIT_S)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"{jobs} jobs ({kept} from the cache)" in again.stdout
    assert said(data / "out") == document
    rests = [path for path in (data / "evaluations" / "cache").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert rests == [], "no lock, no half-written file"


def test_two_at_once_share_the_jobs_and_say_the_same(folder, whole, tmp_path):
    document, _, jobs = whole
    data, logs = tmp_path / "data", [tmp_path / "log0", tmp_path / "log1"]
    started = [processes.start(arguments(folder, tmp_path / f"out{k}"), environment(data), log) for k, log in enumerate(logs)]
    try:
        assert [process.wait(WAIT_S) for process in started] == [0, 0], [log.read_text() for log in logs]
    finally:
        for process in started:
            process.kill()
    for k in range(2):
        assert said(tmp_path / f"out{k}") == document
    done = [sum('"event": "job_done"' in line for line in log.read_text().splitlines()) for log in logs]
    assert sum(done) == jobs == len(cached(data)), "each job was done once, by one of them"


@pytest.mark.full
def test_one_killed_while_two_run_leaves_its_job_to_the_other(folder, whole, tmp_path):
    document, _, jobs = whole
    data, logs = tmp_path / "data", [tmp_path / "log0", tmp_path / "log1"]
    victim, other = (
        processes.start(arguments(folder, tmp_path / f"out{k}"), environment(data), log) for k, log in enumerate(logs)
    )
    try:
        processes.until(lambda: len(processes.events(logs[0], "job_done")) > 1, "the first has done some jobs", WAIT_S)
        os.kill(victim.pid, signal.SIGKILL)
        assert other.wait(WAIT_S) == 0, logs[1].read_text()
    finally:
        for process in (victim, other):
            process.kill()
            process.wait(30)
    assert said(tmp_path / "out1") == document
    assert len(cached(data)) == jobs


def test_policies_that_raise_hang_or_crash_are_marked_and_the_others_finish(folder, whole, tmp_path):
    """After `whole`, so that no deadline is spent on compiling kernels."""
    config = json.loads((folder / "config.json").read_text()) | {"decision_deadline_s": 5.0, "weeks": DAYS[:1], "policies": []}
    place = tmp_path / "config"
    place.mkdir()
    evaluation_cases.price_file(place)
    (place / "config.json").write_text(json.dumps(config))
    bad = ["raises=raise", "hangs=hang_later", "stuck=hang_in_c", "crashes=crash", "fine=fine"]
    data, log = tmp_path / "data", tmp_path / "log"
    process = processes.start([str(place), str(data), "2", *bad], environment(data), log, program=PROGRAM)
    assert process.wait(WAIT_S) == 0, log.read_text()
    text = log.read_text()
    found = json.loads(text[text.index('{"document"') :])
    rows = {row["policy"]: row for row in found["document"]["benchmarks"]["published"]["ranking"]}
    assert rows["raises"]["why_not"] == "raised ZeroDivisionError: 1 / 0"
    assert rows["hangs"]["why_not"] == rows["stuck"]["why_not"] == "no decision within 5 s"
    assert "its process ended" in rows["crashes"]["why_not"]
    for name in ("idle", "threshold", "one_cycle", "perfect_foresight", "fine"):
        assert rows[name]["eligible"], rows[name]
    for name in ("raises", "hangs", "stuck", "crashes"):
        assert rows[name]["score"] is None
    assert len(cached(data)) == 5, "what failed is not kept: it is tried again"
    processes.until(lambda: not processes.using(data), "no process is left", 30.0)


@pytest.mark.parametrize("mode", [pytest.param("hang_later", marks=pytest.mark.full), "hang_in_c"])
def test_killed_while_a_policy_hangs_nothing_of_it_stays(folder, tmp_path, mode):
    data, log = tmp_path / "data", tmp_path / "log"
    process = processes.start([str(folder), str(data), "1", f"hangs={mode}"], environment(data), log, program=PROGRAM)
    try:
        processes.until(lambda: len(cached(data)) == 2 * len(DAYS), "idle and perfect foresight are done", WAIT_S)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait(30)
    processes.until(lambda: not processes.using(data), "its children end by themselves", 60.0)


def test_without_a_terminal_each_job_is_a_line_with_what_is_left(whole):
    _, found, jobs = whole
    lines = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
    ended = [line for line in lines if line["event"] == "job_done"]
    assert [line["done"] for line in ended] == list(range(1, jobs + 1))
    assert {line["total"] for line in ended} == {jobs}
    assert ended[-1]["left"] == "0 s"
    assert all(re.fullmatch(r"\d+ (s|min)|\d+\.\d h", line["left"]) for line in ended)
    assert {"policy", "scenario", "week", "seed", "took_s"} <= ended[0].keys()
    assert lines[0]["event"] == "evaluating", "something is said before the first job ends"


def test_the_ranking_is_readable_at_80_columns(whole):
    document, found, _ = whole
    lines = found.stdout.splitlines()
    table = [line for line in lines if not line.endswith("evaluation.json")]
    assert max(map(len, table)) <= 80
    for row in document["benchmarks"]["published"]["ranking"]:
        line = next(line for line in table if line.split()[:1] == [row["policy"]])
        assert f"{row['score']:.3f}" in line.split()
