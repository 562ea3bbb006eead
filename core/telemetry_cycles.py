"""Cycles of a state of charge over a period, counted by rainflow (ASTM E1049-85, 5.4.4; the rainflow package)."""

from __future__ import annotations

from collections.abc import Iterable

import rainflow

MIN_DEPTH_PCT = 0.5
"""Shallower cycles are the noise and the resolution of the measurement: at 10 s they would add up to hundreds a day."""


def cycle_data(soc_pct: Iterable[float]) -> dict[str, float]:
    """The contract's cycle_data of a SoC series in time order (its turning points are enough).

    partial_cycles: rainflow's count, a half cycle as 0.5. equivalent_full_cycles: the same, each weighted by its depth
    as a share of 100 %. Cycles shallower than MIN_DEPTH_PCT count in neither.
    """
    points = list(soc_pct)
    if len(points) == 2:  # the package needs three points; two are one half cycle
        points.append(points[-1])
    partial, full = 0.0, 0.0
    for depth_pct, _mean, count, _start, _end in rainflow.extract_cycles(points):
        if depth_pct >= MIN_DEPTH_PCT:
            partial += count
            full += count * depth_pct / 100.0
    return {"partial_cycles": partial, "equivalent_full_cycles": full}
