"""Fits a pack's factors to its telemetry: bounded least squares with a robust loss and the chemistry as prior.

    min over log f of  sum_k w rho(r_k / sigma)  +  sum_i (log f_i / s_i)^2,    rho = soft L1

r: simulated minus measured voltage, SoC and temperature of the first three quarters of the data; w counts the samples of a
quarter of an hour as one, because errors of neighbours are alike. The last quarter is held out: it gives the score, and decides
whether the fit is better than what is in use. Method: least squares on the output error of an equivalent circuit, Plett, Battery
Management Systems I (2015), ch. 2; soft L1 after Triggs et al., "Bundle adjustment" (2000). Not here: the windows
(core.calibration_series), where the result is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from core.calibration import FACTORS, NOMINAL, Factors
from core.calibration_series import STEP_S, Excitation, PackRecord, Windows, excitation, windows_of
from core.devices import DeviceConfig
from core.pack import ecm_parameters
from core.twin import run_circuit

FloatArray = NDArray[np.float64]
VOLTAGE_V, SOC, TEMPERATURE = 1, 5, -1
OCV_V = 4
"""Columns of a history of the circuit."""
SIGMA_CELL_V, SIGMA_SOC, SIGMA_K = 0.005, 0.005, 0.5
"""What counts as one unit of error: 5 mV a cell, 0.5 % SoC, 0.5 K."""
TRUSTED_SCORE = 0.5
"""Below, a dispatcher takes predictions for missing by default (serving.dispatch.inputs): such a fit would cost the plan."""
INDEPENDENT_S = 900.0
PRIOR: Mapping[str, float] = {"resistance": 0.5, "capacity": 0.1, "cooling": 0.5, "heat_capacity": 0.3}
"""How far (log) a real pack is taken to be from its chemistry's parameters."""
BOUNDS: Mapping[str, tuple[float, float]] = {
    "resistance": (0.25, 6.0), "capacity": (0.6, 1.3), "cooling": (0.1, 10.0), "heat_capacity": (0.3, 3.0),
}  # fmt: skip
THERMAL = ("cooling", "heat_capacity")
HELD_OUT_SHARE = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Needed:
    """The least excitation that a fit is made from."""

    hours: float = 24.0
    steady_hours: float = 4.0
    current_range_per_h: float = 0.2
    soc_swing_pct: float = 15.0
    temperature_rise_k: float = 1.5
    """Below it the thermal factors stay as they are; the others are fitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of the circuit against held-out telemetry, root mean square; `cost` is what the fit minimises, per sample."""

    voltage_mv_per_cell: float
    soc_pct: float
    temperature_k: float
    cost: float
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The outcome for one device. `factors` is None when it was refused before anything was fitted."""

    accepted: bool
    reason: str
    factors: Factors | None = None
    score: float | None = None
    before: Errors | None = None
    after: Errors | None = None
    excitation: Excitation | None = None
    relative_errors: Mapping[str, float] = field(default_factory=dict)
    """Standard error of each fitted factor, as a share of it."""
    held: tuple[str, ...] = ()
    """Factors that were not fitted, for want of temperature rise."""


def fit_pack(
    config: DeviceConfig,
    record: PackRecord,
    *,
    present: Factors = NOMINAL,
    ambient_time_s: FloatArray | None = None,
    ambient_c: FloatArray | None = None,
    needed: Needed = Needed(),
) -> Fit:
    """Fit a device; `present` is what the twin uses now. A refusal is a result, not an error."""
    clean = record.cleaned()
    windows = windows_of(clean, ambient_time_s, ambient_c)
    if windows is None:
        return Fit(accepted=False, reason=f"too little telemetry: {len(clean.time_s)} usable samples, none an hour without a gap")
    row = ecm_parameters(config, float(np.median(clean.soh_pct)))
    split = _split(windows)
    shown = excitation(windows, float(row[0]))
    lacking = _lacking(shown, needed) or ("one window only: nothing to hold out" if split == 0 else "")
    if not lacking:
        lacking = _lacking_part(windows[:split], "fitted", float(row[0]), needed)
        lacking = lacking or _lacking_part(windows[split:], "held-out", float(row[0]), needed)
    if lacking:
        return Fit(accepted=False, reason=f"too little excitation: {lacking}", excitation=shown)
    held = () if excitation(windows[:split], float(row[0])).temperature_rise_k >= needed.temperature_rise_k else THERMAL
    model = _Model(config, row, windows[:split])
    factors, spread, at_bound = _least_squares(model, present, held)
    before, after = (_Model(config, row, windows[split:]).errors(f) for f in (present, factors))
    found = Fit(
        accepted=False, reason="", factors=factors, score=after.score, before=before, after=after, excitation=shown,
        relative_errors=spread, held=held,
    )  # fmt: skip
    if at_bound:
        return _said(found, False, f"not accepted: {', '.join(at_bound)} ended at its bound")
    if after.cost > before.cost:
        return _said(
            found,
            False,
            f"not accepted: worse than the present one on held-out data (cost {after.cost:.4g} against {before.cost:.4g})",
        )
    if after.score < TRUSTED_SCORE:
        why = f"not accepted: explains {after.score:.2f} of the held-out voltage's departure (needed {TRUSTED_SCORE:.2f})"
        return _said(found, False, f"{why}; a dispatcher would not plan on it")
    kept = f"; {' and '.join(held)} kept: rise over ambient {shown.temperature_rise_k:.1f} K" if held else ""
    return _said(found, True, f"accepted: held-out cost {after.cost:.4g} against {before.cost:.4g}{kept}")


def _said(fit: Fit, accepted: bool, reason: str) -> Fit:
    return Fit(**{**{name: getattr(fit, name) for name in fit.__slots__}, "accepted": accepted, "reason": reason})


def _lacking(shown: Excitation, needed: Needed) -> str:
    parts = []
    for name, text, unit in (
        ("hours", "telemetry", "h"),
        ("steady_hours", "steady power", "h"),
        ("current_range_per_h", "current range", "C"), ("soc_swing_pct", "SoC swing", "%"),
    ):  # fmt: skip
        value, least = getattr(shown, name), getattr(needed, name)
        if value < least:
            parts.append(f"{text} {value:.3g} {unit} (needed {least:g} {unit})")
    return ", ".join(parts)


def _lacking_part(windows: Windows, which: str, capacity_ah: float, needed: Needed) -> str:
    """Both parts must show current; half of what the whole must show."""
    shown = excitation(windows, capacity_ah).current_range_per_h
    least = 0.5 * needed.current_range_per_h
    return "" if shown >= least else f"current range {shown:.3g} C in the {which} part (needed {least:g} C)"


def _split(windows: Windows) -> int:
    """The first window that is held out: the last quarter of the data; 0 when there is but one."""
    hours = np.cumsum(np.isfinite(windows.soc).sum(axis=1))
    return int(min(np.searchsorted(hours, (1.0 - HELD_OUT_SHARE) * hours[-1]) + 1, len(windows) - 1))


class _Model:
    """The circuit run through windows."""

    def __init__(self, config: DeviceConfig, row: FloatArray, windows: Windows) -> None:
        self._config, self._row, self._windows = config, row, windows
        self._seen = tuple(np.isfinite(values) for values in (windows.voltage_v, windows.soc, windows.temperature_c))

    def history(self, factors: Factors) -> FloatArray:
        """(W, N, columns); each window starts from its own first measurements."""
        w = self._windows
        row = factors.apply(self._row)
        soc = np.clip(np.median(w.first_soc + w.first_ah / row[0], axis=1), 0.0, 1.0)
        chemistries = [self._config.chemistry] * len(w)
        rows = np.tile(row, (len(w), 1))
        return run_circuit(chemistries, rows, soc, w.first_temperature_c, w.power_w, w.ambient_c, STEP_S)

    def gaps(self, factors: Factors) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Simulated minus measured, in units of sigma: voltage, SoC, temperature (empty where ambient is not known)."""
        made, w = self.history(factors), self._windows
        volts, soc, temperature = self._seen
        sigma_v = SIGMA_CELL_V * self._config.series_cells
        return (
            (made[..., VOLTAGE_V] - w.voltage_v)[volts] / sigma_v,
            (made[..., SOC] - w.soc)[soc] / SIGMA_SOC,
            (made[..., TEMPERATURE] - w.temperature_c)[temperature & w.ambient_known] / SIGMA_K,
        )

    def errors(self, factors: Factors) -> Errors:
        """Figures of merit on these windows."""
        volts, soc, temperature = self.gaps(factors)
        made, seen = self.history(factors), self._seen[0]
        loaded = (self._windows.voltage_v - made[..., OCV_V])[seen]
        return Errors(
            voltage_mv_per_cell=1e3 * SIGMA_CELL_V * _rms(volts),
            soc_pct=100.0 * SIGMA_SOC * _rms(soc),
            temperature_k=SIGMA_K * _rms(temperature),
            cost=float(sum(np.mean(_soft_l1(np.square(gap))[0]) for gap in (volts, soc, temperature) if len(gap))),
            score=score(SIGMA_CELL_V * self._config.series_cells * volts, loaded),
        )


