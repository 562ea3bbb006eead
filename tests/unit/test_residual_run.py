"""From a config with a base to a policy: errors at their line, resume, gate, artefact, what the served actor is shown."""

import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent))

from learned_cases import CHEMISTRIES, observation, record
from training_cases import config_text, write_prices

from core.artefact import ArtefactError
from core.decisions import Reason
from core.errors import InputError
from core.site import Tariff
from envs.layout import LAYOUT_NAME
from envs.residual_layout import BASE_LAYOUT_NAME, BaseLayout
from policies.check import check_policy
from policies.learned.artefact import open_artefact, read_artefact
from policies.learned.hybrid import HybridPolicy
from policies.learned.network import Mlp
from policies.mpc import MpcPolicy
from serving.cli import main
from serving.dispatch.gate import gate
from serving.dispatch.pack_layout import layout_of
from serving.dispatch.policy_factory import policy_of
from training.artefacts import make_artefact
from training.config_file import parse_config
from training.rl_data import read_data
from training.rl_export import export
from training.rl_run import train_seed
from training.rl_whole import residual_gate
from training.run_directory import config_sha256
from training.run_directory import config_text as written

BASE = "base:\n  share: 0.5\n  horizon_hours: 12\n"
HISTORY_H = 9 * 24


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    return write_prices(tmp_path_factory.mktemp("market") / "prices.csv")


@pytest.fixture(scope="module")
def case(prices):
    def made(algorithm="ppo", *overrides):
        read = parse_config(config_text(prices, algorithm) + BASE, "tiny.yaml", ["steps=640", *overrides])
        return read.config, read_data(read.config, read.origin)

    return made


