"""Mean absolute error of published day-ahead price forecasts, before and after the online correction, per lead hour.

Run: python benchmarks/forecast_correction.py Forecasts_DE.csv.gz [Forecasts_FR.csv.gz ...]

The files are those of Lago et al., Applied Energy 293 (2021) 116983: a stamp, the real price and one column per forecast, hourly.
At each hour the prices of the hours before are known; the forecast of the next 24 hours is corrected by optimizer.forecast.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np

from optimizer.forecast import corrected_at

LEADS = 24
WARM_UP_H = 24 * 28


def read(path: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(real, forecast), hourly; both of shape (N,)."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    if column not in rows[0] or "Real price" not in rows[0]:
        raise SystemExit(f"{path}: no column {column!r} and 'Real price'; it has {list(rows[0])}")
    return np.array([float(r["Real price"]) for r in rows]), np.array([float(r[column]) for r in rows])


def errors_by_lead(real: np.ndarray, forecast: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean absolute error before and after, each of shape (LEADS,)."""
    origins = range(WARM_UP_H, len(real) - LEADS)
    before, after = np.zeros(LEADS), np.zeros(LEADS)
    for now in origins:
        truth = real[now : now + LEADS]
        before += np.abs(truth - forecast[now : now + LEADS])
        after += np.abs(truth - corrected_at(real, forecast, now, LEADS, 3600.0))
    return before / len(origins), after / len(origins)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--columns", nargs="+", default=["DNN Ensemble", "LEAR Ensemble"])
    options = parser.parse_args()
    print("| file, forecast | lead h | before | after | change |\n|---|---|---|---|---|")
    for path in options.files:
        for column in options.columns:
            before, after = errors_by_lead(*read(path, column))
            name = f"{path.name.split('.')[0]}, {column}"
            for lead in range(LEADS):
                change = 100 * (after[lead] / before[lead] - 1)
                print(f"| {name} | {lead + 1} | {before[lead]:.3f} | {after[lead]:.3f} | {change:+.1f} % |")
            change = 100 * (after.mean() / before.mean() - 1)
            print(f"| {name} | all | {before.mean():.3f} | {after.mean():.3f} | {change:+.1f} % |")


if __name__ == "__main__":
    main()
