"""From files and records in the stores to what a policy sees: dispatch signal, billing month's peak, errors, ages of inputs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from core.decisions import Reason
from core.pack import Pack
from core.series import Series
from core.twin import predict
from policies.mpc import MpcPolicy
from serving.cli.app import app
from serving.dispatch.inputs import (
    AMBIENT,
    GRID_IMPORT,
    LOAD_ACTUAL,
    LOAD_FORECAST,
    PRICE,
    PV_ACTUAL,
    PV_FORECAST,
    SIGNAL,
    Freshness,
    gather,
)
from serving.dispatch.ranking import PolicyBench
from serving.site_loader import load_site
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres.decisions import last_decision, record_decision
from stores.postgres.devices import list_devices
from stores.postgres.policies import ranked_policies
from stores.postgres.series import write_series
from stores.postgres.series_rows import series_rows

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = (datetime.now(UTC) - timedelta(days=2)).replace(hour=10, minute=0, second=0, microsecond=0)
QUARTER = timedelta(minutes=15)


@pytest.fixture
def site(stores):
    """The demo's site with series, telemetry and predictions around NOW."""
    config = load_site(stores.pg, SITE_FILE)
    hours = 24 * 3
    start = NOW - timedelta(days=1)
    price = 0.10 + 0.08 * np.sin(np.arange(hours) / 24 * 2 * np.pi)
    flat = np.ones(hours)
    for name, values in ((PRICE, price), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, config.site_id, Series(name, start, 3600.0, values), start)
    for pack, device in zip(config.packs, list_devices(stores.pg, config.site_id), strict=True):
        simulated = Pack(device, soc_pct=50.0, soh_pct=pack.soh_pct, temperature_c=22.0, ambient_c=20.0)
        state = simulated.state(NOW - timedelta(seconds=10))
        insert_telemetry(stores.mongo, [pack_document(state, site_id=config.site_id, firmware="1.0")])
        predicted = predict(device, state, np.zeros(26 * 4), dt_s=900.0, start=NOW - QUARTER, ambient_c=20.0)
        write_predictions(stores.mongo, [predicted])
    return config


@pytest.fixture
def cli(stores, monkeypatch):
    """Runs the command line against the test's servers."""
    monkeypatch.setenv("DATABASE_URL", stores.settings.database_url)
    monkeypatch.setenv("MONGODB_URI", stores.settings.mongodb_uri)
    monkeypatch.setenv("REDIS_URL", stores.settings.redis_url)
    yield lambda *arguments: CliRunner().invoke(app, list(arguments))
    structlog.reset_defaults()  # the command set up logging on a stream that is closed now


def observe(stores, site):
    return gather(stores, site.site_id, NOW, 900, horizon_s=86_400, fresh=Freshness()).observation


def signal_file(path, start, values):
    rows = [f"{(start + k * QUARTER).isoformat()},{value}" for k, value in enumerate(values)]
    path.write_text("\n".join(["time,net_import_w", *rows]))
    return str(path)


def plan_of(stores, site, observation):
    (record,) = ranked_policies(stores.pg, site.site_id)
    return MpcPolicy(record).plan(observation)


def test_a_signal_is_loaded_and_tracked(stores, site, cli, tmp_path):
    ahead = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    result = cli("site", "signal", site.site_id, signal_file(tmp_path / "s.csv", ahead, [5e3] * 8))
    assert result.exit_code == 0, result.output
    assert "8 steps of 900 s" in result.output
    stored = series_rows(stores.pg, site.site_id, SIGNAL, ahead, ahead + timedelta(days=1), known_at=datetime.now(UTC))
    assert [row.value for row in stored] == [5e3] * 8

    write_series(stores.pg, site.site_id, Series(SIGNAL, NOW, 900.0, np.full(8, 12e3)), NOW - timedelta(hours=1))
    observation = observe(stores, site)
    assert observation.inputs[SIGNAL]["age_s"] == 3600.0
    plan = plan_of(stores, site, observation)
    np.testing.assert_allclose((plan.grid_import_w - plan.grid_export_w)[:8], 12e3, atol=500)
    assert plan.deviation_w[8] is None
    assert {part.reasons[3] for part in plan.devices} <= {Reason.TRACKING, Reason.SOC_LIMIT, Reason.POWER_LIMIT}
    assert Reason.TRACKING in {part.reasons[0] for part in plan.devices}
    assert Reason.TRACKING not in {part.reasons[20] for part in plan.devices}


