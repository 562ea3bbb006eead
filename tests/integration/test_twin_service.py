"""The twin on real servers: what it reads, what it refuses, what it writes; calibration from telemetry to the next round."""

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from core.calibration import Calibration, Factors
from core.clock import ScaledClock
from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError
from core.pack import Pack
from core.series import Series
from core.twin import MODEL_TYPE, predict
from serving.calibration import CalibrateOptions, calibrate_site
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST, Freshness, gather
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.site_loader import load_site
from serving.twin_service import TwinOptions, predict_site, run_twin
from stores.mongo.predictions import latest_predictions, write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases
from stores.postgres.calibrations import CalibrationRow, calibration_history, calibrations_in_force, record_calibration
from stores.postgres.decisions import record_decision
from stores.postgres.devices import list_devices
from stores.postgres.series import write_series

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
AT = NOW + timedelta(minutes=10)
START = NOW + timedelta(minutes=15)
OPTIONS = TwinOptions(site_id="demo")
STEPS = 26 * 4
TRUE = Factors(resistance=1.7, capacity=0.92, cooling=1.4, heat_capacity=0.85)


@pytest.fixture
def devices(stores):
    """The demo's packs by id, with ambient for ten days before and two after."""
    site = load_site(stores.pg, SITE_FILE)
    ambient = 18.0 + 3.0 * np.sin(np.arange(12 * 24) / 24 * 2 * np.pi)
    write_series(stores.pg, "demo", Series(AMBIENT, NOW - timedelta(days=10), 3600.0, ambient), NOW - timedelta(days=10))
    return {device.device_id: device for device in list_devices(stores.pg, site.site_id)}


def state_of(device, *, age_s=20.0, soc=50.0, power_w=0.0, **changes):
    pack = Pack(device, soc_pct=soc, soh_pct=80.0, temperature_c=22.0, ambient_c=20.0)
    pack.step(power_w, 900.0)
    return replace(pack.state(AT - timedelta(seconds=age_s)), **changes)


def publish(stores, *states):
    insert_telemetry(stores.mongo, [pack_document(state, site_id="demo", firmware="1.0") for state in states])


def publish_all(stores, devices, **arguments):
    states = {key: state_of(device, **arguments) for key, device in devices.items()}
    publish(stores, *states.values())
    return states


def record_plan(stores, powers, starts_at=NOW, dt_s=900.0):
    plan = {
        "starts_at": starts_at.isoformat(),
        "dt_s": dt_s,
        "devices": [{"device_id": key, "power_w": list(map(float, power))} for key, power in powers.items()],
    }
    points = tuple(SetPoint(device_id=key, power_w=float(power[0]), reason=next(iter(Reason))) for key, power in powers.items())
    record_decision(
        stores.pg,
        Decision(
            site_id="demo", starts_at=starts_at, interval_s=900, source="test", policy_id=None, solver="s", objective_eur=None,
            set_points=points, passed_over=(), plan=plan, inputs={},
        ),
    )  # fmt: skip


