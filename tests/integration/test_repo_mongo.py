"""Repositories and schema on a real mongod, beyond the contract's shape: batches, ties, races, index use."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.errors import BulkWriteError, WriteError

from core.devices import PackState
from core.errors import InputError
from core.predictions import Prediction
from stores.mongo.newest import newest_documents
from stores.mongo.predictions import delete_predictions, latest_predictions, write_predictions
from stores.mongo.schema import TTL, VALIDATORS, ensure_collections
from stores.mongo.telemetry import delete_telemetry, insert_telemetry, latest_states, pack_document, telemetry_range

NOW = datetime(2026, 1, 15, 14, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def state(device_id="d", at=NOW, **more):
    values = {
        "soc_pct": 67.5, "soh_pct": 87.2, "temperature_c": 23.7, "voltage_v": 400.5, "current_a": -25.3,
        "power_w": -10_126.5, "internal_resistance_ohm": 0.045,
    }  # fmt: skip
    return PackState(device_id=device_id, measured_at=at, **(values | more))


def document(device_id="d", at=NOW, site_id="s", **more):
    return pack_document(state(device_id, at, **more), site_id=site_id, firmware="1.2.3", quality=0.98, latency_ms=85)


def prediction(device_id="d", at=NOW, soc=50.0):
    profile = np.linspace(soc, soc + 3, 4)
    return Prediction(
        device_id=device_id, prediction_timestamp=at, horizon_hours=1, soc_pct=soc, soh_pct=80.0, temperature_c=20.0,
        internal_resistance_ohm=0.05, power_profile_w=-100 * profile, voltage_profile_v=4 * profile,
        temperature_profile_c=profile, soc_profile_pct=profile, efficiency_profile=profile / 100,
        degradation={"capacity_fade_percent": 0.012}, calibration_date=NOW, calibration_score=0.94, parameters={"r0": 1e-3},
    )  # fmt: skip


def metrics(period="hourly", **changes):
    stats = {"min": 1.0, "max": 2.0, "avg": 1.5, "std": 0.5}
    names = ("voltage", "current", "power", "temperature", "soc")
    made = {
        "site_id": "s", "device_id": "d", "timestamp": NOW, "period": period, "aggregates": dict.fromkeys(names, stats),
        "energy_throughput": {"charged": 10.5, "discharged": 8.3, "net": 2.2},
        "cycle_data": {"partial_cycles": 0.15, "equivalent_full_cycles": 0.02},
        "alarm_summary": {"total_alarms": 3, "alarm_types": ["high_temp_warning"], "alarm_duration": 180},
    }  # fmt: skip
    return made | changes


# Telemetry


def test_a_document_has_exactly_the_contracts_fields():
    made = document(cell_voltages_v=(3.4, 3.5), cell_temperatures_c=(23.0, 24.0), alarm_flags=("high_temp_warning",))
    assert set(made) == {"site_id", "device_id", "timestamp", "measurements", "cell_data", "safety", "metadata"}
    assert made["measurements"] == {
        "voltage": 400.5, "current": -25.3, "power": -10_126.5, "temperature": 23.7, "soc": 67.5, "soh": 87.2,
        "internal_resistance": 0.045,
    }  # fmt: skip
    assert made["cell_data"] == {"voltages": [3.4, 3.5], "temperatures": [23.0, 24.0], "balancing_status": [0, 0]}
    assert made["safety"] == {"alarm_flags": ["high_temp_warning"], "protection_status": {}}
    assert made["metadata"] == {
        "data_quality": 0.98, "source": "edge_device", "firmware_version": "1.2.3", "communication_latency": 85,
    }  # fmt: skip


def test_a_state_comes_back_whole(mongo_db):
    written = state(
        cell_voltages_v=(3.4, 3.5), cell_temperatures_c=(23.0, 24.0), alarm_flags=("x",), protection={"overvoltage": True}
    )
    insert_telemetry(mongo_db, [pack_document(written, site_id="s", firmware="1")])
    assert latest_states(mongo_db, ["d"]) == {"d": written}


def test_the_latest_of_each_device_that_was_asked_for(mongo_db):
    documents = [document(name, NOW + k * SECOND, soc_pct=50.0 + k) for name in ("a", "b", "c") for k in range(4)]
    insert_telemetry(mongo_db, documents)
    found = latest_states(mongo_db, ["b", "a", "b", "none"])
    assert {name: made.soc_pct for name, made in found.items()} == {"a": 53, "b": 53}
    assert latest_states(mongo_db, ["a"], not_after=NOW + SECOND)["a"].soc_pct == 51
    assert latest_states(mongo_db, ["a"], not_after=NOW - SECOND) == {}
    assert latest_states(mongo_db, []) == {}


def test_the_latest_is_found_by_its_index_without_reading_the_rest(mongo_db):
    insert_telemetry(mongo_db, [document(name, NOW + k * SECOND) for name in ("a", "b") for k in range(200)])
    mongo_db.command("profile", 2)
    newest_documents(mongo_db, "telemetry_data", "timestamp", ["a", "b"], not_after=NOW + 100 * SECOND)
    mongo_db.command("profile", 0)
    (entry,) = mongo_db["system.profile"].find({"command.aggregate": {"$exists": True}, "ns": {"$regex": "aggregate"}})
    assert entry["docsExamined"] <= 4


def test_one_refused_document_costs_no_other_its_place(mongo_db):
    batch = [document("a"), document("b", soc_pct=101.0), document("c")]
    with pytest.raises(BulkWriteError):
        insert_telemetry(mongo_db, batch)
    assert sorted(found["device_id"] for found in mongo_db["telemetry_data"].find()) == ["a", "c"]
    assert sorted(found["device_meta"]["device_id"] for found in mongo_db["telemetry_ts"].find()) == ["a", "c"]


@pytest.mark.parametrize("field", ["device_id", "timestamp", "measurements"])
def test_a_missing_field_is_named_before_anything_is_written(mongo_db, field):
    broken = document("b")
    del broken[field]
    with pytest.raises(InputError, match=f"telemetry: {field}"):
        insert_telemetry(mongo_db, [document("a"), broken])
    assert mongo_db["telemetry_data"].count_documents({}) == 0


def test_a_correction_replaces_its_document(mongo_db):
    insert_telemetry(mongo_db, [document(soc_pct=50.0)])
    assert insert_telemetry(mongo_db, [document(soc_pct=51.0)]) == 0
    assert [found["measurements"]["soc"] for found in mongo_db["telemetry_data"].find()] == [51.0]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stamp=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_what_was_read_back_is_the_same_document(mongo_db, stamp):
    mongo_db["telemetry_data"].delete_many({})
    insert_telemetry(mongo_db, [document(at=stamp)])
    stored = mongo_db["telemetry_data"].find_one()
    assert insert_telemetry(mongo_db, [stored]) == 0
    assert mongo_db["telemetry_data"].count_documents({}) == 1
    assert (stored["day"], stored["hour"]) == (f"{stamp:%Y-%m-%d}", stamp.hour)


def test_ranges_are_half_open_and_deletion_is_by_site(mongo_db):
    insert_telemetry(mongo_db, [document("a", NOW + k * SECOND) for k in range(3)] + [document("b", site_id="t")])
    found = telemetry_range(mongo_db, "a", NOW, NOW + 2 * SECOND)
    assert [entry["timestamp"] for entry in found] == [NOW, NOW + SECOND]
    assert delete_telemetry(mongo_db, "s") == 3
    assert mongo_db["telemetry_data"].count_documents({}) == mongo_db["telemetry_ts"].count_documents({}) == 1


# Predictions


def test_every_field_of_a_prediction_comes_back(mongo_db):
    written = prediction()
    assert write_predictions(mongo_db, [written]) == 1
    back = latest_predictions(mongo_db, ["d"])["d"]
    for name in Prediction.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(written, name), err_msg=name)
    assert (back.steps, back.dt_s) == (4, 900)


def test_the_latest_prediction_and_of_equals_the_last_written(mongo_db):
    assert write_predictions(mongo_db, []) == 0
    write_predictions(mongo_db, [prediction(at=NOW + SECOND, soc=1.0), prediction(at=NOW + SECOND, soc=2.0)])
    write_predictions(mongo_db, [prediction(soc=3.0), prediction("e", soc=4.0)])
    found = latest_predictions(mongo_db, ["d", "e", "none"])
    assert {name: made.soc_pct for name, made in found.items()} == {"d": 2, "e": 4}
    assert latest_predictions(mongo_db, ["d"], not_after=NOW)["d"].soc_pct == 3
    assert delete_predictions(mongo_db, ["d"]) == 3
    assert set(latest_predictions(mongo_db, ["d", "e"])) == {"e"}


# Validators


def changed(made, path, value):
    """A copy with the value at a dotted path replaced, or removed when it is `...`."""
    head, _, rest = path.partition(".")
    if rest:
        return made | {head: changed(made[head], rest, value)}
    return {key: kept for key, kept in made.items() if key != head} if value is ... else made | {head: value}


def prediction_document(mongo_db):
    write_predictions(mongo_db, [prediction()])
    found = mongo_db["digital_twin_predictions"].find_one_and_delete({})
    del found["_id"]
    return found


TELEMETRY_BASE = document() | {"day": "2026-01-15", "hour": 14}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *((name, ...) for name in ("site_id", "device_id", "timestamp", "measurements", "day", "hour")),
        *((f"measurements.{name}", ...) for name in document()["measurements"]),
        ("device_id", ""),
        ("timestamp", "2026-01-15T14:30:00Z"),
        ("measurements.soc", float("nan")),
        ("measurements.soc", 100.1),
        ("measurements.soc", -0.1),
        ("measurements.soh", 101.0),
        ("measurements.temperature", 300.0),
        ("measurements.current", None),
        ("measurements.internal_resistance", -0.1),
        ("day", "15.01.2026"),
        ("hour", 24),
        ("hour", -1),
        ("cell_data.voltages", ["3.4"]),
        ("cell_data.voltages", [3.4, float("nan")]),
        ("cell_data.voltages", [float("inf"), 3.4]),
        ("cell_data.temperatures", [20.0, float("nan"), 21.0]),
        ("cell_data.temperatures", [float("-inf")]),
        ("cell_data.balancing_status", [2]),
        ("safety.alarm_flags", "none"),
        ("safety.protection_status", {"overvoltage": "no"}),
        ("metadata.data_quality", 1.1),
    ],
)
def test_telemetry_that_must_be_refused_is(mongo_db, path, value):
    with pytest.raises(WriteError):
        mongo_db["telemetry_data"].insert_one(changed(TELEMETRY_BASE, path, value))
    mongo_db["telemetry_data"].insert_one(dict(TELEMETRY_BASE))


@pytest.mark.parametrize("period", ["hourly", "daily"])
def test_metrics_are_checked_by_their_period(mongo_db, period):
    collection = mongo_db[f"metrics_{period}"]
    other = {"hourly": "daily", "daily": "hourly"}[period]
    wrong = [
        metrics(other), metrics(period, timestamp="now"), changed(metrics(period), "aggregates.soc.std", -1.0),
        changed(metrics(period), "aggregates.power.avg", ...), changed(metrics(period), "aggregates.voltage", ...),
        changed(metrics(period), "energy_throughput.net", "2.2"), changed(metrics(period), "device_id", ...),
    ]  # fmt: skip
    for made in wrong:
        with pytest.raises(WriteError):
            collection.insert_one(made)
    collection.insert_one(metrics(period))


def test_predictions_that_must_be_refused_are(mongo_db):
    good = prediction_document(mongo_db)
    wrong = [
        ("device_id", ...), ("prediction_timestamp", "soon"), ("horizon_hours", 0), ("initial_state.soc", 101.0),
        ("initial_state.soh", ...), ("predictions.soc_profile", [1.0, "2"]), ("predictions.efficiency_profile", ...),
        ("power_profile", None), ("degradation_forecast", 0.1), ("model_metadata.model_type", ...),
        ("horizon_hours", float("inf")), ("horizon_hours", float("nan")), ("power_profile", [0.0, float("nan")]),
    ]  # fmt: skip
    for name in ("voltage", "temperature", "soc", "efficiency"):
        wrong += [(f"predictions.{name}_profile", [0.5, value]) for value in (float("nan"), float("inf"), float("-inf"))]
    for name in ("soc", "soh", "temperature", "internal_resistance"):
        wrong += [(f"initial_state.{name}", value) for value in (float("nan"), float("inf"), float("-inf"))]
    for path, value in wrong:
        with pytest.raises(WriteError):
            mongo_db["digital_twin_predictions"].insert_one(changed(good, path, value))
    mongo_db["digital_twin_predictions"].insert_one(dict(good))


def test_the_contracts_own_examples_are_accepted(mongo_db):
    mongo_db["telemetry_data"].insert_one(
        {
            "site_id": "site_001", "device_id": "battery_pack_001", "timestamp": NOW,
            "measurements": {"voltage": 400.5, "current": -25.3, "power": -10126.5, "temperature": 23.7, "soc": 67.5,
                             "soh": 87.2, "internal_resistance": 0.045},
            "cell_data": {"voltages": [3.45, 3.46], "temperatures": [23.1, 23.9], "balancing_status": [0, 1]},
            "safety": {"alarm_flags": ["high_temp_warning"],
                       "protection_status": {"overvoltage": False, "undervoltage": False, "overcurrent": False,
                                             "overtemperature": False}},
            "metadata": {"data_quality": 0.98, "source": "edge_device", "firmware_version": "1.2.3",
                         "communication_latency": 85},
            "day": "2026-01-15", "hour": 14,
        }
    )  # fmt: skip
    (found,) = latest_states(mongo_db, ["battery_pack_001"]).values()
    assert (found.power_w, found.protection["overcurrent"]) == (-10126.5, False)


# Schema


def test_validators_are_strict(mongo_db):
    for name, validator in VALIDATORS.items():
        (info,) = mongo_db.list_collections(filter={"name": name})
        assert info["options"]["validator"] == {"$jsonSchema": validator}
        assert info["options"]["validationLevel"] == "strict"
        assert info["options"].get("validationAction", "error") == "error"


def test_many_processes_may_make_the_collections_at_once(mongo_db):
    mongo_db.client.drop_database(mongo_db.name)
    barrier = threading.Barrier(4, timeout=60)

    def work(_):
        barrier.wait()
        ensure_collections(mongo_db)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [None] * 4
    assert {*VALIDATORS, "telemetry_ts"} <= set(mongo_db.list_collection_names())
    for name, (_, seconds) in TTL.items():
        assert seconds in [info.get("expireAfterSeconds") for info in mongo_db[name].index_information().values()]


@pytest.mark.parametrize("left", [[{}], [{"expireAfterSeconds": 5}, {"expireAfterSeconds": 9}]], ids=["no ttl", "two ttls"])
def test_indexes_that_others_left_on_the_timestamp_get_this_retention(mongo_db, left):
    collection = mongo_db["metrics_hourly"]
    collection.drop_indexes()
    for direction, options in zip((1, -1), left, strict=False):
        collection.create_index([("timestamp", direction)], **options)
    ensure_collections(mongo_db)
    found = [i for i in collection.index_information().values() if [key for key, _ in i["key"]] == ["timestamp"]]
    assert [info["expireAfterSeconds"] for info in found] == [63_072_000] * len(left)


def test_late_telemetry_lands_in_its_place(mongo_db):
    for k in (5, 1, 3):
        insert_telemetry(mongo_db, [document(at=NOW + k * SECOND)])
    stamps = [found["timestamp"] for found in telemetry_range(mongo_db, "d", NOW, NOW + 10 * SECOND)]
    assert len(stamps) == 3
    assert all(before < after for before, after in pairwise(stamps))