def test_a_faulty_signal_writes_nothing(stores, site, cli, tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("time,net_import_w\n2026-01-15T12:00Z,1\n2026-01-15T12:15Z,nan\n")
    result = cli("site", "signal", site.site_id, str(file))
    assert result.exit_code != 0
    assert "line 3" in str(result.exception or result.output)
    everything = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
    assert series_rows(stores.pg, site.site_id, SIGNAL, *everything, known_at=everything[1]) == []


def test_a_signal_can_be_withdrawn(stores, site, cli):
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    write_series(stores.pg, site.site_id, Series(SIGNAL, start, 3600.0, np.full(6, 1e3)), start)
    assert cli("site", "signal", site.site_id, "--withdraw").exit_code == 0
    left = series_rows(stores.pg, site.site_id, SIGNAL, start, start + timedelta(days=1), known_at=datetime.now(UTC))
    assert [row.starts_at for row in left] == [start, start + timedelta(hours=1)]
    assert cli("site", "signal", site.site_id).exit_code != 0


def test_a_signal_that_is_not_known_yet_is_not_seen(stores, site):
    write_series(stores.pg, site.site_id, Series(SIGNAL, NOW, 900.0, np.full(8, 12e3)), NOW + timedelta(minutes=1))
    observation = observe(stores, site)
    assert observation.signal is None
    assert SIGNAL not in observation.inputs


def test_the_peak_is_this_months_highest_import(stores, site):
    nothing = observe(stores, site)
    assert nothing.peak_incurred_w == 0.0
    assert "none" in nothing.inputs["peak_incurred_w"]["source"]
    month = datetime.fromisoformat(nothing.inputs["peak_incurred_w"]["since"])
    assert month.astimezone(UTC) <= NOW
    values = ((month - QUARTER, 90e3), (month, -5e3), (NOW - QUARTER, 41e3), (NOW - 2 * QUARTER, 55e3))
    for start, value in values:
        write_series(stores.pg, site.site_id, Series(GRID_IMPORT, start, 900.0, np.array([value])), start + QUARTER)
    write_series(stores.pg, site.site_id, Series(GRID_IMPORT, NOW, 900.0, np.array([99e3])), NOW + QUARTER)  # not yet known
    observation = observe(stores, site)
    assert observation.peak_incurred_w == 55e3
    assert observation.inputs["peak_incurred_w"] | {"recorded_share": 0} == {
        "since": month.isoformat(),
        "value_w": 55e3,
        "source": "site_series grid_import_w",
        "age_s": 0.0,
        "recorded_share": 0,
    }


def test_errors_are_those_of_what_was_forecast_then(stores, site):
    start = NOW - timedelta(hours=6)
    write_series(stores.pg, site.site_id, Series(LOAD_ACTUAL, start, 900.0, np.full(23, 23e3)), NOW - QUARTER)
    # A revision after the fact is not what the plan went by.
    write_series(stores.pg, site.site_id, Series(LOAD_FORECAST, start, 3600.0, np.full(6, 23e3)), NOW - QUARTER)
    observation = observe(stores, site)
    errors = observation.errors["load_w"]
    assert (errors.start, errors.dt_s, len(errors)) == (start, 900.0, 23)
    assert errors.values[:20].tolist() == [3e3] * 20
    assert "pv_w" not in observation.errors
    assert observation.inputs["errors:load_w"]["age_s"] == 900.0
    assert "none" in observation.inputs["errors:pv_w"]["source"]


def test_errors_end_at_a_gap_and_never_reach_past_now(stores, site):
    for start, count in ((NOW - timedelta(hours=8), 8), (NOW - timedelta(hours=5), 24)):
        write_series(stores.pg, site.site_id, Series(PV_ACTUAL, start, 900.0, np.arange(float(count))), start)
    before = observe(stores, site)
    errors = before.errors["pv_w"]
    assert errors.start == NOW - timedelta(hours=5)
    assert errors.end == NOW
    write_series(stores.pg, site.site_id, Series(PV_ACTUAL, NOW - QUARTER, 900.0, np.full(9, 1e6)), NOW + QUARTER)
    assert observe(stores, site).errors["pv_w"].values.tolist() == errors.values.tolist()


def test_every_input_has_source_and_age(stores, site):
    observation = observe(stores, site)
    ids = [pack.device_id for pack in site.packs]
    wanted = {f"{kind}:{key}" for kind in ("telemetry", "prediction", "limits") for key in ids}
    wanted |= {PRICE, LOAD_FORECAST, PV_FORECAST, AMBIENT, "peak_incurred_w", "errors:load_w", "errors:pv_w"}
    assert wanted <= observation.inputs.keys()
    for name in wanted:
        assert observation.inputs[name]["source"]
    for name in wanted - {"peak_incurred_w", "errors:load_w", "errors:pv_w"}:
        assert observation.inputs[name]["age_s"] >= 0.0, name
    assert observation.inputs[PRICE]["age_s"] == 86_400.0
    assert observation.inputs[f"limits:{ids[1]}"]["rows_in_force"] == 2


def test_reasons_prices_and_inputs_are_stored_with_the_decision(stores, site):
    gated, passed_over = PolicyBench().decide(ranked_policies(stores.pg, site.site_id), observe(stores, site))
    assert passed_over == []
    record_decision(stores.pg, gated.decision)
    stored = last_decision(stores.pg, site.site_id)
    assert stored.plan["shadow_prices"] == "duals of piqp"
    assert len(stored.plan["devices"][0]["binding"]) == 96
    assert stored.plan["limit_units"]["soc_max"] == "kWh"
    assert f"limits:{site.packs[0].device_id}" in stored.inputs


def test_the_plan_command_prints_reasons_prices_and_ages(stores, site, cli, tmp_path):
    write_series(stores.pg, site.site_id, Series(SIGNAL, NOW, 900.0, np.full(8, 12e3)), NOW - timedelta(hours=1))
    picture = tmp_path / "plan.png"
    result = cli("plan", "--site", site.site_id, "--at", NOW.isoformat(), "--plot", str(picture))
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines() if "plot:" not in line) <= 100
    for text in ("binding, with its price", "EUR/k", "tracking", "off the signal", "safety_constraints", "age", "duals of piqp"):
        assert text in result.output
    assert picture.stat().st_size > 10_000


