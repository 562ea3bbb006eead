"""The batched solver: a fleet and its meters in, a plan for every device out, whatever happens on the way.

Chain per device: structured -> PIQP -> its last plan shifted -> hold; each step down is counted. Devices that the kernel
cannot take (check.beyond_kernel) start at PIQP. What the kernel calls solved has passed its audit, and every plan that leaves,
whatever it comes from, has passed the replay (judge). The problem is the convex
one: `FleetSolution.overlap` tells where charge and discharge overlap and optimizer.exclusivity has work to do.
Not here: the algebra (docs/structured_solver.md), net set points (optimizer.mpc).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from core.errors import InputError, SolverError
from core.lanes import LANES
from optimizer.assembly import SiteQP
from optimizer.fleet import FleetData
from optimizer.problem import STIFFER, SiteProblem, SoftCosts
from optimizer.solvers import RawSolution, solve_piqp
from optimizer.structured.check import OVERLAP_W
from optimizer.structured.judge import KINDS
from optimizer.structured.kernel import SOLVED, finish_one, judge_all, route, solve_range
from optimizer.structured.layout import HEAD, HEAD_ROWS, STEP, STEP_ROWS
from optimizer.structured.meters import MeterData
from optimizer.structured.packing import FleetArrays, MeterArrays, soft_arrays
from optimizer.structured.start import ALWAYS

# ruff: noqa: ANN401 - named tuples of arrays are numba's business.
log = structlog.get_logger()
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
STRUCTURED, PIQP, SHIFTED, HOLD = range(4)
SOURCES = ("structured", "piqp", "shifted", "hold")
LEAST_DEVICES, MOST_DEVICES = 32, 512
"""Devices that one thread takes at a time: enough that lanes seldom run empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSolution:
    """Plans of the convex problem; profiles have shape (B, N), the rest (B,)."""

    charge_w: FloatArray
    discharge_w: FloatArray
    curtail_w: FloatArray
    energy_value_eur_per_kwh: FloatArray
    """Value of stored energy at the end of each step; zero for a plan without duals (shifted, hold)."""
    meter_price_eur_per_kwh: FloatArray
    """Marginal cost of net import."""
    objective_eur: FloatArray
    """Of the plan, by the replay; 0 where `priced` is not set."""
    priced: NDArray[np.bool_]
    """Whether the inputs price the plan at all: False where a number among them is none (the plan is then to hold)."""
    cut: NDArray[np.bool_]
    """Where the solver would rather have broken a limit of energy, temperature, voltage or depth that can be kept: such plans are
    cut, solved again with stiff penalties (`firm`), and the better one is taken."""
    source: IntArray
    """Index into SOURCES."""
    status: IntArray
    """Index into kernel.STATUS: what the structured solver said."""
    iterations: IntArray
    gap_eur: FloatArray
    """Proven distance from the optimum at most, what limits cost included that are soft to the solver and not to the replay; inf
    where the structured solver did not solve."""

    @property
    def overlap(self) -> NDArray[np.bool_]:
        """Devices that charge and discharge at once somewhere."""
        return np.asarray((np.minimum(self.charge_w, self.discharge_w) > OVERLAP_W).any(axis=1))


