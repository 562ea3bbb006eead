"""The integration tests' fixtures, on servers of this folder's own: what is killed here disturbs nobody else."""

import contextlib
import importlib.util
import socket
import sys
import threading
from pathlib import Path

import pytest

from stores.connections import connect_redis

sys.path.insert(0, str(Path(__file__).parent))  # for `processes`, the helpers that these tests share

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


class ReplyProxy:
    """A TCP proxy in front of Redis. What is asked always arrives; what is answered may be lost, or late."""

    def __init__(self, address):
        self.delay_s = 0.0
        self.drop_next = 0
        self._address = address
        self._open = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._address)
            except OSError:
                return
            self._open += [near, far]
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source, target, is_reply):
        try:
            while data := source.recv(65_536):
                if is_reply and self.drop_next:
                    self.drop_next -= 1
                    break
                if is_reply and self.delay_s:
                    threading.Event().wait(self.delay_s)
                target.sendall(data)
        except OSError:
            pass  # the other side has gone: so does this one
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self):
        """Redis is gone: no connection lives, none can be made."""
        for end in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def proxied(redis_client):
    """(client, proxy): a client of the same Redis whose answers pass through a ReplyProxy."""
    arguments = redis_client.get_connection_kwargs()
    proxy = ReplyProxy((arguments["host"], arguments["port"]))
    client = connect_redis(f"redis://:{arguments['password']}@127.0.0.1:{proxy.port}/0")
    yield client, proxy
    client.close()
    proxy.cut()
