"""The keeper: one process that owns the embedded servers for as long as somebody uses them.

`python -m stores.embedded.keeper DATA_DIR NAMES`. It starts the servers as its children (they die with it), writes
run/servers.json, restarts a server that dies, and ends when no client is left (the exclusive lock on clients.lock can be
had) unless it is pinned. A client that arrives meanwhile waits on its lock and then starts a new keeper.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import BinaryIO

import structlog

from core.errors import StoreError
from stores.embedded.runtime import Paths, lock, write_private
from stores.embedded.servers import STARTERS, Server

log = structlog.get_logger()

POLL_S = 0.25
RESTARTS_A_MINUTE = 5


class Keeper:
    """Starts, watches and stops the servers named."""

    def __init__(self, paths: Paths, names: list[str]) -> None:
        self.paths = paths
        self.names = names
        self.servers: dict[str, Server] = {}
        self.stopping = False
        self._restarts: list[float] = []

    def run(self) -> int:
        """Until no client is left, or SIGTERM. Returns the exit code."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        clients: BinaryIO | None = None
        try:
            for name in self.names:
                self._start(name)
            self._publish(ready=True)
            while not self.stopping:
                time.sleep(POLL_S)
                self._revive()
                if not self.paths.pin.exists():
                    clients = lock(self.paths.run / "clients.lock", exclusive=True, block=False)
                    if clients is not None:
                        break
        except StoreError as error:
            log.error("keeper_failed", why=str(error))
            self._publish(ready=False, error=str(error))
            return 1
        finally:
            self.paths.state.unlink(missing_ok=True) if not self._failed() else None
            for server in self.servers.values():
                code = server.stop()
                log.info("stopped", server=server.name, exit_code=code)
            if clients is not None:
                clients.close()
        return 0

    def _failed(self) -> bool:
        return sys.exc_info()[0] is not None or (self.paths.state.exists() and '"error"' in self.paths.state.read_text())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _start(self, name: str) -> None:
        began_s = time.monotonic()
        self.servers[name] = STARTERS[name](self.paths.data_dir / name)
        log.info("started", server=name, port=self.servers[name].port, seconds=round(time.monotonic() - began_s, 2))

    def _revive(self) -> None:
        for name, server in list(self.servers.items()):
            code = server.process.poll()
            if code is None:
                continue
            now_s = time.monotonic()
            self._restarts = [moment for moment in self._restarts if now_s - moment < 60.0]
            if len(self._restarts) >= RESTARTS_A_MINUTE:
                raise StoreError(f"{name} keeps ending (code {code}); log: {server.log}")
            self._restarts.append(now_s)
            log.error("server_died", server=name, exit_code=code)
            self._start(name)
            self._publish(ready=True)

    def _publish(self, *, ready: bool, error: str = "") -> None:
        state: dict[str, object] = {
            "keeper_pid": os.getpid(),
            "ready": ready,
            "servers": {
                name: {"url": server.url, "port": server.port, "pid": server.process.pid, "log": str(server.log)}
                for name, server in self.servers.items()
            },
        }
        if error:
            state["error"] = error
        write_private(self.paths.state, json.dumps(state))


def main() -> int:
    """Entry point; 0 also when another keeper is already there."""
    paths = Paths(Path(sys.argv[1]))
    held = lock(paths.run / "keeper.lock", exclusive=True, block=False)
    if held is None:
        return 0
    try:
        return Keeper(paths, sys.argv[2].split(",")).run()
    finally:
        held.close()


if __name__ == "__main__":
    sys.exit(main())
