"""Supervised energy value: nothing is known too early, splits do not leak, training repeats itself, the gate keeps the floor."""

import gzip
import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.artefact import ArtefactError
from core.errors import InputError
from optimizer.dynamic import lattice
from policies.learned.artefact import read_artefact
from policies.learned.unforecast import unforecast_value
from policies.learned.value import energy_value
from training.value_config import FitSettings, parse_value_config
from training.value_data import Correction, ValueTask, tuned
from training.value_fit import fit_network
from training.value_market import Market, Split, look_ahead, read_market, split_by_dates, split_by_half
from training.value_network import _draw, fit_task, mean_network, train_value
from training.value_score import Run, block_values, compare

START = datetime(2024, 1, 1, tzinfo=UTC)
HOURS = 24 * 140
QUICK = FitSettings(hidden=(32,), iterations=120, checkpoint_every=60)


def series(hours=HOURS, seed=0):
    g = np.random.default_rng(seed)
    t = np.arange(hours)
    price = 60 + 25 * np.sin(2 * np.pi * (t - 9) / 24) + 10 * np.sin(4 * np.pi * t / 24) + 8 * g.normal(size=hours)
    return price, price + 6 * g.normal(size=hours)


def write(path, hours=HOURS, skip=(), **columns):
    lines = ["utc," + ",".join(columns)]
    for k in range(hours):
        if k not in skip:
            at = START + timedelta(hours=k)
            lines.append(f"{at:%Y-%m-%d %H:%M:%S}," + ",".join(f"{values[k]:.5f}" for values in columns.values()))
    text = "\n".join(lines).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    price, forecast = series()
    path = write(tmp_path_factory.mktemp("m") / "zone.csv.gz", price=price, forecast=forecast)
    return read_market(path, "price", ("forecast",))


def task(market, information="published"):
    plant = lattice(capacity_wh=2e6, power_w=1e6, round_trip=0.9025, wear_eur_per_kwh=0.005, dt_s=market.dt_s, charge_steps=4)
    return ValueTask(market=market, split=split_by_half(market, 21), plant=plant, information=information)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["published", "hourly_reveal", "no_forecast"]), st.integers(200, HOURS - 200), st.integers(0, 99))
def test_the_future_leaves_no_trace(market, information, now, seed):
    """Prices after what may be known are changed: neither what is expected nor the features change."""
    hour = now % 24
    until = now + 1
    if information == "published":
        until = now - hour + (48 if hour >= 13 else 24)
    g = np.random.default_rng(seed)
    price = market.price_eur_per_kwh.copy()
    price[until:] = g.uniform(-1, 1, len(price) - until)
    forecast = market.forecasts_eur_per_kwh.copy()
    forecast[now - hour + (48 if hour >= 12 else 24) :] = 9.0
    other = replace(market, price_eur_per_kwh=price, forecasts_eur_per_kwh=forecast)
    rows = (now, now + 1)
    for days in (1, 7):
        seen, changed = (look_ahead(item, information, 36, rows, days) for item in (market, other))
        assert np.array_equal(seen.price_eur_per_kwh, changed.price_eur_per_kwh)
        assert np.array_equal(seen.error_eur_per_kwh, changed.error_eur_per_kwh)
    plan = np.zeros((1, task(market).plant.intervals))
    assert np.array_equal(task(market, information).features(rows, plan), task(other, information).features(rows, plan))
    if information == "no_forecast":
        clock = [replace(task(item, information), clock_hours=True).features(rows) for item in (market, other)]
        assert np.array_equal(*clock)


def quarter_hours(days, first=START):
    g = np.random.default_rng(5)
    price = 0.08 + 0.02 * g.normal(size=96 * days)
    none = np.zeros((96 * days, 0))
    return Market(name="quarters", start=first, dt_s=900.0, price_eur_per_kwh=price, forecasts_eur_per_kwh=none, sha256="")


