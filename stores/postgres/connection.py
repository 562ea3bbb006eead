"""The type of a PostgreSQL connection, for layers that must not import the driver. Not here: opening one."""

from typing import Any

import psycopg

PgConnection = psycopg.Connection[Any]
"""A psycopg connection with plain tuples as rows."""