def test_the_plan_command_says_which_devices_it_leaves_out_and_why(stores, site, cli, tmp_path):
    """One pack reports half full as 0.5, one has no prediction: the others are planned."""
    share, unpredicted, *planned = (pack.device_id for pack in site.packs)
    newest = {"device_id": share}
    stores.mongo["telemetry_data"].update_many(newest, {"$set": {"measurements.soc": 0.5}})
    stores.mongo["digital_twin_predictions"].delete_many({"device_id": unpredicted})
    result = cli("plan", "--site", site.site_id, "--at", NOW.isoformat(), "--plot", str(tmp_path / "plan.png"))
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert f"left out: {share}: device {share}: soc_pct: got 0.5" in text
    assert "not a share of 1" in text
    assert f"left out: {unpredicted}: prediction: missing" in text
    assert planned
    assert f"limits:{planned[0]}" in text
    assert f"limits:{share}" not in text


@pytest.mark.parametrize("moment", ["tomorrow", "2026-01-15T12:00"])
def test_a_time_that_is_none_is_named(cli, moment):
    result = cli("plan", "--site", "demo", "--at", moment)
    assert result.exit_code != 0
    assert "--at" in str(result.exception)


def test_scenarios_come_from_what_the_stores_recorded(stores, site):
    """Twelve days of load that was forecast too low or too high by turns, prices unknown after half of the horizon."""
    days = 12
    start, count = NOW - timedelta(days=days), days * 96
    known = start - timedelta(days=1)
    g = np.random.default_rng(0)
    actual = 2e4 + 4e3 * np.repeat(g.choice([-1.0, 1.0], days), 96) + 500 * g.normal(size=count)
    price = 0.10 + 0.05 * np.sin(np.arange(days * 24) / 24 * 2 * np.pi) + 0.02 * g.normal(size=days * 24)
    for name, dt_s, values, known_at in (
        (LOAD_FORECAST, 3600.0, np.full(days * 24, 2e4), known),
        (LOAD_ACTUAL, 900.0, actual, NOW),
        (PRICE, 3600.0, price, known),
    ):
        write_series(stores.pg, site.site_id, Series(name, start, dt_s, values), known_at)
    observation = observe(stores, site)
    assert len(observation.errors["load_w"]) == count
    (record,) = ranked_policies(stores.pg, site.site_id)
    risky = {"uncertainty": "scenarios", "scenario_count": 5, "cvar_weight": 0.5}
    decision = MpcPolicy(replace(record, config=risky)).decide(observation)
    assert decision.plan["status"] == "optimal"
    told = decision.plan["uncertainty"]
    assert (told["mode"], told["count"]) == ("scenarios", 5)
    assert max(told["bills_eur"]) - min(told["bills_eur"]) > 1.0
    record_decision(stores.pg, decision)
    assert last_decision(stores.pg, site.site_id).plan["uncertainty"] == told
