"""One week of a scenario: what happens, and what of it may be known at each moment.

Here: `World`, `make_world`. Eight days of prices lie before the week, two days after it. Not here: plants
(serving.evaluation.plant), deciding (serving.evaluation.replay).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.devices import DeviceConfig
from core.errors import InputError
from core.limits import PackLimits, tightest
from core.series import Series
from core.site import SiteConfig
from envs.read import read_series
from serving.evaluation.config import EvaluationConfig, Market, ScenarioConfig, site_of
from serving.evaluation.five_minute import five_minute_prices
from stores import datasets

FloatArray = NDArray[np.float64]
BACK_DAYS, BEYOND_DAYS = 9, 3
DAY_S = 86_400.0
PUBLICATION_HOUR, FORECAST_HOUR = 13, 12
SOC_JITTER_PCT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A week on the grid of its intervals; arrays (T,) begin BACK_DAYS before `start`."""

    site: SiteConfig
    devices: tuple[DeviceConfig, ...]
    limits: dict[str, PackLimits]
    start: datetime
    steps: int
    dt_s: float
    first: int
    """Row of `start`."""
    price: FloatArray
    expected: FloatArray
    """What is expected of a price before it is known, where there is a forecast; NaN elsewhere: 24 h before."""
    price_known_until: NDArray[np.int64]
    """Row up to which (exclusive) prices are known at each row."""
    expected_until: NDArray[np.int64]
    load_w: FloatArray
    pv_w: FloatArray
    load_forecast_w: FloatArray
    pv_forecast_w: FloatArray
    ambient_c: FloatArray
    start_soc_pct: dict[str, float]
    peak_incurred_w: float = 0.0
    """Highest import of the billing month before `start`; 0 where peaks cost nothing."""

    def at(self, row: int) -> datetime:
        """When a row begins."""
        return self.start + timedelta(seconds=(row - self.first) * self.dt_s)

    def months(self) -> NDArray[np.int64]:
        """Billing (calendar) month of each replayed step, (steps,); a rising number."""
        zone = ZoneInfo(self.site.timezone)
        local = [self.at(self.first + k).astimezone(zone) for k in range(self.steps)]
        return np.array([12 * at.year + at.month for at in local], dtype=np.int64)

    def week(self, values: FloatArray) -> FloatArray:
        """The replayed part of a series, (steps,)."""
        return values[self.first : self.first + self.steps]

    def prices_seen(self, row: int) -> tuple[FloatArray, FloatArray]:
        """At a row: prices from the first row on as known or expected, and past errors (actual less expected) up to it."""
        day = round(DAY_S / self.dt_s)
        known = int(self.price_known_until[row])
        seen = self.price.copy()
        for begin in range(known, len(seen), day):
            end = min(begin + day, len(seen))
            seen[begin:end] = seen[begin - day : end - day]
        stop = int(max(known, self.expected_until[row]))
        forecast = self.expected[known:stop]
        seen[known:stop] = np.where(np.isfinite(forecast), forecast, seen[known:stop])
        before = self.price[: row + 1 - day]
        expected = np.where(np.isfinite(self.expected[day : row + 1]), self.expected[day : row + 1], before)
        return seen, self.price[day : row + 1] - expected

    def sha256(self) -> str:
        """Of everything that a replay sees."""
        digest = hashlib.sha256(f"{self.site.model_dump_json()} {self.start.isoformat()} {self.steps} {self.dt_s}".encode())
        for values in (
            self.price, self.expected, self.price_known_until, self.expected_until, self.load_w, self.pv_w, self.load_forecast_w,
            self.pv_forecast_w, self.ambient_c,
        ):  # fmt: skip
            digest.update(np.ascontiguousarray(values).tobytes())
        digest.update(repr((sorted(self.start_soc_pct.items()), self.peak_incurred_w)).encode())
        return digest.hexdigest()


def make_world(config: EvaluationConfig, scenario: ScenarioConfig, week: date, seed: int, folder: Path, data_dir: Path) -> World:
    """The world of one job. Raises InputError or StoreError when its prices cannot be had."""
    site = site_of(scenario, folder)
    zone = ZoneInfo(site.timezone)
    dt_s = 300.0 if scenario.information == "five_minute" else float(config.interval_s)
    start = datetime.combine(week, time(0), tzinfo=zone).astimezone(UTC)
    begin = start - timedelta(days=BACK_DAYS)
    per_day = round(DAY_S / dt_s)
    count, first = (BACK_DAYS + config.days + BEYOND_DAYS) * per_day, BACK_DAYS * per_day
    prices, forecasts = _prices(scenario.market, folder, str(data_dir))
    if scenario.information == "five_minute" and prices.dt_s > dt_s:
        prices = five_minute_prices(prices, begin - timedelta(days=8), start + timedelta(days=config.days + 4),
                                    scenario.market.noise_seed)  # fmt: skip
    try:
        price = prices.window(begin, count, dt_s)
        expected = forecasts.window(begin, count, dt_s) if forecasts is not None else np.full(count, np.nan)
    except InputError as error:
        raise InputError(
            source=f"scenario {scenario.name}",
            field="weeks",
            value=week.isoformat(),
            expected=f"a week that prices cover: {error}",
        ) from None
    known, foreseen = _known(scenario, begin, count, dt_s, zone)
    rng = np.random.default_rng([seed, week.toordinal()])
    devices = tuple(pack.device_config(site.site_id) for pack in site.packs)
    limits = {
        device.device_id: tightest(
            device, [spec.row(device.device_id, f"row {k}") for k, spec in enumerate(pack.constraints)], start
        )
        for pack, device in zip(site.packs, devices, strict=True)
    }
    soc = {}
    for pack in site.packs:
        bounds = limits[pack.device_id]
        drawn = pack.initial_soc_pct + (rng.uniform(-SOC_JITTER_PCT, SOC_JITTER_PCT) if seed else 0.0)
        soc[pack.device_id] = float(np.clip(drawn, bounds.soc_min_pct + 1.0, bounds.soc_max_pct - 1.0))
    of_site = _site_series(site, prices, begin, count, dt_s, seed, start)
    load_w, pv_w, load_forecast_w, pv_forecast_w, ambient_c, before_w = of_site
    if scenario.peak_incurred_kw is not None:
        before_w = 1000.0 * scenario.peak_incurred_kw
    scale = scenario.forecast_error_scale
    return World(
        site=site, devices=devices, limits=limits, start=start, steps=config.days * per_day, dt_s=dt_s, first=first, price=price,
        expected=expected, price_known_until=known, expected_until=foreseen, load_w=load_w, pv_w=pv_w,
        load_forecast_w=np.maximum(0.0, load_w + scale * (load_forecast_w - load_w)),
        pv_forecast_w=np.maximum(0.0, pv_w + scale * (pv_forecast_w - pv_w)), ambient_c=ambient_c, start_soc_pct=soc,
        peak_incurred_w=before_w if site.grid.peak_price_eur_per_kw > 0 else 0.0,
    )  # fmt: skip


