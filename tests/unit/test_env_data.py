"""Exogenous data: no look-ahead, no leak between parts, files read or refused by name."""

import gzip
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from core.series import Series
from envs.config import EnvConfig
from envs.data import DUTCH_PRICES, DataSet, Exogenous, Period, Split, whole
from envs.features import ECONOMICS, PUBLICATION_HOUR, features_at, make_features, trailing
from envs.layout import Layout
from envs.read import read_series
from envs.sample import sample_year

DATA = sample_year(20)
N = len(DATA)


def config(**changes):
    return EnvConfig.of({"episode_steps": 96, "load_forecast_hours": 12, **changes})


def known_until(t, information):
    """First row whose price is not known when row t begins, from the wall clock alone."""
    if information == "revealed":
        return t + 1
    local = (DATA.start + timedelta(minutes=15 * t)).astimezone(ZoneInfo(DATA.timezone))
    days = 2 if local.hour >= PUBLICATION_HOUR else 1
    midnight = datetime.combine(local.date() + timedelta(days=days), datetime.min.time(), tzinfo=ZoneInfo(DATA.timezone))
    return DATA.row(midnight)


def shown(data, information, t):
    """All that a decision at row t can see of the tables: its row, and load, PV, temperature of the row before."""
    f = make_features(whole(data), config(information=information))
    now = f.economics[t][[ECONOMICS.index(k) for k in ("buy_eur_per_kwh", "mean_eur_per_kwh", "spread_eur_per_kwh")]]
    return np.concatenate([f.rows[t], f.load_ahead_w[t], f.pv_ahead_w[t], f.economics[t - 1], now])


@settings(max_examples=40, deadline=None)
@given(t=st.integers(8 * 96, N - 200), information=st.sampled_from(["published", "revealed"]), forecast=st.booleans(),
       seed=st.integers(0, 99))  # fmt: skip
def test_no_row_sees_what_is_not_known(t, information, forecast, seed):
    """Whatever comes later is changed, and no number of the observation moves."""
    data = DATA if forecast else replace(DATA, price_forecast_eur_per_kwh=None)
    rng = np.random.default_rng(seed)
    changed = {}
    for name, first in (("price_eur_per_kwh", known_until(t, information)), ("load_w", t), ("pv_w", t), ("ambient_c", t)):
        values = getattr(data, name).copy()
        values[first:] += rng.normal(5, 1, max(0, N - first))
        changed[name] = values
    if forecast:  # the day after tomorrow's forecast is not made yet
        values = data.price_forecast_eur_per_kwh.copy()
        values[known_until(t, "published") + 96 :] += 9.0
        changed["price_forecast_eur_per_kwh"] = values
    np.testing.assert_array_equal(shown(data, information, t), shown(replace(data, **changed), information, t))


def test_published_prices_are_seen_and_revealed_ones_are_not():
    published = make_features(whole(DATA), config())
    revealed = make_features(whole(DATA), config(information="revealed"))
    assert published.first == 672
    ahead = slice(16, 16 + 24)
    t = 800
    mean, spread = published.economics[t, 2], published.economics[t, 3]
    true = [(DATA.price_eur_per_kwh[t + 1 + 4 * k : t + 5 + 4 * k].mean() - mean) / spread for k in range(3)]
    np.testing.assert_allclose(published.rows[t, ahead][:3], np.clip(true, -10, 10), rtol=1e-4)
    assert abs(revealed.rows[t, ahead][:3] - true).max() > 1e-3


@settings(max_examples=60, deadline=None)
@given(t=st.integers(0, 13 * 96 - 1), day=st.sampled_from(["2026-03-20", "2026-10-16", "2026-12-22", "2026-07-01"]),
       zone=st.sampled_from(["Europe/Amsterdam", "Asia/Kolkata", "America/St_Johns", "UTC"]),
       information=st.sampled_from(["published", "revealed"]), forecast=st.booleans())  # fmt: skip
def test_one_row_alone_is_that_of_the_tables(t, day, zone, information, forecast):
    """As a live site asks for it: clock changes, ends of months and years, half-hour zones."""
    data = replace(DATA, start=datetime.fromisoformat(day).replace(tzinfo=UTC), timezone=zone)
    if not forecast:
        data = replace(data, price_forecast_eur_per_kwh=None, load_forecast_w=None)
    t += 7 * 96  # a week of history
    settings = config(information=information)
    every, one = make_features(whole(data), settings), features_at(data, settings, t)
    measured = [ECONOMICS.index(k) for k in ("load_w", "pv_w", "load_forecast_w", "pv_forecast_w", "ambient_c")]
    np.testing.assert_array_equal(one.economics[0, measured], every.economics[t - 1, measured])
    np.testing.assert_allclose(one.economics[1], every.economics[t], rtol=1e-9, atol=1e-12)
    if t < N - 3 * 96:  # beyond its end data says nothing of its days
        np.testing.assert_allclose(one.rows[1], every.rows[t], rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(one.load_ahead_w[1], every.load_ahead_w[t])


@pytest.mark.parametrize("layout", [Layout(1, 24), Layout(3, 12, 5, 6)])
def test_a_layout_counts_its_fields(layout):
    assert layout.size == len(layout.names) == len(layout.index)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=2, max_size=60), window=st.integers(1, 20))
