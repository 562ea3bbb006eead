"""The plant clock of a demo's processes, in two files: one for the devices, one for twin and dispatcher.

Both stand at one moment until everything is prepared, then run together. Not here: how a process reads its clock
(serving.clock_config).
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.clock import ScaledClock
from serving.clock_config import VARIABLE, write_clock


@dataclass(frozen=True, slots=True)
class PlantClocks:
    """Clock files in `directory`; plant time begins at `origin` and runs `speed` times as fast as the wall's."""

    directory: Path
    origin: datetime
    speed: float

    @property
    def devices(self) -> Path:
        """The file that devices live by."""
        return self.directory / f"clock-{os.getpid()}-devices"

    @property
    def control(self) -> Path:
        """The file that twin and dispatcher live by."""
        return self.directory / f"clock-{os.getpid()}-control"

    def environment(self, path: Path) -> dict[str, str]:
        """What a process that lives by this file is started with."""
        return {VARIABLE: f"@{path}"}

    def stand(self, path: Path) -> None:
        """Let the processes of a file begin, at a moment that does not pass."""
        write_clock(path, ScaledClock(self.origin, math.inf, self.speed))

    def run(self) -> ScaledClock:
        """Let time pass for all, from now on."""
        clock = ScaledClock(self.origin, time.monotonic(), self.speed)
        for path in (self.devices, self.control):
            write_clock(path, clock)
        return clock

    def remove(self) -> None:
        """Delete the files, those that say "ready" too."""
        for path in self.directory.glob(f"clock-{os.getpid()}-*"):
            path.unlink(missing_ok=True)
