"""Fit the equivalent circuit to the DFN, chemistry by chemistry, and write core/battery/fitted.py.

    python -m benchmarks.fit_cells [--chemistry NMC ...] [--out core/battery/fitted.py]

Needs the extra `twin`. About a minute a chemistry on one core. Six days fit, eight others judge (envs.reference.days).
Resistances and lag are piecewise linear over SoC, Arrhenius over temperature. The RC pair is kept below 90 s and the lag above
150 s, so that they do not stand in for each other; what the days do not determine (below 8 and above 92 %) is held to its
neighbours by a penalty on the curvature of the logarithms.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from core.battery.cells import FITTED, soc_table, temperature_table
from core.battery.fit_record import FitError, FittedCell
from core.devices import Chemistry
from envs.reference.cell import cell_model
from envs.reference.compare import CircuitCell, accepted, circuit_day, error
from envs.reference.days import FIT_DAYS, UNSEEN_DAYS, CellDay, simulate_day
from envs.reference.parameters import SETS

FloatArray = NDArray[np.float64]
KNOTS = np.array([0.0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0])
N = len(KNOTS)
BOUNDS = {  # logarithms' bounds of r0, r1 (Ohm Ah), lag (h), then tau1, tau_lag (s), heat capacity and cooling per Ah
    "r0": (1e-3, 1.0), "r1": (1e-4, 1.0), "lag": (1e-4, 0.4), "tau1": (15.0, 90.0), "tau_lag": (150.0, 7200.0),
    "heat": (5.0, 120.0), "cooling": (2e-3, 0.2),
}  # fmt: skip
ACTIVATION_K = (0.0, 5000.0)
WEIGHT_V, WEIGHT_SOC, WEIGHT_K = 0.004, 0.001, 0.1
"""Errors that count alike."""
CURVATURE = 2.0
CITATION = {
    "Prada2013": "Prada et al., J. Electrochem. Soc. 160 (2013) A616: A123 26650, 2.3 Ah",
    "Chen2020": "Chen et al., J. Electrochem. Soc. 167 (2020) 080534: LG INR21700 M50, 5 Ah",
    "Ramadass2004": "Ramadass et al., J. Electrochem. Soc. 151 (2004) A196: Sony 18650, 1.8 Ah",
    "NCA_Kim2011": "Kim et al., J. Electrochem. Soc. 158 (2011) A955: NCA pouch, unit of 0.43 Ah",
}


def cell_of(theta: FloatArray, shape: FittedCell) -> FittedCell:
    """The parameter vector as a cell: logarithms of 3 N table values, 2 times, 2 thermal values; then 3 activations in 1000 K."""
    r0, r1, lag = np.exp(theta[: 3 * N]).reshape(3, N)
    tau1, tau_lag, heat, cooling = np.exp(theta[3 * N : 3 * N + 4])
    a, b, c = (1000.0 * theta[3 * N + 4 :]).tolist()
    return dataclasses.replace(
        shape,
        r0_ohm_ah=tuple(r0.tolist()), r1_ohm_ah=tuple(r1.tolist()), lag_h=tuple(lag.tolist()), tau1_s=float(tau1),
        tau_lag_s=float(tau_lag), heat_capacity_j_per_k_ah=float(heat), cooling_w_per_k_ah=float(cooling), activation_k=(a, b, c),
    )  # fmt: skip


def circuit(cell: FittedCell) -> CircuitCell:
    """The new cell at the published size."""
    q = cell.capacity_ah
    parameters = np.array([
        q, 1.0, 1.0 / q, 0.0, cell.tau1_s, cell.tau_lag_s, 1.0,
        cell.heat_capacity_j_per_k_ah * q, cell.cooling_w_per_k_ah * q, 0.0, 1.0,
    ])  # fmt: skip
    return CircuitCell(parameters, soc_table(cell)[None], temperature_table(cell)[None])


def fit(shape: FittedCell, days: Sequence[CellDay]) -> FittedCell:
    """The cell that follows the days best; soft L1 loss, so that a few minutes at a knee do not decide."""

    def residuals(theta: FloatArray) -> FloatArray:
        cell = circuit(cell_of(theta, shape))
        parts = []
        for day in days:
            made = circuit_day(cell, day)
            parts.append((made.voltage_v - day.voltage_v)[::2] / WEIGHT_V)
            parts.append((made.soc - day.soc)[::15] / WEIGHT_SOC)
            parts.append((made.temperature_c - day.temperature_c)[::15] / WEIGHT_K)
        parts.append(CURVATURE * np.diff(theta[: 3 * N].reshape(3, N), 2).ravel())
        return np.nan_to_num(np.concatenate(parts), nan=1e3, posinf=1e3, neginf=-1e3)

    names = ["r0"] * N + ["r1"] * N + ["lag"] * N + ["tau1", "tau_lag", "heat", "cooling"]
    lower = np.array([np.log(BOUNDS[name][0]) for name in names] + [ACTIVATION_K[0] / 1000.0] * 3)
    upper = np.array([np.log(BOUNDS[name][1]) for name in names] + [ACTIVATION_K[1] / 1000.0] * 3)
    guess = np.log([0.08] * N + [0.04] * N + [0.05] * N + [60.0, 900.0, 20.0, 0.02]).tolist() + [2.0] * 3
    found = least_squares(residuals, guess, bounds=(lower, upper), loss="soft_l1", max_nfev=150, x_scale="jac")
    return cell_of(found.x, shape)


def fitted(chemistry: Chemistry) -> FittedCell:
    """Simulate, fit, judge."""
    electrodes = cell_model(chemistry, "DFN").electrodes
    zero = FitError(voltage_mv=0.0, soc_pct=0.0, temperature_k=0.0)
    shape = FittedCell(
        source=CITATION[SETS[chemistry]],
        fitted_on=f"{datetime.now(UTC):%Y-%m-%d}",
        capacity_ah=electrodes.new.capacity_ah,
        on_fit_days=zero,
        on_unseen_days=zero,
        ocv_v=tuple(np.maximum.accumulate(electrodes.ocv_table(101)).round(5).tolist()),
        docv_dt_mv_per_k=tuple((1e3 * electrodes.entropy_table(21)).round(4).tolist()),
        soc_knots=tuple(KNOTS.tolist()),
        r0_ohm_ah=(), r1_ohm_ah=(), lag_h=(), tau1_s=0.0, tau_lag_s=0.0, activation_k=(0.0, 0.0, 0.0),
        heat_capacity_j_per_k_ah=0.0, cooling_w_per_k_ah=0.0,
    )  # fmt: skip
    known = [simulate_day(chemistry, day) for day in FIT_DAYS]
    unseen = [simulate_day(chemistry, day) for day in UNSEEN_DAYS]
    cell = rounded(held(fit(shape, known)))
    made = circuit(cell)
    return dataclasses.replace(
        cell,
        on_fit_days=error([circuit_day(made, day) for day in known], known),
        on_unseen_days=error([circuit_day(made, day) for day in unseen], unseen),
    )


def held(cell: FittedCell) -> FittedCell:
    """Lag below 6 and above 95 % as at 6 and 95 %: no day comes there, and the OCV's slope would magnify what the fit made up."""
    low, high = int(np.searchsorted(KNOTS, 0.06)), int(np.searchsorted(KNOTS, 0.95))
    lag = np.clip(np.arange(N), low, high)
    return dataclasses.replace(cell, lag_h=tuple(np.asarray(cell.lag_h)[lag].tolist()))


