"""Charging and discharging at once under negative prices: optimizer.exclusivity against a full mixed-integer problem.

Each instance is one device behind its own meter on a day whose midday prices are negative by a random depth, without quadratic
costs, so that a MILP is exact. The MILP is written on the lean matrices of benchmarks.reference_qp (nothing of the project's
assembly), binaries for every step of battery and meter, HiGHS. What exclusivity costs is told against the plain relaxation (PIQP,
kept and updated) that it starts from. Not here: fleets with positive prices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import highspy
import numpy as np
import scipy.sparse as sp

from benchmarks import reference_qp as lean_qp
from benchmarks.common import BASELINE, Clock, Table, progress
from benchmarks.instances import SOFT, FloatArray, Window, rolling
from benchmarks.modelled import Rebuilt
from optimizer.assembly import SiteQP
from optimizer.directions import MILP_NODES, MILP_TIME_S
from optimizer.exclusivity import enforce
from optimizer.problem import GridData, SiteProblem
from optimizer.solvers import solve_piqp

LINEAR = replace(SOFT, energy_quadratic=0.0, temperature_quadratic=0.0, voltage_quadratic=0.0)
MILP_GAP = 1e-7
TOLERANCE = 1e-6
BASELINE_SAMPLE = 10


@dataclass(frozen=True, slots=True)
class Milp:
    """The full problem's answer."""

    objective_eur: float
    bound_eur: float
    finished: bool
    cpu_s: float


def instances(count: int, steps: int, seed: int) -> Window:
    """Days with negative prices at noon; shapes (count, steps)."""
    nothing = (np.zeros(count), np.zeros(count))
    window = next(iter(rolling(count, steps, 0, lambda _: nothing, seed=seed)))
    g = np.random.default_rng(seed + 1)
    hours = np.arange(steps) * window.dt_h % 24.0
    centre, width = g.uniform(11.5, 14.5, (count, 1)), g.uniform(1.0, 3.0, (count, 1))
    dip = g.uniform(0.25, 0.8, (count, 1)) * np.exp(-(((hours - centre) / width) ** 2))
    buy = window.meters.buy_eur_per_kwh - dip
    sell = np.where(buy > 0, 0.8 * buy, buy) - 0.003
    fleet = replace(window.fleet, wear_quadratic=np.zeros(count), wear_eur_per_kwh=g.uniform(0.0, 0.02, count))
    return Window(fleet, replace(window.meters, buy_eur_per_kwh=buy, sell_eur_per_kwh=sell), window.dt_h)


def problem(window: Window, i: int) -> SiteProblem:
    """Instance i as the project states it."""
    m = window.meters
    grid = GridData(
        buy_eur_per_kwh=m.buy_eur_per_kwh[i],
        sell_eur_per_kwh=m.sell_eur_per_kwh[i],
        load_w=m.load_w[i],
        pv_w=m.pv_w[i],
        import_limit_w=m.import_limit_w[i],
        export_limit_w=m.export_limit_w[i],
        peak_price_eur_per_kw=float(m.peak_price_eur_per_kw[i]),
        peak_incurred_w=float(m.peak_incurred_w[i]),
    )
    return SiteProblem(dt_s=3600.0 * window.dt_h, grid=grid, devices=(window.fleet.device(i),), soft=LINEAR)


def full_milp(lean: lean_qp.ReferenceQP, window: Window, i: int, limit_s: float) -> Milp:
    """Every step's directions by branch and bound; slacks cost their linear price."""
    v, n, size = lean.fill(window, i), lean.steps, lean.size
    firsts = np.concatenate([lean.columns[:, lean_qp.C], lean.columns[:, lean_qp.B]])
    seconds = np.concatenate([lean.columns[:, lean_qp.D], lean.columns[:, lean_qp.S]])
    pairs, rows = 2 * n, np.arange(2 * n)
    width = size + pairs
    upper_first, upper_second = v.xu[firsts], v.xu[seconds]
    link = sp.coo_matrix(
        (
            np.concatenate([np.ones(pairs), -upper_first, np.ones(pairs), upper_second]),
            (
                np.concatenate([rows, rows, pairs + rows, pairs + rows]),
                np.concatenate([firsts, size + rows, seconds, size + rows]),
            ),
        ),
        shape=(2 * pairs, width),
    )
    body = sp.vstack([v.a, v.g])
    matrix = sp.vstack([sp.hstack([body, sp.csc_matrix((body.shape[0], pairs))]), link], format="csc")
    lp = highspy.HighsLp()
    lp.num_row_, lp.num_col_ = matrix.shape
    lp.col_cost_ = np.concatenate([v.q, np.zeros(pairs)])
    lp.col_lower_, lp.col_upper_ = np.concatenate([v.xl, np.zeros(pairs)]), np.concatenate([v.xu, np.ones(pairs)])
    lp.row_lower_ = np.concatenate([v.b, v.gl, np.full(2 * pairs, -np.inf)])
    lp.row_upper_ = np.concatenate([v.b, v.gu, np.zeros(pairs), upper_second])
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = matrix.indptr, matrix.indices, matrix.data
    kinds = highspy.HighsVarType
    lp.integrality_ = [kinds.kContinuous] * size + [kinds.kInteger] * pairs
    highs = highspy.Highs()
    options = {
        "output_flag": False, "mip_rel_gap": MILP_GAP, "mip_feasibility_tolerance": 1e-9, "threads": 1, "time_limit": limit_s,
    }  # fmt: skip
    for name, value in options.items():
        if highs.setOptionValue(name, value) != highspy.HighsStatus.kOk:
            raise RuntimeError(f"HiGHS knows no option {name}")
    clock = Clock()
    with clock:
        highs.passModel(lp)
        highs.run()
    info = highs.getInfo()
    finished = highs.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return Milp(float(info.objective_function_value), float(info.mip_dual_bound), finished, clock.cpu_s)


