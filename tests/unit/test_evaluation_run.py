"""Whole evaluations: a policy that raises or hangs is marked and the others finish; what is done is not done again."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))

from evaluation_cases import FixedContender, config

from core.errors import InputError
from serving.cli.app import app
from serving.evaluation import evaluate, job
from serving.evaluation.baselines import Contender
from serving.evaluation.evaluate import Evaluation, contenders_of
from serving.evaluation.report import html_of
from serving.evaluation.result_cache import ResultCache
from serving.evaluation.results import pairwise

NAMES = ("idle", "threshold", "one_cycle", "perfect_foresight")


def evaluation(folder, *others, **changes):
    made = config(folder, **changes)
    contenders = (*(Contender(name=name) for name in NAMES), *others)
    return Evaluation(config=made, folder=folder, data_dir=folder, contenders=contenders, first_s=2.0)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    made = evaluation(
        folder,
        FixedContender(name="good", watt=100.0),
        FixedContender(name="raises", mode="raise"),
        FixedContender(name="hangs", mode="hang"),
        FixedContender(name="unable", mode="unable"),
        decision_deadline_s=1.0,
    )
    made.run(2)
    return made


def row(document, policy):
    return next(item for item in document["benchmarks"]["published"]["ranking"] if item["policy"] == policy)


def test_the_bad_ones_are_marked_and_the_others_finish(done, monkeypatch):
    document = done.document()
    json.dumps(document, allow_nan=False)
    assert row(document, "raises")["why_not"] == "raised ZeroDivisionError: 1 / 0"
    assert not row(document, "raises")["eligible"]
    assert row(document, "hangs")["why_not"].startswith("no decision within")
    assert row(document, "perfect_foresight")["score"] == 1.0
    assert row(document, "idle")["score"] == 0.0
    assert row(document, "good")["score_interval"] is None, "one week has no interval"
    for name in ("good", "threshold", "one_cycle"):
        assert 0.0 <= row(document, name)["score"] <= 1.0
        assert row(document, name)["eligible"]
    unable = row(document, "unable")
    assert unable["decided_share"] == 0.0
    assert unable["unable"] == {"not today": 24}
    assert unable["score"] == row(document, "threshold")["score"], "the rule decided in its place"


def test_what_is_done_is_not_done_again_and_failures_are_tried_again(done):
    again = Evaluation(config=done.config, folder=done.folder, data_dir=done.data_dir, contenders=done.contenders[:5])
    again.run(1)
    assert again.from_cache == 5
    other = Evaluation(config=done.config, folder=done.folder, data_dir=done.data_dir, contenders=done.contenders)
    first, second = (json.dumps(item.document()["life"]["one"]["policies"]["good"]) for item in (done, again))
    assert first == second
    assert other.names == done.names


def test_a_damaged_result_is_made_anew(done):
    cached = ResultCache(done.data_dir / "evaluations" / "cache")
    key = done.results["good", ("one", "2023-03-06", 0)]["key"]
    whole = cached.path(key).read_bytes()
    cached.path(key).write_bytes(whole[: len(whole) // 2])
    assert cached.get(key) is None
    again = Evaluation(config=done.config, folder=done.folder, data_dir=done.data_dir, contenders=done.contenders[4:5])
    again.run(1)
    assert again.from_cache == 0
    assert cached.get(key)["account"] == done.results["good", ("one", "2023-03-06", 0)]["account"]


def test_a_changed_policy_scenario_or_code_is_another_key(done, monkeypatch):
    jobs = done.jobs()
    sha = jobs[0].world().sha256()
    keys = {made.key(sha) for made in jobs}
    assert len(keys) == len(jobs), "each policy has its own"
    one = jobs[0].key(sha)
    assert jobs[0].key("0" * 64) != one
    monkeypatch.setattr(job, "code_sha256", lambda: "other")
    assert jobs[0].key(sha) != one


def test_two_policies_pair_by_pair(done):
    found = pairwise(done.config, done.results, "one_cycle", "good")["published"]
    j = {name: done.results[name, ("one", "2023-03-06", 0)]["account"]["j_eur"] for name in ("one_cycle", "good")}
    assert found["together"]["eur"] == pytest.approx(j["one_cycle"] - j["good"])
    assert "why_not" in pairwise(done.config, done.results, "one_cycle", "hangs")["published"]


def test_the_report_stands_alone(done):
    page = html_of(done.document(), done.results)
    assert "<script" not in page
    assert 'src="http' not in page
    assert 'href="http' not in page
    for said in ("small/published", "ZeroDivisionError", "Weeks of one_cycle", "data:image/png;base64,", "Life"):
        assert said in page


def test_names_that_are_not_there_are_told(tmp_path):
    made = config(tmp_path, policies=[{"name": "slow-mpc", "config": {"wear": False}}])
    names = [item.name for item in contenders_of(made, tmp_path)]
    assert names[-1] == "slow-mpc"
    assert "mpc" in names
    with pytest.raises(InputError, match="did you mean 'slow-mpc'"):
        contenders_of(made, tmp_path, (), ["slow-mcp"])


def test_the_command_writes_both_files_and_compare_reads_one(tmp_path, monkeypatch):
    made = config(tmp_path, policies=[{"name": "no-wear", "config": {"wear": False}, "horizon_hours": 12}])
    path = tmp_path / "evaluation.yaml"
    path.write_text(json.dumps(made.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    monkeypatch.setenv("PULSEBMS_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(evaluate, "default_workers", lambda: 1)
    ran = CliRunner().invoke(
        app, ["evaluate", "--config", str(path), "--policy", "no-wear", "--out", str(tmp_path / "out"), "--workers", "2"]
    )
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000
    document = tmp_path / "out" / "evaluation.json"
    compared = CliRunner().invoke(app, ["compare", "mpc", "no-wear", "--evaluation", str(document), "--json"])
    assert compared.exit_code == 0, compared.output
    assert json.loads(compared.output)["published"]["together"]["blocks"] == 1
