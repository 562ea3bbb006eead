"""Scores in optimization_policies and the life cycle testing -> active -> deprecated: real servers."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from learned_cases import value_artefact

from core.errors import InputError
from core.policy_record import PolicyRecord
from serving.evaluation.rows import (
    KEY,
    LIFE_KEY,
    policies_of_site,
    policy_named,
    rows_of_site,
    step_life,
    why_not_promote,
    write_scores,
)
from serving.site_loader import load_site
from stores.mongo.artefacts import store_artefact
from stores.postgres.policies import ranked_policies, register_policy

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


@pytest.fixture
def site(stores):
    config = load_site(stores.pg, SITE_FILE)
    artefact = value_artefact(share=0.5)
    store_artefact(stores.mongo, artefact.files)
    register_policy(
        stores.pg,
        PolicyRecord(
            policy_id=None, site_id=config.site_id, name="hybrid", policy_type="HYBRID", config={"artefact": artefact.sha256},
            model_version="1", training_date=datetime(2026, 1, 1, tzinfo=UTC), performance_metrics={"validation": 99.0},
            horizon_hours=24, update_interval_seconds=900,
        ),
    )  # fmt: skip
    return config


def document(low, *, eligible=True, score=0.987654, error=""):
    """What `pulsebms evaluate` would say of the policy."""
    row = {
        "policy": "hybrid", "score": score, "eligible": eligible,
        "why_not": error or ("" if eligible else "limits passed: soc_max 3"),
        "violated": {} if eligible or error else {"soc_max": 3},
        "against_mpc": {"points": {"value": low + 1.0, "low": low, "high": low + 2.0}},
    }  # fmt: skip
    part = {"ranking": [row], "blocks": 8, "foresight_gap_pct": 1.0}
    return {"name": "nl", "code_sha256": "c", "benchmarks": {"published": part}}


def scored(stores, site, **said):
    return write_scores(stores.pg, document(**said), rows_of_site(stores, site.site_id))


def test_rows_in_testing_are_contenders_with_their_artefact(stores, site):
    found = {item.name: item for item in rows_of_site(stores, site.site_id)}
    assert found["hybrid"].files is not None
    assert found["hybrid"].files.sha256 == found["hybrid"].record.config["artefact"]
    assert found["hybrid"].policy_id
    active = [row.name for row in ranked_policies(stores.pg, site.site_id)]
    assert set(active) <= set(found)


def test_a_score_is_written_and_what_was_there_stays(stores, site):
    lines = scored(stores, site, low=0.2)
    assert any("hybrid: performance_score 0.9877, by nl/published" in line for line in lines)
    row = policy_named(stores.pg, site.site_id, "hybrid")
    assert row.performance_score == pytest.approx(0.9877)
    assert row.performance_metrics["validation"] == 99.0
    assert row.performance_metrics[KEY]["benchmarks"]["published"]["against_mpc"]["points"]["low"] == 0.2


def test_an_ineligible_policy_loses_its_score(stores, site):
    scored(stores, site, low=0.2)
    scored(stores, site, low=0.2, eligible=False)
    row = policy_named(stores.pg, site.site_id, "hybrid")
    assert row.performance_score is None
    assert "soc_max" in why_not_promote(row)


def test_a_policy_whose_replay_failed_keeps_its_score(stores, site):
    scored(stores, site, low=0.2)
    lines = scored(stores, site, low=0.2, eligible=False, score=None, error="no decision within 360 s")
    assert any("hybrid: performance_score unchanged" in line and "360 s" in line for line in lines)
    row = policy_named(stores.pg, site.site_id, "hybrid")
    assert row.performance_score == pytest.approx(0.9877)
    assert "360 s" in why_not_promote(row)


def test_promotion_asks_for_an_interval_above_zero(stores, site):
    with pytest.raises(InputError, match="never evaluated"):
        step_life(stores.pg, site.site_id, "hybrid", "promote")
    scored(stores, site, low=-0.1)
    with pytest.raises(InputError, match="not above zero"):
        step_life(stores.pg, site.site_id, "hybrid", "promote")
    assert policy_named(stores.pg, site.site_id, "hybrid").status == "testing"
    scored(stores, site, low=0.1)
    assert step_life(stores.pg, site.site_id, "hybrid", "promote", by="me") == "active"
    row = policy_named(stores.pg, site.site_id, "hybrid")
    assert row.deployed_at is not None
    assert ranked_policies(stores.pg, site.site_id)[0].name == "hybrid", "the best score decides first"
    entry = row.performance_metrics[LIFE_KEY][-1]
    assert (entry["from"], entry["to"], entry["by"], entry["forced"]) == ("testing", "active", "me", False)


def test_one_week_is_no_ground_for_promotion(stores, site):
    said = document(0.2)
    said["benchmarks"]["published"]["weeks"] = 1
    write_scores(stores.pg, said, rows_of_site(stores, site.site_id))
    assert "has 1 week" in why_not_promote(policy_named(stores.pg, site.site_id, "hybrid"))


def test_force_needs_a_reason_and_keeps_it(stores, site):
    scored(stores, site, low=-0.1)
    with pytest.raises(InputError, match="--reason"):
        step_life(stores.pg, site.site_id, "hybrid", "promote", force=True)
    step_life(stores.pg, site.site_id, "hybrid", "promote", force=True, reason="a field trial")
    entry = policy_named(stores.pg, site.site_id, "hybrid").performance_metrics[LIFE_KEY][-1]
    assert entry["reason"] == "a field trial"
    assert entry["forced"]
    assert "not above zero" in entry["against"]


def test_the_whole_life_is_on_record_and_ends(stores, site):
    scored(stores, site, low=0.1)
    for step, reason in (("promote", ""), ("demote", "odd prices"), ("promote", ""), ("retire", "replaced")):
        step_life(stores.pg, site.site_id, "hybrid", step, reason=reason)
    row = policy_named(stores.pg, site.site_id, "hybrid")
    assert row.status == "deprecated"
    assert [entry["step"] for entry in row.performance_metrics[LIFE_KEY]] == ["promote", "demote", "promote", "retire"]
    with pytest.raises(InputError, match="status"):
        step_life(stores.pg, site.site_id, "hybrid", "promote")
    assert "hybrid" not in [item.name for item in rows_of_site(stores, site.site_id)]
    assert [item.name for item in policies_of_site(stores.pg, site.site_id)][-1] == "hybrid"


def test_unknown_names_are_told_with_the_known_ones(stores, site):
    with pytest.raises(InputError, match=r"expected one of: .*hybrid"):
        policy_named(stores.pg, site.site_id, "hibrid")
