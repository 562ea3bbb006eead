"""Files, locks and processes of the embedded servers. Linux only.

Locks: every client holds a SHARED flock on `clients.lock` for its life; the keeper holds `keeper.lock`. The kernel
gives a lock back however its holder dies, so that no pid file can lie.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from core.errors import StoreError

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Paths:
    """Everything the embedded servers keep below the data directory."""

    data_dir: Path

    @property
    def run(self) -> Path:
        """Locks, state and the keeper's log."""
        return self.data_dir / "run"

    @property
    def state(self) -> Path:
        """URLs and pids while the servers run; 0600, for it holds passwords."""
        return self.run / "servers.json"

    @property
    def clients_lock(self) -> Path:
        """Held shared by every client, exclusively by a keeper that shuts down for want of clients."""
        return self.run / "clients.lock"

    @property
    def keeper_lock(self) -> Path:
        """Held by the one keeper."""
        return self.run / "keeper.lock"

    @property
    def keeper_log(self) -> Path:
        """What the keeper did; no passwords."""
        return self.run / "keeper.log"

    @property
    def failure(self) -> Path:
        """Why the last keeper gave up, for the client that waits for it."""
        return self.run / "failure.json"

    def want(self, name: str) -> Path:
        """A client's request that this server be running."""
        return self.run / f"want.{name}"

    @property
    def pin(self) -> Path:
        """Its presence keeps the servers up without clients."""
        return self.run / "pinned"

    def make(self) -> None:
        """Create the directories; StoreError when they cannot be written."""
        try:
            self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
            probe = self.run / f"probe.{os.getpid()}.{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StoreError(f"data directory {self.data_dir} cannot be written: {error.strerror}") from error


def lock(path: Path, *, exclusive: bool, block: bool) -> BinaryIO | None:
    """Open and flock a file; None when it is held and `block` is false. Closing the file gives it back."""
    handle = path.open("ab")
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if block else fcntl.LOCK_NB))
    except BlockingIOError:
        handle.close()
        return None
    return handle


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock exclusively."""
    if not path.exists():
        return False
    handle = lock(path, exclusive=False, block=False)
    if handle is None:
        return True
    handle.close()
    return False


def lock_holders(path: Path) -> list[int]:
    """Pids that hold a flock on the file, from /proc/locks."""
    if not path.exists():
        return []
    inode = str(path.stat().st_ino)
    pids = set()
    for line in Path("/proc/locks").read_text().splitlines():
        parts = line.split()
        if "FLOCK" in parts and "->" not in parts and parts[5].rsplit(":", 1)[-1] == inode:
            pids.add(int(parts[4]))
    return sorted(pids)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return fields[0] not in "ZX"


def port_is_free(port: int) -> bool:
    """Whether nobody listens there; connections that are still closing do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port(preferred: int | None = None) -> int:
    """A free port on loopback, the preferred one if it is; below the range of outgoing connections (32768 up)."""
    if preferred is not None and port_is_free(preferred):
        return preferred
    for _ in range(200):
        port = 20_000 + secrets.randbelow(12_000)
        if port_is_free(port):
            return port
    raise StoreError("no free port on 127.0.0.1 between 20000 and 32000")


def write_private(path: Path, text: str) -> None:
    """Write a 0600 file so that readers see the old or the new content, never half of it."""
    partial = path.with_name(path.name + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The file's object; empty when there is none."""
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return loaded


def claim(home: Path, deadline_s: float = 20.0) -> BinaryIO:
    """The lock that a server and all its children inherit: free only when none of an earlier run is left."""
    end_s = time.monotonic() + deadline_s
    while (handle := lock(home / "server.lock", exclusive=True, block=False)) is None:
        if time.monotonic() > end_s:
            raise StoreError(f"processes of an earlier run still use {home} (pids {lock_holders(home / 'server.lock')})")
        time.sleep(0.05)
    return handle


def spawn(
    arguments: Sequence[str],
    log: Path,
    *,
    death_signal: signal.Signals,
    inherit: Sequence[int],
    environment: Mapping[str, str] | None = None,
    user: int | None = None,
    group: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server that gets `death_signal` when the keeper dies, however it dies; it inherits the descriptors."""
    parent = os.getpid()

    def die_with_parent() -> None:
        # After the change of user: a change of credentials clears the setting.
        _libc.prctl(PR_SET_PDEATHSIG, death_signal)
        if os.getppid() != parent:  # the parent died before the setting was made
            os._exit(1)

    with log.open("ab") as out:
        return subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=None if environment is None else dict(environment),
            cwd="/",
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
            pass_fds=tuple(inherit),
            preexec_fn=die_with_parent,  # noqa: PLW1509 - the keeper has one thread
        )


def wait_ready(
    name: str, process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, deadline_s: float = 60.0
) -> None:
    """Poll until the server answers; StoreError with the end of its log when it ends or does not in time."""
    end_s = time.monotonic() + deadline_s
    while not ready():
        if process.poll() is not None:
            raise StoreError(f"{name} ended with code {process.returncode}; log {log}: {tail(log)}")
        if time.monotonic() > end_s:
            raise StoreError(f"{name} did not answer within {deadline_s:.0f} s; log {log}: {tail(log)}")
        time.sleep(0.03)


def tail(path: Path, size: int = 500) -> str:
    """The end of a log on one line."""
    try:
        return " | ".join(path.read_text(errors="replace")[-size:].splitlines())
    except OSError as error:
        return f"(not readable: {error.strerror})"
