"""Runs policies so that one that hangs, crashes or raises costs its deadline and nothing else.

A policy runs in a process of its own, not in a thread: a solver that hangs in native code holds the interpreter's lock, and a
thread cannot be ended. The process is kept between ticks, so that solvers stay warm; one that misses its deadline is killed
and replaced, so that never more than one lives for a site. New ones are forked from a server that has the policies imported
(tens of milliseconds). Not here: which policy is asked (serving.dispatch.ranking).
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any, Protocol

import structlog

from core.artefact import ArtefactFiles
from core.decisions import Decision, check_decision
from core.errors import PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation, PolicyUnableError
from serving.dispatch.policy_factory import Built, Factory, policy_of
from serving.dispatch.worker import serve

log = structlog.get_logger()

END_WAIT_S = 5.0


class Why(StrEnum):
    """Why a policy did not decide: labels of the metric, few and fixed."""

    INELIGIBLE = "ineligible"
    UNABLE = "unable"
    REFUSED = "refused"
    """Its row is not valid, or what it returned is no decision for this interval."""
    NOT_FINITE = "not_finite"
    RAISED = "raised"
    DEADLINE = "deadline"
    DIED = "died"
    """Its process ended: out of memory, or a crash in native code."""
    CUT = "cut"
    """The gate took away too much of it."""


class PolicyFailedError(PulseBmsError):
    """A policy did not decide; `why` is the class of reasons, the message the reason itself."""

    def __init__(self, why: Why, message: str) -> None:
        self.why = why
        super().__init__(message)


class Runner(Protocol):
    """Asks a policy for its decision."""

    def decide(
        self, record: PolicyRecord, observation: Observation, deadline_s: float, files: ArtefactFiles | None = None
    ) -> Decision:
        """The decision of the row's policy, finite and for this interval; PolicyFailedError otherwise.

        `files` are the artefact of a learned policy.
        """
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


@dataclass(slots=True)
class InlineRunner:
    """In this process and without a deadline: for callers that can wait, such as `pulsebms plan` and tests."""

    built: Built = field(default_factory=Built)

    def decide(
        self, record: PolicyRecord, observation: Observation, deadline_s: float, files: ArtefactFiles | None = None
    ) -> Decision:
        """See Runner.decide; the deadline does not bind."""
        try:
            decision = self.built.policy(record, files).decide(observation)
        except PolicyUnableError as error:
            raise PolicyFailedError(Why.UNABLE, str(error)) from error
        except PulseBmsError as error:
            raise PolicyFailedError(Why.REFUSED, f"refused: {error}") from error
        except Exception as error:
            log.exception("policy_raised", policy=record.name)
            raise PolicyFailedError(Why.RAISED, f"raised {type(error).__name__}: {error}") from error
        return checked(decision, observation)

    def close(self) -> None:
        """Nothing is held."""


def checked(decision: Decision, observation: Observation) -> Decision:
    """The decision; PolicyFailedError when it is not for this site and interval, or holds a number that is not finite."""
    try:
        check_decision(
            decision, site_id=observation.site.site_id, starts_at=observation.starts_at, interval_s=observation.interval_s
        )
    except PulseBmsError as error:
        why = Why.NOT_FINITE if "finite" in str(error) else Why.REFUSED
        raise PolicyFailedError(why, f"refused: {error}") from None
    return decision


@dataclass(slots=True)
class ProcessRunner:
    """One warm process for the policies of one site, killed when it is late."""

    factory: Factory = policy_of
    """Importable by name: the process imports it."""
    on_restart: Callable[[], None] = lambda: None
    _process: ForkServerProcess | None = None
    _pipe: Connection | None = None

    def decide(
        self, record: PolicyRecord, observation: Observation, deadline_s: float, files: ArtefactFiles | None = None
    ) -> Decision:
        """See Runner.decide; returns or raises within the deadline and the time that killing takes."""
        replies: list[tuple[str, Any]] = []
        # Sending and reading can block on a process that stands still, so that both are done where they can be abandoned;
        # killing the process breaks the pipe, which ends the thread: none is left behind.
        thread = threading.Thread(target=self._ask, args=(record, observation, files, replies), name="policy-pipe", daemon=True)
        thread.start()
        thread.join(deadline_s)
        if thread.is_alive():
            self._kill()
            thread.join(END_WAIT_S)
            raise PolicyFailedError(Why.DEADLINE, f"no decision within {deadline_s:.1f} s")
        kind, content = replies[0]
        if kind != "decided":
            if kind == "died":
                self._kill()
            raise PolicyFailedError(Why(kind), str(content))
        return checked(content, observation)

    def _ask(
        self, record: PolicyRecord, observation: Observation, files: ArtefactFiles | None, replies: list[tuple[str, Any]]
    ) -> None:
        try:
            pipe = self._ready()
            pipe.send((record, observation, files))
            replies.append(pipe.recv())
        except Exception as error:  # noqa: BLE001 - whatever it is, this policy does not decide; the next one is asked
            replies.append(("died", f"its process failed: {type(error).__name__}: {error}"))

    def _ready(self) -> Connection:
        if self._process is None or self._pipe is None or not self._process.is_alive():
            self._start()
        assert self._pipe is not None  # noqa: S101
        return self._pipe

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["serving.dispatch.worker"])
        here, there = context.Pipe()
        self._process = context.Process(target=serve, args=(there, self.factory), name="policies", daemon=True)
        self._pipe = here
        self._process.start()
        there.close()

    def _kill(self) -> None:
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
        """End the process."""
        process = self._process
        self.on_restart = lambda: None
        if process is not None:
            self._kill()
