"""Load, PV and scenarios: days of any length, energy sums, the sun's place, and no look into the future."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.series import Series
from core.site import SiteConfig
from core.yamlconfig import parse_model
from stores.datasets import build_scenario, load_profile, pv_profile, replay_shift
from stores.datasets.load import actual_load

ZONE = ZoneInfo("Europe/Amsterdam")
DAY = timedelta(days=1)
DEMO = (Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml").read_text(encoding="utf-8")
SITE = parse_model(DEMO, "demo.yaml", SiteConfig)
YEAR_2023 = datetime(2022, 12, 1, tzinfo=UTC)
PRICES = Series("day_ahead_price_eur_per_kwh", YEAR_2023, 3600.0, np.arange(460 * 24) * 1e-5)


@pytest.mark.parametrize(("day", "quarters"), [((2026, 3, 29), 92), ((2026, 10, 25), 100), ((2026, 6, 1), 96)])
def test_load_days_follow_the_wall_clock(day, quarters):
    start = datetime(*day, tzinfo=ZONE)
    load = load_profile(100_000, "G0", start, 1, "Europe/Amsterdam")
    assert len(load) == quarters
    assert load.start == start
    # The evening is at the same place of the profile, whatever the night's length.
    usual = load_profile(100_000, "G0", start + 7 * DAY, 1, "Europe/Amsterdam")
    if quarters == 92:
        assert load.values[-40:] == pytest.approx(usual.values[-40:], rel=1e-3)


@pytest.mark.parametrize("profile", ["H0", "G0", "G3", "L1"])
@pytest.mark.parametrize("year", [2024, 2026])
def test_a_year_of_load_has_the_annual_energy(profile, year):
    days = 366 if year == 2024 else 365
    load = load_profile(50_000, profile, datetime(year, 1, 1, tzinfo=ZONE), days, "Europe/Amsterdam")
    assert len(load) == days * 96
    assert load.values.sum() * 0.25 / 1000 == pytest.approx(50_000)
    assert (load.values > 0).all()


def test_general_business_works_by_day_and_rests_on_sunday():
    week = load_profile(50_000, "G0", datetime(2026, 6, 1, tzinfo=ZONE), 7, "Europe/Amsterdam").values.reshape(7, 96)
    assert week[0, 44] > 2 * week[0, 8]
    assert week[6].sum() < 0.8 * week[0].sum()


def test_wrong_arguments_are_named():
    start = datetime(2026, 6, 1, tzinfo=ZONE)
    with pytest.raises(InputError, match="G9"):
        load_profile(1, "G9", start, 1, "Europe/Amsterdam")
    with pytest.raises(InputError, match="quarter hour"):
        load_profile(1, "G0", start + timedelta(minutes=1), 1, "Europe/Amsterdam")
    with pytest.raises(InputError, match="aware"):
        load_profile(1, "G0", start.replace(tzinfo=None), 1, "Europe/Amsterdam")
    with pytest.raises(InputError, match="UTC offset"):
        pv_profile(1, 30, 180, lat=52, lon=5, start=start.replace(tzinfo=None), days=1)
    with pytest.raises(InputError, match="at least 1"):
        build_scenario(SITE, PRICES, start, 0)


def test_actual_load_is_repeatable_and_varies_as_told():
    profile = Series("load_w", YEAR_2023, 900.0, np.full(20_000, 1000.0))
    first, again, other = (actual_load(profile, 0.1, seed).values for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert first.std() == pytest.approx(100, rel=0.25)
    assert (actual_load(profile, 0.5, 3).values >= 200).all()
    assert (actual_load(profile, 0.0, 3).values == 1000).all()


def test_pv_follows_the_sites_own_sun():
    summer, warmth = pv_profile(10, 30, 180, lat=52, lon=5, start=datetime(2026, 6, 10, tzinfo=UTC), days=20)
    winter, cold = pv_profile(10, 30, 180, lat=52, lon=5, start=datetime(2026, 12, 10, tzinfo=UTC), days=20)
    assert summer.values.mean() > 3 * winter.values.mean()
    assert warmth.values.mean() > cold.values.mean() + 10
    by_quarter = summer.values.reshape(20, 96).mean(axis=0)
    centre_h = float((by_quarter * (np.arange(96) + 0.5)).sum() / by_quarter.sum() / 4)
    assert centre_h == pytest.approx(12 - 5 / 15, abs=0.75)  # solar noon in UTC; weather differs between morning and evening
    assert (by_quarter[:10] == 0).all()
    assert summer.values.max() <= 10_000


def test_a_year_of_pv_is_plausible_and_scales():
    start = datetime(2026, 1, 1, tzinfo=UTC)
    year, _ = pv_profile(1, 30, 180, lat=52, lon=5, start=start, days=365)
    assert 900 < year.values.sum() / 4000 < 1300  # kWh/kWp; the Netherlands measure about 900-1000
    double, _ = pv_profile(2, 30, 180, lat=52, lon=5, start=start + 100 * DAY, days=2)
    single = year.window(start + 100 * DAY, 192, 900.0)
    assert double.values == pytest.approx(2 * single)
    none, _ = pv_profile(0, 30, 180, lat=52, lon=5, start=start, days=1)
    assert (none.values == 0).all()


@given(st.integers(0, 12 * 8766), st.sampled_from([2022, 2023]))
def test_replay_moves_whole_weeks_to_the_same_season(hour, year):
    target = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=hour)
    shift = replay_shift(target, year)
    source = target - shift
    assert shift % timedelta(days=7) == timedelta(0)
    assert source.weekday() == target.weekday()
    anchor = target.replace(year=year, day=min(target.day, 28) if target.month == 2 else target.day)
    assert abs(source - anchor) <= timedelta(days=4, hours=12)


@pytest.mark.parametrize("start", [(2026, 11, 22), (2026, 3, 29), (2026, 3, 30), (2026, 10, 25), (2026, 10, 26)])
@pytest.mark.parametrize("days", [1, 2])
def test_a_scenario_covers_history_days_and_tail_on_every_date(start, days):
    begin = datetime(*start, tzinfo=ZONE).astimezone(UTC)
    scenario = build_scenario(SITE, PRICES, begin, days, seed=7)
    for item in fields(scenario):
        series = getattr(scenario, item.name)
        if isinstance(series, Series):
            assert series.start <= begin - DAY, item.name
            assert series.end >= begin + (days + 2) * DAY, item.name
            assert np.isfinite(series.values).all(), item.name
    hours = np.concatenate([series.values for series, _ in scenario.day_ahead])
    assert (hours == scenario.price_eur_per_kwh.values).all()
    source = PRICES.window(scenario.price_eur_per_kwh.start - scenario.price_shift, len(hours), 3600.0)
    assert (hours == source).all()


def test_day_ahead_prices_are_known_from_13_local_the_day_before_and_days_have_their_length():
    scenario = build_scenario(SITE, PRICES, datetime(2026, 3, 28, 23, tzinfo=UTC), 1)
    for series, known_at in scenario.day_ahead:
        local = known_at.astimezone(ZONE)
        assert (local.hour, local.minute) == (13, 0)
        assert local.date() + DAY == series.start.astimezone(ZONE).date()
    lengths = {series.start.astimezone(ZONE).date().isoformat(): len(series) for series, _ in scenario.day_ahead}
    assert lengths["2026-03-29"] == 23
    assert lengths["2026-03-30"] == 24


def test_the_same_seed_gives_the_same_scenario_and_another_only_another_load():
    start = datetime(2026, 6, 20, 22, tzinfo=UTC)
    one, again, other = (build_scenario(SITE, PRICES, start, 1, seed=seed) for seed in (1, 1, 2))
    assert (one.load_w.values == again.load_w.values).all()
    assert (one.load_w.values != other.load_w.values).any()
    assert (one.load_forecast_w.values == other.load_forecast_w.values).all()
    assert (one.pv_w.values == other.pv_w.values).all()


def test_forecasts_err_but_not_wildly():
    scenario = build_scenario(SITE, PRICES, datetime(2026, 6, 20, 22, tzinfo=UTC), 10)
    load_error = scenario.load_w.values / scenario.load_forecast_w.values - 1
    assert 0.02 < load_error.std() < 0.15
    difference = scenario.pv_w.values - scenario.pv_forecast_w.values
    assert 0.01 < np.abs(difference).mean() / scenario.pv_w.values.mean() < 0.8


def test_a_pv_forecast_knows_only_yesterday():
    """The forecast of a midnight is the same whether the scenario ends that day or goes on."""
    start = datetime(2026, 6, 20, 22, tzinfo=UTC)
    short, long = (build_scenario(SITE, PRICES, start, days) for days in (1, 3))
    assert short.pv_ahead[1][1] == start
    series, known_at = short.pv_ahead[1]
    longer, _ = long.pv_ahead[1]
    assert known_at == series.start == start
    assert (series.values == longer.values[: len(series)]).all()
    assert short.pv_forecast_w.window(start, 96, 900.0) == pytest.approx(series.values[:96])


def test_a_given_room_temperature_replaces_the_weathers_but_not_the_suns():
    start = datetime(2026, 6, 20, 22, tzinfo=UTC)
    room = SITE.model_copy(update={"ambient_c": 25.0})
    inside, outside = (build_scenario(site, PRICES, start, 1) for site in (room, SITE))
    assert set(inside.ambient_c.values) == {25.0}
    assert (inside.pv_w.values == outside.pv_w.values).all()


def test_prices_that_do_not_reach_are_named():
    with pytest.raises(InputError, match="day_ahead_price"):
        build_scenario(SITE, Series(PRICES.name, YEAR_2023, 3600.0, PRICES.values[:100]), YEAR_2023 + 1000 * DAY, 1)
