"""Embedded servers: PostgreSQL, Valkey and mongod from wheels, kept by one process for as long as any client lives."""

from stores.embedded.client import EmbeddedServers, down, open_embedded, status, up

__all__ = ["EmbeddedServers", "down", "open_embedded", "status", "up"]