def test_trailing_statistics(values, window):
    array = np.array(values)
    mean, deviation = trailing(array, window)
    for k in range(len(array)):
        part = array[max(0, k - window + 1) : k + 1]
        assert mean[k] == pytest.approx(part.mean(), abs=1e-9)
        assert deviation[k] == pytest.approx(part.std(), abs=1e-6)


def years(first, last):
    hours = (datetime(last + 1, 1, 2, tzinfo=UTC) - datetime(first, 1, 1, tzinfo=UTC)) // timedelta(hours=1)
    price = Series("price", datetime(first, 1, 1, tzinfo=UTC), 3600.0, np.arange(hours, dtype=float))
    return Exogenous.from_series(price, dt_s=3600.0)


def test_a_test_year_in_training_is_named():
    with pytest.raises(InputError, match=r"train.*2023.*test"):
        Split.by_years([2021, 2022, 2023], [2024], [2023])
    with pytest.raises(InputError, match=r"validation.*2022"):
        Split.by_years([2020], [2021, 2022], [2022])
    with pytest.raises(InputError, match="without a gap"):
        Split.by_years([2015, 2017], [2022], [2023])
    assert DUTCH_PRICES.test.start.year == 2023


def test_a_part_holds_nothing_after_its_end():
    data = DataSet(exogenous=years(2020, 2023), split=Split.by_years([2020, 2021], [2022], [2023]))
    for name, first_year, last_year in (("train", 2020, 2021), ("validation", 2022, 2022), ("test", 2023, 2023)):
        part = data.part(name)
        zone = ZoneInfo("Europe/Amsterdam")
        assert part.exogenous.end == datetime(last_year + 1, 1, 1, tzinfo=zone)
        own = part.exogenous.start + timedelta(hours=part.first_row)
        assert own == max(datetime(first_year, 1, 1, tzinfo=zone), data.exogenous.start)
        assert part.first_row in (0, 8 * 24)
        # The values number the hours: none of a later part is in the arrays, nor reachable through a view.
        assert part.exogenous.price_eur_per_kwh.max() == data.exogenous.row(part.exogenous.end) - 1
        assert part.exogenous.price_eur_per_kwh.base is None
    test = data.part("test")
    summer = Period(datetime(2023, 6, 1, tzinfo=UTC), datetime(2023, 7, 1, tzinfo=UTC))
    assert test.narrowed(summer).exogenous.end == summer.end
    with pytest.raises(InputError, match="a stretch of"):
        data.part("train").narrowed(summer)
    with pytest.raises(InputError, match="one of train"):
        data.part("testing")
    with pytest.raises(InputError, match="within"):
        DataSet(exogenous=years(2020, 2020), split=DUTCH_PRICES).part("test")


def test_the_hash_follows_the_data():
    assert DATA.sha256() == sample_year(20).sha256() != sample_year(20, seed=1).sha256()


def test_bad_data_is_named():
    bad = DATA.load_w.copy()
    bad[7] = np.nan
    with pytest.raises(InputError, match=r"load_w\[7\]"):
        replace(DATA, load_w=bad)
    with pytest.raises(InputError, match="pv_w"):
        replace(DATA, pv_w=DATA.pv_w[:-1])
    with pytest.raises(InputError, match="UTC offset"):
        replace(DATA, start=datetime(2020, 1, 1))
    with pytest.raises(InputError, match="whole part of an hour"):
        replace(DATA, dt_s=1000.0)
    with pytest.raises(InputError, match="after a week"):
        make_features(whole(sample_year(7)), config())


def test_files_are_read(tmp_path):
    lines = ["utc,eur_mwh"] + [f"2020-01-01 {h:02d}:00:00,{h}" for h in range(24) if h not in (5, 6)]
    path = tmp_path / "prices.csv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    series = read_series(path, "eur_mwh", "price_eur_per_kwh", scale=0.001, zone="UTC", most_missing=2)
    np.testing.assert_allclose(series.values, np.arange(24) / 1000)
    assert series.start == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(InputError, match="gap"):
        read_series(path, "eur_mwh", "price", zone="UTC", most_missing=1)
    empty = tmp_path / "empty.csv"
    empty.write_text("\n".join(["utc,eur_mwh"] + [f"2020-01-01 {h:02d}:00:00,{'' if h in (5, 6) else h}" for h in range(24)]))
    again = read_series(empty, "eur_mwh", "price_eur_per_kwh", scale=0.001, zone="UTC", most_missing=2)
    np.testing.assert_array_equal(again.values, series.values)
    with pytest.raises(InputError, match=r"empty\.csv:7: eur_mwh"):
        read_series(empty, "eur_mwh", "price", zone="UTC")
    with pytest.raises(InputError, match=r"gz:2: utc.*UTC offset"):
        read_series(path, "eur_mwh", "price")
    with pytest.raises(InputError, match="did you mean 'eur_mwh'"):
        read_series(path, "eur_mhw", "price", zone="UTC")
    with pytest.raises(InputError, match="not there"):
        read_series(tmp_path / "none.csv", "x", "x")
    plain = tmp_path / "plain.csv"
    plain.write_text("time,v\n2020-01-01T00:00+01:00,1\n2020-01-01T01:00+01:00,nan\n")
    with pytest.raises(InputError, match=r"plain\.csv:3: v"):
        read_series(plain, "v", "v")
