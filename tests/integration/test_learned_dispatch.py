"""Learned policies in the dispatcher, on real servers: registered, made active, decided by; and passed over when damaged."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from learned_cases import CHEMISTRIES, mlp, value_artefact

from core.devices import Chemistry
from core.pack import Pack
from core.policy_record import PolicyRecord
from core.series import Series
from core.twin import predict
from envs.layout import Layout
from envs.residual_layout import BASE_LAYOUT_NAME, BaseLayout
from optimizer.dynamic import lattice
from policies.learned.layout import CLOCK_LAYOUT
from policies.learned.unforecast import INPUTS
from serving.dispatch.artefacts import StoredArtefacts
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from serving.dispatch.pack_layout import LAYOUT
from serving.dispatch.ranking import PolicyBench
from serving.dispatch.runner import ProcessRunner
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.site_loader import load_site
from stores.mongo.artefacts import BUCKET, store_artefact
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases
from stores.postgres.decisions import last_decision
from stores.postgres.devices import list_devices
from stores.postgres.policies import ranked_policies, register_policy, set_policy_status
from stores.postgres.series import write_series
from training.artefacts import make_artefact

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
OPTIONS = TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60, deadline_s=60.0)
FORECAST_HOURS = 24


@pytest.fixture(scope="module")
def runner():
    made = ProcessRunner()
    yield made
    made.close()


@pytest.fixture
def site(stores):
    return furnished(stores, SITE_FILE)


def furnished(stores, site_file):
    """A site with nine days of prices behind it, packs half full, predictions."""
    config = load_site(stores.pg, site_file)
    start, hours = NOW - timedelta(days=9), 24 * 11
    flat = np.ones(hours)
    price = 0.10 + 0.08 * np.sin(np.arange(hours) / 24 * 2 * np.pi)
    for name, values in ((PRICE, price), (LOAD_FORECAST, 2e4 * flat), (PV_FORECAST, 0 * flat), (AMBIENT, 20 * flat)):
        write_series(stores.pg, config.site_id, Series(name, start, 3600.0, values), start)
    documents, predictions = [], []
    for pack, device in zip(config.packs, list_devices(stores.pg, config.site_id), strict=True):
        simulated = Pack(device, soc_pct=50.0, soh_pct=pack.soh_pct, temperature_c=22.0, ambient_c=20.0)
        state = simulated.state(NOW - timedelta(seconds=10))
        documents.append(pack_document(state, site_id=config.site_id, firmware="1.0"))
        begin = NOW - timedelta(seconds=900)
        predictions.append(predict(device, state, np.zeros(26 * 4), dt_s=900.0, start=begin, ambient_c=20.0))
    insert_telemetry(stores.mongo, documents)
    write_predictions(stores.mongo, predictions)
    return config


def actor(**changes):
    environment = {"packs": [{}], "forecast_hours": FORECAST_HOURS}
    said = {
        "kind": "actor",
        "layout": LAYOUT,
        "chemistries": CHEMISTRIES,
        "parameters": {"environment": environment, "dt_s": 900.0},
    } | changes
    return make_artefact({"actor": mlp(Layout(1, FORECAST_HOURS).size, 1, 5)}, **said)


def register(stores, site, artefact, policy_type, score, name):
    """As a training does, then as an operator does: stored, registered for testing, made active."""
    store_artefact(stores.mongo, artefact.files)
    row = PolicyRecord(
        policy_id=None, site_id=site.site_id, name=name, policy_type=policy_type, config={"artefact": artefact.sha256},
        model_version="1", training_date=NOW, performance_metrics={"validation": 1.0}, performance_score=score,
        horizon_hours=12 if policy_type == "HYBRID" else None, update_interval_seconds=900,
    )  # fmt: skip
    key = register_policy(stores.pg, row)
    set_policy_status(stores.pg, key, "active")
    return key


def tick(stores, site, runner):
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    bench = PolicyBench(runner, StoredArtefacts(stores))
    return SiteDispatcher(stores, site.site_id, bench).tick(NOW, OPTIONS, lease)


def passed_over(result):
    return dict(result.decision.passed_over)


def test_an_actor_decides_and_the_record_says_by_which_artefact(stores, site, runner):
    artefact = actor()
    key = register(stores, site, artefact, "RL", 0.99, "ppo")
    result = tick(stores, site, runner)
    assert (result.decision.source, result.decision.policy_id) == ("ppo", key), passed_over(result)
    recorded = last_decision(stores.pg, site.site_id)
    assert recorded.inputs["artefact"] == artefact.sha256
    assert result.commands > 0


def test_an_energy_value_decides_alone(stores, site, runner):
    register(stores, site, value_artefact(), "RL", 0.99, "value")
    result = tick(stores, site, runner)
    assert result.decision.source == "value", passed_over(result)


def test_hybrid_decides_by_the_learned_terminal_value(stores, site, runner):
    register(stores, site, value_artefact(share=0.5), "HYBRID", 0.99, "hybrid")
    result = tick(stores, site, runner)
    assert result.decision.source == "hybrid", passed_over(result)
    said = last_decision(stores.pg, site.site_id).inputs["hybrid"]
    assert (said["decided_by"], said["share"]) == ("terminal value", 0.5), said


def test_hybrid_without_a_week_of_prices_is_its_floor(stores, site, runner):
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s AND starts_at = %s", (PRICE, NOW - timedelta(days=3)))
    register(stores, site, value_artefact(share=0.5), "HYBRID", 0.99, "hybrid")
    result = tick(stores, site, runner)
    said = result.decision.inputs["hybrid"]
    assert result.decision.source == "hybrid"
    assert said["decided_by"] == "MPC"
    assert "7 days before" in said["why"]


def residual(share):
    """An actor that is shown what the MPC decides, as `pulsebms train` makes one from a config with a base."""
    return make_artefact(
        {"actor": mlp(BaseLayout(1, FORECAST_HOURS).size, 1, 5)},
        kind="residual",
        layout=BASE_LAYOUT_NAME,
        chemistries=CHEMISTRIES,
        parameters={"environment": {"packs": [{}], "forecast_hours": FORECAST_HOURS}, "dt_s": 900.0, "share": share},
    )


@pytest.mark.parametrize(("share", "by"), [(0.25, "residual"), (0.0, "MPC")])
def test_a_residual_shifts_the_mpc_as_far_as_its_gate_is_open(stores, site, runner, share, by):
    register(stores, site, residual(share), "HYBRID", 0.99, "residual")
    result = tick(stores, site, runner)
    assert result.decision.source == "residual", passed_over(result)
    said = last_decision(stores.pg, site.site_id).inputs["hybrid"]
    assert (said["decided_by"], said["share"]) == (by, share), said


def test_a_hybrid_for_prices_that_nobody_forecasts_decides_where_none_is_known_ahead(stores, site, runner):
    """Quarter hours, the last one that which begins: the MPC may not plan on that, a policy that was made for it may."""
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s", (PRICE,))
    start, steps = NOW - timedelta(days=9), 9 * 96 + 1
    price = 0.10 + 0.08 * np.sin(np.arange(steps) / 96 * 2 * np.pi)
    write_series(stores.pg, site.site_id, Series(PRICE, start, 900.0, price), start)
    plant = {"capacity_wh": 2e6, "power_w": 1e6, "round_trip": 0.9025, "wear_eur_per_kwh": 0.005, "charge_steps": 4}
    network = mlp(INPUTS[CLOCK_LAYOUT], lattice(**plant, dt_s=900.0).intervals, 2)
    made = make_artefact(
        {"value0": network}, kind="energy_value", layout=CLOCK_LAYOUT,
        chemistries=CHEMISTRIES, plant=plant,
        parameters={
            "share": 0.75, "dt_s": 900.0, "horizon_steps": 96, "correction_phi": 0.9, "correction_days": 7,
            "information": "no_forecast",
        },
    )  # fmt: skip
    register(stores, site, value_artefact(share=0.5), "HYBRID", 0.999, "day ahead")
    register(stores, site, made, "HYBRID", 0.99, "unforecast")
    result = tick(stores, site, runner)
    assert "known until" in passed_over(result)["day ahead"]
    assert result.decision.source == "unforecast", passed_over(result)
    said = last_decision(stores.pg, site.site_id).inputs["hybrid"]
    assert (said["decided_by"], said["share"]) == ("worth of energy, step by step", 0.75), said


def damage(stores, sha256):
    """One byte of what GridFS holds."""
    file = stores.mongo[f"{BUCKET}.files"].find_one({"filename": sha256})
    chunk = stores.mongo[f"{BUCKET}.chunks"].find_one({"files_id": file["_id"], "n": 0})
    data = bytearray(chunk["data"])
    data[len(data) // 2] ^= 1
    stores.mongo[f"{BUCKET}.chunks"].update_one({"_id": chunk["_id"]}, {"$set": {"data": bytes(data)}})


def test_a_damaged_artefact_lets_the_next_policy_decide_and_says_why(stores, site, runner):
    artefact = actor()
    register(stores, site, artefact, "RL", 0.99, "ppo")
    damage(stores, artefact.sha256)
    result = tick(stores, site, runner)
    mpc = next(policy for policy in site.policies if policy.policy_type == "MPC")
    assert result.decision.source == mpc.name
    recorded = last_decision(stores.pg, site.site_id)
    assert "sha256: got" in dict(recorded.passed_over)["ppo"]
    assert artefact.sha256 in dict(recorded.passed_over)["ppo"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"layout": "environment/99"}, "layout: got 'environment/99'"),
        ({"chemistries": (Chemistry.LCO,)}, "the policy covers LCO"),
        ({"information": ("price_forecast_eur_per_kwh",)}, "made to know price_forecast_eur_per_kwh"),
    ],
)
def test_what_does_not_fit_is_ineligible(stores, site, runner, changes, why):
    register(stores, site, actor(**changes), "RL", 0.99, "ppo")
    result = tick(stores, site, runner)
    assert result.decision.source != "ppo"
    assert why in passed_over(result)["ppo"]


def test_missing_artefacts_and_wrong_shapes_are_named(stores, site, runner):
    key = register(stores, site, actor(), "RL", 0.99, "ppo")
    artefacts = StoredArtefacts(stores)
    row = PolicyRecord(policy_id=key, site_id=site.site_id, name="ppo", policy_type="RL", config={"artefact": "0" * 64})
    observation = type("Seen", (), {"devices": (1,)})
    from serving.dispatch.eligibility import why_not

    assert "not stored" in why_not(row, observation, artefacts)
    assert "config.artefact" in why_not(replace(row, config={}), observation, artefacts)
    small = make_artefact(
        {"actor": mlp(3, 1, 1)}, kind="actor", layout=LAYOUT, chemistries=CHEMISTRIES,
        parameters={"environment": {"packs": [{}]}, "dt_s": 900.0},
    )  # fmt: skip
    store_artefact(stores.mongo, small.files)
    assert "shape of actor" in why_not(replace(row, config={"artefact": small.sha256}), observation, artefacts)


def test_learned_policies_are_made_ready_before_the_first_tick(stores, site, runner, monkeypatch):
    whole, broken = actor(), value_artefact()
    register(stores, site, whole, "RL", 0.9, "whole")
    register(stores, site, broken, "RL", 0.99, "broken")
    damage(stores, broken.sha256)
    bench = PolicyBench(runner, StoredArtefacts(stores))
    bench.prepare(ranked_policies(stores.pg, site.site_id))
    asked = []
    monkeypatch.setattr("serving.dispatch.artefacts.load_artefact", lambda _mongo, sha256: asked.append(sha256) or broken.files)
    lease = leases.acquire(stores.pg, site.site_id, "test", 60.0)
    result = SiteDispatcher(stores, site.site_id, bench).tick(NOW, OPTIONS, lease)
    assert result.decision.source in {"whole", "broken"}, passed_over(result)
    assert asked == [broken.sha256]  # what could not be made ready is looked for again, the other is at hand