def run(count: int, steps: int, *, limit_s: float, seed: int = 3) -> Table:
    """All instances; one row of figures, and what they are relative to."""
    window, lean = instances(count, steps, seed), lean_qp.ReferenceQP(steps)
    plain, whole, gaps, milp_s, baseline_s = [], [], [], [], []
    loose = unfinished = better = cut = 0
    own_gap = 0.0
    qp = SiteQP(problem(window, 0))
    solve_piqp(qp)  # set up and warm, as in a service
    for i in range(count):
        qp.update(problem(window, i))
        clock, more = Clock(), Clock()
        with clock:
            relaxed = solve_piqp(qp)
        with more:
            exclusive = enforce(qp, solve_piqp, relaxed)
        loose += not exclusive.tight
        plain.append(clock.cpu_s)
        whole.append(clock.cpu_s + more.cpu_s)
        found = qp.objective(exclusive.solution.x)
        admitted = exclusive.gap_eur / max(1.0, abs(found))
        own_gap, cut = max(own_gap, admitted), cut + (admitted > TOLERANCE)
        exact = full_milp(lean, window, i, limit_s)
        milp_s.append(exact.cpu_s)
        if (i + 1) % 20 == 0:
            progress(f"{i + 1} of {count} days")
        if exact.finished:
            gaps.append((found - exact.objective_eur) / max(1.0, abs(exact.objective_eur)))
        else:
            unfinished += 1
            better += found <= exact.objective_eur + TOLERANCE * max(1.0, abs(found))
        if i < BASELINE_SAMPLE:
            peer = Rebuilt(steps)
            peer.load(window, i)
            clock = Clock()
            with clock:
                peer.solve()
            baseline_s.append(clock.cpu_s)
    return _table(
        count, steps, limit_s, loose, unfinished, better, cut, own_gap, *map(np.array, (plain, whole, gaps, milp_s, baseline_s))
    )


def _table(
    count: int,
    steps: int,
    limit_s: float,
    loose: int,
    unfinished: int,
    better: int,
    cut: int,
    own_gap: float,
    plain: FloatArray,
    whole: FloatArray,
    gaps: FloatArray,
    milp_s: FloatArray,
    baseline_s: FloatArray,
) -> Table:
    table = Table(
        f"Exclusivity on {count} days with negative prices, {steps} steps, one device; CPU time, one thread",
        ("what", "mean ms", "median ms", "worst ms", "x baseline (mean)", "x plain solve (mean)"),
        [
            f"The relaxation flows both ways in {loose} of {count} instances; the others need no more than the test.",
            f"Baseline: {BASELINE} on the first {len(baseline_s)}; it leaves simultaneous flows in.",
            f"Against the full MILP (relative gap {MILP_GAP:g}), {len(gaps)} finished in {limit_s:g} s: ours minus MILP, "
            + (f"relative, worst {gaps.max():.1e}, least {gaps.min():.1e}." if len(gaps) else "none to compare."),
            f"{unfinished} MILPs were cut off at {limit_s:g} s; ours was no worse than their best plan in {better} of them.",
            f"Within {TOLERANCE:g} of the MILP: {int((np.abs(gaps) <= TOLERANCE).sum())} of {len(gaps)}.",
            f"Ours names a gap above {TOLERANCE:g} itself in {cut} (largest {own_gap:.1e}): its search has a limit of"
            f" {MILP_NODES:,} nodes, guarded by {MILP_TIME_S:g} s. The MILP's limit is wall time: a busy machine ends it early.",
        ],
    )
    base, simple = float(baseline_s.mean()), float(plain.mean())
    for name, values in (
        (BASELINE, baseline_s),
        ("plain relaxation, PIQP updated", plain),
        ("with exclusivity", whole),
        ("full MILP, HiGHS", milp_s),
    ):
        mean, median, worst = (1e3 * float(x) for x in (values.mean(), np.median(values), values.max()))
        table.add(name, mean, median, worst, 1e3 * base / mean, mean / (1e3 * simple))
    return table
