"""What a stretch of time did to packs: the stressors that ageing formulas ask for, batched over packs.

Here: mean conditions, throughput, rainflow cycles. Not here: the formulas (core.battery.ageing_models).
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import rainflow
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
RESTING_PER_H = 0.01
"""A slower change of SoC is storage, not use."""
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stress:
    """Stressors of n packs over one stretch; N points in time, M cycles of the pack that has most."""

    days: FloatArray
    """Length; shape (n,)."""
    soc: FloatArray
    """Share 0-1 at equally spaced times; shape (n, N)."""
    kelvin: FloatArray
    """Shape (n, N)."""
    cycles: FloatArray
    """Equivalent full cycles; shape (n,)."""
    c_rate_per_h: FloatArray
    """Mean absolute change of SoC per hour; shape (n,)."""
    depth: FloatArray
    """Depth of each rainflow cycle, 0-1; shape (n, M)."""
    weight: FloatArray
    """Share of the throughput that each of them carries, zero where there is none; shape (n, M)."""

    def mean(self, values: FloatArray) -> FloatArray:
        """Time average of values at the N points (n, N), trapezoidal; shape (n,)."""
        return np.asarray((values[:, 1:] + values[:, :-1]).mean(axis=1) / 2.0)

    def by_depth(self, values: FloatArray) -> FloatArray:
        """Average of values (n, M) at the cycles' depths, by throughput; shape (n,)."""
        return np.asarray((self.weight * values).sum(axis=1))

    def of_new(self, capacity: FloatArray) -> Stress:
        """Throughput and rate in units of the new capacity, for packs that have `capacity` (a share, (n,)) of it left."""
        left = np.clip(capacity, 0.01, 1.0)
        return replace(self, cycles=self.cycles * left, c_rate_per_h=self.c_rate_per_h * left)

    def repeated(self, times: FloatArray) -> Stress:
        """The first pack's stretch repeated so many times (n,), one pack for each."""
        first = {f.name: np.repeat(getattr(self, f.name)[:1], len(times), axis=0) for f in fields(self)}
        return replace(Stress(**first), days=self.days[0] * times, cycles=self.cycles[0] * times)


def stress(soc: FloatArray, temperature_c: FloatArray, dt_s: float) -> Stress:
    """Stressors from SoC shares and temperatures (n, N) at times dt_s apart, N >= 2."""
    swings = np.abs(np.diff(soc, axis=1))
    per_h = swings / (dt_s / 3600.0)
    found = [_cycles(row) for row in soc]
    most = max((len(f[0]) for f in found), default=0)
    depth, weight = np.zeros((len(soc), max(most, 1))), np.zeros((len(soc), max(most, 1)))
    for k, (depths, weights) in enumerate(found):
        depth[k, : len(depths)], weight[k, : len(weights)] = depths, weights
    return Stress(
        days=np.full(len(soc), dt_s * (soc.shape[1] - 1) / DAY_S),
        soc=soc,
        kelvin=temperature_c + 273.15,
        cycles=swings.sum(axis=1) / 2.0,
        c_rate_per_h=np.where(per_h < RESTING_PER_H, 0.0, per_h).mean(axis=1),
        depth=depth,
        weight=weight,
    )


def _cycles(soc: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Depths of a pack's rainflow cycles and their shares of the throughput.

    A half cycle left over is part of a cycle that is longer than the stretch: it counts with the depth of the stretch's whole
    range.
    """
    whole = float(np.ptp(soc))
    counted = [
        (depth if count == 1 else whole, count * depth) for depth, _mean, count, _start, _end in rainflow.extract_cycles(soc)
    ]
    moved = sum(weight for _depth, weight in counted)
    if moved <= 0:
        return np.zeros(1), np.zeros(1)
    depths, weights = np.array(counted).T
    return depths, weights / moved
