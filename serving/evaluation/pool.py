"""Many jobs over the cores: processes that are kept, watched, and replaced when a policy hangs or crashes.

A job's progress is its heartbeat: where none comes within the deadline of one decision the process is killed and the job is
marked with why; the others go on. Not here: what a job does (serving.evaluation.job).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

import structlog

from core.errors import PulseBmsError
from serving.evaluation.job import Job, run_job
from serving.logs import configure_logging

PR_SET_PDEATHSIG = 1
BUILD_S = 600.0
"""A process may take so long to build its packs: PyBaMM compiles its models once ..."""
FIRST_S = 600.0
"""... and so much longer for its first decision: kernels are compiled once, too."""
LOOK_S = 0.2
Done = Callable[[int, dict[str, Any]], object]
Turn = Literal["run", "later", "done"]
"""What to do with a job now: run it; ask again, someone else has it; nothing, its result is there."""


def end_with_parent() -> None:
    """However the evaluator ends, this process does too, even while a policy hangs in native code."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():
        os._exit(1)  # it was gone before we asked


def work(pipe: Connection) -> None:
    """A worker: jobs in, ("step", n), ("done", result) or ("failed", error) out, until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    configure_logging()
    # Solver chains say when they fall back; a replay of weeks would drown the terminal in it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("done", run_job(job, lambda n: pipe.send(("step", n)))))
        except PulseBmsError as error:
            pipe.send(("failed", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a policy raises is its mark; the others finish
            pipe.send(("failed", f"raised {type(error).__name__}: {error}"))


@dataclass(slots=True)
class _Worker:
    process: Any
    pipe: Connection
    index: int = -1
    began_s: float = 0.0
    heard_s: float = 0.0
    steps: int = -1
    """Decided so far; -1 while the packs are built."""


@dataclass(slots=True)
class Pool:
    """So many processes; `run` gives each job to one of them."""

    workers: int
    deadline_s: float
    first_s: float = FIRST_S
    build_s: float = BUILD_S
    _live: list[_Worker] = field(default_factory=list)

    def run(
        self,
        jobs: Sequence[Job],
        on_done: Done,
        turn: Callable[[int], Turn] = lambda _: "run",
        on_look: Callable[[], object] = lambda: None,
    ) -> None:
        """All of them; `on_done(index, result)` in the order in which they end. A failed one has `status` failed and `error`.

        `turn(index)` is asked before a job is handed out; `on_look` is called again and again while jobs run.
        """
        waiting = list(range(len(jobs)))
        try:
            while waiting or any(worker.index >= 0 for worker in self._live):
                self._hand_out(jobs, waiting, turn)
                on_look()
                ready = wait([worker.pipe for worker in self._live if worker.index >= 0], timeout=LOOK_S)
                for worker in list(self._live):
                    if worker.index >= 0 and worker.pipe in ready:
                        self._hear(worker, on_done)
                self._overdue(on_done)
        finally:
            self.close()

    def close(self) -> None:
        """End the processes."""
        for worker in self._live:
            self._end(worker)
        self._live.clear()

    def _hand_out(self, jobs: Sequence[Job], waiting: list[int], turn: Callable[[int], Turn]) -> None:
        while waiting:
            free = next((worker for worker in self._live if worker.index < 0), None)
            if free is None and len(self._live) >= self.workers:
                return
            index = _next(waiting, turn)
            if index is None:
                return
            self._give(free, index, jobs[index])

    def _give(self, worker: _Worker | None, index: int, job: Job) -> None:
        """To this worker, or to a new one where it has ended meanwhile."""
        if worker is not None:
            try:
                worker.pipe.send(job)
            except OSError:
                self._end(worker)
                self._live.remove(worker)
                worker = None
        if worker is None:
            worker = _start()
            self._live.append(worker)
            worker.pipe.send(job)
        worker.index, worker.steps = index, -1
        worker.began_s = worker.heard_s = time.monotonic()

    def running_s(self) -> list[float]:
        """How long each job under way has run."""
        now = time.monotonic()
        return [now - worker.began_s for worker in self._live if worker.index >= 0]

    def steps(self) -> int:
        """Decided by the jobs under way."""
        return sum(max(0, worker.steps) for worker in self._live if worker.index >= 0)

    def _hear(self, worker: _Worker, on_done: Done) -> None:
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            self._failed(worker, on_done, "its process ended: out of memory, or a crash in native code")
            return
        worker.heard_s = time.monotonic()
        if kind == "step":
            worker.steps = max(worker.steps, int(content))
            return
        index, worker.index = worker.index, -1
        result = content if kind == "done" else {"status": "failed", "error": str(content)}
        on_done(index, result | {"took_s": time.monotonic() - worker.began_s})

    def _overdue(self, on_done: Done) -> None:
        for worker in list(self._live):
            first = self.build_s if worker.steps < 0 else self.first_s if worker.steps == 0 else 0.0
            allowed = self.deadline_s + first
            if worker.index >= 0 and time.monotonic() - worker.heard_s > allowed and not worker.pipe.poll():
                self._failed(worker, on_done, f"no decision within {allowed:g} s")

    def _failed(self, worker: _Worker, on_done: Done, why: str) -> None:
        self._end(worker)
        self._live.remove(worker)
        on_done(worker.index, {"status": "failed", "error": why, "took_s": time.monotonic() - worker.began_s})

    def _end(self, worker: _Worker) -> None:
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _next(waiting: list[int], turn: Callable[[int], Turn]) -> int | None:
    """Takes the first job that may run from `waiting`, and all that need not; None when there is none now."""
    for index in list(waiting):
        now = turn(index)
        if now == "later":
            continue
        waiting.remove(index)
        if now == "run":
            return index
    return None


def _start() -> _Worker:
    # One thread each: solvers and PyBaMM would otherwise fight for the cores.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    # Spawned, not forked by a server: the kernel's signal at a parent's death (see work) must come from the evaluator itself.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there,), name="evaluation", daemon=True)
    process.start()
    there.close()
    return _Worker(process, here)
