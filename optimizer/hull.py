"""Rows that hold for every plan that charges or discharges, but not for one that does both: cuts for the search for directions.

For one step of one device: charge and d = 0, or discharge and c = 0. The convex hull of both, as far as rows of the QP bound it
(after Elgersma et al., Tight MIP formulations for storage, arXiv:2411.17484; here with slacks, leak, taper and voltage):

    c / charge_max + d / discharge_max <= 1
    e- + h eta_c c <= energy_max + leak + z + z-           a full pack charges nothing, whatever it discharges
    e- - h d / eta_d >= energy_min - z - z-
    e- + h eta_c c - leak <= hi,   e- - h d / eta_d >= lo
    c + g d <= taper_c - slope_c e- + slope_c z-           g discharge_max = what the taper leaves at energy_max; likewise d
    v0 + v_per_wh e- + v_per_w c <= voltage_max + zV + ..  where the voltage at rest keeps the limit; likewise below

e- and z- are energy and its slack at the end of the step before. Each row is the QP's own on one side and implied on the other.
Not here: the search (optimizer.directions).
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from optimizer.assembly import KILO, SiteQP

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class _Cuts:
    """Rows  sum of entries <= high,  collected; NaN or infinite ones are left out."""

    def __init__(self) -> None:
        self._rows: list[dict[int, float]] = []
        self._high: list[float] = []

    def add(self, entries: list[tuple[int, float]], high: float) -> None:
        if np.isfinite(high):
            row: dict[int, float] = {}
            for column, value in entries:
                row[column] = row.get(column, 0.0) + value
            self._rows.append(row)
            self._high.append(high)

    def matrix(self, width: int) -> tuple[sp.csr_matrix, FloatArray]:
        counts = [len(row) for row in self._rows]
        columns = np.array([column for row in self._rows for column in row], dtype=np.int64)
        values = np.array([value for row in self._rows for value in row.values()], dtype=np.float64)
        pointers = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return sp.csr_matrix((values, columns, pointers), shape=(len(self._rows), width)), np.array(self._high)


def hull_rows(qp: SiteQP, steps: list[tuple[int, int]]) -> tuple[sp.csr_matrix, FloatArray]:
    """(matrix, high) with matrix @ x <= high at the given (device, step) pairs."""
    cuts = _Cuts()
    for i, k in steps:
        _step(qp, i, k, cuts)
    return cuts.matrix(qp.size)


def _step(qp: SiteQP, i: int, k: int, cuts: _Cuts) -> None:
    d, h = qp.problem.devices[i], qp.problem.dt_h
    c_max, d_max = d.charge_max_w[k] / KILO, d.discharge_max_w[k] / KILO
    if c_max <= 0 or d_max <= 0:
        return
    at = {name: int(qp.device(i, name)[k]) for name in ("c", "d", "zE", "zV")}
    c, dis, z = at["c"], at["d"], at["zE"]
    hi, lo = int(qp.device(i, "hi")[0]), int(qp.device(i, "lo")[0])
    e0, leak = d.energy_wh / KILO, d.leak_wh / KILO
    top, bottom = d.energy_max_wh / KILO, d.energy_min_wh / KILO
    stored, taken = h * float(d.eta_charge[k]), h / float(d.eta_discharge[k])
    first = k == 0
    before: list[tuple[int, float]] = [] if first else [(int(qp.device(i, "e")[k - 1]), 1.0)]
    slack: list[tuple[int, float]] = [] if first else [(int(qp.device(i, "zE")[k - 1]), 1.0)]
    known = e0 if first else 0.0

    def times(terms: list[tuple[int, float]], factor: float) -> list[tuple[int, float]]:
        return [(column, factor * value) for column, value in terms]

    cuts.add([(c, 1 / c_max), (dis, 1 / d_max)], 1.0)
    room_up, room_down = top + leak - known, known - bottom
    if first:  # outside its limits a pack at rest needs slack of its own step only
        room_up, room_down = max(room_up, 0.0), max(room_down, 0.0)
    cuts.add([*before, (c, stored), (z, -1.0), *times(slack, -1.0)], room_up)
    cuts.add([*times(before, -1.0), (dis, taken), (z, -1.0), *times(slack, -1.0)], room_down)
    if np.isfinite(d.cycle_depth_wh):
        cuts.add([*before, (c, stored), (hi, -1.0)], leak - known)
        cuts.add([*times(before, -1.0), (dis, taken), (lo, 1.0)], known)
    for flow, other, other_max, sign, room, slope, limit in (
        (c, dis, d_max, 1.0, d.charge_taper_w[k], d.charge_taper_w_per_wh[k], top),
        (dis, c, c_max, -1.0, d.discharge_taper_w[k], d.discharge_taper_w_per_wh[k], bottom),
    ):
        least = room / KILO - sign * slope * (e0 if first else limit)
        if not np.isfinite(least) or (least < 0 and not first) or slope < 0:
            continue
        # In the first step the taper is a number; later it is at least what it leaves at the limit, up to slack.
        least = max(least, 0.0)
        high = least if first else room / KILO
        cuts.add([(flow, 1.0), (other, least / other_max), *times(before, sign * slope), *times(slack, -slope)], high)
    v0, gain, ohm = float(d.voltage_v[k]), KILO * float(d.voltage_v_per_wh[k]), KILO * float(d.voltage_v_per_w[k])
    if gain >= 0:
        for flow, sign, limit_v, rest_v in (
            (c, 1.0, d.voltage_max_v, v0 + gain * (e0 if first else top)),
            (dis, -1.0, d.voltage_min_v, v0 + gain * (e0 if first else bottom)),
        ):
            if sign * (limit_v - rest_v) >= 0:
                terms = [*times(before, sign * gain), (flow, ohm), (at["zV"], -1.0), *times(slack, -gain)]
                cuts.add(terms, sign * (limit_v - v0 - gain * known))
