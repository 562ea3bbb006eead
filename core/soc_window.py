"""Lowest and highest SoC of a moving window, kept exactly in constant work per measurement.

A battery management system keeps it to hold the depth of a cycle; the dispatcher has the same from telemetry. Not here: the
limit itself (core.limits).

Source: monotonic queues, Lemire, Streaming Maximum-Minimum Filter Using No More than Three Comparisons per Element (2006).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from core.devices import CYCLE_HOURS
from core.errors import InputError


@dataclass(slots=True)
class SocWindow:
    """Extremes of the SoC (percent) over the last `window`, both ends included."""

    window: timedelta = timedelta(hours=CYCLE_HOURS)
    _falling: deque[tuple[datetime, float]] = field(default_factory=deque)
    """Candidates for the highest value, oldest and highest first."""
    _rising: deque[tuple[datetime, float]] = field(default_factory=deque)

    def add(self, at: datetime, soc_pct: float) -> None:
        """A measurement; InputError when it is not within 0-100 % (a little beyond is rounding).

        A clock set back forgets nothing: what was measured "later" stays until its own time has passed.
        """
        if not -1.0 <= soc_pct <= 101.0:
            raise InputError(source="SoC window", field="soc_pct", value=soc_pct, expected="0 to 100 %")
        if self._falling:
            at = max(at, self._falling[-1][0])
        while self._falling and self._falling[-1][1] <= soc_pct:
            self._falling.pop()
        while self._rising and self._rising[-1][1] >= soc_pct:
            self._rising.pop()
        self._falling.append((at, soc_pct))
        self._rising.append((at, soc_pct))
        for queue in (self._falling, self._rising):
            while at - queue[0][0] > self.window:
                queue.popleft()

    def extremes(self) -> tuple[float, float] | None:
        """Lowest and highest SoC, or None before the first measurement."""
        return (self._rising[0][1], self._falling[0][1]) if self._rising else None