def rounded(cell: FittedCell) -> FittedCell:
    """Four significant digits: what is written is what is judged."""

    def digits(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.4g}")
        return tuple(digits(v) for v in value) if isinstance(value, tuple) else value

    kept = {"ocv_v", "docv_dt_mv_per_k", "soc_knots", "capacity_ah"}
    changes = {f.name: digits(getattr(cell, f.name)) for f in dataclasses.fields(cell) if f.name not in kept}
    return dataclasses.replace(cell, **changes)  # type: ignore[arg-type]


def module_text(cells: dict[Chemistry, FittedCell]) -> str:
    """core/battery/fitted.py, to be formatted by ruff."""
    lines = [
        '"""Cells fitted to the DFN of their publication. Written by `python -m benchmarks.fit_cells`; not to be edited by hand.',
        "",
        "Not here: what is not fitted (coulomb efficiency, self-discharge, ageing: core.battery.cells).",
        '"""',
        "",
        "from collections.abc import Mapping",
        "",
        "from core.battery.fit_record import FitError, FittedCell",
        "from core.devices import Chemistry",
        "",
        "# fmt: off",
        "FITTED: Mapping[Chemistry, FittedCell] = {",
    ]
    for chemistry, cell in cells.items():
        lines.append(f"    Chemistry.{chemistry.name}: FittedCell(")
        for f in dataclasses.fields(cell):
            value = getattr(cell, f.name)
            if isinstance(value, FitError):
                numbers = (
                    f"voltage_mv={value.voltage_mv:.2f}, soc_pct={value.soc_pct:.3f}, temperature_k={value.temperature_k:.3f}"
                )
                lines.append(f"        {f.name}=FitError({numbers}),")
            elif isinstance(value, tuple):
                lines += wrapped(f.name, [f"{v:g}" if isinstance(v, float) else repr(v) for v in value])
            else:
                lines.append(f"        {f.name}={value!r},".replace("'", '"'))
        lines.append("    ),")
    return "\n".join([*lines, "}", "# fmt: on", ""])


def wrapped(name: str, numbers: Sequence[str], width: int = 118) -> list[str]:
    """A tuple over as many lines as it takes."""
    lines, line = [f"        {name}=("], "            "
    for number in numbers:
        if len(line) + len(number) > width:
            lines.append(line.rstrip())
            line = "            "
        line += f"{number}, "
    return [*lines, line.rstrip(), "        ),"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chemistry", nargs="*", choices=[c.value for c in Chemistry], default=[c.value for c in Chemistry])
    parser.add_argument("--out", type=Path, default=Path("core/battery/fitted.py"))
    options = parser.parse_args()
    cells = dict(FITTED)
    for name in options.chemistry:
        chemistry = Chemistry(name)
        cells[chemistry] = cell = fitted(chemistry)
        verdict = "accepted" if accepted(chemistry, cell.on_unseen_days) else "NOT accepted"
        print(f"{name}: fit {cell.on_fit_days}, unseen {cell.on_unseen_days}: {verdict}", flush=True)
    options.out.write_text(module_text(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