def test_a_document_a_device_exactly_as_the_contract_has_it(stores, devices):
    states = publish_all(stores, devices, power_w=3000.0)
    power = 500.0 * np.sin(np.arange(96) / 6)
    record_plan(stores, dict.fromkeys(devices, power))
    made = predict_site(stores, OPTIONS, AT)
    assert made.left_out == {}
    documents = list(stores.mongo["digital_twin_predictions"].find())
    assert {document["device_id"] for document in documents} == set(devices)
    for document in documents:
        assert set(document) - {"_id"} == {
            "device_id", "prediction_timestamp", "horizon_hours", "initial_state", "power_profile", "predictions",
            "degradation_forecast", "model_metadata",
        }  # fmt: skip
        assert document["prediction_timestamp"] == START
        assert document["horizon_hours"] == 26
        assert set(document["initial_state"]) == {"soc", "soh", "temperature", "internal_resistance"}
        profiles = document["predictions"]
        assert set(profiles) == {"voltage_profile", "temperature_profile", "soc_profile", "efficiency_profile"}
        assert {len(document["power_profile"]), *map(len, profiles.values())} == {STEPS}
        assert set(document["degradation_forecast"]) == {
            "capacity_fade_percent", "resistance_growth_percent", "cycle_life_consumed", "calendar_life_consumed",
        }  # fmt: skip
        meta = document["model_metadata"]
        assert meta["model_type"] == MODEL_TYPE == "ECM-2RC"
        assert (meta["calibration_date"], meta["calibration_score"]) == (None, None)
        assert meta["parameters"]["carried_s"] == pytest.approx(320.0)
        # One step into the plan; beyond its end the pack rests.
        np.testing.assert_allclose(document["power_profile"][:95], power[1:])
        assert document["power_profile"][95:] == [0.0] * (STEPS - 95)
        hours = np.floor((START - (NOW - timedelta(days=10))).total_seconds() / 3600 + np.arange(STEPS) / 4)
        ambient = 18.0 + 3.0 * np.sin(hours / 24 * 2 * np.pi)
        state, device = states[document["device_id"]], devices[document["device_id"]]
        initial = document["initial_state"]["soc"]
        assert initial < state.soc_pct, "carried forward at the power that was measured"
        alone = predict(
            device, replace(state, soc_pct=initial, temperature_c=document["initial_state"]["temperature"]),
            np.array(document["power_profile"]), dt_s=900.0, start=START, ambient_c=ambient,
        )  # fmt: skip
        np.testing.assert_allclose(profiles["soc_profile"], alone.soc_profile_pct, atol=1e-9)
        np.testing.assert_allclose(profiles["temperature_profile"], alone.temperature_profile_c, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"age_s": 1000.0}, "telemetry is 1000 s old (allowed 900 s)"),
        ({"soc_pct": 95.0}, "SoC 95.0 % does not agree with"),
        ({"soc_pct": 0.5}, "percent, not a share of 1"),
        ({"temperature_c": 300.0}, "temperature is 300, expected -100 to 200 °C"),
        ({"soh_pct": 0.8}, "soh is 0.8, expected 1 to 100 %"),
        ({"internal_resistance_ohm": -1.0}, "internal_resistance is -1"),
    ],
)
def test_what_cannot_be_predicted_from_is_left_out_and_the_others_go_on(stores, devices, changes, reason):
    publish_all(stores, {key: device for key, device in devices.items() if key != "pack-nmc"})
    document = pack_document(state_of(devices["pack-nmc"], **changes), site_id="demo", firmware="1.0")
    document |= {"_id": "odd", "day": "", "hour": 0}
    # Past our own ingest and the validator: another service wrote it.
    stores.mongo["telemetry_data"].insert_one(document, bypass_document_validation=True)
    made = predict_site(stores, OPTIONS, AT)
    assert set(made.left_out) == {"pack-nmc"}
    assert reason in made.left_out["pack-nmc"]
    assert set(latest_predictions(stores.mongo, devices)) == set(devices) - {"pack-nmc"}


def test_numbers_that_are_none_and_devices_without_telemetry_are_left_out(stores, devices):
    publish_all(stores, {key: devices[key] for key in ("pack-lfp", "pack-nca")})
    document = pack_document(state_of(devices["pack-nmc"]), site_id="demo", firmware="1.0")
    document["measurements"]["voltage"] = float("nan")
    stores.mongo["telemetry_data"].insert_one({**document, "day": "", "hour": 0}, bypass_document_validation=True)
    made = predict_site(stores, OPTIONS, AT)
    assert made.left_out == {"pack-nmc": "voltage is not a finite number", "pack-lco": "no telemetry"}
    assert len(made.predictions) == 2


