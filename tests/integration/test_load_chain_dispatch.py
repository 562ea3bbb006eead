"""A row of the load chain in the dispatcher, on real servers: decides, is its floor, and is passed over when it does not fit."""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from chain_cases import CHAIN, artefact
from test_learned_dispatch import NOW, furnished, passed_over, register, tick

from core.series import Series
from serving.cli import main
from serving.dispatch.inputs import GRID_IMPORT, LOAD_ACTUAL, PV_ACTUAL
from serving.dispatch.runner import ProcessRunner
from stores.postgres.decisions import last_decision
from stores.postgres.policies import ranked_policies
from stores.postgres.series import write_series
from training.artefacts import write_artefact

DEMO = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"


@pytest.fixture(scope="module")
def runner():
    made = ProcessRunner()
    yield made
    made.close()


@pytest.fixture
def site(stores, tmp_path):
    """The demo's site with a peak price, nine days of prices behind it, and a day and a half of measured load."""
    path = tmp_path / "peak.yaml"
    path.write_text(DEMO.read_text().replace("peak_price_eur_per_kw: 0.0", "peak_price_eur_per_kw: 80.0"))
    config = furnished(stores, path)
    measured = NOW - timedelta(hours=36)
    load = np.full(36 * 4, 21e3)
    load[-1] = 34e3
    for name, values in ((LOAD_ACTUAL, load), (PV_ACTUAL, 0 * load), (GRID_IMPORT, load)):
        write_series(stores.pg, config.site_id, Series(name, measured, 900.0, values), measured)
    return config


def test_a_load_chain_decides_by_the_load_that_was_measured_last(stores, site, runner):
    key = register(stores, site, artefact(), "HYBRID", 0.99, "chain")
    result = tick(stores, site, runner)
    assert (result.decision.source, result.decision.policy_id) == ("chain", key), passed_over(result)
    said = last_decision(stores.pg, site.site_id).inputs["hybrid"]
    assert (said["decided_by"], said["load_kw"], said["load_lag_steps"]) == ("load chain", 34.0, 0), said
    assert result.commands == len(site.packs)


def test_without_a_measured_load_it_is_its_floor(stores, site, runner):
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s", (LOAD_ACTUAL,))
    register(stores, site, artefact(), "HYBRID", 0.99, "chain")
    result = tick(stores, site, runner)
    said = result.decision.inputs["hybrid"]
    assert (result.decision.source, said["decided_by"]) == ("chain", "MPC"), passed_over(result)
    assert "no load_w is on record" in said["why"]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: artefact(layout="load-chain/2"), "load-chain/1"),
        (lambda: artefact(tensors=CHAIN.tensors() | {"moves": np.zeros((2, 24, 3, 3), np.float32)}), "moves: got the shape"),
        (lambda: artefact(chemistries=("NMC",)), "the policy covers NMC"),
    ],
)
def test_one_that_does_not_fit_is_passed_over_with_its_reason(stores, site, runner, made, why):
    register(stores, site, made(), "HYBRID", 0.99, "chain")
    result = tick(stores, site, runner)
    assert result.decision.source != "chain"
    assert why in passed_over(result)["chain"]


def test_it_is_registered_as_hybrid_for_testing(stores, site, monkeypatch, tmp_path):
    made = artefact(training={"config": {"name": "load-chain"}})
    write_artefact(made, tmp_path / "artefact")
    settings = stores.settings
    for name, value in (
        ("DATABASE_URL", settings.database_url), ("REDIS_URL", settings.redis_url), ("MONGODB_URI", settings.mongodb_uri),
        ("PULSEBMS_DATA", str(tmp_path / "data")),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["pulsebms", "artefact", "register", str(tmp_path), "--site", site.site_id])
    with pytest.raises(SystemExit) as ended:
        main()
    structlog.reset_defaults()
    assert ended.value.code == 0
    (row,) = ranked_policies(stores.pg, site.site_id, "testing")
    assert (row.policy_type, row.name, row.update_interval_seconds) == ("HYBRID", "load-chain", 900)
    assert row.config == {"artefact": made.sha256}
