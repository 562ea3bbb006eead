"""A process that answers questions and is killed when it is late.

A process, not a thread: a solver that hangs in native code holds the interpreter's lock, and a thread cannot be ended. It is kept
between questions; one that misses its deadline is killed and replaced. New ones are forked from a server that has the policies
imported (tens of milliseconds). Not here: what is asked (serving.dispatch.runner, serving.shadow).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

END_WAIT_S = 5.0
PR_SET_PDEATHSIG = 1
DEADLINE, DIED = "deadline", "died"
"""Kinds of answer that are none; all others are the process's own."""


def bound_to_parent(nice: int = 0) -> None:
    """Of a process that was started here: it dies with its parent, leaves Ctrl-C to it, and runs at a lower priority."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if nice:
        os.nice(nice)


@dataclass(slots=True)
class AskedProcess:
    """Runs `target(pipe, *arguments)`, which must receive a question and send a pair (kind, content), again and again."""

    target: Callable[..., None]
    """Importable by name: the process imports it."""
    arguments: Sequence[Any] = ()
    on_restart: Callable[[], None] = lambda: None
    name: str = "policies"
    _process: ForkServerProcess | None = None
    _pipe: Connection | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    """Over the two above: `close` may come from another thread than `ask`."""
    _closed: bool = False

    def ask(self, question: object, deadline_s: float) -> tuple[str, Any]:
        """The answer; (DEADLINE, why) or (DIED, why) without one. Returns within the deadline and the time that killing takes."""
        replies: list[tuple[str, Any]] = []
        # Sending and reading can block on a process that stands still, so that both are done where they can be abandoned;
        # killing the process breaks the pipe, which ends the thread: none is left behind.
        thread = threading.Thread(target=self._ask, args=(question, replies), name="policy-pipe", daemon=True)
        thread.start()
        thread.join(deadline_s)
        if thread.is_alive():
            self.kill()
            thread.join(END_WAIT_S)
            return DEADLINE, f"no decision within {deadline_s:.1f} s"
        if replies[0][0] == DIED:
            self.kill()
        return replies[0]

    def _ask(self, question: object, replies: list[tuple[str, Any]]) -> None:
        try:
            pipe = self._ready()
            pipe.send(question)
            replies.append(pipe.recv())
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer
            replies.append((DIED, f"its process failed: {type(error).__name__}: {error}"))

    def _ready(self) -> Connection:
        with self._lock:
            if self._closed:
                raise EOFError("it was closed")
            if self._process is None or self._pipe is None or not self._process.is_alive():
                self._start()
            assert self._pipe is not None  # noqa: S101
            return self._pipe

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["serving.dispatch.worker"])
        here, there = context.Pipe()
        self._process = context.Process(target=self.target, args=(there, *self.arguments), name=self.name, daemon=True)
        self._pipe = here
        self._process.start()
        there.close()

    def kill(self) -> None:
        """End the process; the next question starts another."""
        with self._lock:
            process, pipe = self._process, self._pipe
            self._process = self._pipe = None
        if process is not None and process.pid is not None:
            process.kill()
            process.join(END_WAIT_S)
            self.on_restart()
        if pipe is not None:
            pipe.close()

    def warm(self) -> None:
        """Start the process before it is needed."""
        self._ready()

    def close(self) -> None:
        """End the process for good; a question that is under way ends as DIED."""
        self.on_restart = lambda: None
        with self._lock:
            self._closed = True
        self.kill()
