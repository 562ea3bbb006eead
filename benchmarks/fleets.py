"""Tables of fleets: one device's price with every solver, and cost against fleet size. All in one run on the same windows.

Cold is the first step (set-up included), warm the median of the later ones. Fleets larger than a peer can solve within its budget
of time are measured on their first devices and scaled up: the column "measured" says how many. Errors are against Clarabel at
1e-10, by the score of benchmarks.instances. Not here: plots, command line.
"""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common import BASELINE, Clock, Table, memory_now_bytes, progress
from benchmarks.instances import FloatArray, Window, relative_error, rolling, score
from benchmarks.modelled import DppClarabel, DppOsqp, Rebuilt
from benchmarks.ours import Answers, Batched, FleetSolver, OneByOne, Scalar
from benchmarks.reference_qp import ReferenceQP
from benchmarks.solvers import Clarabel, Exact, Osqp, OsqpFine, Piqp, PiqpMultistage, Qoco

Make = Callable[[int, int], FleetSolver]
"""(devices, steps) to a fresh solver."""
MODELLED = (Rebuilt, DppOsqp, DppClarabel)
OURS = "structured"
"""How the names of this project's solvers begin."""
ON_MATRICES = (Osqp, OsqpFine, Clarabel, Qoco, PiqpMultistage, Piqp)


def makers() -> dict[str, Make]:
    """Every solver by name, the baseline first, ours last."""
    found: dict[str, Make] = {}
    for modelled in MODELLED:
        found[modelled.name] = lambda count, steps, kind=modelled: OneByOne([kind(steps) for _ in range(count)])
    for kind in ON_MATRICES:
        found[kind.name] = lambda count, steps, kind=kind: OneByOne(
            [kind(qp) for qp in [ReferenceQP(steps)] for _ in range(count)]
        )
    for ours in (Scalar(), Batched(), Batched(threads=2)):
        found[ours.name] = lambda count, steps, like=ours: type(like)(like.threads)
    return found


def exact(count: int, steps: int) -> FleetSolver:
    """What errors are measured against."""
    qp = ReferenceQP(steps)
    return OneByOne([Exact(qp) for _ in range(count)])


def compile_ours(steps: int) -> None:
    """Code compiled or loaded from its cache before anything is timed."""
    nothing = (np.zeros(2), np.zeros(2))
    window = next(iter(rolling(2, steps, 0, lambda _: nothing)))
    for solver in (Scalar(), Batched()):
        solver.solve(window, Clock())


@dataclass(slots=True)
class Record:
    """One solver on one fleet."""

    name: str
    steps: int
    devices: int
    measured: int
    threads: int
    cpu_s: list[float] = field(default_factory=list)
    """Per step of the horizon's roll, for the measured devices."""
    wall_s: list[float] = field(default_factory=list)
    iterations: list[float] = field(default_factory=list)
    worst: float = 0.0
    checked: int = 0
    unsolved: int = 0
    attempts: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def failures(self) -> str:
        """How many of how many were not solved, and by what else ours were."""
        others = self.statuses["piqp"]
        return f"{self.unsolved} of {self.attempts}" + (f" ({others} by PIQP)" if others else "")

    @property
    def scale(self) -> float:
        """Whole fleet over what was measured."""
        return self.devices / self.measured

    def cold_s(self, times: Sequence[float]) -> float:
        """First step, whole fleet."""
        return times[0] * self.scale

    def warm_s(self, times: Sequence[float]) -> float:
        """Median of the later steps, whole fleet."""
        return float(np.median(times[1:])) * self.scale

    def take(self, clock: Clock, answers: Answers) -> None:
        """One step's result."""
        self.cpu_s.append(clock.cpu_s)
        self.wall_s.append(clock.wall_s)
        self.iterations.append(answers.iterations)
        self.unsolved += int((~answers.solved).sum())
        self.attempts += len(answers.solved)
        self.statuses.update(answers.statuses)

    def check(self, window: Window, answers: Answers, best_eur: FloatArray) -> None:
        """Errors of the devices that are solved by the solver's own word."""
        count = min(self.measured, len(best_eur))
        found = score(window.first(count), answers.charge_w[:count], answers.discharge_w[:count])
        errors = np.abs(relative_error(found, best_eur[:count]))[answers.solved[:count]]
        if len(errors):
            self.worst = max(self.worst, float(errors.max()))
        self.checked += len(errors)


