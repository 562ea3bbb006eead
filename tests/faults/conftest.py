"""The integration tests' fixtures, on servers of this folder's own: what is killed here disturbs nobody else."""

import importlib.util
import sys
from pathlib import Path

import pytest

from stores.connections import connect_redis

sys.path.insert(0, str(Path(__file__).parent))  # for `processes`, `reply_proxy` and `chaos`, which these tests share
from reply_proxy import ReplyProxy

_PATH = Path(__file__).parents[1] / "integration" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("integration_fixtures", _PATH)
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

servers = _FIXTURES.servers
pg_template = _FIXTURES.pg_template
pg_dsn = _FIXTURES.pg_dsn
pg = _FIXTURES.pg
mongo_db = _FIXTURES.mongo_db
redis_client = _FIXTURES.redis_client
stores = _FIXTURES.stores


@pytest.fixture
def proxied(redis_client):
    """(client, proxy): a client of the same Redis whose answers pass through a ReplyProxy."""
    arguments = redis_client.get_connection_kwargs()
    proxy = ReplyProxy((arguments["host"], arguments["port"]))
    client = connect_redis(f"redis://:{arguments['password']}@127.0.0.1:{proxy.port}/0")
    yield client, proxy
    client.close()
    proxy.cut()