_KEPT: dict[tuple[str, str, str], tuple[Series, Series | None]] = {}


def _prices(market: Market, folder: Path, data_dir: str) -> tuple[Series, Series | None]:
    """(prices, mean of the forecasts or None), EUR/kWh; read once per process."""
    key = (market.model_dump_json(), str(folder), data_dir)
    if key not in _KEPT:
        if market.source == "nl_day_ahead":
            _KEPT[key] = (datasets.load_prices(Path(data_dir)), None)
        else:
            path = folder / str(market.path)
            zone = market.zone or "UTC"

            def column(name: str) -> Series:
                return read_series(path, name, "price_eur_per_kwh", scale=market.scale, zone=zone, most_missing=6)

            price = column(market.column)
            parts = [column(name) for name in market.forecast_columns]
            mean = Series("forecast", price.start, price.dt_s, np.mean([p.values for p in parts], axis=0)) if parts else None
            _KEPT[key] = (price, mean)
    return _KEPT[key]


def _known(
    scenario: ScenarioConfig, begin: datetime, count: int, dt_s: float, zone: ZoneInfo
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows up to which (exclusive) prices are known, and forecast, at each row."""
    stamps = [(begin + timedelta(seconds=k * dt_s)).astimezone(zone) for k in range(count)]
    ordinal = np.array([stamp.toordinal() for stamp in stamps])
    hour = np.array([stamp.hour for stamp in stamps])
    edges = np.concatenate([np.flatnonzero(np.diff(ordinal)) + 1, [count]])
    day = np.searchsorted(edges, np.arange(count), side="right")
    ends = np.concatenate([edges, np.full(2, count)])
    today, tomorrow = ends[day], ends[np.minimum(day + 1, len(ends) - 1)]
    per_hour = max(1, round(3600.0 / dt_s)) if scenario.information != "five_minute" else 1
    reveal = (np.arange(count) // per_hour + 1) * per_hour
    foreseen = np.where(hour >= FORECAST_HOUR, tomorrow, today)
    if scenario.information != "published":
        return reveal.astype(np.int64), foreseen.astype(np.int64)
    known = np.where(hour >= PUBLICATION_HOUR, tomorrow, today)
    every = scenario.faults.unpublished_every_days
    if every is not None:
        # A day without publication is revealed hour by hour, and ends what is known on the day before it.
        silent = ordinal % every == 0
        starts = np.concatenate([[0], edges[:-1]])
        first_silent = np.array([silent[min(s, count - 1)] for s in [*starts, *[count - 1] * 3]])
        known = np.where(silent, reveal, np.where((hour >= PUBLICATION_HOUR) & first_silent[np.minimum(day + 1, len(starts) + 2)],
                                                  today, known))  # fmt: skip
    return known.astype(np.int64), foreseen.astype(np.int64)


def _site_series(
    site: SiteConfig, prices: Series, begin: datetime, count: int, dt_s: float, seed: int, start: datetime
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray, float]:
    """Load, PV, their forecasts, ambient temperature; (T,) each; highest import without packs of the month before `start`, W."""
    if site.load.annual_kwh == 0.0 and site.pv.kwp == 0.0 and site.ambient_c is not None:
        none = np.zeros(count)
        return none, none, none, none, np.full(count, site.ambient_c), 0.0
    month = start.astimezone(ZoneInfo(site.timezone)).replace(day=1, hour=0).astimezone(UTC)
    # The load's deviations follow from where they begin: earlier only where the month's peak has a price.
    first = min(begin, month) if site.grid.peak_price_eur_per_kw > 0 else begin
    days = int(np.ceil((count * dt_s + (begin - first).total_seconds()) / DAY_S)) - datasets_tail()
    made = datasets.build_scenario(site, prices, first, days, history_days=1, seed=seed, data_year=first.year)
    parts = (made.load_w, made.pv_w, made.load_forecast_w, made.pv_forecast_w, made.ambient_c)
    load, pv, load_f, pv_f, ambient = (series.window(begin, count, dt_s) for series in parts)
    before = round((start - month).total_seconds() / dt_s)
    peak_w = 0.0
    if before and first <= month:
        net_w = made.load_w.window(month, before, dt_s) - made.pv_w.window(month, before, dt_s)
        peak_w = max(0.0, float(net_w.max()))
    return load, pv, load_f, pv_f, ambient, peak_w


def datasets_tail() -> int:
    """Days that build_scenario adds after the last one."""
    from stores.datasets.scenario import TAIL_DAYS

    return TAIL_DAYS