@pytest.mark.parametrize("minutes", [0, 30])
def test_features_by_clock_hours(minutes):
    market = quarter_hours(60, START + timedelta(minutes=minutes))
    made = replace(task(market, "no_forecast"), clock_hours=True)
    rows = (1003, 1100)
    seen = made.features(rows)
    assert seen.shape == (97, 98)
    mean, spread = made.scale(rows)
    early = minutes // 15
    price = market.price_eur_per_kwh
    for k in (0, 5, 96):
        now = rows[0] + k
        hour = (now + early) // 4
        whole = [np.median(price[max(0, 4 * h - early) : 4 * h - early + 4]) for h in range(hour)]
        expected = [np.median(price[4 * hour - early : now + 1])]
        expected += [price[now - lag] for lag in (0, 1, 2, 3, 4, 5, 6, 8, 10, 12)]
        expected += [whole[hour - 1 - j] for j in range(24)] + [whole[hour + j - 168] for j in range(24)]
        expected += [np.mean([whole[hour + j - 24 * day] for day in range(1, 8)]) for j in range(24)]
        assert seen[k, 15:] == pytest.approx(np.clip((np.array(expected) - mean[k]) / spread[k], -8, 8), abs=1e-4)
    ranges = [made.features((1003, 1050)), made.features((1050, 1100))]
    assert np.array_equal(np.concatenate(ranges), seen)


def test_published_prices_are_the_real_ones(market):
    seen = look_ahead(market, "published", 36)
    for now in (500 - 500 % 24 + 12, 500 - 500 % 24 + 13):
        known = 11 if now % 24 == 12 else 34
        assert np.array_equal(seen.price_eur_per_kwh[now, :known], market.price_eur_per_kwh[now + 1 : now + 1 + known])
        assert seen.published_share[now] == pytest.approx(known / 36)


@pytest.mark.parametrize(
    ("train", "validate", "test"), [((0, 500), (400, 600), ()), ((0, 400), (400, 600), ((500, 700),)), ((300, 500), (0, 100), ())]
)
def test_a_split_that_leaks_is_refused(train, validate, test):
    with pytest.raises(InputError, match=r"split\.(validate|test)"):
        Split(train=train, validate=validate, test=test).checked("x")


def test_split_by_dates(market):
    found = split_by_dates(market, [date(2024, 1, 1), date(2024, 3, 1), date(2024, 4, 1), date(2024, 5, 1)])
    assert found.train == (0, 60 * 24)
    assert found.test == ((91 * 24, 121 * 24),)
    with pytest.raises(InputError, match="range that holds data"):
        split_by_dates(market, [date(2024, 1, 1), date(2024, 3, 1), date(2024, 3, 1)])


def test_files_that_cannot_be_read(tmp_path):
    price, _ = series(100)
    with pytest.raises(InputError, match="columns"):
        read_market(write(tmp_path / "a.csv", 100, price=price), "eur")
    with pytest.raises(InputError, match="gap"):
        read_market(write(tmp_path / "b.csv", 100, skip=range(40, 60), price=price), "price")
    with pytest.raises(InputError, match="readable"):
        read_market(tmp_path / "none.csv", "price")
    (tmp_path / "c.csv").write_text("utc,price\n" + "nonsense,1\n" * 60)
    with pytest.raises(InputError, match=r"c\.csv:2"):
        read_market(tmp_path / "c.csv", "price")
    mended = read_market(write(tmp_path / "d.csv", 100, skip=(50,), price=price), "price")
    assert mended.price_eur_per_kwh[50] == pytest.approx(0.0005 * (price[49] + price[51]), rel=1e-4)


def test_correction_is_tuned_and_helps(market):
    # a forecast whose error stays: price + AR(1) with 0.95
    g = np.random.default_rng(3)
    error = np.zeros(HOURS)
    for k in range(1, HOURS):
        error[k] = 0.95 * error[k - 1] + 0.003 * g.normal()
    biased = replace(market, forecasts_eur_per_kwh=(market.price_eur_per_kwh - error)[:, None])
    made = tuned(task(biased, "hourly_reveal"))
    assert made.correction.phi >= 0.8
    rows = made.split.test[0]
    assert made.run(made.plan(rows), rows).total_eur > made.run(made.plan(rows, Correction()), rows).total_eur