def test_a_clock_that_is_ahead_makes_telemetry_unusable(stores, devices):
    publish_all(stores, devices)
    ahead = state_of(devices["pack-nmc"], age_s=-3600.0)
    publish(stores, ahead)
    made = predict_site(stores, OPTIONS, AT)
    assert made.left_out == {"pack-nmc": "its clock is 3600 s ahead (allowed 300 s)"}
    # A plant whose own clock went on while the states were read is not ahead.
    assert predict_site(stores, OPTIONS, AT, present=lambda: AT + timedelta(seconds=3550)).left_out == {}


def test_a_plan_that_is_no_number_costs_its_device_only(stores, devices):
    publish_all(stores, devices)
    record_plan(stores, {key: np.full(96, 123.5 if key == "pack-lco" else 100.0) for key in devices if key != "pack-nca"})
    stores.pg.execute("UPDATE optimizer.decisions SET plan = replace(plan::text, '123.5', 'null')::jsonb")
    made = predict_site(stores, OPTIONS, AT)
    assert set(made.left_out) == {"pack-lco"}
    assert "power_profile" in made.left_out["pack-lco"]
    by_device = {prediction.device_id: prediction for prediction in made.predictions}
    assert by_device["pack-nca"].power_profile_w.tolist() == [0.0] * STEPS, "not in the plan: it rests"
    assert by_device["pack-nmc"].power_profile_w[0] == 100.0


def test_rounds_follow_the_interval(stores, devices):
    publish_all(stores, devices)
    stop, seen = threading.Event(), []

    def on_round(due, made):
        seen.append((due, len(made.predictions)))
        if len(seen) == 2:
            stop.set()

    clock = ScaledClock(AT, time.monotonic(), 2000.0)
    assert run_twin(stores, clock, OPTIONS, stop, on_round=on_round) == 2
    assert seen[0][1] == 4
    assert seen[1][0].minute % 15 == 10, "two thirds into the interval"


def calibrated(device_id, at, *, accepted=True, **factors):
    return CalibrationRow(
        device_id=device_id, site_id="demo", calibrated_at=at, data_from=at - timedelta(days=7), data_to=at, accepted=accepted,
        reason="because", score=0.9, factors=Factors(**factors), details={},
    )  # fmt: skip


def test_the_newest_accepted_calibration_counts_and_history_is_kept(stores, devices):
    day = timedelta(days=1)
    for row in (
        calibrated("pack-nmc", AT - 3 * day, resistance=1.1),
        calibrated("pack-nmc", AT - 2 * day, resistance=1.2),
        calibrated("pack-nmc", AT - day, accepted=False, resistance=1.3),
        calibrated("pack-nmc", AT + day, resistance=1.4),
    ):
        record_calibration(stores.pg, row)
    found, unusable = calibrations_in_force(stores.pg, devices, at=AT)
    expected = Calibration(device_id="pack-nmc", calibrated_at=AT - 2 * day, score=0.9, factors=Factors(resistance=1.2))
    assert (found, unusable) == ({"pack-nmc": expected}, {})
    assert [row.factors.resistance for row in calibration_history(stores.pg, "pack-nmc")] == [1.4, 1.3, 1.2, 1.1]
    publish_all(stores, devices)
    predict_site(stores, OPTIONS, AT)
    read = latest_predictions(stores.mongo, devices)
    assert (read["pack-nmc"].calibration_date, read["pack-nmc"].calibration_score) == (AT - 2 * day, 0.9)
    assert Factors.from_parameters(read["pack-nmc"].parameters) == expected.factors
    assert read["pack-lfp"].calibration_score is None


def test_a_calibration_that_cannot_be_leaves_its_device_out(stores, devices):
    record_calibration(stores.pg, calibrated("pack-nmc", AT - timedelta(days=1)))
    stores.pg.execute("UPDATE optimizer.twin_calibrations SET parameters = '{\"resistance_factor\": -1}'")
    publish_all(stores, devices)
    made = predict_site(stores, OPTIONS, AT)
    assert set(made.left_out) == {"pack-nmc"}
    assert "resistance_factor" in made.left_out["pack-nmc"]


