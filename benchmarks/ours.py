"""The structured interior point of this project behind the same interface as its peers: a fleet at a time.

`Batched` packs eight devices into the lanes of a vector register; `Scalar` runs the same source with plain numbers, one device
after the other. Both read fleet and meters as arrays; packing them, the audit and the score of each plan are timed, and so is
the rest of the chain (PIQP) for a device that the kernel refuses. Not here: the solver (optimizer.structured).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import Clock
from benchmarks.instances import SOFT, FloatArray, Window
from benchmarks.solvers import Peer
from optimizer.structured.driver import PIQP, SOURCES, BatchSolver


@dataclass(frozen=True, slots=True)
class Answers:
    """What a solver says about a fleet; powers (B, N) in W."""

    charge_w: FloatArray
    discharge_w: FloatArray
    solved: NDArray[np.bool_]
    statuses: Counter[str]
    iterations: float


class FleetSolver(ABC):
    """A fleet's solver, kept from step to step."""

    name: str
    threads = 1

    @abstractmethod
    def solve(self, window: Window, clock: Clock) -> Answers:
        """Solve all devices; what a user would wait for goes onto the clock. The second call on is warm."""


class OneByOne(FleetSolver):
    """A peer that knows one device at a time: one object each, in turn."""

    def __init__(self, peers: list[Peer]) -> None:
        self.name = peers[0].name
        self._peers = peers

    def solve(self, window: Window, clock: Clock) -> Answers:
        answers = []
        for i, peer in enumerate(self._peers):
            peer.load(window, i)
            with clock:
                answers.append(peer.solve())
        return Answers(
            np.array([a.charge_w for a in answers]),
            np.array([a.discharge_w for a in answers]),
            np.array([a.solved for a in answers]),
            Counter(a.status for a in answers),
            float(np.mean([a.iterations for a in answers])),
        )


class Batched(FleetSolver):
    """Eight devices in lock-step; a fleet of one runs in scalar code."""

    name = "structured, SIMD"

    def __init__(self, threads: int = 1) -> None:
        self.threads = threads
        if threads > 1:
            self.name = f"{self.name}, {threads} threads"
        self._solver = self.make(threads)

    def make(self, threads: int) -> BatchSolver:
        """The solver behind it."""
        return BatchSolver(threads=threads)

    def solve(self, window: Window, clock: Clock) -> Answers:
        with clock:
            plan = self._solver.solve(window.fleet, window.meters, 3600.0 * window.dt_h, SOFT)
        statuses = Counter(SOURCES[source] for source in plan.source.tolist())
        return Answers(plan.charge_w, plan.discharge_w, plan.source <= PIQP, statuses, float(plan.iterations.mean()))


class Scalar(Batched):
    """The same kernel compiled for plain numbers, one thread."""

    name = "structured, scalar"

    def make(self, threads: int) -> BatchSolver:
        if threads != 1:
            raise ValueError("the scalar kernel is measured on one thread")
        return ScalarSolver(threads=1)


class ScalarSolver(BatchSolver):
    """BatchSolver with a single lane, as it does by itself with a single device."""

    def _lanes(self, count: int) -> int:
        return 1
