"""The process in which shadows decide: reads Tasks, answers with Turns. It holds no connection and runs at low priority."""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import structlog

from serving.dispatch.asked_process import bound_to_parent
from serving.dispatch.policy_factory import Built, Factory
from serving.dispatch.warm import warm_kernels
from serving.logs import configure_logging
from serving.shadow.turn import take_turn

log = structlog.get_logger()
NICE = 10
"""Of shadows and of scoring: what commands goes first."""
TURN, FAILED = "turn", "failed"


def serve_shadows(pipe: Connection, factory: Factory) -> None:
    """Answer until the pipe closes."""
    bound_to_parent(NICE)
    configure_logging()
    warm_kernels()
    built = Built(factory)
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        reply: tuple[str, Any]
        try:
            reply = (TURN, take_turn(task, built.policy))
        except Exception as error:
            # Not the policy's: take_turn answers for that. A virtual site that cannot be moved costs its interval.
            log.exception("shadow_turn_failed", policy=task.record.name)
            reply = (FAILED, f"its turn failed: {type(error).__name__}: {error}")
        try:
            pipe.send(reply)
        except (EOFError, OSError):
            return
