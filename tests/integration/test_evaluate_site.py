"""`pulsebms evaluate --site` as one command: rows of a site are replayed, their scores and metrics land in their rows."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import evaluation_cases
from learned_cases import value_artefact

from core.policy_record import PolicyRecord
from serving.evaluation.rows import KEY, policy_named
from serving.site_loader import load_site
from stores.mongo.artefacts import store_artefact
from stores.postgres.policies import register_policy
from stores.postgres.policy_life import change_status, set_score

pytestmark = pytest.mark.timeout(180)
SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


@pytest.fixture
def site(stores):
    """The demo site with its active MPC, a hybrid in testing, one whose artefact nobody has, and a retired one."""
    config = load_site(stores.pg, SITE_FILE)
    artefact = value_artefact(share=0.5)
    store_artefact(stores.mongo, artefact.files)
    for name, sha256 in (("hybrid", artefact.sha256), ("lost", "0" * 64), ("old", artefact.sha256)):
        record = PolicyRecord(
            policy_id=None, site_id=config.site_id, name=name, policy_type="HYBRID", config={"artefact": sha256},
            model_version="1", training_date=datetime(2026, 1, 1, tzinfo=UTC), performance_metrics={"validation": 99.0},
            horizon_hours=12, update_interval_seconds=900,
        )  # fmt: skip
        policy_id = register_policy(stores.pg, record)
        if name == "lost":
            set_score(stores.pg, policy_id, 0.4321)
        if name == "old":
            change_status(stores.pg, policy_id, "testing", "deprecated")
    return config


@pytest.fixture
def evaluate(stores, tmp_path):
    """Run the command on one day of made-up prices, against the test's servers."""
    made = evaluation_cases.config(tmp_path)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(made.model_dump(mode="json", exclude_none=True)), encoding="utf-8")
    urls = {
        "DATABASE_URL": stores.settings.database_url,
        "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri,
        "PULSEBMS_DATA": str(tmp_path / "data"),
        "COLUMNS": "80",
    }

    def run(*arguments):
        command = [sys.executable, "-m", "serving.cli", "evaluate", "--config", str(path), "--workers", "2", *arguments]
        return subprocess.run(command, env={**os.environ, **urls}, capture_output=True, text=True, timeout=150, check=False)

    return run


def test_scores_and_metrics_of_a_sites_rows_are_written(stores, site, evaluate, tmp_path):
    unrecorded = evaluate("--site", site.site_id, "--no-record")
    assert unrecorded.returncode == 0, unrecorded.stdout + unrecorded.stderr
    before = policy_named(stores.pg, site.site_id, "hybrid")
    assert before.performance_score is None
    assert KEY not in dict(before.performance_metrics or {})

    ran = evaluate("--site", site.site_id)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder = tmp_path / "data" / "evaluations" / "small"
    assert (folder / "report.html").stat().st_size > 10_000
    document = json.loads((folder / "evaluation.json").read_text())
    rows = {row["policy"]: row for row in document["benchmarks"]["published"]["ranking"]}
    assert "old" not in rows, "what is deprecated is not evaluated"
    for name in ("hybrid", "mpc-24h"):
        assert rows[name]["eligible"], rows[name]
        found = policy_named(stores.pg, site.site_id, name)
        assert found.performance_score == pytest.approx(rows[name]["score"], abs=5e-5)
        said = found.performance_metrics[KEY]
        assert said["scored_by"] == "small/published"
        assert said["benchmarks"]["published"]["j_eur"] == rows[name]["j_eur"]
        assert said["benchmarks"]["published"]["against_mpc"] == rows[name]["against_mpc"]
        assert f"{name}: performance_score {rows[name]['score']:.4f}, by small/published" in ran.stdout
    lost = policy_named(stores.pg, site.site_id, "lost")
    assert lost.performance_score == pytest.approx(0.4321), "a replay that could not be made says nothing of the policy"
    assert "artefact" in lost.performance_metrics[KEY]["benchmarks"]["published"]["why_not"]
    assert "lost: performance_score unchanged" in ran.stdout


def test_a_site_that_is_not_there_is_told(stores, site, evaluate):
    ran = evaluate("--site", "nowhere")
    assert ran.returncode == 2
    assert "nowhere" in ran.stderr
    assert "Traceback" not in ran.stderr