@dataclass(slots=True)
class BatchSolver:
    """Keeps multipliers and last plans between calls; not for use from two threads at once."""

    threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    relative_gap: float = 2e-5
    """Of the cost, of at least one euro: where iterating ends."""
    most_iterations: int = 60
    away: float = 5e-3
    """Least slack and multiplier of a warm start, in units (layout)."""
    first_mu: float = 0.03
    chain: bool = True
    """Whether PIQP, the last plan and hold follow; without, a device that is not solved gets no power and source `hold`."""
    judged: bool = True
    """Whether plans are cut to what the replay passes; off only where the caller does both (single)."""
    harden: bool = True
    """Whether a device whose plan had to be cut by more than the tolerance is solved again with stiff penalties."""
    firm: float = 1.0
    """How many times penalties of limits count that a device need never break (packing); plans are priced without."""
    counts: Counter[str] = field(default_factory=Counter)
    """Plans by source since the beginning."""
    _kept_ids: tuple[str, ...] = ()
    _kept: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    """Rows of steps (B, N, 2, rows) and of the border (B, 2, rows), as of start."""
    _last: tuple[tuple[str, ...], float, FloatArray, FloatArray, FloatArray] | None = None
    _view: FloatArray | None = None
    """Where one device alone is solved: a fresh array costs it a tenth of its time."""

    def solve(
        self, fleet: FleetData, meters: MeterData, dt_s: float, soft: SoftCosts | None = None, ahead: int = 1
    ) -> FleetSolution:
        """Plan every device; warm from the last call where its devices are the same, `ahead` steps on (0: the same steps).

        Raises InputError when fleet and meters do not fit together, dt_s is no length of time or `ahead` is negative.
        """
        soft = soft or SoftCosts()
        _check(fleet, meters, dt_s)
        if ahead < 0:
            raise InputError(source="fleet", field="ahead", value=ahead, expected="steps >= 0")
        p, m, s = _arrays(FleetArrays, fleet), _arrays(MeterArrays, meters), soft_arrays(soft, self.firm)
        count, steps, h = fleet.count, fleet.steps, dt_s / 3600.0
        status, flags = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
        route(p, m, status, flags)
        out = tuple(np.empty((count, steps)) for _ in range(5))
        iterations, numbers = np.zeros(count, dtype=np.int64), np.zeros((count, 5))
        objective = np.full(count, np.nan)
        chosen = np.flatnonzero(status == SOLVED)
        if len(chosen) < count:
            for array in out:
                array[status != SOLVED] = 0.0
        if len(chosen):
            self._prepare(fleet.device_ids, steps, int(flags[chosen].max()))
            order = chosen[np.argsort(flags[chosen], kind="stable")]
            self._run(order, p, m, s, h, ahead, flags, iterations, status, numbers, objective, out)
        source, gap = np.full(count, STRUCTURED), np.full(count, np.inf)
        proven = (status == SOLVED) & (numbers[:, 3] > 0)
        np.divide(np.abs(numbers[:, 0]) + numbers[:, 1], numbers[:, 3], out=gap, where=proven)
        gap += numbers[:, 4]
        source[status != SOLVED] = PIQP if self.chain else HOLD
        general: SiteQP | None = None
        for i in np.flatnonzero(source != STRUCTURED).tolist():

            def finished(i: int = i) -> bool:
                objective[i], numbers[i, 4], passed = finish_one(p, m, s, i, h, out[0], out[1], out[2])
                return bool(passed)

            general = self._fall(fleet, meters, dt_s, soft, i, ahead, general, out, source, finished)
        priced = np.isfinite(objective)
        cut = (source <= PIQP) & (numbers[:, 4] > self.relative_gap * np.maximum(1.0, np.abs(objective)))
        if self.harden and self.chain and cut.any():
            self._harden(np.flatnonzero(cut), fleet, meters, dt_s, soft, (p, m, s), out, objective, gap, source)
        for name, times in zip(SOURCES, np.bincount(source, minlength=len(SOURCES)).tolist(), strict=True):
            self.counts[name] += times
        self._last = (fleet.device_ids, dt_s, out[0], out[1], out[2])
        return FleetSolution(
            charge_w=out[0],
            discharge_w=out[1],
            curtail_w=out[2],
            energy_value_eur_per_kwh=out[3],
            meter_price_eur_per_kwh=out[4],
            objective_eur=np.where(priced, objective, 0.0),
            priced=priced,
            cut=cut,
            source=source,
            status=status,
            iterations=iterations,
            gap_eur=gap,
        )

    def multipliers(self, device: int) -> tuple[FloatArray, FloatArray]:
        """Multipliers of the last solution in units of layout: of HEAD_ROWS (8,), of STEP_ROWS that were there (N, rows)."""
        if self._kept is None:
            raise ValueError("nothing was solved yet")
        rows, border = (array[device].astype(np.float64) for array in self._kept)
        return border[0] * border[1], rows[:, 0] * rows[:, 1]

    @property
    def kept_bytes(self) -> int:
        """Bytes that stay between calls."""
        arrays = [*(self._kept or ()), *(self._last[2:] if self._last else ())]
        return int(sum(array.nbytes for array in arrays))

    def _prepare(self, device_ids: tuple[str, ...], steps: int, flags: int) -> None:
        """Room for what is kept; a device in another's place starts cold."""
        count, rows = len(device_ids), ALWAYS if flags == 0 else len(STEP_ROWS)
        kept = self._kept
        if kept is None or kept[0].shape[:2] != (count, steps) or kept[0].shape[3] < rows:
            border = np.zeros((count, 2, len(HEAD_ROWS)), dtype=np.float32)
            self._kept = np.zeros((count, steps, 2, rows), dtype=np.float32), border
        elif device_ids != self._kept_ids:
            for i in (i for i, (now, before) in enumerate(zip(device_ids, self._kept_ids, strict=True)) if now != before):
                kept[1][i] = 0.0
        self._kept_ids = device_ids

    def forget(self) -> None:
        """Start cold next time."""
        self._kept = None

    def _lanes(self, count: int) -> int:
        return LANES if count > 1 else 1

    def _run(
        self, order: IntArray, p: Any, m: Any, s: Any, h: float, ahead: int, flags: IntArray, iterations: IntArray,
        status: IntArray, numbers: FloatArray, objective: FloatArray, out: tuple[FloatArray, ...],
    ) -> None:  # fmt: skip
        """Devices `order`, in parts whose size does not depend on the threads, so that the answers do not either."""
        if self._kept is None:
            return
        kept, border = self._kept
        count, lanes, steps = len(order), self._lanes(len(order)), out[0].shape[1]
        size = min(MOST_DEVICES, max(LEAST_DEVICES, -(-count // 4)))

        def part(first: int) -> None:
            view = self._view if lanes == 1 else None
            if view is None or len(view) != HEAD + STEP * steps:
                view = np.zeros((HEAD + STEP * steps, lanes))
                self._view = view if lanes == 1 else None
            solve_range(
                view if lanes > 1 else view.reshape(-1), view, p, m, s, h, order, first, min(first + size, count), flags, kept,
                border, ahead, self.away, self.first_mu, self.relative_gap, self.most_iterations, self.judged, iterations, status,
                numbers, objective, out,
            )  # fmt: skip

        parts = range(0, count, size)
        if self.threads == 1 or len(parts) == 1:
            for first in parts:
                part(first)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(part, parts))

    def _fall(
        self,
        fleet: FleetData,
        meters: MeterData,
        dt_s: float,
        soft: SoftCosts,
        i: int,
        ahead: int,
        general: SiteQP | None,
        out: tuple[FloatArray, ...],
        source: IntArray,
        finished: Callable[[], bool],
    ) -> SiteQP | None:
        """Rows i of `out` and `source` from the rest of the chain; the general problem is handed on to be filled again.

        `finished` cuts and prices what is in `out`, and says whether the replay passes it.
        """
        try:
            if source[i] == PIQP:
                problem = SiteProblem(
                    dt_s=dt_s, grid=meters.meter(i), devices=(fleet.device(i),), soft=soft if self.firm == 1.0 else soft.stiff()
                )
                if general is None:
                    general = SiteQP(problem)
                else:
                    general.update(problem)
                _read(general, solve_piqp(general), problem.dt_h, i, out)
                if finished():
                    return general
                raise SolverError("replay refused the plan")
        except (SolverError, InputError) as error:
            log.warning("fleet_solver_failed", device_id=fleet.device_ids[i], why=str(error))
        source[i] = SHIFTED
        if not (self.chain and self._repeat(fleet, dt_s, i, ahead, out) and finished()):
            source[i] = HOLD
            for array in out:
                array[i] = 0.0
            finished()
        return general

    def _harden(
        self, cut: IntArray, fleet: FleetData, meters: MeterData, dt_s: float, soft: SoftCosts, arrays: tuple[Any, Any, Any],
        out: tuple[FloatArray, ...], objective: FloatArray, gap: FloatArray, source: IntArray,
    ) -> None:  # fmt: skip
        """Solve devices whose plans had to be cut again, with penalties that no price outweighs, and take what is better."""
        self.counts["hardened"] += len(cut)
        # What rest breaks stays as dear as it was, which serves most; where a plan is cut at such a limit too, all get dearer.
        for firm, penalties in ((STIFFER, soft), (1.0, soft.stiff())):
            again = BatchSolver(threads=self.threads, relative_gap=self.relative_gap, harden=False, firm=firm)
            plan = again.solve(fleet.take(cut), meters.take(cut), dt_s, penalties)
            profiles = (
                plan.charge_w, plan.discharge_w, plan.curtail_w, plan.energy_value_eur_per_kwh, plan.meter_price_eur_per_kwh,
            )  # fmt: skip
            found = tuple(np.zeros_like(array) for array in out)
            for j, i in enumerate(cut.tolist()):
                for array, profile in zip(found, profiles, strict=True):
                    array[i] = profile[j]
                value, _, passed = finish_one(*arrays, i, dt_s / 3600.0, *found[:3])
                if passed and value < objective[i] and plan.source[j] <= PIQP:
                    for array, better in zip(out, found, strict=True):
                        array[i] = better[i]
                    gap[i] = min(plan.gap_eur[j], gap[i] - objective[i] + value)
                    objective[i], source[i] = value, plan.source[j]

    def _repeat(self, fleet: FleetData, dt_s: float, i: int, ahead: int, out: tuple[FloatArray, ...]) -> bool:
        """The device's last plan `ahead` steps on, idle at the end; False where there is none, or it has run out."""
        for array in out:
            array[i] = 0.0
        if not 0 <= ahead < fleet.steps or self._last is None or self._last[1] != dt_s or self._last[2].shape[1] != fleet.steps:
            return False
        ids = self._last[0]
        last = i if len(ids) > i and ids[i] == fleet.device_ids[i] else _find(ids, fleet.device_ids[i])
        if last is None:
            return False
        for array, before in zip(out[:3], self._last[2:], strict=True):
            array[i, : fleet.steps - ahead] = before[last, ahead:]
        return True


def _arrays(kind: Any, data: FleetData | MeterData) -> Any:
    names: tuple[str, ...] = kind._fields
    return kind(*[np.ascontiguousarray(getattr(data, name)) for name in names])


def judge(
    fleet: FleetData, meters: MeterData, dt_s: float, plan: FleetSolution, soft: SoftCosts | None = None
) -> tuple[FloatArray, FloatArray]:
    """Replay plans as they are: (objectives (B,) in EUR, what each breaks (B, judge.KINDS)); no column below judge.HARD may be
    above zero."""
    objective, excess = np.empty(fleet.count), np.empty((fleet.count, len(KINDS)))
    judge_all(
        _arrays(FleetArrays, fleet), _arrays(MeterArrays, meters), soft_arrays(soft or SoftCosts()), dt_s / 3600.0, plan.charge_w,
        plan.discharge_w, plan.curtail_w, objective, excess,
    )  # fmt: skip
    return objective, excess


def _find(ids: tuple[str, ...], wanted: str) -> int | None:
    return ids.index(wanted) if wanted in ids else None


def _check(fleet: FleetData, meters: MeterData, dt_s: float) -> None:
    if not (np.isfinite(dt_s) and dt_s > 0):
        raise InputError(source="fleet", field="dt_s", value=dt_s, expected="seconds > 0")
    shape = meters.buy_eur_per_kwh.shape
    if shape != (fleet.count, fleet.steps):
        raise InputError(
            source="meters", field="shape", value=shape, expected=f"{(fleet.count, fleet.steps)}, one meter for each device"
        )


def _read(qp: SiteQP, solution: RawSolution, h: float, i: int, out: tuple[FloatArray, ...]) -> None:
    for array, columns in zip(out[:3], (qp.device(0, "c"), qp.device(0, "d"), qp.grid("u")), strict=True):
        array[i] = 1000.0 * np.maximum(solution.x[columns], 0.0)
    out[3][i] = solution.equality_duals[qp.equality_rows(0, "energy")]
    out[4][i] = -solution.equality_duals[qp.equality_rows(None, "balance")] / h
