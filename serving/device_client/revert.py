"""The timer that ends a set point by itself when its controller has gone silent."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(slots=True)
class RevertTimer:
    """Runs on the monotonic clock: no step of the wall's clock lengthens a set point."""

    _ends_s: float | None = None

    def start(self, seconds: float) -> None:
        """A set point is valid for so long from now; again with each fresh one."""
        self._ends_s = time.monotonic() + seconds

    def stop(self) -> None:
        """There is no set point any more."""
        self._ends_s = None

    def over(self) -> bool:
        """True once when the set point's validity has ended: go to the fallback state."""
        if self._ends_s is None or time.monotonic() < self._ends_s:
            return False
        self._ends_s = None
        return True
