"""The form of a fitted cell. Not here: the numbers (core.battery.fitted), what is made of them (core.battery.cells)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """Root mean square error of the circuit against the DFN over whole days, per cell."""

    voltage_mv: float
    soc_pct: float
    temperature_k: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedCell:
    """One chemistry's cell, new; resistances times the cell's capacity."""

    source: str
    """The electrochemical parameter set that the circuit was fitted to."""
    fitted_on: str
    capacity_ah: float
    """Of the published cell, from its electrode balance."""
    on_fit_days: FitError
    on_unseen_days: FitError
    ocv_v: tuple[float, ...]
    """At 0, 1, ..., 100 % SoC, 25 °C."""
    docv_dt_mv_per_k: tuple[float, ...]
    """At 0, 5, ..., 100 % SoC."""
    soc_knots: tuple[float, ...]
    """SoC (0-1) of the next three; between them linear."""
    r0_ohm_ah: tuple[float, ...]
    r1_ohm_ah: tuple[float, ...]
    lag_h: tuple[float, ...]
    """Lag of the surface SoC (0-1) per unit of I/Q (1/h) in steady state."""
    tau1_s: float
    tau_lag_s: float
    activation_k: tuple[float, float, float]
    """Ea/R of r0, r1 and lag (Arrhenius), K."""
    heat_capacity_j_per_k_ah: float
    cooling_w_per_k_ah: float
    """Heat given off to the air around a cell of a pack."""
