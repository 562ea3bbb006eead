"""The MongoDB contract: collections, validators, indexes, TTLs with their seconds, round trips."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from pymongo.errors import OperationFailure, WriteError

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.pack import Pack
from core.twin import MODEL_TYPE, predict
from stores.mongo.predictions import latest_predictions, write_predictions
from stores.mongo.schema import ensure_collections
from stores.mongo.telemetry import insert_telemetry, latest_states, pack_document, telemetry_range

NOW = datetime(2026, 1, 15, 14, 30, tzinfo=UTC)
CONFIG = DeviceConfig(
    device_id="d", site_id="s", name="d", chemistry=Chemistry.LFP, nominal_capacity_ah=100, nominal_voltage_v=320,
    max_charge_power_w=20_000, max_discharge_power_w=25_000, series_cells=100, parallel_cells=1,
)  # fmt: skip


def state(at=NOW):
    pack = Pack(CONFIG, soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)
    pack.step(-5000, 60)
    return pack.state(at)


def document(at=NOW, **measurements):
    made = pack_document(state(at), site_id="s", firmware="1.2.3", chemistry="LFP")
    made["measurements"] |= measurements
    return made


@pytest.mark.parametrize(
    ("collection", "seconds"), [("telemetry_data", 7_776_000), ("metrics_hourly", 63_072_000), ("metrics_daily", 315_360_000)]
)
def test_one_ttl_index_on_the_timestamp(mongo_db, collection, seconds):
    found = [i for i in mongo_db[collection].index_information().values() if [k for k, _ in i["key"]] == ["timestamp"]]
    assert [index["expireAfterSeconds"] for index in found] == [seconds]


def test_indexes_and_time_series(mongo_db):
    keys = [index["key"] for index in mongo_db["telemetry_data"].index_information().values()]
    assert [("site_id", 1), ("device_id", 1), ("timestamp", -1)] in keys
    assert [("day", 1), ("hour", 1)] in keys
    (info,) = mongo_db.list_collections(filter={"name": "telemetry_ts"})
    options = info["options"]["timeseries"]
    assert (options["timeField"], options["metaField"], options["granularity"]) == ("timestamp", "device_meta", "seconds")


def test_ensure_twice_and_after_a_change_of_retention(mongo_db):
    ensure_collections(mongo_db)
    mongo_db.command("collMod", "telemetry_data", index={"keyPattern": {"timestamp": -1}, "expireAfterSeconds": 60})
    mongo_db.command("collMod", "telemetry_data", validator={}, validationLevel="off")
    ensure_collections(mongo_db)
    test_one_ttl_index_on_the_timestamp(mongo_db, "telemetry_data", 7_776_000)
    with pytest.raises(WriteError):
        mongo_db["telemetry_data"].insert_one({"site_id": "s"})


@pytest.mark.parametrize(
    "changes",
    [{"soc": 101.0}, {"soc": -1.0}, {"soh": 120.0}, {"voltage": "400"}, {"voltage": -4.0}, {"internal_resistance": -0.1}],
)
def test_a_document_that_must_be_refused_is(mongo_db, changes):
    with pytest.raises(OperationFailure):
        insert_telemetry(mongo_db, [document(**changes)])
    assert mongo_db["telemetry_data"].count_documents({}) == 0


def test_telemetry_round_trip_with_derived_fields(mongo_db):
    east = timezone(timedelta(hours=11))
    assert insert_telemetry(mongo_db, [document(NOW.astimezone(east))]) == 1
    stored = mongo_db["telemetry_data"].find_one()
    assert (stored["day"], stored["hour"]) == ("2026-01-15", 14)
    assert stored["measurements"]["power"] < 0
    assert stored["measurements"]["current"] < 0
    assert latest_states(mongo_db, ["d", "unknown"]) == {"d": replace(state(), protection={})}
    series = mongo_db["telemetry_ts"].find_one()
    assert series["device_meta"] == {"site_id": "s", "device_id": "d", "chemistry": "LFP"}


def test_telemetry_is_idempotent_and_takes_late_documents(mongo_db):
    documents = [document(NOW + timedelta(seconds=10 * k)) for k in (3, 1, 2)]
    assert insert_telemetry(mongo_db, documents) == 3
    assert insert_telemetry(mongo_db, documents) == 0
    assert mongo_db["telemetry_data"].count_documents({}) == mongo_db["telemetry_ts"].count_documents({}) == 3
    assert [d["timestamp"] for d in telemetry_range(mongo_db, "d", NOW, NOW + timedelta(hours=1))] == sorted(
        d["timestamp"] for d in documents
    )
    assert latest_states(mongo_db, ["d"], not_after=NOW + timedelta(seconds=15))["d"].measured_at == NOW + timedelta(seconds=10)


def test_numbers_that_are_none_and_naive_times_are_refused(mongo_db):
    with pytest.raises(InputError, match="voltage"):
        pack_document(replace(state(), voltage_v=float("nan")), site_id="s", firmware="1")
    naive = document() | {"timestamp": datetime(2026, 1, 1)}
    with pytest.raises(InputError, match="UTC offset"):
        insert_telemetry(mongo_db, [naive])


def test_prediction_round_trip_as_the_contract_has_it(mongo_db):
    made = predict(CONFIG, state(), np.full(8, -3000.0), dt_s=900, start=NOW, ambient_c=20.0)
    write_predictions(mongo_db, [made])
    stored = mongo_db["digital_twin_predictions"].find_one()
    assert stored["horizon_hours"] == 2
    assert len(stored["predictions"]["soc_profile"]) == len(stored["power_profile"]) == 8
    assert set(stored["degradation_forecast"]) == {
        "capacity_fade_percent", "resistance_growth_percent", "cycle_life_consumed", "calendar_life_consumed",
    }  # fmt: skip
    assert stored["model_metadata"]["model_type"] == MODEL_TYPE
    back = latest_predictions(mongo_db, ["d"])["d"]
    np.testing.assert_allclose(back.soc_profile_pct, made.soc_profile_pct)
    assert back.prediction_timestamp == NOW
    with pytest.raises(WriteError):
        mongo_db["digital_twin_predictions"].insert_one({**stored, "_id": 1, "power_profile": "none"})
