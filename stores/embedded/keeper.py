"""The keeper: one process that owns the embedded servers for as long as any client lives.

Here: when servers start, restart and stop. Not here: how (stores.embedded.servers), nor the clients' side
(stores.embedded.client). Run as `python -m stores.embedded.keeper DATA_DIR`; it puts itself into the background.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections import deque
from pathlib import Path
from types import FrameType

from core.errors import StoreError
from stores.embedded.runtime import Paths, lock, write_private
from stores.embedded.servers import STARTERS, Server

TICK_S = 0.25
RESTARTS_PER_MINUTE = 5
LOCK_TRIES = 20
"""A client that only looks holds the keeper's lock for an instant: try for a second before giving up."""

log = logging.getLogger("keeper")


class Keeper:
    """Starts the wanted servers, restarts the dead, and stops all when the last client is gone."""

    def __init__(self, data_dir: Path) -> None:
        self._paths = Paths(data_dir)
        self._servers: dict[str, Server] = {}
        self._restarts: deque[float] = deque()
        self._stop = False

    def run(self) -> int:
        """Until no client is left, a signal, or a server that will not run; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._paths.state.unlink(missing_ok=True)
        try:
            return self._watch()
        except (StoreError, OSError) as error:
            log.error("giving up: %s", error)
            write_private(self._paths.failure, json.dumps({"message": str(error), "time_ns": time.time_ns()}))
            self._shut_down()
            return 1

    def _watch(self) -> int:
        while True:
            if self._stop:
                log.info("asked to stop")
                self._shut_down()
                return 0
            self._start_wanted()
            self._restart_dead()
            alone = None if self._paths.pin.exists() else lock(self._paths.clients_lock, exclusive=True, block=False)
            if alone is not None:
                # Held to the end of this process: a client that arrives now waits for it, then starts a new keeper.
                if not self._paths.pin.exists():
                    log.info("no client is left")
                    self._shut_down()
                    return 0
                alone.close()
            time.sleep(TICK_S)

    def _start_wanted(self) -> None:
        for name, starter in STARTERS.items():
            if name not in self._servers and self._paths.want(name).exists() and not self._stop:
                self._servers[name] = starter(self._paths.data_dir / name)
                log.info("%s runs as pid %d", name, self._servers[name].process.pid)
                self._publish()

    def _restart_dead(self) -> None:
        for name, server in self._servers.items():
            code = server.process.poll()
            if code is None:
                continue
            now_s = time.monotonic()
            while self._restarts and self._restarts[0] < now_s - 60:
                self._restarts.popleft()
            if len(self._restarts) >= RESTARTS_PER_MINUTE:
                raise StoreError(f"{name} ended with code {code}, too often within a minute; log {server.log}")
            self._restarts.append(now_s)
            log.warning("%s ended with code %d: restarting", name, code)
            self._servers[name] = STARTERS[name](self._paths.data_dir / name)
            log.info("%s runs as pid %d", name, self._servers[name].process.pid)
            self._publish()

    def _publish(self) -> None:
        servers = {
            name: {"url": server.url, "port": server.port, "pid": server.process.pid, "log": str(server.log)}
            for name, server in self._servers.items()
        }
        write_private(self._paths.state, json.dumps({"keeper_pid": os.getpid(), "servers": servers}))

    def _shut_down(self) -> None:
        self._paths.state.unlink(missing_ok=True)
        for name in STARTERS:
            self._paths.want(name).unlink(missing_ok=True)
        for server in self._servers.values():  # all at once, then wait for each
            if server.process.poll() is None:
                server.process.send_signal(server.stop_signal)
        for name, server in self._servers.items():
            log.info("%s stopped with code %d", name, server.stop())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True


def main(data_dir: Path) -> int:
    """Become the keeper of the directory; returns 0 at once when there is one already."""
    if os.fork():  # the client waits for this first process only, and has no zombie to reap later
        os._exit(0)
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    held = None
    for _ in range(LOCK_TRIES):
        held = lock(Paths(data_dir).keeper_lock, exclusive=True, block=False)
        if held is not None:
            break
        time.sleep(0.05)
    if held is None:
        return 0
    return Keeper(data_dir).run()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
