"""Child processes of the demo: started together, ended together, gone when the demo is killed.

Linux only (PR_SET_PDEATHSIG), like the embedded servers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import PulseBmsError

PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


class ChildFailedError(PulseBmsError):
    """A child process ended although it should not have."""


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(slots=True)
class Children:
    """`pulsebms` subcommands as processes of their own; logs go to files in `log_dir`."""

    log_dir: Path
    environment: dict[str, str]
    _running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start `pulsebms ARGUMENTS`; it is killed when this process dies, however it dies."""
        self.log_dir.mkdir(parents=True, exist_ok=True)
        with (self.log_dir / f"{name}.log").open("wb") as log:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "serving.cli", "--json-logs", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment, **(environment or {})},
                start_new_session=True,  # a Ctrl-C reaches the demo, which ends them in order
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - no threads are running yet
            )

    def all_ready(self, clock_files: Iterable[Path]) -> bool:
        """Whether each has come to wait for one of the clock files."""
        said = {path.name for file in clock_files for path in file.parent.glob(f"{file.name}.*.ready")}
        return all(any(name.endswith(f".{child.pid}.ready") for name in said) for child in self._running.values())

    def check(self) -> None:
        """Raise ChildFailedError, with the end of its log, when one has ended with an error."""
        for name, child in self._running.items():
            if child.poll() not in (None, 0):
                raise ChildFailedError(f"{name} ended with exit code {child.returncode}: {self.log_tail(name)}")

    def log_tail(self, name: str) -> str:
        """Last lines of a child's log, and where it is."""
        path = self.log_dir / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()[-4:]
        return " | ".join(lines)[-800:] + f" (log: {path})"

    def wait(self, timeout_s: float) -> list[str]:
        """Wait until all have ended by themselves; returns the names of those still running at the deadline."""
        deadline_s = time.monotonic() + timeout_s
        for child in self._running.values():
            try:
                child.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                continue
        return [name for name, child in self._running.items() if child.poll() is None]

    def stop(self, timeout_s: float = 10.0) -> None:
        """SIGTERM to all, SIGKILL to those that do not end in time."""
        for child in self._running.values():
            if child.poll() is None:
                child.terminate()
        for name in self.wait(timeout_s):
            self._running[name].kill()
            self._running[name].wait()
