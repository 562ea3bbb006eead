"""Time series on a uniform grid, checked before anything is computed from them.

Here: the value object, its checks, resampling between step lengths. Not here: where series come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one quantity; value k is the mean over [start + k dt, start + (k+1) dt).

    `name` carries the unit (`load_w`, `import_price_eur_per_kwh`). Shape of `values`: (N,).
    """

    name: str
    start: datetime
    dt_s: float
    values: FloatArray

    def __len__(self) -> int:
        return len(self.values)

    @property
    def end(self) -> datetime:
        """End of the last step."""
        return self.start + timedelta(seconds=self.dt_s * len(self.values))

    def window(self, start: datetime, steps: int, dt_s: float) -> FloatArray:
        """Values on the grid (start, dt_s, steps); shape (steps,).

        A finer grid repeats, a coarser one averages. Raises InputError when the window is not covered
        or the grids do not line up.
        """
        offset_s = (start - self.start).total_seconds()
        ratio = dt_s / self.dt_s
        fine = min(dt_s, self.dt_s)
        if abs(max(ratio, 1 / ratio) - round(max(ratio, 1 / ratio))) > 1e-9 or offset_s % fine:
            raise InputError(
                source=f"series {self.name}",
                field="dt_s",
                value=self.dt_s,
                expected=f"a grid that lines up with {dt_s:g} s steps at {start.isoformat()}",
            )
        if offset_s < 0 or offset_s + dt_s * steps > self.dt_s * len(self.values) + 1e-6:
            raise InputError(
                source=f"series {self.name}",
                field="range",
                value=f"{self.start.isoformat()} to {self.end.isoformat()}",
                expected=f"cover {start.isoformat()} to {(start + timedelta(seconds=dt_s * steps)).isoformat()}",
            )
        if ratio < 1:
            index = np.floor((offset_s + dt_s * np.arange(steps)) / self.dt_s + 1e-9).astype(int)
            fine_values: FloatArray = self.values[index]
            return fine_values
        first = round(offset_s / self.dt_s)
        if ratio == 1:
            return self.values[first : first + steps].copy()
        coarse: FloatArray = self.values[first : first + steps * round(ratio)].reshape(steps, -1).mean(axis=1)
        return coarse


def check_series(name: str, stamps: Sequence[datetime], values: Sequence[float], *, source: str) -> Series:
    """Build a Series from stamped values, or say what is wrong with them.

    Raises InputError naming the first offending stamp: naive time, duplicate, not ascending, gap,
    NaN or infinity. Stamps may be in any zone; days of 92 and 100 quarter hours are plain in UTC.
    """
    if len(stamps) != len(values):
        raise InputError(source=source, field=name, value=len(values), expected=f"{len(stamps)} values, one a stamp")
    if len(stamps) < 2:
        raise InputError(source=source, field=name, value=len(stamps), expected="at least two stamps")
    for stamp in stamps:
        if stamp.tzinfo is None:
            raise InputError(
                source=source,
                field=f"{name} time",
                value=stamp.isoformat(),
                expected="a time with its UTC offset",
            )
    utc = [stamp.astimezone(UTC) for stamp in stamps]
    dt_s = (utc[1] - utc[0]).total_seconds()
    for before, after in itertools.pairwise(utc):
        step_s = (after - before).total_seconds()
        where = f"{name} at {after.isoformat()}"
        if step_s == 0:
            raise InputError(source=source, field=where, value="duplicate stamp", expected="each stamp once")
        if step_s < 0:
            raise InputError(source=source, field=where, value="stamp before its predecessor", expected="ascending times")
        if step_s > dt_s:
            raise InputError(source=source, field=where, value=f"gap of {step_s:g} s", expected=f"a value every {dt_s:g} s")
        if step_s < dt_s:
            raise InputError(
                source=source,
                field=where,
                value=f"step of {step_s:g} s",
                expected=f"a uniform step ({dt_s:g} s before)",
            )
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        at = utc[int(bad[0])].isoformat()
        raise InputError(source=source, field=f"{name} at {at}", value=array[bad[0]], expected="a finite number")
    return Series(name, utc[0], dt_s, array)
