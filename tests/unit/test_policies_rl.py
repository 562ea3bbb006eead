"""Actors on test years: the year is the config's, nothing beats the plan that knows it, the rule sees what is published."""

import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from training_cases import config_text, write_prices

from benchmarks.common import Table
from benchmarks.policies_rl import COLUMNS, Year, looking_ahead, rows_of, tuned_hours
from envs.data import Period
from training.config_file import parse_config
from training.rl_config import BaseConfig
from training.rl_data import read_data
from training.rl_export import export
from training.rl_run import train_seed
from training.run_directory import begin, seed_folder

DAYS, WEEKS = 790, 7


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    prices = write_prices(tmp_path_factory.mktemp("market") / "prices.csv", DAYS)
    read = parse_config(config_text(prices), "tiny.yaml", ["split.test=2022", "steps=320"])
    return read.config, read_data(read.config, read.origin)


@pytest.fixture(scope="module")
def year(case):
    """The first weeks of it."""
    config, data = case
    start = config_start(config)
    return Year(config, data.part("test").narrowed(Period(start, start + timedelta(days=WEEKS * 7))))


def test_the_year_is_the_test_year_and_its_sites_are_no_others(case, year):
    config, data = case
    exogenous = year.engine.part.exogenous
    first = int(year.rows[0])
    assert (year.rows == first).all()
    assert exogenous.price_eur_per_kwh[first] == data.exogenous.price_eur_per_kwh[data.exogenous.row(config_start(config))]
    assert len(year.price) == pytest.approx(WEEKS * 7 * 24, abs=3)
    seeds = {year.engine.config.variants_seed, config.env.config.variants_seed}
    assert len(seeds) == 2


def config_start(config):
    return Period.of_years(config.split.test, config.data.timezone).start


def test_foresight_is_above_the_rule_and_the_rule_above_rest(case, year):
    hours, reached = tuned_hours(*case)
    best, rule = year.foresight(), year.run(looking_ahead(year.engine, year.rows, year.sites, hours))
    idle = year.run(lambda _: np.zeros((len(year.sites), 1)))
    assert best.total_eur > rule.total_eur > idle.total_eur
    assert reached > 0.0
    assert year.eur_per_kwh_year(idle) == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize(("information", "seen"), [("published", True), ("revealed", False)])
def test_the_rule_sees_hours_ahead_only_where_they_are_published(case, information, seen):
    config, data = case
    env = config.env.model_copy(update={"config": config.env.config.model_copy(update={"information": information})})
    part = data.part("test").narrowed(Period.of_years((2022,), config.data.timezone))
    acted = []
    for ahead in (0.0, 10.0):
        made = Year(config.model_copy(update={"env": env}), part)
        price = made.engine.part.exogenous.price_eur_per_kwh
        was = price.copy()
        price[made.rows[0] + 1 :] += ahead
        acted.append(looking_ahead(made.engine, made.rows, made.sites, 4)(np.zeros((len(made.sites), 1), np.float32)))
        price[:] = was
    assert np.array_equal(*acted) is not seen


def test_every_finished_seed_has_a_row_for_every_year(case, tmp_path):
    config, data = case
    begin(tmp_path, config, data.exogenous.sha256(), "tiny.yaml", resume=False)
    folder = seed_folder(tmp_path, 3)
    export(config, data, train_seed(config, data, folder, 3), folder, 3)
    table = Table("RL", COLUMNS)
    rows_of(tmp_path, table)
    assert [row[0] for row in table.rows] == ["tiny, 2022"] * 5
    assert [str(row[1]).split(",")[0] for row in table.rows] == ["perfect foresight", "MPC", "rule", "PPO", "idle"]
    assert table.rows[3][3] is not None
    assert "CPU-s of learning" in table.notes[0]


def test_a_residual_stands_beside_the_mpc_with_its_gate_and_as_it_was_trained(case, tmp_path):
    config, data = case
    config = config.model_copy(update={"base": BaseConfig(share=0.5, horizon_hours=12)})
    begin(tmp_path, config, data.exogenous.sha256(), "tiny.yaml", resume=False)
    folder = seed_folder(tmp_path, 3)
    made = export(config, data, train_seed(config, data, folder, 3), folder, 3)
    table = Table("RL", COLUMNS)
    rows_of(tmp_path, table)
    rows = {str(row[1]): row for row in table.rows}
    mpc, hybrid = rows["MPC, linear model, by table"], rows[f"HYBRID, seed 3 (gate: {made.metadata.parameters['share']:g})"]
    if made.metadata.parameters["share"] == 0.0:
        assert hybrid[2] == mpc[2]
        assert str(hybrid[4]).startswith("+0.00")
    assert "PPO, seed 3, share 0.5 as trained" in rows
    assert float(mpc[2]) > float(rows["rule, 4 h ahead"][2]) > float(rows["idle"][2])
    assert "the MPC alone" in table.notes[0]
