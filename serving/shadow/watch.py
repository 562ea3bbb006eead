"""What stands beside a dispatcher's loop: shadows and the keeper of days, behind one door that never waits and never raises."""

from __future__ import annotations

import time
from dataclasses import dataclass

import structlog

from serving.dispatch.tick import TickResult
from serving.shadow.desk import SHARE_OF_INTERVAL, ShadowDesk, Ticked
from serving.shadow.keeper import DayKeeper

log = structlog.get_logger()


@dataclass(slots=True)
class Watch:
    """Both, for one site."""

    desk: ShadowDesk
    keeper: DayKeeper

    def start(self) -> None:
        """Start both threads."""
        self.desk.start()
        self.keeper.start()

    def ticked(self, result: TickResult, *, deadline_s: float, interval_wall_s: float) -> None:
        """A tick that commanded has ended."""
        try:
            if result.observation is not None and result.decision is not None:
                self.desk.offer(
                    Ticked(
                        observation=result.observation,
                        meter=result.meter,
                        decided_by=result.decision.policy_id,
                        deadline_s=deadline_s,
                        until_s=time.monotonic() + SHARE_OF_INTERVAL * interval_wall_s,
                    )
                )
            self.keeper.poke()
        except Exception:  # the commanding path goes on, whatever is wrong here
            log.exception("watch_failed", site_id=self.desk.site_id)

    def close(self) -> None:
        """End both, and what they are at."""
        self.desk.close()
        self.keeper.close()
