"""Runs policies so that one that hangs, crashes or raises costs its deadline and nothing else.

A policy runs in a process of its own, kept between ticks, so that solvers stay warm; one that misses its deadline is killed and
replaced, so that never more than one lives for a site (serving.dispatch.asked_process). Not here: which policy is asked
(serving.dispatch.ranking).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import structlog

from core.artefact import ArtefactFiles
from core.decisions import Decision, check_decision
from core.errors import PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation, PolicyUnableError
from serving.dispatch.asked_process import AskedProcess
from serving.dispatch.policy_factory import Built, Factory, policy_of
from serving.dispatch.worker import serve

log = structlog.get_logger()


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
    _asked: AskedProcess = field(init=False)

    def __post_init__(self) -> None:
        self._asked = AskedProcess(serve, (self.factory,), self.on_restart)

    def decide(
        self, record: PolicyRecord, observation: Observation, deadline_s: float, files: ArtefactFiles | None = None
    ) -> Decision:
        """See Runner.decide; returns or raises within the deadline and the time that killing takes."""
        kind, content = self._asked.ask((record, observation, files), deadline_s)
        if kind != "decided":
            raise PolicyFailedError(Why(kind), str(content))
        return checked(content, observation)

    def warm(self) -> None:
        """Start the process before it is needed."""
        self._asked.warm()

    def close(self) -> None:
        """End the process."""
        self._asked.close()
