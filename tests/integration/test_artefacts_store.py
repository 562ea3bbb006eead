"""Artefacts in GridFS and policies registered for testing: real servers."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from core.artefact import ArtefactError, ArtefactFiles
from core.errors import InputError
from core.policy_record import PolicyRecord
from stores.mongo.artefacts import BUCKET, load_artefact, store_artefact
from stores.postgres.policies import ranked_policies, register_policy, set_policy_status

FILES = ArtefactFiles(b'{"kind": "actor"}', bytes(range(256)) * 4000)
RECORD = PolicyRecord(
    policy_id=None,
    site_id="site-1",
    name="hybrid-1",
    policy_type="HYBRID",
    config={"artefact": FILES.sha256},
    model_version="2026.1",
    training_date=datetime(2026, 1, 2, tzinfo=UTC),
    performance_metrics={"validation_network_pct": 99.2},
    horizon_hours=24,
    update_interval_seconds=900,
)


def test_stored_once_and_got_back(mongo_db):
    digest = store_artefact(mongo_db, FILES)
    assert store_artefact(mongo_db, FILES) == digest
    assert mongo_db[f"{BUCKET}.files"].count_documents({}) == 1
    assert load_artefact(mongo_db, digest) == FILES


def test_what_is_not_there_is_named(mongo_db):
    with pytest.raises(ArtefactError, match="not stored"):
        load_artefact(mongo_db, "0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal"):
        load_artefact(mongo_db, "../../etc")


def test_damage_is_found_and_mended_by_storing_again(mongo_db):
    digest = store_artefact(mongo_db, FILES)
    chunk = mongo_db[f"{BUCKET}.chunks"].find_one({"n": 1})
    mongo_db[f"{BUCKET}.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": b"x" * len(chunk["data"])}})
    with pytest.raises(ArtefactError, match="sha256"):
        load_artefact(mongo_db, digest)
    assert store_artefact(mongo_db, FILES) == digest
    assert load_artefact(mongo_db, digest) == FILES


def test_an_upload_that_was_broken_off(mongo_db):
    digest = store_artefact(mongo_db, FILES)
    mongo_db[f"{BUCKET}.chunks"].delete_one({"n": 2})
    with pytest.raises(ArtefactError):
        load_artefact(mongo_db, digest)


def test_registered_for_testing(pg):
    policy_id = register_policy(pg, replace(RECORD, status="active"))
    (row,) = ranked_policies(pg, "site-1", "testing")
    assert (row.policy_id, row.policy_type, row.model_version) == (policy_id, "HYBRID", "2026.1")
    assert row.config == {"artefact": FILES.sha256}
    assert row.training_date == RECORD.training_date
    assert not ranked_policies(pg, "site-1")


def test_an_active_policy_is_not_exchanged_under_its_name(pg):
    policy_id = register_policy(pg, RECORD)
    set_policy_status(pg, policy_id, "active")
    with pytest.raises(InputError, match="decides now"):
        register_policy(pg, replace(RECORD, model_version="2026.2"))
    assert ranked_policies(pg, "site-1")[0].model_version == "2026.1"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"config": {}}, "config.artefact"),
        ({"policy_type": "MPC"}, "policy_type"),
        ({"training_date": None}, "training_date"),
        ({"performance_metrics": None}, "performance_metrics"),
    ],
)
def test_what_a_learned_policy_must_say(pg, changes, named):
    with pytest.raises(InputError, match=named):
        register_policy(pg, replace(RECORD, **changes))
