"""Bounds on a dispatcher's PostgreSQL session: a dead network or a paused process must not hold it, or its locks, for ever."""

from __future__ import annotations

import socket

from stores.postgres.connection import PgConnection

STATEMENT_TIMEOUT_S = 30
IDLE_IN_TRANSACTION_S = 10
"""A dispatcher that was stopped inside a transaction loses it: its row locks would keep a standby from taking over."""
DEAD_PEER_S = 20
"""Unacknowledged data for this long ends the connection (TCP_USER_TIMEOUT); an idle one is probed after it."""


def bound_session(connection: PgConnection) -> None:
    """Set the timeouts on an open connection. Again after each reconnect."""
    connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
    connection.execute(f"SET lock_timeout = '{STATEMENT_TIMEOUT_S}s'")
    connection.execute(f"SET idle_in_transaction_session_timeout = '{IDLE_IN_TRANSACTION_S}s'")
    duplicate = socket.socket(fileno=connection.fileno())
    try:
        if duplicate.family in (socket.AF_INET, socket.AF_INET6):
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, DEAD_PEER_S)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_PEER_S * 1000)
    finally:
        duplicate.detach()  # the descriptor stays the driver's
