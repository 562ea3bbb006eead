"""Clocks: the wall's, and a plant's that may run faster.

Commands, timeouts and leases always use the wall. Telemetry, predictions, prices and intervals use
the plant's clock, which in production is the wall's. Not here: Redis TIME (stores.redis).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Anything that tells the plant's time and how long the wall waits for a moment of it."""

    def now(self) -> datetime:
        """Plant time, aware, UTC."""
        ...

    def wall_seconds_until(self, moment: datetime) -> float:
        """Wall seconds from now until plant time `moment`; 0 when it has passed."""
        ...


class SystemClock:
    """The wall clock itself."""

    def now(self) -> datetime:
        """Current UTC time."""
        return datetime.now(UTC)

    def wall_seconds_until(self, moment: datetime) -> float:
        """Seconds until `moment`, never negative."""
        return max(0.0, (moment - self.now()).total_seconds())


@dataclass(frozen=True, slots=True)
class ScaledClock:
    """Plant time = `plant_origin` + `factor` x (monotonic time since `monotonic_origin_s`).

    CLOCK_MONOTONIC is shared by all processes of a machine, so that agents and the dispatcher agree.
    """

    plant_origin: datetime
    monotonic_origin_s: float
    factor: float

    def now(self) -> datetime:
        """Plant time now; stands at the origin until the origin is reached."""
        elapsed_s = max(0.0, time.monotonic() - self.monotonic_origin_s)
        return self.plant_origin + timedelta(seconds=elapsed_s * self.factor)

    def wall_seconds_until(self, moment: datetime) -> float:
        """Wall seconds until plant time `moment`, never negative; infinite where the clock stands for ever."""
        if moment <= self.plant_origin:
            return 0.0
        target_s = self.monotonic_origin_s + (moment - self.plant_origin).total_seconds() / self.factor
        return max(0.0, target_s - time.monotonic())
