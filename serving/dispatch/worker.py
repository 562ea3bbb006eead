"""The process in which policies decide: reads (row, observation, artefact), answers with a decision or why there is none.

It holds no connection to any store and dies with its dispatcher. Not here: deadlines (serving.dispatch.runner).
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import structlog

from core.errors import PulseBmsError
from policies.base import PolicyUnableError
from serving.dispatch.asked_process import bound_to_parent
from serving.dispatch.policy_factory import Built, Factory
from serving.dispatch.warm import warm_kernels
from serving.logs import configure_logging

log = structlog.get_logger()


def serve(pipe: Connection, factory: Factory) -> None:
    """Answer until the pipe closes."""
    bound_to_parent()
    configure_logging()
    warm_kernels()
    built = Built(factory)
    while True:
        try:
            record, observation, files = pipe.recv()
        except (EOFError, OSError):
            return
        reply: tuple[str, Any]
        try:
            reply = ("decided", built.policy(record, files).decide(observation))
        except PolicyUnableError as error:
            reply = ("unable", str(error))
        except PulseBmsError as error:
            reply = ("refused", f"refused: {error}")
        except Exception as error:
            log.exception("policy_raised", policy=record.name)
            reply = ("raised", f"raised {type(error).__name__}: {error}")
        try:
            pipe.send(reply)
        except (EOFError, OSError):
            return
        except Exception as error:  # noqa: BLE001 - what cannot be pickled is no decision
            pipe.send(("raised", f"returned what cannot be sent: {type(error).__name__}: {error}"))
