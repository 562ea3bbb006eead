"""The mixed-integer problem that chooses directions: which of each pair of flows may be, for the pairs that need a choice.

A relaxation of the exact problem and therefore a lower bound: quadratic terms are replaced by tangents (outer approximation:
Duran and Grossmann, Mathematical Programming 36, 1986), inequality rows far from binding at the points seen so far are left out,
and pairs not asked about may both flow. HiGHS solves it. The caller checks the answer with the QP and asks again
with more points, rows or pairs. Not here: that loop (optimizer.exclusivity).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import highspy
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.assembly import METER_ROWS, SiteQP
from optimizer.hull import hull_rows

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
MILP_NODES = 2_000
"""Nodes of a search: what ends it is counted, so that the same problem ends alike on any machine."""
MILP_TIME_S = 60.0
"""A guard, far above what that many nodes take; a search that it ends says so (`Choice.out_of_time`)."""
HIGHS_OPTIONS: Mapping[str, bool | int | float] = {
    "output_flag": False,
    "mip_rel_gap": 1e-7,
    "time_limit": MILP_TIME_S,
    "mip_max_nodes": MILP_NODES,
    "threads": 1,
    # The root's bound is close already: heuristics, restarts and symmetry cost more than they bring (halved in measurements).
    "mip_detect_symmetry": False,
    "mip_allow_restart": False,
    "mip_pscost_minreliable": 2,
    "mip_heuristic_effort": 0.0,
    "mip_heuristic_run_feasibility_jump": False,
    "mip_heuristic_run_rins": False,
    "mip_heuristic_run_rens": False,
    "mip_heuristic_run_root_reduced_cost": False,
    "mip_heuristic_run_zi_round": False,
}
FEASIBLE = 2
"""HiGHS's number for a feasible primal solution."""
MARGIN = 0.5
"""Rows are kept whose distance from binding, over their largest coefficient, is below this (kWh, kW, K, V)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Directions of the pairs asked about, and how good the best plan can be at most."""

    directions: BoolArray
    """True: the first of the pair flows."""
    x: FloatArray
    bound_eur: float
    finished: bool
    """Whether the search ended by itself, not by a limit."""
    out_of_time: bool = False
    """Whether the guard of wall time ended it: the only end that is not repeatable."""


def choose(qp: SiteQP, a: IntArray, b: IntArray, points: list[FloatArray]) -> Choice | None:
    """Directions for the pairs of columns (a, b), given the points seen so far; None when HiGHS ends without an answer."""
    m, n = len(a), qp.size
    curved = np.flatnonzero(qp.p > 0)
    width = n + m + len(curved)  # x, binaries, one bound on each quadratic term
    inequality, low, high = _inequalities(qp, _steps(qp, a), points)
    body = sp.vstack([qp.a, inequality], format="csr")
    body = sp.hstack([body, sp.csr_matrix((body.shape[0], width - n))], format="csr")
    rows, upper_a, upper_b = np.arange(m), qp.xu[a], qp.xu[b]
    # a <= upper y,  b <= upper (1 - y)
    link = _matrix(
        (2 * m, width),
        (rows, a, 1.0),
        (rows, n + rows, -upper_a),
        (m + rows, b, 1.0),
        (m + rows, n + rows, upper_b),
    )
    tangents, heights = _tangents(qp, curved, n + m, width, points)
    lp = highspy.HighsLp()
    matrix = sp.vstack([body, link, tangents], format="csc")
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_ = np.concatenate([qp.q, np.zeros(m), np.ones(len(curved))])
    lp.col_lower_ = np.concatenate([qp.xl, np.zeros(width - n)])
    lp.col_upper_ = np.concatenate([qp.xu, np.ones(m), np.full(len(curved), np.inf)])
    lp.row_lower_ = np.concatenate([qp.b, low, np.full(2 * m, -np.inf), heights])
    lp.row_upper_ = np.concatenate([qp.b, high, np.zeros(m), upper_b, np.full(len(heights), np.inf)])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kContinuous] * n + [kinds.kInteger] * m + [kinds.kContinuous] * len(curved)
    highs = highspy.Highs()
    for name, value in HIGHS_OPTIONS.items():
        if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise SolverError(f"HiGHS knows no option {name}")
    highs.passModel(lp)
    highs.run()
    info = highs.getInfo()
    if info.primal_solution_status != FEASIBLE:
        return None
    x = np.array(highs.getSolution().col_value)
    status = highs.getModelStatus()
    finished, late = status == highspy.HighsModelStatus.kOptimal, status == highspy.HighsModelStatus.kTimeLimit
    return Choice(x[n : n + m] > 0.5, x[:n], float(info.mip_dual_bound) + qp.constant, finished, late)


def _inequalities(
    qp: SiteQP, steps: list[tuple[int, int]], points: list[FloatArray]
) -> tuple[sp.csr_matrix, FloatArray, FloatArray]:
    """The QP's rows and the hull's, but for those without a bound and those far from binding at every point.

    A point that breaks a row left out is one of the next round's, and so is the row.
    """
    cuts, ceilings = hull_rows(qp, steps)
    matrix = sp.vstack([qp.g, cuts], format="csr")
    low, high = np.concatenate([qp.gl, np.full(len(ceilings), -np.inf)]), np.concatenate([qp.gu, ceilings])
    largest = np.maximum(abs(matrix).max(axis=1).toarray().ravel(), 1e-3)
    room = np.min([np.minimum(high - v, v - low) for v in (matrix @ x for x in points)], axis=0)
    near = room < MARGIN * largest
    for name in METER_ROWS:  # other directions swing the meter most
        near[qp.meter_rows(name)] = True
    keep = near & (np.isfinite(low) | np.isfinite(high))
    return matrix[keep], low[keep], high[keep]


def _steps(qp: SiteQP, columns: IntArray) -> list[tuple[int, int]]:
    """(device, step) of the charge columns among those given."""
    found = []
    for i in range(qp.shape[1]):
        start = int(qp.device(i, "c")[0])
        found += [(i, int(column) - start) for column in columns if start <= column < start + qp.n]
    return found


def _tangents(
    qp: SiteQP, curved: IntArray, offset: int, width: int, points: list[FloatArray]
) -> tuple[sp.csc_matrix, FloatArray]:
    """Rows theta_j - p_j y_j x_j >= -p_j y_j^2 / 2 at each point y, but where they say no more than theta_j >= 0."""
    rows: list[tuple[IntArray, FloatArray, IntArray]] = []
    for point in points:
        y = point[curved]
        told = np.flatnonzero(qp.p[curved] * y**2 > 1e-10)
        rows.append((told, y[told], curved[told]))
    which, y, columns = (np.concatenate([row[k] for row in rows]) for k in range(3))
    slope, index = qp.p[columns] * y, np.arange(len(which))
    return _matrix((len(which), width), (index, offset + which, 1.0), (index, columns, -slope)), -0.5 * slope * y


def _matrix(shape: tuple[int, int], *entries: tuple[IntArray, IntArray, FloatArray | float]) -> sp.csc_matrix:
    values = [np.broadcast_to(np.asarray(value, dtype=np.float64), row.shape) for row, _, value in entries]
    row = np.concatenate([entry[0] for entry in entries])
    column = np.concatenate([entry[1] for entry in entries])
    return sp.csc_matrix((np.concatenate(values), (row, column)), shape=shape)
