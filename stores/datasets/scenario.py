"""A scenario: what happens at a site over some days, and what could be known of it beforehand.

Here: putting prices, load, PV and temperature on one time axis, with honest forecasts. Not here: the single sources.

Prices of a past year are replayed at other dates by a shift of whole weeks (`replay_shift`), so that weekdays agree and
telemetry of the present is not older than the stores keep it. Near the changes of summer time, which fall on other days
in other years, replayed prices may be an hour off local time.

Forecasts: load is the standard profile (actual load varies around it, synthetically); PV of a day is a clear sky times
the clearness of the day before (persistence), issued at local midnight.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from core.errors import InputError
from core.series import FloatArray, Series
from core.site import SiteConfig
from stores.datasets.load import actual_load, load_profile
from stores.datasets.solar import clear_sky_w_per_m2, pv_from_clearness, weather_at

QUARTER_S = 900.0
TAIL_DAYS = 2
"""Days after the last one, so that every horizon is covered."""
PUBLICATION_HOUR = 13
"""Day-ahead prices of a day are known from 13:00 local time of the day before."""
WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Series over whole local days, from at least `history_days` before the start to 2 days after the end."""

    price_eur_per_kwh: Series
    """Day-ahead price, hourly."""
    day_ahead: tuple[tuple[Series, datetime], ...]
    """The same by delivery day (23, 24 or 25 hours), with the moment from which it is known."""
    load_w: Series
    pv_w: Series
    load_forecast_w: Series
    pv_forecast_w: Series
    """Of each day, as issued at its local midnight."""
    pv_ahead: tuple[tuple[Series, datetime], ...]
    """PV forecasts as issued: from the local midnight on which each is known, over the next 3 days."""
    ambient_c: Series
    price_shift: timedelta
    """Whole weeks by which prices were moved; subtract it to find their real dates."""


def replay_shift(target_start: datetime, data_year: int = 2023) -> timedelta:
    """A multiple of 7 days such that `target_start` minus it lies within half a week of the same date in `data_year`.

    Raises InputError when `target_start` is naive.
    """
    if target_start.tzinfo is None:
        raise InputError(
            source="replay", field="target_start", value=target_start.isoformat(), expected="a time with its UTC offset"
        )
    target = target_start.astimezone(UTC)
    day = 28 if (target.month, target.day) == (2, 29) else target.day
    return round((target - target.replace(year=data_year, day=day)) / WEEK) * WEEK


def build_scenario(
    site: SiteConfig,
    prices: Series,
    start: datetime,
    days: int,
    *,
    history_days: int = 1,
    seed: int = 0,
    data_year: int = 2023,
) -> Scenario:
    """The scenario of `days` days from `start` (aware, a full hour); the same arguments give the same numbers.

    Raises InputError for a naive start, a number of days < 1, or prices that do not cover the replayed dates.
    """
    if start.tzinfo is None or start.timestamp() % 3600:
        raise InputError(source="scenario", field="start", value=start.isoformat(), expected="an aware full hour")
    if days < 1 or history_days < 0:
        raise InputError(source="scenario", field="days", value=days, expected="at least 1, and history_days >= 0")
    zone = ZoneInfo(site.timezone)
    first = (start - timedelta(days=history_days)).astimezone(zone).date()
    last = (start + timedelta(days=days + TAIL_DAYS)).astimezone(zone).date()
    dates = [first + timedelta(days=k) for k in range((last - first).days + 1)]
    midnights = [_midnight(day, zone) for day in [*dates, last + timedelta(days=1)]]
    begin, steps = midnights[0], _steps(midnights[0], midnights[-1])
    shift = replay_shift(start, data_year)
    day_ahead = tuple(_day_ahead(prices, shift, day, zone) for day in dates)
    price = Series(day_ahead[0][0].name, begin, 3600.0, np.concatenate([series.values for series, _ in day_ahead]))
    profile = load_profile(site.load.annual_kwh, site.load.profile, begin, len(dates), site.timezone)
    clearness, ambient_c = weather_at(begin, steps, site.location.longitude)
    if site.ambient_c is not None:
        outdoor_c, ambient_c = ambient_c, np.full(steps, site.ambient_c)
    else:
        outdoor_c = ambient_c
    pv_ahead = tuple(_pv_forecast(site, midnights, k) for k in range(len(dates)))
    issued = np.concatenate(
        [series.values[: _steps(a, b)] for (series, _), a, b in zip(pv_ahead, midnights, midnights[1:], strict=False)]
    )
    return Scenario(
        price_eur_per_kwh=price,
        day_ahead=day_ahead,
        load_w=actual_load(profile, site.load.variation, seed),
        pv_w=Series("pv_w", begin, QUARTER_S, _pv(site, begin, clearness, outdoor_c)),
        load_forecast_w=Series("load_forecast_w", profile.start, profile.dt_s, profile.values),
        pv_forecast_w=Series("pv_forecast_w", begin, QUARTER_S, issued),
        pv_ahead=pv_ahead,
        ambient_c=Series("ambient_c", begin, QUARTER_S, ambient_c),
        price_shift=shift,
    )


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(0), tzinfo=zone).astimezone(UTC)


def _steps(begin: datetime, end: datetime) -> int:
    return round((end - begin).total_seconds() / QUARTER_S)


def _day_ahead(prices: Series, shift: timedelta, day: date, zone: ZoneInfo) -> tuple[Series, datetime]:
    begin, end = _midnight(day, zone), _midnight(day + timedelta(days=1), zone)
    hours = round((end - begin).total_seconds() / 3600)
    values = prices.window(begin - shift, hours, 3600.0)
    known_at = datetime.combine(day - timedelta(days=1), time(PUBLICATION_HOUR), tzinfo=zone).astimezone(UTC)
    return Series("day_ahead_price_eur_per_kwh", begin, 3600.0, values), known_at


def _pv(site: SiteConfig, begin: datetime, clearness: FloatArray, ambient_c: FloatArray) -> FloatArray:
    place = site.location
    return pv_from_clearness(
        site.pv.kwp,
        site.pv.tilt_deg,
        site.pv.azimuth_deg,
        lat=place.latitude,
        lon=place.longitude,
        start=begin,
        clearness=clearness,
        ambient_c=ambient_c,
    )


def _pv_forecast(site: SiteConfig, midnights: list[datetime], k: int) -> tuple[Series, datetime]:
    """The forecast of local midnight k: clear sky times yesterday's clearness, for today and two more days."""
    issued_at = midnights[k]
    end = midnights[min(k + 3, len(midnights) - 1)]
    steps, place = _steps(issued_at, end), site.location
    day_before = timedelta(days=1)
    quarters = round(day_before.total_seconds() / QUARTER_S)
    yesterday, warmth_c = weather_at(issued_at - day_before, quarters, place.longitude)
    clear = clear_sky_w_per_m2(place.latitude, place.longitude, issued_at - day_before, quarters)
    share = float(np.sum(clear * yesterday) / max(np.sum(clear), 1e-9))
    values = _pv(site, issued_at, np.full(steps, share), np.full(steps, float(np.mean(warmth_c))))
    return Series("pv_forecast_w", issued_at, QUARTER_S, values), issued_at
