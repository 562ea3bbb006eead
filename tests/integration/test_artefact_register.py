"""`pulsebms artefact register`: into GridFS and optimization_policies of real servers, and what is refused."""

import sys
from pathlib import Path

import numpy as np
import pytest
import structlog

from core.artefact import ArtefactError
from core.devices import Chemistry
from policies.learned.artefact import open_artefact
from policies.learned.network import Mlp
from serving.cli import main
from serving.dispatch.policy_factory import policy_of
from serving.site_loader import load_site
from stores.mongo.artefacts import load_artefact
from stores.postgres.policies import ranked_policies, set_policy_status
from training.artefacts import make_artefact, write_artefact

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
WIDTH = 59
"""Of a pack's observation with 24 h of forecast."""


def trained(folder, chemistries=tuple(Chemistry), width=WIDTH, **metadata):
    layer = (np.zeros((1, width), np.float32), np.zeros(1, np.float32))
    said = {
        "kind": "actor", "layout": "environment/1", "chemistries": chemistries, "information": ("day_ahead_price_eur_per_kwh",),
        "parameters": {"environment": {"forecast_hours": 24}, "dt_s": 900.0, "squash": "clip"},
        "metrics": {"validation_pct_of_foresight": 80.0}, "training": {"config": {"name": "ppo-tiny"}},
    }  # fmt: skip
    artefact = make_artefact({"actor": Mlp((layer,), "relu")}, **(said | metadata))
    write_artefact(artefact, folder / "artefact")
    return artefact


@pytest.fixture
def command(stores, monkeypatch, capfd, tmp_path):
    load_site(stores.pg, SITE_FILE)
    for name, value in (
        ("DATABASE_URL", stores.settings.database_url),
        ("REDIS_URL", stores.settings.redis_url),
        ("MONGODB_URI", stores.settings.mongodb_uri),
        ("PULSEBMS_DATA", str(tmp_path / "data")),
    ):
        monkeypatch.setenv(name, value)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pulsebms", "artefact", "register", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return ended.value.code, out + err

    yield run
    structlog.reset_defaults()


def in_testing(stores):
    return ranked_policies(stores.pg, "demo", "testing")


def test_an_artefact_becomes_a_policy_that_is_tested(stores, command, tmp_path):
    made = trained(tmp_path)
    code, shown = command(tmp_path, "--site", "demo")
    assert code == 0, shown
    (row,) = in_testing(stores)
    assert (row.name, row.policy_type, row.update_interval_seconds, row.status) == ("ppo-tiny", "RL", 900, "testing")
    assert row.config == {"artefact": made.sha256}
    assert row.performance_metrics == {"validation_pct_of_foresight": 80.0}
    files = load_artefact(stores.mongo, made.sha256)
    assert open_artefact(files).sha256 == made.sha256
    assert policy_of(row, files).name == "ppo-tiny"
    command(tmp_path, "--site", "demo", "--version", "2")
    (row,) = in_testing(stores)
    assert row.model_version == "2"


def test_a_residual_becomes_a_hybrid_policy(stores, command, tmp_path):
    base = {"policy": "mpc", "share": 0.3, "horizon_hours": 12, "terminal_value_share": 0.5}
    parameters = {"environment": {"forecast_hours": 24}, "dt_s": 900.0, "squash": "clip", "share": 0.15, "base": base}
    metrics = {"gate_share": 0.15, "gain_over_base_pct": [0.1, 0.05, 0.15]}
    made = trained(
        tmp_path, width=WIDTH + 1, kind="residual", layout="environment-base/1", parameters=parameters, metrics=metrics
    )
    code, shown = command(tmp_path, "--site", "demo")
    assert code == 0, shown
    (row,) = in_testing(stores)
    assert (row.policy_type, row.horizon_hours, row.update_interval_seconds) == ("HYBRID", 12, 900)
    assert row.config == {"artefact": made.sha256, "terminal_value_share": 0.5}
    code, shown = command(tmp_path, "--site", "demo", "--horizon", "24")
    assert (code, "expected 12" in shown) == (2, True)
    assert row.performance_metrics == metrics
    assert policy_of(row, load_artefact(stores.mongo, made.sha256)).share == 0.15


@pytest.mark.parametrize(
    ("changes", "arguments", "words"),
    [
        ({}, ("--site", "nowhere"), "nowhere"),
        ({}, ("--site", "demo", "--type", "MPC"), "RL or HYBRID"),
        ({"training": {}}, ("--site", "demo"), "--name"),
        ({"chemistries": (Chemistry.LCO,)}, ("--site", "demo"), "chemistries"),
        ({"width": 58}, ("--site", "demo"), "shape of actor"),
        ({"layout": "environment/9"}, ("--site", "demo"), "layout"),
    ],
)
def test_what_could_not_decide_is_not_registered(stores, command, tmp_path, changes, arguments, words):
    made = trained(tmp_path, **changes)
    code, shown = command(tmp_path, *arguments)
    assert code == 2
    assert words in shown
    assert not in_testing(stores)
    with pytest.raises(ArtefactError, match="not stored"):
        load_artefact(stores.mongo, made.sha256)


def test_damage_and_an_active_policy_are_refused(stores, command, tmp_path):
    trained(tmp_path)
    assert command(tmp_path, "--site", "demo")[0] == 0
    set_policy_status(stores.pg, in_testing(stores)[0].policy_id, "active")
    code, shown = command(tmp_path, "--site", "demo")
    assert (code, "decides now" in shown) == (2, True)
    path = tmp_path / "artefact" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    code, shown = command(tmp_path, "--site", "demo", "--name", "other")
    assert (code, "sha256" in shown) == (2, True)
