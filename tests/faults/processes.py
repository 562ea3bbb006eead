"""`pulsebms` commands as processes for the tests of kills: started, read, killed, and looked for afterwards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def until(condition, what, deadline_s=30.0):
    end_s = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < end_s, f"still not so: {what}"
        time.sleep(0.02)
    return found


def start(arguments, environment, log, program=("-m", "serving.cli", "--json-logs")):
    """`pulsebms ARGUMENTS`, or another program of ours, in a session of its own; what it says goes to the file `log`.

    It heeds SIGINT even where the tests do not: a shell without a terminal starts what it puts into the background without.
    """
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, *program, *arguments],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one call, no lock
        )


def run(arguments, environment, timeout_s=60):
    """A whole command; returns the finished process with its output."""
    return subprocess.run(
        [sys.executable, "-m", "serving.cli", *arguments],
        env={**os.environ, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def events(log, name):
    """Lines of a log (a file or a Path that may not be there yet) that hold this event."""
    if not log.exists():
        return []
    return [line for line in log.read_text(errors="replace").splitlines() if f'"event": "{name}"' in line]


def using(directory):
    """Pids of living processes, this one apart, that name the directory in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue  # it has ended meanwhile, or is another user's
        if str(directory).encode() in words and state != "Z":
            found.append(int(entry.name))
    return found