def drive(stores, device, days, *, c_rate=0.6, sample_s=60.0):
    """Telemetry of a pack with TRUE factors until AT, through our own ingest's form."""
    dice = np.random.default_rng(5)
    pack = Pack(device, soc_pct=50.0, soh_pct=80.0, temperature_c=20.0, ambient_c=18.0)
    pack._parameters = TRUE.apply(pack._parameters)
    full_w = c_rate * pack._parameters[0] * device.nominal_voltage_v
    begin, states = AT - timedelta(days=days), []
    for k in range(round(days * 96)):
        towards = (pack.soc_pct - 50.0 - 25.0 * np.sin(k / 12.0)) / 15.0
        power_w = full_w * float(np.clip(towards + 0.4 * dice.normal(), -1.0, 1.0))
        hour = (begin + timedelta(seconds=900 * k) - (NOW - timedelta(days=10))).total_seconds() // 3600
        pack.ambient_c = float(18.0 + 3.0 * np.sin(hour / 24 * 2 * np.pi))
        for i in range(round(900 / sample_s)):
            pack.step(power_w, sample_s)
            states.append(pack.state(begin + timedelta(seconds=900 * k + sample_s * (i + 1))))
    publish(stores, *states)


def test_calibration_from_telemetry_reaches_the_next_round(stores, devices):
    drive(stores, devices["pack-nmc"], 2.0)
    options = CalibrateOptions(site_id="demo", device_id="pack-nmc")
    before = predict_site(stores, OPTIONS, AT)
    (outcome,) = calibrate_site(stores, options, AT)
    assert outcome.fit.accepted, outcome.fit.reason
    found = outcome.fit.factors
    assert found.resistance == pytest.approx(1.7, rel=0.06)
    assert found.capacity == pytest.approx(0.92, rel=0.02)
    assert found.cooling == pytest.approx(1.4, rel=0.15)
    after = predict_site(stores, OPTIONS, AT)
    made = next(p for p in after.predictions if p.device_id == "pack-nmc")
    plain = next(p for p in before.predictions if p.device_id == "pack-nmc")
    assert Factors.from_parameters(made.parameters) == found
    assert (made.calibration_date, made.calibration_score) == (AT, outcome.fit.score)
    assert made.parameters["r0_ohm" if "r0_ohm" in made.parameters else "resistance_factor"] > 1.5 * plain.parameters.get(
        "r0_ohm", 1.0
    )
    # Once more with the same data: nothing to gain, or at most as good; the history has both.
    (again,) = calibrate_site(stores, options, AT + timedelta(seconds=1))
    assert again.present == found
    assert len(calibration_history(stores.pg, "pack-nmc")) == 2
    details = calibration_history(stores.pg, "pack-nmc")[1].details
    assert details["excitation"]["soc_swing_pct"] > 15
    assert details["held_out_after"]["cost"] < details["held_out_before"]["cost"]


def test_a_refused_calibration_is_recorded_with_its_reason_and_changes_nothing(stores, devices):
    drive(stores, devices["pack-lfp"], 0.5)
    outcomes = calibrate_site(stores, CalibrateOptions(site_id="demo"), AT)
    by_device = {outcome.device_id: outcome.fit for outcome in outcomes}
    assert set(by_device) == set(devices)
    assert not any(fit.accepted for fit in by_device.values())
    assert "telemetry 12 h (needed 24 h)" in by_device["pack-lfp"].reason
    assert "0 usable samples" in by_device["pack-nca"].reason
    assert calibrations_in_force(stores.pg, devices, at=AT) == ({}, {})
    (row,) = calibration_history(stores.pg, "pack-lfp")
    assert (row.accepted, row.score, row.factors, row.reason) == (False, None, None, by_device["pack-lfp"].reason)


def test_a_device_of_another_site_is_named(stores, devices):
    with pytest.raises(InputError, match=r"--device: got 'pack-nmx', expected a device of site demo; did you mean 'pack-nmc'"):
        calibrate_site(stores, CalibrateOptions(site_id="demo", device_id="pack-nmx"), AT)


