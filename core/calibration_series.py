"""Telemetry of one pack as windows that the circuit can be run through: uniform steps, no gaps, known ambient.

Here: cleaning, gaps, resampling, windows, how much the pack was excited. Not here: the fit (core.calibration_fit).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.telemetry import RANGES

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
STEP_S = 60.0
GAP_S = 300.0
"""Samples further apart are not joined, as in the metrics."""
WINDOW_S = 6 * 3600.0
"""The circuit starts anew from the measurement at least this often: a prediction, too, starts from one."""
SHORTEST_S = 3600.0
SETTLE_S = 1800.0
"""At a window's start the polarisation is not known: voltages count after this."""
FIRST = 15
"""Steps of a window whose measured SoC gives its initial one."""
STEADY_SHARE = 0.05
STEADY_STEPS = 4
"""A voltage counts once power has been within this share of its largest magnitude for as many steps: what happens within
seconds of a change depends on when exactly it came, which samples a minute apart do not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackRecord:
    """Measured samples of one pack, any order; shapes (K,), seconds since 1970, discharge positive."""

    time_s: FloatArray
    voltage_v: FloatArray
    current_a: FloatArray
    power_w: FloatArray
    temperature_c: FloatArray
    soc_pct: FloatArray
    soh_pct: FloatArray

    def cleaned(self) -> PackRecord:
        """In order of time, each moment once, and without samples outside the contract's ranges or not finite."""
        good = np.isfinite(self.time_s)
        for name, unit in (
            ("voltage", "v"),
            ("current", "a"),
            ("power", "w"),
            ("temperature", "c"),
            ("soc", "pct"),
            ("soh", "pct"),
        ):
            low, high, _ = RANGES[name]
            values = getattr(self, f"{name}_{unit}")
            good &= (values >= low) & (values <= high)  # False for NaN
        where = np.flatnonzero(good)
        _, first = np.unique(self.time_s[where], return_index=True)
        return self.taken(where[first])

    def taken(self, where: NDArray[np.intp]) -> PackRecord:
        """The samples at these positions."""
        return PackRecord(**{name: getattr(self, name)[where] for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """W windows of at most N steps of STEP_S; measurements (W, N) at the END of each step, NaN where there is none.

    Power and ambient (W, N) are means over the step, filled where a window is shorter. `first_soc` and `first_ah` (W, FIRST):
    measured SoC (0-1) of the first steps and the charge drawn until then.
    """

    start_s: FloatArray
    power_w: FloatArray
    ambient_c: FloatArray
    voltage_v: FloatArray
    current_a: FloatArray
    soc: FloatArray
    temperature_c: FloatArray
    first_soc: FloatArray
    first_ah: FloatArray
    first_temperature_c: FloatArray
    ambient_known: bool

    def __len__(self) -> int:
        return len(self.start_s)

    def __getitem__(self, rows: slice) -> Windows:
        arrays = {name: getattr(self, name)[rows] for name in self.__slots__ if name != "ambient_known"}
        return Windows(ambient_known=self.ambient_known, **arrays)

    @property
    def hours(self) -> float:
        """Hours with measurements."""
        return float(np.isfinite(self.soc).sum() * STEP_S / 3600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Excitation:
    """How much the telemetry shows of the pack."""

    hours: float
    steady_hours: float
    """Of these with a voltage under steady power."""
    current_range_per_h: float
    """5th to 95th percentile of current over capacity."""
    soc_swing_pct: float
    """Largest change of SoC within one window."""
    temperature_rise_k: float
    """5th to 95th percentile of the rise over ambient; 0 where ambient is not known."""


def windows_of(record: PackRecord, ambient_time_s: FloatArray | None, ambient_c: FloatArray | None) -> Windows | None:
    """Windows of a cleaned record, in order of time; None when no stretch without a gap is SHORTEST_S long.

    Ambient (any K): values that hold from their time on; without them the measured temperature stands in, and what depends on
    ambient cannot be fitted.
    """
    if len(record.time_s) < 2:
        return None
    ends = np.flatnonzero(np.diff(record.time_s) > GAP_S)
    stretches = np.split(np.arange(len(record.time_s)), ends + 1)
    parts = [part for stretch in stretches for part in _stretch(record.taken(stretch), ambient_time_s, ambient_c)]
    if not parts:
        return None
    n = max(len(part["soc"]) for part in parts)

    def padded(name: str, fill: float) -> FloatArray:
        return np.stack([np.pad(part[name], (0, n - len(part[name])), constant_values=fill) for part in parts])

    return Windows(
        start_s=np.array([float(part["start_s"][0]) for part in parts]),
        power_w=padded("power_w", 0.0),
        ambient_c=np.stack([np.pad(part["ambient_c"], (0, n - len(part["ambient_c"])), mode="edge") for part in parts]),
        voltage_v=padded("voltage_v", np.nan),
        current_a=padded("current_a", np.nan),
        soc=padded("soc", np.nan),
        temperature_c=padded("temperature_c", np.nan),
        first_soc=np.stack([part["soc"][:FIRST] for part in parts]),
        first_ah=np.stack([part["charge_ah"][:FIRST] for part in parts]),
        first_temperature_c=np.array([float(np.median(part["temperature_c"][:5])) for part in parts]),
        ambient_known=ambient_time_s is not None,
    )


def _stretch(record: PackRecord, ambient_time_s: FloatArray | None, ambient_c: FloatArray | None) -> list[dict[str, FloatArray]]:
    """A stretch without gaps, resampled and cut."""
    t = record.time_s
    steps = int((t[-1] - t[0]) // STEP_S)
    edges = t[0] + STEP_S * np.arange(steps + 1)
    made = []
    per_window = round(WINDOW_S / STEP_S)
    power, charge_as = _mean(t, record.power_w, edges), np.cumsum(_mean(t, record.current_a, edges)) * STEP_S
    after = edges[1:]
    voltage, current, soc, temperature = (
        np.interp(after, t, values)
        for values in (record.voltage_v, record.current_a, record.soc_pct / 100.0, record.temperature_c)
    )
    voltage[~_steady(np.interp(edges, t, record.power_w))] = np.nan
    if ambient_time_s is None or ambient_c is None:
        ambient = temperature.copy()
    else:
        index = np.clip(np.searchsorted(ambient_time_s, edges[:-1], side="right") - 1, 0, len(ambient_c) - 1)
        ambient = ambient_c[index]
    if steps * STEP_S < SHORTEST_S:
        return []
    bounds = np.linspace(0, steps, -(-steps // per_window) + 1).astype(int).tolist()
    for begin, end in itertools.pairwise(bounds):
        cut = slice(begin, end)
        unsettled = voltage[cut].copy()
        unsettled[: round(SETTLE_S / STEP_S)] = np.nan
        before_as = charge_as[begin - 1] if begin else 0.0
        made.append(
            {
                "start_s": edges[begin : begin + 1],
                "power_w": power[cut],
                "ambient_c": ambient[cut],
                "voltage_v": unsettled,
                "current_a": current[cut],
                "soc": soc[cut],
                "temperature_c": temperature[cut],
                "charge_ah": (charge_as[cut] - before_as) / 3600.0,
            }
        )
    return made


def _steady(power_w: FloatArray) -> BoolArray:
    """Whether power has been steady for STEADY_STEPS steps, at the end of each; shape (len(power_w) - 1,)."""
    reach = STEADY_STEPS + 1
    seen = np.lib.stride_tricks.sliding_window_view(np.concatenate([np.full(STEADY_STEPS, power_w[0]), power_w]), reach)
    steady: BoolArray = (np.ptp(seen, axis=1) <= STEADY_SHARE * max(float(np.abs(power_w).max()), 1.0))[1:]
    return steady


def _mean(t: FloatArray, values: FloatArray, edges: FloatArray) -> FloatArray:
    """Mean of a piecewise linear signal between edges, shape (len(edges) - 1,)."""
    total = np.concatenate([[0.0], np.cumsum(np.diff(t) * 0.5 * (values[1:] + values[:-1]))])
    k = np.clip(np.searchsorted(t, edges, side="right") - 1, 0, len(t) - 2)
    into = edges - t[k]
    slope = (values[k + 1] - values[k]) / (t[k + 1] - t[k])
    means: FloatArray = np.diff(total[k] + into * (values[k] + 0.5 * slope * into)) / np.diff(edges)
    return means


def excitation(windows: Windows, capacity_ah: float) -> Excitation:
    """What windows show; capacity_ah makes a current comparable between packs."""
    soc, current = windows.soc, windows.current_a[np.isfinite(windows.current_a)]
    swing = np.nanmax(soc, axis=1) - np.nanmin(soc, axis=1)
    rise = (windows.temperature_c - windows.ambient_c)[np.isfinite(windows.temperature_c)]
    return Excitation(
        hours=windows.hours,
        steady_hours=float(np.isfinite(windows.voltage_v).sum() * STEP_S / 3600.0),
        current_range_per_h=float(np.subtract(*np.percentile(current, [95, 5])) / capacity_ah),
        soc_swing_pct=float(100.0 * swing.max()),
        temperature_rise_k=float(np.subtract(*np.percentile(rise, [95, 5]))) if windows.ambient_known else 0.0,
    )
