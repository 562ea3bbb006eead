"""Which clock a process lives on: the wall's, or the demo's faster plant clock given through the environment.

`PULSEBMS_PLANT_CLOCK` holds "<ISO time>;<monotonic origin s>;<factor>", or "@FILE": then the process says that it is
ready (FILE.<pid>.ready), waits until FILE holds such a line, and lives by it. A line whose origin is `inf` is a clock that
stands: its processes prepare what they can at that moment, and the clock runs once FILE holds another origin.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from core.clock import Clock, ScaledClock, SystemClock
from core.errors import InputError

VARIABLE = "PULSEBMS_PLANT_CLOCK"
START_WAIT_S = 120.0


@dataclass(slots=True)
class FileClock:
    """The ScaledClock that a file holds; read again at each look for as long as that one stands."""

    path: Path
    _clock: ScaledClock

    def _current(self) -> ScaledClock:
        if math.isinf(self._clock.monotonic_origin_s) and self.path.exists():
            self._clock = parse_clock(self.path.read_text())
        return self._clock

    def now(self) -> datetime:
        """Plant time; stands while the file says so."""
        return self._current().now()

    def wall_seconds_until(self, moment: datetime) -> float:
        """Wall seconds until plant time `moment`; infinite while the clock stands."""
        return self._current().wall_seconds_until(moment)


def clock_from_env() -> Clock:
    """SystemClock, or the plant clock that `PULSEBMS_PLANT_CLOCK` holds or names.

    Raises InputError when the variable is set and cannot be read.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return SystemClock()
    if text.startswith("@"):
        path = Path(text[1:])
        return FileClock(path, parse_clock(_wait_for(path)))
    return parse_clock(text)


def parse_clock(text: str) -> ScaledClock:
    """A clock from "<ISO time with offset>;<monotonic origin s>;<factor>"; raises InputError when it is none."""
    try:
        origin, monotonic_s, factor = text.split(";")
        clock = ScaledClock(datetime.fromisoformat(origin), float(monotonic_s), float(factor))
    except ValueError:
        clock = None
    if clock is None or clock.plant_origin.tzinfo is None or math.isnan(clock.monotonic_origin_s) or not 0 < clock.factor <= 1e5:
        raise InputError(
            source="environment", field=VARIABLE, value=text, expected='"<ISO time with offset>;<monotonic s>;<factor>"'
        )
    return clock


def _wait_for(path: Path) -> str:
    path.with_name(f"{path.name}.{os.getpid()}.ready").touch()
    deadline_s = time.monotonic() + START_WAIT_S
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise InputError(
                source="environment", field=VARIABLE, value=f"@{path}", expected=f"the file within {START_WAIT_S:.0f} s"
            )
        time.sleep(0.05)
    return path.read_text()


def to_text(clock: ScaledClock) -> str:
    """What the variable, or the file that it names, holds for this clock."""
    return f"{clock.plant_origin.isoformat()};{clock.monotonic_origin_s!r};{clock.factor!r}"


def write_clock(path: Path, clock: ScaledClock) -> None:
    """Put the clock into the file in one step: a reader sees the old line or the new one."""
    partial = path.with_name(f"{path.name}.new")
    partial.write_text(to_text(clock))
    partial.replace(path)