def prediction_of_score(stores, devices, score):
    """Telemetry and predictions for a tick at NOW; the first pack's twin has this score."""
    write_inputs(stores)
    for key, device in devices.items():
        state = replace(state_of(device), measured_at=NOW - timedelta(seconds=20))
        publish(stores, state)
        known = Calibration(device_id=key, calibrated_at=NOW, score=score, factors=Factors()) if key == "pack-lco" else None
        start = NOW - timedelta(seconds=900)
        made = predict(device, state, np.zeros(STEPS), dt_s=900.0, start=start, ambient_c=20.0, calibration=known)
        write_predictions(stores.mongo, [made])


def write_inputs(stores):
    values = {PRICE: 0.1, LOAD_FORECAST: 2e4, PV_FORECAST: 0.0}
    for name, value in values.items():
        start = NOW - timedelta(days=1)
        write_series(stores.pg, "demo", Series(name, start, 3600.0, np.full(72, value)), start)


@pytest.mark.parametrize(
    ("score", "fresh", "missing"),
    [
        (0.49, Freshness(), {"pack-lco": "its calibration scores 0.49 (needed 0.50)"}),
        (0.51, Freshness(), {}),
        (0.51, Freshness(min_calibration_score=0.9), {"pack-lco": "its calibration scores 0.51 (needed 0.90)"}),
        (
            0.99,
            Freshness(require_calibration=True),
            dict.fromkeys(("pack-lfp", "pack-nca", "pack-nmc"), "its twin was never calibrated, which is required"),
        ),
    ],
)
def test_a_prediction_of_low_score_counts_as_missing_and_the_reason_is_on_record(stores, devices, score, fresh, missing):
    prediction_of_score(stores, devices, score)
    seen = gather(stores, "demo", NOW, 900, horizon_s=86_400, fresh=fresh).observation
    assert dict(seen.missing_predictions) == missing
    if "pack-lco" not in missing:
        assert seen.inputs["prediction:pack-lco"]["calibration_score"] == score
        assert seen.inputs["prediction:pack-lco"]["calibrated_at"] == NOW.isoformat()
    if "pack-lfp" not in missing:
        assert seen.inputs["prediction:pack-lfp"]["calibration_score"] is None


def test_a_pack_whose_calibration_scores_low_rests_and_the_record_says_why(stores, devices):
    prediction_of_score(stores, devices, 0.2)
    lease = leases.acquire(stores.pg, "demo", "test", 60.0)
    result = SiteDispatcher(stores, "demo").tick(NOW, TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60), lease)
    assert result.decision.source == "mpc-24h"
    resting = {point.device_id: point for point in result.decision.set_points}["pack-lco"]
    assert (resting.power_w, "its calibration scores 0.20" in resting.detail) == (0.0, True)


@pytest.mark.parametrize(
    ("kept", "source"),
    [
        ("starts_at < %(now)s - interval '3 days'", "the pack's own temperature ("),
        ("starts_at < %(now)s + interval '1 hour' AND starts_at >= %(now)s - interval '5 hours'", "ambient_c of "),
        ("extract(hour FROM starts_at) <> 20", "ambient_c of "),
        ("true", "ambient_c"),
    ],
    ids=["nothing near", "a few hours", "a gap", "all of it"],
)
def test_without_a_forecast_of_ambient_the_round_goes_on_and_says_with_what(stores, devices, kept, source):
    stores.pg.execute(f"DELETE FROM optimizer.site_series WHERE NOT ({kept})", {"now": NOW})
    publish_all(stores, devices, power_w=2000.0)
    made = predict_site(stores, OPTIONS, AT)
    assert (len(made.predictions), made.left_out) == (len(devices), {})
    assert made.ambient.startswith(source)
    for prediction in latest_predictions(stores.mongo, list(devices)).values():
        assert prediction.parameters["ambient"] == made.ambient
        assert abs(prediction.temperature_profile_c[-1] - 20.0) < 10.0
