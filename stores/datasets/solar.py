"""PV power and ambient temperature from one station's typical year (TMY3), by means of pvlib.

Here: `pv_profile` (what happens) and `pv_from_clearness` (also used for forecasts). Not here: measured PV.

The weather is that of Greensboro, North Carolina (TMY3 station 723170, in pvlib's own package), whatever the site's
place: its clearness (global irradiance over that of a clear sky) and its air temperature are taken at the same day of
the year and the same mean solar time, and the sun's path is the site's own. It is plausible weather, not the site's.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError, StoreError
from core.series import Series

FloatArray = NDArray[np.float64]

QUARTER_S = 900.0
STATION_FILE = "723170TYA.CSV"
YEAR_H = 8760.0
LOW_SUN_DEG = 8.0
"""Below this elevation clearness is a quotient of small numbers; it is interpolated in time instead."""
CLEARNESS_MAX = 1.15
TEMPERATURE_COEFFICIENT_PER_K = -0.0037
SYSTEM_LOSS_SHARE = 0.14
"""PVWatts version 5 default: soiling, shading, mismatch, wiring, availability."""
INVERTER_EFFICIENCY = 0.96


@dataclass(frozen=True, slots=True)
class Weather:
    """One typical year by mean solar hour of the year (ascending, period 8,760 h); arrays of shape (N,)."""

    clearness_h: FloatArray
    clearness: FloatArray
    temperature_h: FloatArray
    temperature_c: FloatArray


def pv_profile(
    kwp: float, tilt: float, azimuth: float, *, lat: float, lon: float, start: datetime, days: int
) -> tuple[Series, Series]:
    """`pv_w` and `ambient_c` for `days` times 24 h from `start` (aware), 15 min.

    Degrees; azimuth 180 is south. Raises InputError when start is naive or days < 1, StoreError without pvlib.
    """
    begin = _checked(start, days)
    steps = round(days * 86_400 / QUARTER_S)
    clearness, ambient_c = weather_at(begin, steps, lon)
    values = pv_from_clearness(kwp, tilt, azimuth, lat=lat, lon=lon, start=begin, clearness=clearness, ambient_c=ambient_c)
    return Series("pv_w", begin, QUARTER_S, values), Series("ambient_c", begin, QUARTER_S, ambient_c)


def weather_at(start: datetime, steps: int, lon: float) -> tuple[FloatArray, FloatArray]:
    """Clearness (0 to 1.15) and air temperature (deg C) of the typical year, each of shape (steps,)."""
    year = _weather()
    hours = _solar_hour_of_year(start, steps, lon)
    clearness = np.interp(hours, year.clearness_h, year.clearness, period=YEAR_H)
    temperature = np.interp(hours, year.temperature_h, year.temperature_c, period=YEAR_H)
    return clearness, temperature


def clear_sky_w_per_m2(lat: float, lon: float, start: datetime, steps: int) -> FloatArray:
    """Global horizontal irradiance of a clear sky at the middle of each step (Haurwitz 1945); shape (steps,)."""
    pvlib = _pvlib()
    position = pvlib.solarposition.get_solarposition(_middles(start, steps), lat, lon)
    ghi: FloatArray = pvlib.clearsky.haurwitz(position["apparent_zenith"])["ghi"].to_numpy(dtype=np.float64)
    return ghi


def pv_from_clearness(
    kwp: float,
    tilt: float,
    azimuth: float,
    *,
    lat: float,
    lon: float,
    start: datetime,
    clearness: FloatArray,
    ambient_c: FloatArray,
) -> FloatArray:
    """PV power (AC), W, of 15 min steps from `start`; shape of `clearness`.

    Clear sky after Haurwitz, times clearness; direct and diffuse parts after Erbs; isotropic sky on the tilted plane;
    cell temperature after Faiman at 1 m/s; PVWatts with its default losses.
    """
    steps = len(clearness)
    if kwp <= 0:
        return np.zeros(steps)
    pvlib = _pvlib()
    times = _middles(start, steps)
    position = pvlib.solarposition.get_solarposition(times, lat, lon)
    zenith = position["apparent_zenith"]
    ghi = pvlib.clearsky.haurwitz(zenith)["ghi"] * clearness
    parts = pvlib.irradiance.erbs(ghi, zenith, times)
    plane = pvlib.irradiance.get_total_irradiance(
        tilt, azimuth, zenith, position["azimuth"], parts["dni"], ghi, parts["dhi"], model="isotropic"
    )["poa_global"]
    irradiance = np.nan_to_num(plane.to_numpy(dtype=np.float64), nan=0.0)  # NaN: the sun is below the horizon
    cell_c = np.asarray(pvlib.temperature.faiman(irradiance, ambient_c, 1.0), dtype=np.float64)
    dc_w = kwp * irradiance * (1.0 + TEMPERATURE_COEFFICIENT_PER_K * (cell_c - 25.0))
    power: FloatArray = np.clip(dc_w * (1.0 - SYSTEM_LOSS_SHARE) * INVERTER_EFFICIENCY, 0.0, kwp * 1000.0)
    return power


def _checked(start: datetime, days: int) -> datetime:
    if start.tzinfo is None or start.timestamp() % QUARTER_S:
        raise InputError(
            source="pv profile", field="start", value=start.isoformat(), expected="a quarter hour with its UTC offset"
        )
    if days < 1:
        raise InputError(source="pv profile", field="days", value=days, expected="at least 1")
    return start.astimezone(UTC)


def _solar_hour_of_year(start: datetime, steps: int, lon: float) -> FloatArray:
    """Hours since the year began, at mean solar time, at the middle of each step; the leap day repeats into January."""
    begin = start.astimezone(UTC)
    since = (begin - datetime(begin.year, 1, 1, tzinfo=UTC)).total_seconds()
    hours = (since + QUARTER_S * (np.arange(steps) + 0.5)) / 3600.0 + lon / 15.0
    return np.asarray(hours, dtype=np.float64)


def _middles(start: datetime, steps: int) -> Any:  # noqa: ANN401  (a pandas index; pandas is untyped here)
    import pandas as pd

    first = pd.Timestamp(start.astimezone(UTC)) + pd.Timedelta(seconds=QUARTER_S / 2)
    return pd.date_range(first, periods=steps, freq=pd.Timedelta(seconds=QUARTER_S))


@lru_cache(maxsize=1)
def _weather() -> Weather:
    """The station's year. Its stamps are the ends of hours in standard time."""
    pvlib = _pvlib()
    path = Path(pvlib.__file__).parent / "data" / STATION_FILE
    if not path.exists():
        raise StoreError(f"{path}: pvlib's TMY3 station is missing; reinstall pvlib")
    frame, meta = pvlib.iotools.read_tmy3(path, coerce_year=2023, map_variables=True)
    offset_h = 0.5 + float(meta["longitude"]) / 15.0 - float(meta["TZ"])
    hour = np.arange(len(frame), dtype=np.float64) + offset_h
    import pandas as pd

    middles = frame.index - pd.Timedelta(minutes=30)
    zenith = pvlib.solarposition.get_solarposition(middles, meta["latitude"], meta["longitude"])["apparent_zenith"]
    clear = pvlib.clearsky.haurwitz(zenith)["ghi"].to_numpy(dtype=np.float64)
    usable = zenith.to_numpy() < 90.0 - LOW_SUN_DEG
    ghi = frame["ghi"].to_numpy(dtype=np.float64)
    clearness = np.clip(ghi[usable] / clear[usable], 0.0, CLEARNESS_MAX)
    return Weather(hour[usable], np.asarray(clearness, dtype=np.float64), hour, frame["temp_air"].to_numpy(dtype=np.float64))


def _pvlib() -> Any:  # noqa: ANN401  (an untyped optional package)
    try:
        import pvlib
        import pvlib.iotools
    except ImportError as error:
        raise StoreError("PV profiles need the package pvlib: install pulsebms-optimizer[data]") from error
    return pvlib