@pytest.mark.parametrize("information", ["published", "hourly_reveal", "no_forecast"])
def test_training_repeats_itself_and_acts_within_bounds(market, information):
    one, two = (fit_task(task(market, information), QUICK, (0, 1)) for _ in range(2))
    assert one.metrics == two.metrics
    for first, second in zip(one.fits, two.fits, strict=True):
        assert all(np.array_equal(a[0], b[0]) for a, b in zip(first.network.layers, second.network.layers, strict=True))
    rows = one.task.split.test[0]
    best = one.task.run(one.task.hindsight(rows), rows).total_eur
    for share in (None, 0.0, 0.5, 1.0):
        run = one.task.run(one.marginals(rows, share), rows)
        assert np.isfinite(run.earned_eur).all()
        assert run.total_eur <= best + 1e-6
        assert run.stored_kwh.min() >= 0
        assert run.stored_kwh.max() <= one.task.plant.intervals * one.task.plant.step_wh / 1000 + 1e-6


@pytest.mark.parametrize("information", ["hourly_reveal", "no_forecast"])
def test_rounds_learn_what_the_policy_itself_earns(market, information):
    made = task(market, information)
    quick = QUICK.model_copy(update={"average": 0.99})
    one, two = (fit_task(made, quick, (0, 1), rounds=2, memory_years=0.2) for _ in range(2))
    assert one.metrics == two.metrics
    assert len(one.fits) == 2
    assert len(one.fits[0].history) == 3 * 2
    # targets of a round are the policy's own worth, of the same steps and features
    rows = made.split.train
    network = mean_network([fit.network for fit in one.fits])
    told = []

    def said(part, features, plan):
        told.append(part)
        return one.task.value(network, part, features, plan)

    features, targets = one.task.supervised(rows, 1, said)
    again, hindsight = one.task.supervised(rows)
    assert told
    assert np.array_equal(features, again)
    assert not np.allclose(targets, hindsight)


def test_recent_steps_are_drawn_more_often(market):
    made = task(market)
    drawn = _draw(made, 1, 0.05)
    steps = made.learned_steps(made.split.train)
    assert len(drawn) == len(steps)
    assert steps[drawn].mean() > steps.mean() + 100
    assert _draw(made, 1, None) == slice(None)


def test_a_fit_goes_on_from_a_network_and_averages_its_weights():
    g = np.random.default_rng(0)
    x = g.normal(size=(400, 3)).astype(np.float32)
    y = (x @ np.array([[1.0], [-2.0], [0.5]])).astype(np.float32)

    def score(network):
        return -float(np.mean((network(x) - y) ** 2))

    settings = FitSettings(hidden=(8,), iterations=300, checkpoint_every=300, huber_delta=5.0)
    first = fit_network(x, y, settings, score)
    still = settings.model_copy(update={"iterations": 1, "checkpoint_every": 1, "learning_rate": 1e-9})
    for average in (0.0, 0.9):
        on = fit_network(x, y, still.model_copy(update={"average": average}), score, start=first.network)
        assert on.score == pytest.approx(first.score, abs=1e-4)
    wild = settings.model_copy(update={"learning_rate": 0.05, "iterations": 60, "checkpoint_every": 60})
    plain, averaged = (fit_network(x, y, wild.model_copy(update={"average": value}), score) for value in (0.0, 0.9))
    assert not np.array_equal(plain.network.layers[0][0], averaged.network.layers[0][0])
    with pytest.raises(ValueError, match="zip"):
        fit_network(x, y, settings.model_copy(update={"hidden": (8, 8)}), score, start=first.network)


def test_a_closed_gate_is_the_mpc(market):
    trained = replace(fit_task(task(market), QUICK), share=0.0)
    rows = trained.task.split.test[0]
    assert np.array_equal(trained.marginals(rows), trained.task.plan(rows))


