"""Ingest and import on a real mongod: idempotent, resumable, bad documents set aside, nothing the validator would refuse."""

import gzip
import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.telemetry import judge, normalise
from serving.telemetry_import import import_file
from stores.mongo import ingest as ingest_module
from stores.mongo.ingest import Ingest
from stores.mongo.rejected import rejected_counts
from stores.mongo.schema import DIRTY, REJECTED
from stores.mongo.telemetry import insert_telemetry, latest_states, telemetry_range

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
SECOND = timedelta(seconds=1)


def document(device_id="d", at=NOW, **measurements):
    return {
        "site_id": "s", "device_id": device_id, "timestamp": at,
        "measurements": {"voltage": 400.0, "current": -25.0, "power": -10_000.0, "temperature": 23.7, "soc": 67.5, "soh": 87.2,
                         "internal_resistance": 0.045} | measurements,
        "cell_data": {"voltages": [3.45, 3.46], "temperatures": [23.1, 23.9], "balancing_status": [0, 1]},
        "safety": {"alarm_flags": [], "protection_status": {"overvoltage": False}},
        "metadata": {"data_quality": 0.98, "source": "edge_device", "chemistry": "LFP"},
    }  # fmt: skip


def ingest(mongo_db, documents, **options):
    run = Ingest(mongo_db, now=lambda: NOW, source="test", **options)
    run.add(documents)
    return run.finish()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that few documents already cross chunks and batches."""
    monkeypatch.setattr(ingest_module, "CHUNK", 50)
    monkeypatch.setattr(ingest_module, "BATCH", 20)


def test_documents_go_in_once_and_say_so(mongo_db):
    documents = [document(f"d{k % 3}", NOW - k * SECOND) for k in range(130)]
    first, again = ingest(mongo_db, documents), ingest(mongo_db, documents)
    assert (first.read, first.written, first.unchanged, first.set_aside.total()) == (130, 130, 0, 0)
    assert (again.read, again.written, again.unchanged, again.set_aside.total()) == (130, 0, 130, 0)
    assert mongo_db["telemetry_data"].count_documents({}) == mongo_db["telemetry_ts"].count_documents({}) == 130
    assert set(mongo_db["telemetry_ts"].distinct("device_meta.chemistry")) == {"LFP"}


def test_the_same_documents_as_the_devices_own_writing(mongo_db):
    documents = [document(at=NOW - k * SECOND) for k in range(5)]
    insert_telemetry(mongo_db, documents)
    assert ingest(mongo_db, documents).unchanged == 5
    assert ingest(mongo_db, [document(at=(NOW - SECOND).isoformat())]).unchanged == 1
    assert latest_states(mongo_db, ["d"])["d"].measured_at == NOW


def test_late_and_shuffled_documents_land_in_their_place(mongo_db):
    ingest(mongo_db, [document(at=NOW - k * SECOND) for k in (1, 5, 3)])
    ingest(mongo_db, [document(at=NOW - k * SECOND) for k in (4, 2)])
    found = [made["timestamp"] for made in telemetry_range(mongo_db, "d", NOW - 9 * SECOND, NOW)]
    assert found == [NOW - k * SECOND for k in (5, 4, 3, 2, 1)]


@pytest.mark.parametrize("apart", [False, True], ids=["in one chunk", "in another run"])
def test_another_content_for_a_stored_moment_is_a_conflict_or_replaces(mongo_db, apart):
    one, other = document(soc=50.0), document(soc=51.0)
    if apart:
        ingest(mongo_db, [one])
        result = ingest(mongo_db, [other])
    else:
        result = ingest(mongo_db, [one, other])
    assert result.set_aside == {"conflict": 1}
    assert mongo_db["telemetry_data"].find_one()["measurements"]["soc"] == 50.0
    (kept,) = mongo_db[REJECTED].find()
    assert json.loads(kept["document"])["measurements"]["soc"] == 51.0
    replaced = ingest(mongo_db, [other], replace=True)
    assert (replaced.replaced, replaced.series_old, replaced.set_aside.total()) == (1, 1, 0)
    assert mongo_db["telemetry_ts"].find_one()["soc"] == 50.0, "a time series cannot be changed: the result says so"
    same_series = other | {"safety": {"alarm_flags": ["late_word"]}}
    assert ingest(mongo_db, [same_series], replace=True).series_old == 0
    assert ingest(mongo_db, [other], replace=True).replaced == 1
    assert mongo_db["telemetry_data"].find_one()["measurements"]["soc"] == 51.0
    assert ingest(mongo_db, [one, other], replace=True).replaced == 0


def test_bad_ones_are_set_aside_with_their_reason_and_cost_no_other_its_place(mongo_db):
    bad = [
        document(soc=101.0),
        document(at=NOW.replace(tzinfo=None)),
        document(power=10_000.0),
        "text",
        document(voltage=math.nan),
    ]
    documents = [document(at=NOW - k * SECOND) for k in range(60)]
    for k, made in enumerate(bad):
        documents.insert(10 * k, made)
    result = ingest(mongo_db, documents)
    assert result.written == 60
    assert result.set_aside == {"range": 1, "naive_timestamp": 1, "sign": 1, "shape": 1, "not_a_number": 1}
    assert "line 1: range: measurements.soc is '101.0'" in result.examples["range"]
    assert ingest(mongo_db, documents).set_aside == result.set_aside
    assert mongo_db[REJECTED].count_documents({}) == len(bad)
    assert {(entry.reason, entry.count) for entry in rejected_counts(mongo_db)} == {(reason, 1) for reason in result.set_aside}


def test_what_bson_cannot_hold_is_set_aside(mongo_db):
    huge = document(at=NOW - SECOND) | {"note": 2**70}
    result = ingest(mongo_db, [document(), huge, document(at=NOW - 2 * SECOND)])
    assert (result.written + result.unchanged, result.set_aside) == (2, {"shape": 1})
    assert mongo_db["telemetry_data"].count_documents({}) == mongo_db["telemetry_ts"].count_documents({}) == 2


def test_only_so_many_are_kept_but_all_are_counted(mongo_db, monkeypatch):
    monkeypatch.setattr(ingest_module, "KEEP_REJECTED", 10)
    result = ingest(mongo_db, [document(at=NOW - k * SECOND, soc=-1.0) for k in range(80)])
    assert result.set_aside == {"range": 80}
    assert mongo_db[REJECTED].count_documents({}) == 10


def test_a_device_that_cycles_below_one_percent_sends_shares(mongo_db):
    shares = [document("share", NOW - k * SECOND, soc=0.2 + 0.01 * k) for k in range(30)]
    fine = [document("fine", NOW - k * SECOND, soc=20.0 + k) for k in range(15)] + [document("rests", soc=0.4)]
    result = ingest(mongo_db, fine + shares)
    assert result.set_aside == {"soc_share": 30}
    assert result.resting_near_zero == ["rests"]
    assert ingest(mongo_db, shares, soc_is_percent=True).written == 30


def test_a_run_that_died_between_the_collections_is_made_good_by_the_next(mongo_db):
    documents = [document(f"d{k % 2}", NOW - k * SECOND) for k in range(40)]
    ingest(mongo_db, documents[:15])
    mongo_db["telemetry_data"].insert_many([normalised(made) for made in documents[15:30]])
    result = ingest(mongo_db, documents)
    assert (result.written, result.unchanged) == (10, 30)
    assert mongo_db["telemetry_ts"].count_documents({}) == 40


def normalised(made):
    from stores.mongo.telemetry import identity

    stored, stamp_ms = normalise(made)
    return stored | {"_id": identity(stored["device_id"], stamp_ms)}


def test_a_failure_of_the_store_is_raised_and_what_was_touched_stays_marked(mongo_db, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("gone")

    monkeypatch.setattr(ingest_module, "_write", fail)
    run = Ingest(mongo_db, now=lambda: NOW, source="test")
    run.add([document()])
    with pytest.raises(ConnectionError):
        run.finish()
    assert mongo_db[DIRTY].count_documents({}) == 1


fields = st.fixed_dictionaries(
    {},
    optional={
        "voltage": st.floats(), "current": st.floats(), "power": st.one_of(st.floats(), st.integers()), "soc": st.floats(-1, 101),
        "soh": st.floats(-1, 101), "temperature": st.floats(-300, 300), "internal_resistance": st.floats(-1, 2000),
    },
)  # fmt: skip
groups = st.fixed_dictionaries(
    {},
    optional={
        "cell_data": st.one_of(st.none(), st.dictionaries(st.sampled_from(["voltages", "balancing_status"]), st.lists(
            st.one_of(st.sampled_from([0, 1, 0.0, True, None]), st.floats(-20, 20))))),
        "safety": st.one_of(st.none(), st.fixed_dictionaries({"alarm_flags": st.lists(st.text(max_size=2))})),
        "metadata": st.one_of(st.none(), st.fixed_dictionaries({"data_quality": st.one_of(st.booleans(), st.floats(-1, 2))})),
        "device_id": st.one_of(st.text(max_size=2), st.integers(0, 1)),
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields, groups)
def test_what_is_accepted_would_pass_the_validator(mongo_db, measurements, more):
    """Ingest bypasses the validator: nothing may slip in that it would refuse."""
    made = document(**measurements) | more
    if judge(made, NOW) is None:
        mongo_db["telemetry_data"].replace_one({"_id": 1}, normalise(made)[0], upsert=True)


# Files


def written(path: Path, documents) -> Path:
    lines = "".join(json.dumps(made, default=lambda stamp: stamp.isoformat()) + "\n" for made in documents)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.json.gz"])
def test_json_lines_plain_and_gzipped(stores, tmp_path, name):
    path = written(tmp_path / name, [document(f"d{k % 2}", NOW - k * SECOND) for k in range(70)])
    seen = []
    result = import_file(stores, path, lambda: NOW, on_progress=lambda done, size: seen.append((done, size)))
    assert (result.read, result.written) == (70, 70)
    assert seen[-1][0] == seen[-1][1] == path.stat().st_size
    assert import_file(stores, path, lambda: NOW).unchanged == 70


def test_mongoexports_lines_and_lines_that_are_none(stores, tmp_path):
    path = tmp_path / "t.json"
    good = document(at={"$date": NOW.isoformat()}) | {"_id": {"$oid": "65a5"}, "day": f"{NOW:%Y-%m-%d}", "hour": NOW.hour}
    path.write_text(f"{json.dumps(good)}\n\n{{broken\n[1]\n{json.dumps(document(at=None))}\n")
    result = import_file(stores, path, lambda: NOW)
    assert (result.read, result.written) == (4, 1)
    assert result.set_aside == {"unreadable": 1, "shape": 1, "timestamp": 1}
    assert {entry.line for entry in rejected_counts(stores.mongo)} == {2, 3, 4}


HEADER = "site_id,device_id,timestamp,voltage,current,power,temperature,soc,soh,internal_resistance,alarm_flags,data_quality"


def test_csv(stores, tmp_path):
    path = tmp_path / "t.csv"
    row = f"s,d,{NOW.isoformat()},400,-25,-10000,23.7,67.5,87.2,0.045"
    path.write_text(f"{HEADER}\n{row},a;b,0.9\ns,d,2 rows\n{row.replace('67.5', 'full')},,\n{row.replace('-25,', '25,')},,\n")
    result = import_file(stores, path, lambda: NOW)
    assert (result.read, result.written) == (4, 1)
    assert result.set_aside == {"unreadable": 1, "not_a_number": 1, "sign": 1}
    stored = stores.mongo["telemetry_data"].find_one()
    assert stored["safety"]["alarm_flags"] == ["a", "b"]
    assert stored["metadata"] == {"data_quality": 0.9}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", "", "JSON lines or CSV"),
        ("t.csv", HEADER.replace("soc", "SoC"), "soc: "),
        ("t.csv", HEADER + ",volts\n", "'volts'"),
        ("t.csv", HEADER + ",soc\n", "each column once"),
        ("t.jsonl.gz", "not gzip", None),
        ("missing.jsonl", None, "readable file"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(stores, tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    if message is None:  # a name proves nothing: the content is read as it is
        assert import_file(stores, path, lambda: NOW).set_aside == {"unreadable": 1}
        return
    with pytest.raises(InputError, match=message):
        import_file(stores, path, lambda: NOW)
    assert stores.mongo["telemetry_data"].count_documents({}) == 0


def test_a_truncated_gzip_is_an_error_that_a_second_import_makes_good(stores, tmp_path):
    path = written(tmp_path / "t.jsonl.gz", [document(at=NOW - k * SECOND) for k in range(200)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="readable file"):
        import_file(stores, path, lambda: NOW)
    path.write_bytes(whole)
    result = import_file(stores, path, lambda: NOW)
    assert result.written + result.unchanged == 200


def test_a_file_of_shares_is_refused_before_anything_is_written(stores, tmp_path):
    path = written(tmp_path / "t.jsonl", [document(at=NOW - k * SECOND, soc=0.5 + k / 1000) for k in range(30)])
    with pytest.raises(InputError, match=r"measurements\.soc: got '0.5 to 0.529.*multiply by 100"):
        import_file(stores, path, lambda: NOW)
    assert stores.mongo["telemetry_data"].count_documents({}) == 0
    assert import_file(stores, path, lambda: NOW, soc_is_percent=True).written == 30
