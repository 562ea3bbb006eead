"""The client library for device makers: take, begin, complete, heartbeat. It needs Redis and the `redis` package, nothing else.

docs/device_makers.md has the wire format and an example.
"""

from core.commands import Command, CommandType, Outcome
from core.device_protocol import CommandGuard
from core.errors import StoreError
from serving.device_client.client import GUARD_MEMORY, DeviceClient, Work
from serving.device_client.journal import Journal
from serving.device_client.revert import RevertTimer
from stores.redis.connect import REDIS_FAILURES

FAILURES: tuple[type[Exception], ...] = (StoreError, *REDIS_FAILURES)
"""Redis or the journal could not be used: wait a little, call `recover`, go on."""

__all__ = [
    "FAILURES",
    "GUARD_MEMORY",
    "Command",
    "CommandGuard",
    "CommandType",
    "DeviceClient",
    "Journal",
    "Outcome",
    "RevertTimer",
    "Work",
]
