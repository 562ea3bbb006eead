"""The clients' side of the embedded servers: attach, look, pin, stop.

Here: the client's lock and the conversation with the keeper through files. Not here: connections (stores.connections).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

from core.errors import StoreError
from stores.embedded.runtime import Paths, alive, is_locked, lock, lock_holders, read_json, tail
from stores.settings import StoreSettings

START_DEADLINE_S = 120.0
POLL_S = 0.03


class EmbeddedServers:
    """A client's hold on the servers: they run at least until `close()` or the end of this process.

    Attributes: ``database_url``, ``redis_url``, ``mongodb_uri``; None where the settings name the user's own server.
    """

    def __init__(self, settings: StoreSettings) -> None:
        self._paths = Paths(settings.data_dir)
        self._wanted = settings.wanted
        self._paths.make()
        self._lock: BinaryIO | None = _client_lock(self._paths)
        self.database_url: str | None = None
        self.redis_url: str | None = None
        self.mongodb_uri: str | None = None
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    def refresh(self) -> None:
        """Make sure that the servers run, and learn where; StoreError names the log when they will not."""
        servers = _ensure(self._paths, self._wanted)
        self.database_url = servers.get("postgres")
        self.redis_url = servers.get("valkey")
        self.mongodb_uri = servers.get("mongod")

    def close(self) -> None:
        """Let go; the keeper stops the servers when this was the last client. Closing twice is harmless."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"EmbeddedServers(data_dir={str(self._paths.data_dir)!r}, wanted={self._wanted!r})"


def open_embedded(settings: StoreSettings) -> EmbeddedServers:
    """Attach to the servers that the settings do not replace, starting them when needed."""
    return EmbeddedServers(settings)


def status(data_dir: Path) -> dict[str, Any]:
    """`running`, `pinned`, `keeper_pid`, `clients` (pids), and each server's `127.0.0.1:port (pid n)`; no passwords."""
    paths = Paths(data_dir)
    found = _state(paths)
    report: dict[str, Any] = {
        "running": bool(found),
        "pinned": paths.pin.exists(),
        "keeper_pid": found.get("keeper_pid"),
        "clients": lock_holders(paths.clients_lock),
    }
    for name, server in found.get("servers", {}).items():
        report[name] = f"127.0.0.1:{server['port']} (pid {server['pid']})"
    return report


def up(settings: StoreSettings) -> None:
    """Start the servers and keep them without clients, until `down`."""
    with open_embedded(settings):
        Paths(settings.data_dir).pin.touch(mode=0o600)


def down(data_dir: Path, *, force: bool = False, deadline_s: float = 60.0) -> None:
    """Stop the servers and wait until they have; StoreError while clients are connected, unless forced."""
    paths = Paths(data_dir)
    if not paths.run.exists():
        return
    if not force:
        alone = lock(paths.clients_lock, exclusive=True, block=False)
        if alone is None and is_locked(paths.keeper_lock) and _state(paths):
            pids = ", ".join(map(str, lock_holders(paths.clients_lock))) or "not known"
            raise StoreError(f"the servers in {data_dir} are in use (pids {pids}): stop those first, or use --force")
        if alone is not None:
            alone.close()
    paths.pin.unlink(missing_ok=True)
    end_s = time.monotonic() + deadline_s
    asked = None
    while is_locked(paths.keeper_lock):
        pid = _state(paths).get("keeper_pid")
        if force and pid and pid != asked:
            os.kill(pid, signal.SIGTERM)
            asked = pid
        if time.monotonic() > end_s:
            raise StoreError(f"the servers in {data_dir} did not stop within {deadline_s:.0f} s; log {paths.keeper_log}")
        time.sleep(POLL_S)


def _client_lock(paths: Paths) -> BinaryIO:
    end_s = time.monotonic() + START_DEADLINE_S
    while (handle := lock(paths.clients_lock, exclusive=False, block=False)) is None:
        if time.monotonic() > end_s:
            raise StoreError(f"servers in {paths.data_dir} are stopping and do not end; log {paths.keeper_log}")
        time.sleep(POLL_S)
    return handle


def _state(paths: Paths) -> dict[str, Any]:
    """What the living keeper published; empty when there is none (a killed one leaves its file behind)."""
    state = read_json(paths.state)
    return state if state and alive(state["keeper_pid"]) and is_locked(paths.keeper_lock) else {}


def _ensure(paths: Paths, wanted: list[str]) -> dict[str, str]:
    """URLs of the wanted servers by name, once they all run."""
    if not wanted:
        return {}
    began_ns, end_s = time.time_ns(), time.monotonic() + START_DEADLINE_S
    while True:
        for name in wanted:
            paths.want(name).touch(mode=0o600)
        servers = _state(paths).get("servers", {})
        if all(name in servers and alive(servers[name]["pid"]) for name in wanted):
            return {name: servers[name]["url"] for name in wanted}
        failure = read_json(paths.failure)
        if failure.get("time_ns", 0) > began_ns:
            raise StoreError(f"the embedded servers did not start: {failure['message']}")
        if time.monotonic() > end_s:
            raise StoreError(
                f"the embedded servers did not start within {START_DEADLINE_S:.0f} s; "
                f"log {paths.keeper_log}: {tail(paths.keeper_log)}"
            )
        if not is_locked(paths.keeper_lock):
            _start_keeper(paths)
        time.sleep(POLL_S)


def _start_keeper(paths: Paths) -> None:
    with open(paths.keeper_log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as out:
        result = subprocess.run(
            [sys.executable, "-m", "stores.embedded.keeper", str(paths.data_dir)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd="/", check=False,
            start_new_session=True,
        )  # fmt: skip
    if result.returncode:
        raise StoreError(f"the keeper did not start; log {paths.keeper_log}: {tail(paths.keeper_log)}")