def run(steps: int, devices: int, solvers: dict[str, tuple[Make, int]], *, moves: int, checked: int, seed: int) -> list[Record]:
    """Roll a fleet through `moves` steps with all solvers; each is given its own number of devices to measure."""
    records = {name: Record(name, steps, devices, measured, 1) for name, (_, measured) in solvers.items()}
    running = {name: make(measured, steps) for name, (make, measured) in solvers.items()}
    for name, solver in running.items():
        records[name].threads = solver.threads
    compile_ours(steps)
    judge = exact(min(checked, devices), steps)
    mover = Batched()
    moved: dict[str, FloatArray] = {}

    def decide(window: Window) -> tuple[FloatArray, FloatArray]:
        """States move by the batched solver's decisions; a device that it refuses stands still."""
        answers = mover.solve(window, Clock())
        moved["w"] = np.where(answers.solved[:, None], answers.charge_w - answers.discharge_w, 0.0)[:, 0]
        return np.maximum(moved["w"], 0.0), np.maximum(-moved["w"], 0.0)

    for window in rolling(devices, steps, moves, decide, seed=seed):
        part = window.first(min(checked, devices))
        best = judge.solve(part, Clock())
        if not best.solved.all():
            raise RuntimeError(f"the reference failed: {best.statuses}")
        best_eur = score(part, best.charge_w, best.discharge_w)
        for name, solver in running.items():
            clock = Clock()
            measured = records[name].measured
            own = window if measured == devices else window.first(measured)
            answers = solver.solve(own, clock)
            records[name].take(clock, answers)
            records[name].check(own, answers, best_eur)
        progress(f"{devices} devices, {steps} steps: a step of the horizon done with {len(running)} solvers")
    return list(records.values())


def one_device(steps: int, *, devices: int, moves: int, seed: int, memory: bool) -> tuple[Table, list[Record]]:
    """Price of one device with every solver."""
    every = makers()
    records = run(steps, devices, {n: (m, devices) for n, m in every.items()}, moves=moves, checked=devices, seed=seed)
    base = next(r for r in records if r.name == BASELINE)
    table = Table(
        f"One device, {steps} steps ({9 * steps + 3} variables): per device, of {devices} devices over {moves} warm steps",
        ("solver", "threads", "cold CPU ms", "warm CPU ms", "warm wall ms", "x baseline (warm CPU)", "iterations",
         "worst error", "not solved", "kB per device"),
        [
            f"Baseline: {BASELINE}. It has no warm start; its figures are those of its own later steps.",
            "Not solved: by the solver's own word, of all solves; errors are those of the others. By PIQP: refused by the"
            " kernel's own audit and solved by the next in its chain, within the time shown.",
            "kB per device: growth of resident memory when devices are added, without the input data.",
            "SIMD: a batch of eight lanes filled with the devices of this table.",
        ],
    )  # fmt: skip
    for r in records:
        warm = r.warm_s(r.cpu_s) / devices
        table.add(
            r.name,
            r.threads,
            1e3 * r.cold_s(r.cpu_s) / devices,
            1e3 * warm,
            1e3 * r.warm_s(r.wall_s) / devices,
            base.warm_s(base.cpu_s) / devices / warm,
            float(np.mean(r.iterations[1:])),
            r.worst,
            r.failures,
            memory_per_device(r.name, steps) / 1e3 if memory else None,
        )
    return table, records


def sizes(
    steps: int, counts: Sequence[int], known: list[Record], *, budget_s: float, moves: int, seed: int
) -> tuple[list[Table], list[Record]]:
    """Cost of a fleet's step against its size; `known` gives prices of one device, by which samples are sized."""
    every = makers()
    price = {r.name: max(r.cpu_s) / r.measured for r in known}
    found: list[Record] = []
    for devices in counts:
        chosen = {}
        for name, make in every.items():
            affordable = int(budget_s / price[name] / (moves + 1))
            chosen[name] = (make, devices if name.startswith(OURS) else min(devices, max(3, affordable)))
        found += run(steps, devices, chosen, moves=moves, checked=min(devices, 100), seed=seed + devices)
    return [_costs(steps, found, counts, moves), _ratios(steps, found, counts), _largest(steps, found, max(counts))], found


