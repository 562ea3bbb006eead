"""Which clock a process lives on: the wall's, or the demo's faster plant clock given through the environment.

`PULSEBMS_PLANT_CLOCK` holds "<ISO time>;<monotonic origin s>;<factor>", or "@FILE": then the process says that it is
ready (FILE.<pid>.ready) and waits until FILE holds such a line, so that all processes of a demo start together.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from core.clock import Clock, ScaledClock, SystemClock
from core.errors import InputError

VARIABLE = "PULSEBMS_PLANT_CLOCK"
START_WAIT_S = 120.0


def clock_from_env() -> Clock:
    """SystemClock, or the ScaledClock of `PULSEBMS_PLANT_CLOCK` = "<ISO time>;<monotonic origin s>;<factor>".

    Raises InputError when the variable is set and cannot be read.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return SystemClock()
    if text.startswith("@"):
        text = _wait_for(Path(text[1:]))
    try:
        origin, monotonic_s, factor = text.split(";")
        clock = ScaledClock(datetime.fromisoformat(origin), float(monotonic_s), float(factor))
    except ValueError:
        clock = None
    if clock is None or clock.plant_origin.tzinfo is None or not 0 < clock.factor <= 1e5:
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