@pytest.mark.parametrize(
    ("good", "bad", "field", "words"),
    [
        ("  share: 0.5", "  shar: 0.5", "base.shar", "did you mean 'share'"),
        ("  share: 0.5", "  share: 0", "base.share", "greater than 0"),
        ("  share: 0.5", "  share: 1.5", "base.share", "less than or equal to 1"),
        ("  horizon_hours: 12", "  horizon_hours: 1", "base.horizon_hours", "greater than or equal to 2"),
        ("  horizon_hours: 12", "  policy: rule", "base.policy", "mpc"),
        ("    episode_steps: 40", "    episode_steps: 40\n    tariff: {tax_eur_per_kwh: 0.1}", "base", "tariff.tax_eur_per_kwh"),
        ("    episode_steps: 40", "    episode_steps: 40\n    grid: {peak_price_eur_per_kw: 3.0}", "base", "peak_price"),
        ("  dt_s: 3600.0", "  dt_s: 3600.0\n  price_forecast: {path: p.csv, column: f}", "base", "price_forecast"),
        ("  dt_s: 3600.0", "  dt_s: 300.0", "base", "900 s or more"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(good, bad, field, words):
    text = (config_text("prices.csv") + BASE).replace(good, bad, 1)
    with pytest.raises(InputError) as error:
        parse_config(text, "tiny.yaml")
    name = field.rpartition(".")[2]
    line = next(k for k, one in enumerate(text.splitlines(), 1) if one.strip().startswith(f"{name}:"))
    assert str(error.value).startswith(f"tiny.yaml:{line}: {field}")
    assert words in str(error.value)


def test_a_config_without_a_base_is_what_it_was():
    plain = parse_config(config_text("prices.csv"), "tiny.yaml").config
    assert plain.base is None
    assert "base" not in written(plain)
    based = parse_config(config_text("prices.csv") + BASE, "tiny.yaml").config
    assert parse_config(written(based), "config.yaml").config == based
    hashes = {
        config_sha256(one) for one in (plain, based, parse_config(config_text("p.csv") + BASE, "t", ["base.share=0.4"]).config)
    }
    assert len(hashes) == 3


@pytest.fixture(scope="module")
def run(case, tmp_path_factory):
    """An uninterrupted run of each algorithm: config, data, outcome, folder."""
    found = {}
    for algorithm in ("ppo", "sac"):
        config, data = case(algorithm)
        folder = tmp_path_factory.mktemp(algorithm)
        found[algorithm] = config, data, train_seed(config, data, folder, 3, identity="one"), folder
    return found


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_a_run_that_was_told_to_stop_goes_on_to_the_same_artefact(run, algorithm, tmp_path):
    config, data, uninterrupted, _ = run[algorithm]
    count = iter(range(10**9))
    assert train_seed(config, data, tmp_path, 3, identity="one", stop=lambda: next(count) >= 4).status == "stopped"
    second = train_seed(config, data, tmp_path, 3, identity="one")
    assert second.course.validations == uninterrupted.course.validations
    assert second.base == uninterrupted.base
    one, other = (export(config, data, outcome, tmp_path / name, 3) for name, outcome in (("a", uninterrupted), ("b", second)))
    assert one.sha256 == other.sha256


def test_the_artefact_says_what_serving_asks_for(run, tmp_path, monkeypatch, capfd):
    config, data, outcome, _ = run["ppo"]
    made = export(config, data, outcome, tmp_path, 3)
    found = read_artefact(tmp_path / "artefact").metadata
    assert (found.kind, found.layout) == ("residual", BASE_LAYOUT_NAME)
    assert found.parameters["base"] == {"policy": "mpc", "share": 0.5, "horizon_hours": 12, "terminal_value_share": 0.9}
    assert found.parameters["share"] == found.metrics["gate_share"]
    assert found.metrics["base_eur_per_kwh_year"] == pytest.approx(outcome.base, abs=1e-4)
    low = found.metrics["gain_over_base_pct"][1]
    assert (found.parameters["share"] > 0.0) == (low > 0.0)
    layout = layout_of(made)
    assert (layout.size, layout.base_columns) == (BaseLayout(1, 6).size, 1) == (made.network("actor").inputs, 1)
    monkeypatch.setattr(sys, "argv", ["pulsebms", "artefact", "show", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    structlog.reset_defaults()
    assert ended.value.code == 0
    assert "gate_share" in capfd.readouterr().out


def linear(inputs, column, weight, bias=0.0):
    """A network of one layer that sees one field."""
    layer = np.zeros((1, inputs), np.float32)
    layer[0, column] = weight
    return Mlp(((layer, np.full(1, bias, np.float32)),), "relu")


def test_the_gate_opens_where_the_actor_earns_more_and_only_there(case):
    """A base that looks an hour ahead and gives what is left no worth; the price against the week's mean is better than it."""
    weak = ("base.horizon_hours=2", "base.terminal_value_share=0.0", "base.share=1.0")
    config, data = case("ppo", *weak)
    layout = BaseLayout(1, 6)
    good = residual_gate(config, data, linear(layout.size, layout.index["price"], 3.0))
    assert good.gain_pct[1] > 0.0
    assert good.share == good.best_share in (0.25, 0.5, 0.75, 1.0)
    bad = residual_gate(config, data, linear(layout.size, layout.index["price"], -3.0))
    assert bad.share == 0.0
    assert bad.gain_pct[1] <= 0.0
    nothing = residual_gate(config, data, linear(layout.size, 0, 0.0))
    assert (nothing.share, nothing.gain_pct) == (0.0, (0.0, 0.0, 0.0))
    assert good.base_eur_per_kwh_year == bad.base_eur_per_kwh_year == nothing.base_eur_per_kwh_year


def artefact(share=0.5, weight=-1.0, layout=BASE_LAYOUT_NAME, kind="residual"):
    """Its action is the base times a weight."""
    size = BaseLayout(1, 24).size
    return make_artefact(
        {"actor": linear(size, size - 1, weight)}, kind=kind, layout=layout, chemistries=CHEMISTRIES,
        parameters={"environment": {"packs": [{}], "forecast_hours": 24}, "dt_s": 3600.0, "timezone": "UTC", "share": share},
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen():
    """With nine days of prices, and load, PV and temperature of the step before; the price is all that counts, as for a base."""
    now = observation(back_h=HISTORY_H)
    grid = now.site.grid.model_copy(update={"peak_price_eur_per_kw": 0.0})
    now = replace(now, site=now.site.model_copy(update={"tariff": Tariff(), "grid": grid}))

    def longer(series):
        values = np.concatenate([series.values[:1], series.values])
        return replace(series, start=series.start - timedelta(seconds=series.dt_s), values=values)

    return replace(now, load_w=longer(now.load_w), pv_w=longer(now.pv_w), ambient_c=longer(now.ambient_c))


def test_the_served_actor_is_shown_what_the_mpc_decides(seen):
    made = artefact()
    mpc = {point.device_id: point for point in MpcPolicy(record()).decide(seen).set_points}
    decision = HybridPolicy(record(made), made, layout_of(made)).decide(seen)
    assert decision.inputs["hybrid"]["decided_by"] == "residual"
    assert any(abs(point.power_w) > 1000.0 for point in mpc.values())
    for point in decision.set_points:
        assert point.power_w == pytest.approx(0.5 * mpc[point.device_id].power_w, abs=1.0)


def test_a_pack_that_cannot_be_planned_for_rests_and_is_not_shifted(seen):
    made = artefact(weight=0.0)
    bias = make_artefact(
        {"actor": linear(BaseLayout(1, 24).size, 0, 0.0, 1.0)}, kind="residual", layout=BASE_LAYOUT_NAME, chemistries=CHEMISTRIES,
        parameters=dict(made.metadata.parameters),
    )  # fmt: skip
    without = seen.devices[0].device_id
    blind = replace(seen, missing_predictions={without: "none"})
    points = {point.device_id: point for point in HybridPolicy(record(bias), bias, layout_of(bias)).decide(blind).set_points}
    assert (points[without].power_w, points[without].reason) == (0.0, Reason.STOP)
    assert all("learned shift" in point.detail for key, point in points.items() if key != without)


def test_a_layout_that_shows_the_base_is_for_a_residual_alone():
    alone = artefact(kind="actor")
    with pytest.raises(ArtefactError, match="an actor alone has not"):
        policy_of(record_of("RL", alone), alone.files)
    narrow = artefact(layout=LAYOUT_NAME)
    with pytest.raises(ArtefactError, match="shape of actor"):
        policy_of(record_of("HYBRID", narrow), narrow.files)


def record_of(policy_type, made):
    return replace(record(made), policy_type=policy_type)


def test_what_was_trained_keeps_the_contract(run, seen, tmp_path):
    config, data, outcome, _ = run["ppo"]
    trained = export(config, data, outcome, tmp_path, 3)
    opened = make_artefact(  # its gate opened, so that the actor decides whatever so short a training was worth
        {"actor": trained.network("actor")}, kind="residual", layout=BASE_LAYOUT_NAME, chemistries=CHEMISTRIES,
        parameters={**trained.metadata.parameters, "share": 0.5},
    )  # fmt: skip
    for made in (trained, opened):
        checked = check_policy(
            lambda made=made: policy_of(record_of("HYBRID", made), made.files), [seen],
            project=lambda decision, shown: gate(decision, shown).decision, deadline_s=60.0,
            reload=lambda policy, made=made: policy_of(policy.record, open_artefact(made.files, sha256=made.sha256).files),
        )  # fmt: skip
        assert checked.decided >= 6
    decided = policy_of(record_of("HYBRID", opened), opened.files).decide(seen)
    assert decided.inputs["hybrid"]["decided_by"] == "residual"