def score(error_v: FloatArray, loaded_v: FloatArray) -> float:
    """Share (0-1) of the departure of measured voltage from open circuit that the circuit explains; 0 where nothing departs.

    1 - sum (V - V_simulated)^2 / sum (V - OCV)^2 over held-out samples, not below 0. OCV is that at the simulated SoC.
    """
    total = float(np.square(loaded_v).sum())
    return float(np.clip(1.0 - np.square(error_v).sum() / total, 0.0, 1.0)) if total > 0 else 0.0


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if len(values) else 0.0


def _soft_l1(z: FloatArray) -> FloatArray:
    """rho(z), its first and second derivative, z = r^2; shape (3, K)."""
    root = np.sqrt(1.0 + z)
    return np.stack([2.0 * (root - 1.0), 1.0 / root, -0.5 / root**3])


def _least_squares(model: _Model, present: Factors, held: Sequence[str]) -> tuple[Factors, dict[str, float], list[str]]:
    """Factors, the relative standard error of each, and the names of those that ended at a bound."""
    free = [name for name in FACTORS if name not in held]
    prior = np.array([PRIOR[name] for name in free])
    low, high = (np.log([BOUNDS[name][k] for name in free]) for k in (0, 1))

    def factors(x: FloatArray) -> Factors:
        return Factors(**{**{name: getattr(present, name) for name in held}, **dict(zip(free, np.exp(x).tolist(), strict=True))})

    def residuals(x: FloatArray) -> FloatArray:
        return np.concatenate([*model.gaps(factors(x)), x / prior])

    start, steps = np.zeros(len(free)), np.full(len(free), 1e-4)
    found = least_squares(
        residuals, start, bounds=(low, high), loss=_loss(len(free)), x_scale=prior, max_nfev=60, diff_step=steps
    )
    jacobian = np.asarray(found.jac)
    curvature = jacobian.T @ jacobian  # already weighted by the loss
    spread = np.sqrt(np.maximum(np.diag(np.linalg.pinv(curvature)), 0.0))
    near = 1e-3
    at_bound = [name for name, x, a, b in zip(free, found.x, low, high, strict=True) if x - a < near or b - x < near]
    return factors(found.x), dict(zip(free, spread.tolist(), strict=True)), at_bound


def _loss(priors: int) -> Any:  # noqa: ANN401 - scipy's type of a loss is private
    """Soft L1 on data, with neighbours counted together; the last `priors` residuals stay squares."""
    weight = STEP_S / INDEPENDENT_S

    def loss(z: FloatArray) -> FloatArray:
        rho = weight * _soft_l1(z)
        rho[:, -priors:] = np.stack([z[-priors:], np.ones(priors), np.zeros(priors)])
        return rho

    return loss
