"""Stores: PostgreSQL, MongoDB, Redis, their schemas, and the embedded servers. Drivers live only here."""
