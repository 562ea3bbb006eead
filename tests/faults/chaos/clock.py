"""Wall clocks that can be stepped, one a process: a preloaded library adds what a file says to CLOCK_REALTIME.

PostgreSQL, Valkey (and so Redis TIME in every script) and the Python programs all read their clock through it. It needs a C
compiler (`cc`); without one no clock is stepped, and the schedule holds no such fault.
"""

import shutil
import struct
import subprocess
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


class Clocks:
    """Steps of named processes. `directory` must be open to all users: as root, PostgreSQL runs as nobody."""

    def __init__(self, directory):
        self._directory = directory
        self._library = directory / "clock.so"
        self.history = {}
        """name -> [(monotonic s, step s)], the first at minus infinity."""
        compiler = shutil.which("cc")
        self.available = compiler is not None
        if compiler:
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)], check=True, timeout=60)

    def environment(self, name):
        """What a process of this name is started with; its clock is then right."""
        if not self.available:
            return {}
        self.step(name, 0)
        return {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._directory / name)}

    def step(self, name, seconds):
        """From now on the process's wall clock is wrong by so many seconds."""
        path = self._directory / name
        if not path.exists():
            path.write_bytes(struct.pack("=q", 0))
            path.chmod(0o644)
            self.history[name] = [(float("-inf"), 0)]
        with path.open("r+b") as file:  # in place: processes have the file mapped
            file.write(struct.pack("=q", seconds))
        if self.history[name][-1][1] != seconds:
            self.history[name].append((time.monotonic(), seconds))
