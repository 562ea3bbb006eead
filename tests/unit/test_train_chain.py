"""Training the load chain: configs refused at their line, the same chain from the same data, nothing seen that is not known."""

import csv
import json
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from chain_cases import load_of, record

from core.errors import InputError
from policies.learned.artefact import read_artefact
from policies.learned.chain_policy import LoadChainPolicy
from serving.cli import main
from serving.cli.train_cli import _record
from training.chain_data import read_record
from training.chain_fit import _Judged, _store, fit_chain, usual_of_days
from training.config_file import parse_config, read_config

START = datetime(2024, 11, 30, 23, tzinfo=UTC)
DAYS = 160
CONFIG = """\
algorithm: load_chain
name: tiny
data:
  price: {{path: {folder}/prices.csv, column: eur_per_kwh}}
  load: {{path: {folder}/load.csv, column: load_w}}
  dt_s: 3600
split:
  train: 2024-12-01 to 2025-03-01
  validation: 2025-03-01 to 2025-04-05
  test: 2025-04-05 to 2025-05-01
store: {{capacity_wh: 4.0e+4, power_w: 2.0e+4}}
peak_eur_per_kw: 10.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("site")
    hours = np.arange(24 * DAYS)
    _, _, load = load_of(len(hours), 3600.0, start=START)
    price = 0.1 + 0.05 * np.sin(2 * np.pi * (hours + 3) / 24)
    for name, column, values in (("load", "load_w", 1000 * load), ("prices", "eur_per_kwh", price)):
        with (made / f"{name}.csv").open("w", newline="") as file:
            out = csv.writer(file)
            out.writerow(("time", column))
            out.writerows(
                ((START + timedelta(hours=int(k))).isoformat(), f"{value:.6f}") for k, value in zip(hours, values, strict=True)
            )
    (made / "config.yaml").write_text(CONFIG.format(folder=made))
    return made


@pytest.fixture(scope="module")
def read(folder):
    return read_config(folder / "config.yaml")


@pytest.fixture(scope="module")
def data(read):
    return read_record(read.config, read.origin)


BAD = [
    ("algorithm: load_chain", "algorithm: load_chains", "algorithm", "did you mean 'load_chain'"),
    ("  dt_s: 3600", "  dt_s: 300", "data.dt_s", "900"),
    ("  dt_s: 3600", "  dt: 3600", "data.dt", "did you mean 'dt_s'"),
    ("  dt_s: 3600", "  dt_s: 3600\n  timezone: Mars/Base", "data.timezone", "IANA"),
    ("peak_eur_per_kw: 10.0", "peak_eur_per_kw: 0.0", "peak_eur_per_kw", "greater than 0"),
    ("power_w: 2.0e+4", "power_w: -1.0", "store.power_w", "greater than 0"),
    ("  train: 2024-12-01 to 2025-03-01", "  train: 2024-12-01 to 2025-03-20", "split.validation", "the split leaks"),
    ("  train: 2024-12-01 to 2025-03-01", "  train: 2024-12-01 to 2025-01-01", "split.train", "56 days or more"),
    ("  train: 2024-12-01 to 2025-03-01", "  train: a while", "split.train", "2015-2021"),
    ("  test: 2025-04-05 to", "  test: 2025-04-04 to", "split.test", "the split leaks"),
    ("  validation: 2025-03-01 to 2025-04-05", "  validation: 2025-03-01 to 2025-03-10", "split.validation", "31 days"),
]


@pytest.mark.parametrize(("good", "bad", "field", "words"), BAD)
def test_what_is_wrong_is_named_with_its_line(good, bad, field, words):
    text = CONFIG.format(folder="x").replace(good, bad, 1)
    changed = bad.splitlines()[-1] if field != "split.validation" or "validation" in bad else "  validation"
    line = next(k for k, one in enumerate(text.splitlines(), 1) if changed.strip()[:12] in one)
    with pytest.raises(InputError) as error:
        parse_config(text, "c.yaml")
    assert error.value.field == field
    assert str(error.value).startswith(f"c.yaml:{line}"), str(error.value)
    assert words in str(error.value)


def test_days_that_no_file_holds_are_named(folder):
    text = CONFIG.format(folder=folder).replace("2025-04-05", "2026-04-05", 1).replace("2025-03-01 to 2026", "2026-01-01 to 2026")
    text = text.replace("  test: 2025-04-05 to 2025-05-01\n", "")
    found = parse_config(text, "c.yaml")
    with pytest.raises(InputError, match=r"c\.yaml:9.*split\.validation"):
        read_record(found.config, found.origin)


def test_a_site_with_pv_is_counted_on_load_less_pv(folder, data):
    text = CONFIG.format(folder=folder)
    load = "  load: {path: " + f"{folder}/load.csv, column: load_w}}\n"
    assert load in text
    found = parse_config(text.replace(load, load + load.replace("load:", "pv:", 1).replace("}", ", scale: 0.25}")), "c.yaml")
    both = read_record(found.config, found.origin)
    assert both.load_kw == pytest.approx(0.75 * data.load_kw)
    assert both.sha256() != data.sha256()


def test_the_test_is_not_read(data, read):
    end = data.start + timedelta(seconds=len(data.load_kw) * data.dt_s)
    assert end == read.config.split.periods("Europe/Amsterdam").validation.end


def test_a_month_of_validation_opens_no_gate_and_the_artefact_is_a_policy(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["pulsebms", "train", str(folder / "config.yaml"), "--run-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capfd.readouterr()
    assert ended.value.code == 0, said
    made = read_artefact(tmp_path / "artefact")
    assert (made.metadata.kind, made.metadata.layout, made.metadata.networks) == ("load_chain", "load-chain/1", {})
    assert made.metadata.parameters == {
        "share": 0.0, "dt_s": 3600.0, "net_of_pv": False, "timezone": "Europe/Amsterdam", "states": 13,
    }  # fmt: skip
    assert made.metadata.metrics["validation_months"] == 1  # and a cut one
    assert json.loads((tmp_path / "metrics.json").read_text())["sha256"] == made.sha256
    assert {"run.json", "config.yaml"} <= {path.name for path in tmp_path.iterdir()}
    row = _record(made, datetime.now(UTC), "demo", "", "", "", 24, "run")
    assert (row.policy_type, row.name, row.update_interval_seconds) == ("HYBRID", "tiny", 3600)
    assert LoadChainPolicy(replace(record(made), update_interval_seconds=3600), made).share == 0.0


def test_the_same_data_make_the_same_chain_and_money(data, read):
    one, two = (fit_chain(data, read.config) for _ in range(2))
    assert one.metrics == two.metrics
    assert all(np.array_equal(value, two.chain.tensors()[name]) for name, value in one.chain.tensors().items())
    saved = one.metrics["validation_saved_eur"]
    assert saved["perfect foresight"] >= max(saved["mpc"], saved["load chain alone"])
    assert saved["load chain alone"] > 0


def test_nothing_that_is_not_known_leaves_a_trace(data, read):
    chain = fit_chain(data, read.config).chain
    first = data.validation[0]
    now = first + 24 * 9 + 15
    g = np.random.default_rng(0)
    load, price = data.load_kw.copy(), data.price_eur_per_kwh.copy()
    midnight = next(k for k in range(now, len(load)) if data.hour[k] == 0)
    published = next(k for k in range(midnight + 1, len(load)) if data.hour[k] == 0)
    load[now:] = g.uniform(10, 60, len(load) - now)
    price[published:] = g.uniform(0, 1, len(price) - published)
    other = replace(data, load_kw=load, price_eur_per_kwh=price)
    store = _store(read.config, data, chain)
    tried = [(0.0, 2.0), (1.0, 0.0), (0.5, 0.0)]
    mine, theirs = (_Judged(one, chain, store, read.config).runs(tried, lambda *_: None) for one in (data, other))
    for a, b in zip(mine, theirs, strict=True):
        # The level after a step is what its power was: the one that begins now was chosen before its load was known.
        assert np.array_equal(a.stored_kwh[: now - first + 1], b.stored_kwh[: now - first + 1])
        assert not np.array_equal(a.stored_kwh, b.stored_kwh)


def test_like_days_know_nothing_of_their_own():
    work = np.array([1, 1, 0, 0, 1])
    load = np.repeat([10.0, 20.0, 5.0, 7.0, 99.0], 4)
    found = usual_of_days(load, work, 4)
    assert found[4, 1] == pytest.approx(15.0)
    assert found[3, 0] == pytest.approx(5.0)
    assert found[2, 0] == pytest.approx(15.0)


def test_the_shipped_config_is_valid():
    found = read_config(Path(__file__).parents[2] / "configs" / "rl" / "load_chain.yaml")
    assert found.config.algorithm == "load_chain"
