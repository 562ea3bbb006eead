"""B meters as arrays, one behind each device of a fleet: what GridData says of one.

Here: the container, its checks, and a meter taken out as GridData. Not here: sites with several devices behind one meter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from optimizer.problem import GridData

FloatArray = NDArray[np.float64]
PROFILES = (
    "buy_eur_per_kwh", "sell_eur_per_kwh", "load_w", "pv_w", "import_limit_w", "export_limit_w", "target_w",
    "tracking_weight",
)  # fmt: skip
SCALARS = (
    "peak_price_eur_per_kw", "peak_incurred_w", "curtailable", "curtailment_cost_eur_per_kwh",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterData:
    """B meters over N steps; units and signs as in optimizer.problem.GridData."""

    buy_eur_per_kwh: FloatArray
    """Profiles have shape (B, N)."""
    sell_eur_per_kwh: FloatArray
    load_w: FloatArray
    pv_w: FloatArray
    import_limit_w: FloatArray
    export_limit_w: FloatArray
    target_w: FloatArray
    tracking_weight: FloatArray
    """EUR per kW^2 and hour; 0 in steps where nothing is tracked, whose target means nothing."""
    peak_price_eur_per_kw: FloatArray
    """Scalars have shape (B,)."""
    peak_incurred_w: FloatArray
    curtailable: FloatArray
    """1.0 where PV may be curtailed, else 0.0."""
    curtailment_cost_eur_per_kwh: FloatArray

    def __post_init__(self) -> None:
        """Raise InputError naming meter, field and value when a shape is wrong or a number cannot be."""
        shape = self.buy_eur_per_kwh.shape
        for names, expected in ((PROFILES, shape), (SCALARS, shape[:1])):
            for name in names:
                value = getattr(self, name)
                if value.shape != expected:
                    raise InputError(source="meters", field=name, value=f"shape {value.shape}", expected=f"shape {expected}")
                may_be_infinite = name in ("import_limit_w", "export_limit_w")
                bad = np.isnan(value) if may_be_infinite else ~np.isfinite(value)
                self._refuse(name, bad, "a finite number")
        for name in (
            "pv_w", "import_limit_w", "export_limit_w", "tracking_weight", "peak_price_eur_per_kw", "peak_incurred_w",
        ):  # fmt: skip
            self._refuse(name, getattr(self, name) < 0, "a number >= 0")

    def _refuse(self, name: str, bad: NDArray[np.bool_], expected: str) -> None:
        if bad.any():
            where = np.argwhere(bad)[0]
            index = f"{name}[{where[1]}]" if len(where) > 1 else name
            raise InputError(
                source=f"meter {where[0]}", field=index, value=float(getattr(self, name)[tuple(where)]), expected=expected
            )

    @property
    def count(self) -> int:
        """Number of meters B."""
        return int(self.buy_eur_per_kwh.shape[0])

    def take(self, index: NDArray[np.int64]) -> MeterData:
        """The meters at `index`, in that order."""
        return MeterData(**{name: getattr(self, name)[index] for name in SCALARS + PROFILES})

    def meter(self, i: int) -> GridData:
        """Meter i as GridData."""
        tracked, weight = self.tracking_weight[i] > 0, float(self.tracking_weight[i].max(initial=0.0))
        return GridData(
            buy_eur_per_kwh=self.buy_eur_per_kwh[i],
            sell_eur_per_kwh=self.sell_eur_per_kwh[i],
            load_w=self.load_w[i],
            pv_w=self.pv_w[i],
            import_limit_w=self.import_limit_w[i],
            export_limit_w=self.export_limit_w[i],
            peak_price_eur_per_kw=float(self.peak_price_eur_per_kw[i]),
            peak_incurred_w=float(self.peak_incurred_w[i]),
            curtailable=bool(self.curtailable[i]),
            curtailment_cost_eur_per_kwh=float(self.curtailment_cost_eur_per_kwh[i]),
            target_w=self.target_w[i] if weight > 0 else None,
            tracking_weight=weight,
            tracked=None if tracked.all() else tracked,
        )


def stack_meters(grids: Sequence[GridData]) -> MeterData:
    """GridData objects of one horizon as MeterData; raises InputError when there is none or their steps differ."""
    if not grids:
        raise InputError(source="meters", field="grids", value=0, expected="at least one meter")
    steps = len(grids[0].buy_eur_per_kwh)
    columns: dict[str, FloatArray] = {}
    for name in PROFILES:
        rows = [_profile(grid, name, steps) for grid in grids]
        for i, row in enumerate(rows):
            if len(row) != steps:
                raise InputError(source=f"meter {i}", field=name, value=f"{len(row)} values", expected=f"{steps} values")
        columns[name] = np.array(rows, dtype=np.float64)
    for name in SCALARS:
        columns[name] = np.array([float(getattr(grid, name)) for grid in grids])
    return MeterData(**columns)


def _profile(grid: GridData, name: str, steps: int) -> FloatArray:
    if name == "tracking_weight":
        return grid.tracking_weights()
    if name == "target_w":
        return np.zeros(steps) if grid.target_w is None else np.where(grid.tracking_weights() > 0, grid.target_w, 0.0)
    values: FloatArray = np.asarray(getattr(grid, name), dtype=np.float64)
    return values