def test_perfect_foresight_is_the_best_that_any_run_reaches(market):
    made = task(market)
    rows = made.split.test[0]
    best = made.run(made.hindsight(rows), rows)
    assert compare(best, best, best.total_eur, made.price(rows), made.week).points == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_marking_stored_energy_moves_money_between_blocks_only(seed):
    g = np.random.default_rng(seed)
    stored = g.uniform(0, 2000, 24 * 21)
    stored[-1] = 0.0
    run = Run(earned_eur=g.normal(size=24 * 21), stored_kwh=stored)
    assert block_values(run, g.uniform(0, 0.2, 24 * 21), 168).sum() == pytest.approx(run.total_eur)


def test_blocks_may_be_of_any_length():
    g = np.random.default_rng(3)
    run, other = (Run(earned_eur=g.normal(size=400), stored_kwh=g.uniform(0, 100, 400)) for _ in range(2))
    price = g.uniform(0, 0.2, 400)
    assert np.array_equal(block_values(run, price, 100), block_values(run, price, np.array([0, 100, 200, 300, 400])))
    assert compare(run, other, 50.0, price, 100) == compare(run, other, 50.0, price, np.array([0, 100, 200, 300, 400]))
    uneven = block_values(run, price, np.array([0, 50, 400]))
    assert uneven[0] == pytest.approx(run.earned_eur[:50].sum() + price[:50].mean() * run.stored_kwh[49])
    assert uneven.sum() == pytest.approx(run.total_eur + price[50:].mean() * run.stored_kwh[-1])


def config(path, **changes):
    return {
        "name": "test",
        "information": "published",
        "data": {"path": str(path), "price_column": "price"},
        "split": {"half": True, "validation_days": 21},
        "plant": {"charge_steps": 4},
        "fit": {"hidden": [32], "iterations": 200, "checkpoint_every": 100},
    } | changes


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"algorithm": "magic"}, "algorithm"),
        ({"learning_rat": 1}, "learning_rat"),
        ({"fit": {"learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"fit": {"learning_rate": -1}}, "fit.learning_rate"),
        ({"split": {"train_from": "2015-01-01", "validate_from": "2014-01-01", "validate_until": "2016-01-01"}}, "overlap"),
        ({"split": {}}, "half"),
        ({"information": "clairvoyant"}, "information"),
        ({"seeds": []}, "seeds"),
        ({"rounds": -1}, "rounds"),
        ({"clock_hours": True}, "only with information: no_forecast"),
    ],
)
def test_bad_configs_are_named(tmp_path, changes, named):
    with pytest.raises(InputError, match=named):
        parse_value_config(config(tmp_path / "x.csv", **changes), "value.yaml")


def test_train_value_writes_what_serving_reads(tmp_path):
    path = write(tmp_path / "zone.csv", price=series()[0])
    made = train_value(parse_value_config(config(path), "value.yaml"), tmp_path / "run", None)
    again = train_value(parse_value_config(config(path), "value.yaml"), tmp_path / "run2", None)
    found = read_artefact(tmp_path / "run" / "artefact")
    assert found.sha256 == made.sha256
    assert energy_value(found).horizon_steps == 36
    assert found.metadata.training["data_sha256"] == read_market(path, "price").sha256
    assert str(tmp_path) not in found.files.metadata.decode()
    x = np.zeros(42)
    assert np.array_equal(found.network("value0")(x), again.network("value0")(x))
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert record["sha256"] == made.sha256
    assert record["history"]


def test_a_network_by_clock_hours_is_one_that_decides_without_a_forecast(tmp_path):
    path = write(tmp_path / "zone.csv", price=series()[0])
    settings = config(path, information="no_forecast", clock_hours=True, rounds=1, memory_years=1.0)
    made = train_value(parse_value_config(settings, "value.yaml"), tmp_path / "run", None)
    assert made.metadata.layout == "energy-value-unforecast/2"
    assert made.metadata.training["config"]["rounds"] == 1
    assert unforecast_value(made).layout == made.metadata.layout
    with pytest.raises(ArtefactError, match="energy-value-unforecast/2"):
        energy_value(made)