def _of(records: list[Record], name: str, devices: int) -> Record:
    return next(r for r in records if (r.name, r.devices) == (name, devices))


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count:,} devices"


def _costs(steps: int, records: list[Record], counts: Sequence[int], moves: int) -> Table:
    table = Table(
        f"CPU seconds of a whole fleet's step, {steps} steps, warm (median of {moves})",
        ("solver", *(_devices(count) for count in counts)),
        ["In brackets: how many devices were measured where it was not all; the rest is scaled up."],
    )
    for name in dict.fromkeys(r.name for r in records):
        cells = []
        for record in (_of(records, name, count) for count in counts):
            sample = f" ({record.measured:,})" if record.measured < record.devices else ""
            cells.append(f"{record.warm_s(record.cpu_s):.3g}{sample}")
        table.add(name, *cells)
    return table


def _ratios(steps: int, records: list[Record], counts: Sequence[int]) -> Table:
    table = Table(f"The same as multiples of {BASELINE}, {steps} steps", ("solver", *(_devices(count) for count in counts)))
    for name in dict.fromkeys(r.name for r in records):
        pairs = ((_of(records, BASELINE, count), _of(records, name, count)) for count in counts)
        table.add(name, *(base.warm_s(base.cpu_s) / r.warm_s(r.cpu_s) for base, r in pairs))
    return table


def _largest(steps: int, records: list[Record], devices: int) -> Table:
    table = Table(
        f"The fleet of {devices:,} devices, {steps} steps",
        ("solver", "threads", "measured", "cold CPU s", "warm CPU s", "warm wall s", "devices/s (CPU)", "devices/s (wall)",
         "x baseline", "x PIQP", "iterations", "worst error", "of", "not solved"),
        [
            "Ratios are of warm CPU time. Devices/s (CPU): over CPU seconds, what one core does; (wall): with the threads named.",
            "Peers run on one thread: two processes would halve their wall time, not their CPU time.",
            "Of: how many answers were held against Clarabel at 1e-10.",
        ],
    )  # fmt: skip
    base, piqp = (_of(records, name, devices).warm_s(_of(records, name, devices).cpu_s) for name in (BASELINE, Piqp.name))
    for r in (r for r in records if r.devices == devices):
        cpu, wall = r.warm_s(r.cpu_s), r.warm_s(r.wall_s)
        table.add(
            r.name, r.threads, r.measured, r.cold_s(r.cpu_s), cpu, wall, devices / cpu, devices / wall, base / cpu, piqp / cpu,
            float(np.mean(r.iterations[1:])), r.worst, r.checked, r.failures,
        )  # fmt: skip
    return table


def memory_per_device(name: str, steps: int) -> float:
    """Bytes of resident memory that one more device takes, measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return float(pool.apply(_growth, (name, steps)))


def _growth(name: str, steps: int) -> float:
    count = 2000 if name.startswith(OURS) else 24
    nothing = (np.zeros(count), np.zeros(count))
    window = next(iter(rolling(count, steps, 0, lambda _: nothing)))
    make = makers()[name]
    make(2, steps).solve(window.first(2), Clock())  # libraries loaded, code compiled
    before = memory_now_bytes()
    solver = make(count, steps)
    answers = solver.solve(window, Clock())
    grown = memory_now_bytes() - before
    return grown / len(answers.solved)


def as_json(records: list[Record]) -> list[dict[str, Any]]:
    """For the record of the run and the plot."""
    return [
        {
            "solver": r.name, "steps": r.steps, "devices": r.devices, "measured": r.measured, "threads": r.threads,
            "cold_cpu_s": r.cold_s(r.cpu_s), "warm_cpu_s": r.warm_s(r.cpu_s), "cold_wall_s": r.cold_s(r.wall_s),
            "warm_wall_s": r.warm_s(r.wall_s), "worst_error": r.worst, "checked": r.checked, "unsolved": r.unsolved,
            "attempts": r.attempts, "statuses": dict(r.statuses), "cpu_s": r.cpu_s, "wall_s": r.wall_s,
        }
        for r in records
    ]  # fmt: skip
