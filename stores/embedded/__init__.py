"""Embedded PostgreSQL, Valkey and mongod: start or attach, status, keep up, stop.

Here: what a client of the keeper does. Not here: the keeper (stores.embedded.keeper), command lines of servers
(stores.embedded.servers).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import StoreError
from stores.embedded.runtime import Paths, is_locked, lock, lock_holders, read_json, tail
from stores.settings import StoreSettings

START_DEADLINE_S = 90.0


@dataclass(slots=True)
class EmbeddedServers:
    """A client's hold on the running servers. They may end once every client has closed."""

    urls: dict[str, str] = field(repr=False)
    _lock: BinaryIO | None = field(default=None, repr=False)

    def close(self) -> None:
        """Give the hold back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def open_embedded(settings: StoreSettings) -> EmbeddedServers:
    """Start the servers that have no URL in `settings`, or attach to those that run already.

    Raises StoreError naming the log when one does not start.
    """
    if not settings.wanted:
        return EmbeddedServers({})
    paths = Paths(settings.data_dir)
    paths.make()
    # Held before anything is looked at: from here on a running keeper cannot decide to end.
    held = lock(paths.run / "clients.lock", exclusive=False, block=True)
    try:
        return EmbeddedServers(_ensure(paths, settings.wanted), held)
    except BaseException:
        if held is not None:
            held.close()
        raise


def _ensure(paths: Paths, wanted: list[str]) -> dict[str, str]:
    keeper_log = paths.run / "keeper.log"
    deadline_s = time.monotonic() + START_DEADLINE_S
    started: subprocess.Popen[bytes] | None = None
    while time.monotonic() < deadline_s:
        alive = is_locked(paths.run / "keeper.lock")
        state = read_json(paths.state)
        if alive and state.get("ready"):
            missing = [name for name in wanted if name not in state["servers"]]
            if missing:
                raise StoreError(
                    f"{paths.data_dir} is held by a keeper without {', '.join(missing)} (it was started with other "
                    "URLs set): end the commands that use it, or `pulsebms stores down`"
                )
            return {name: state["servers"][name]["url"] for name in wanted}
        if not alive and started is not None and started.poll() is not None and started.returncode != 0:
            raise StoreError(f"{state.get('error') or 'the embedded servers did not start'}; log {keeper_log}")
        if not alive and (started is None or started.poll() is not None):
            paths.state.unlink(missing_ok=True)
            started = _start_keeper(paths, wanted, keeper_log)
        time.sleep(0.05)
    raise StoreError(f"the embedded servers were not ready after {START_DEADLINE_S:.0f} s; log {keeper_log}: "
                     f"{tail(keeper_log)}")  # fmt: skip


def _start_keeper(paths: Paths, wanted: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "stores.embedded.keeper", str(paths.data_dir), ",".join(wanted)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd="/",
            start_new_session=True,  # a Ctrl-C in the client's terminal is not for the servers
        )


def status(data_dir: Path) -> dict[str, Any]:
    """What runs, for whom; no passwords."""
    paths = Paths(data_dir)
    state = read_json(paths.state) if is_locked(paths.run / "keeper.lock") else {}
    shown: dict[str, Any] = {"data directory": str(data_dir), "running": bool(state.get("ready"))}
    for name, server in state.get("servers", {}).items():
        shown[name] = f"127.0.0.1:{server['port']}, pid {server['pid']}, log {server['log']}"
    if state:
        shown["keeper pid"] = state["keeper_pid"]
    shown["kept up without clients"] = paths.pin.exists()
    shown["clients (pids)"] = lock_holders(paths.run / "clients.lock")
    return shown


def up(settings: StoreSettings) -> None:
    """Start the servers and keep them until `down`."""
    paths = Paths(settings.data_dir)
    paths.make()
    paths.pin.touch()
    try:
        open_embedded(settings).close()
    except StoreError:
        paths.pin.unlink(missing_ok=True)
        raise


def down(data_dir: Path, *, force: bool = False, timeout_s: float = 40.0) -> None:
    """Stop the servers and wait for it. Raises StoreError naming clients that still use them, unless `force`."""
    paths = Paths(data_dir)
    clients = lock_holders(paths.run / "clients.lock")
    if clients and not force:
        raise StoreError(f"in use by processes {clients}; end them first, or use --force")
    paths.pin.unlink(missing_ok=True)
    pid = read_json(paths.state).get("keeper_pid")
    if pid is not None and is_locked(paths.run / "keeper.lock"):
        os.kill(int(pid), signal.SIGTERM)
    deadline_s = time.monotonic() + timeout_s
    while is_locked(paths.run / "keeper.lock"):
        if time.monotonic() > deadline_s:
            raise StoreError(f"the keeper did not end within {timeout_s:.0f} s; log {paths.run / 'keeper.log'}")
        time.sleep(0.05)
