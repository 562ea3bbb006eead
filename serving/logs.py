"""Structured logs on standard error: coloured on a terminal, JSON lines elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging(*, verbose: bool = False, json_logs: bool = False) -> None:
    """Set structlog up for this process; secrets never reach an event because URLs are never logged."""
    terminal = sys.stderr.isatty() and not json_logs
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if verbose else logging.INFO),
        # Looked up at each line: standard error may have been exchanged since.
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
