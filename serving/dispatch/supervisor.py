"""Many sites on one controller: a thread and connections of its own for each, so that one site's trouble stays its own.

Here: starting loops, starting those again that ended with an error, the watchdog. Not here: a loop (serving.dispatch.loop).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog

from core.clock import Clock
from core.errors import PulseBmsError
from serving.dispatch.health import Health
from serving.dispatch.loop import LoopOptions, SiteLoop
from serving.dispatch.metrics import DispatchMetrics
from serving.dispatch.notify import notify
from serving.dispatch.tick import TickResult
from stores.connections import Stores, open_stores
from stores.failures import STORE_FAILURES
from stores.postgres.sites import list_sites
from stores.settings import StoreSettings

log = structlog.get_logger()

EXPECTED: tuple[type[Exception], ...] = (PulseBmsError, *STORE_FAILURES)
LOOK_S = 1.0
NEW_SITES_EVERY_S = 10.0
RESTART_S = (1.0, 5.0, 15.0, 60.0)
CALM_S = 600.0
"""A loop that ran this long before its error begins with the shortest wait again."""
END_WAIT_S = 200.0
"""A tick that is under way may take two deadlines and the stores' timeouts."""


@dataclass(slots=True)
class Supervisor:
    """Runs a loop for each of `sites`; with an empty list for every site that is loaded, also those loaded later."""

    settings: StoreSettings
    clock: Clock
    options: LoopOptions
    """Of every site; its site_id is replaced."""
    sites: Sequence[str] = ()
    metrics: DispatchMetrics = field(default_factory=DispatchMetrics)
    health: Health = field(default_factory=Health)
    on_tick: Callable[[str, datetime, TickResult], None] | None = None
    ticks: dict[str, int] = field(default_factory=dict)
    _threads: dict[str, threading.Thread] = field(default_factory=dict)

    def run(self, control: Stores, stop: threading.Event) -> dict[str, int]:
        """Until `stop` is set or every loop has ended by itself; returns site -> ticks. `control` is for looking up sites."""
        new_sites_s = 0.0
        notify("READY=1")
        while not stop.is_set():
            if time.monotonic() >= new_sites_s:
                self._start_new(control, stop)
                new_sites_s = time.monotonic() + NEW_SITES_EVERY_S
            if self.health.moves():
                notify("WATCHDOG=1")
            if self.sites and not any(thread.is_alive() for thread in self._threads.values()):
                break
            stop.wait(min(LOOK_S, 0.1 if self.options.once else LOOK_S))
        notify("STOPPING=1")
        ends_s = time.monotonic() + END_WAIT_S
        for thread in self._threads.values():
            thread.join(max(0.0, ends_s - time.monotonic()))
        return dict(self.ticks)

    def refresh(self) -> None:
        """Bring the metrics that age by themselves up to date, for a scrape."""
        for site_id, health in list(self.health.sites.items()):
            self.metrics.site(site_id).lease(health.epoch, health.lease_seconds_left())

    def _start_new(self, control: Stores, stop: threading.Event) -> None:
        for site_id in self.sites or self._loaded(control):
            if site_id in self._threads:
                continue
            self.health.site(site_id)
            thread = threading.Thread(target=self._site, args=(site_id, stop), name=f"site-{site_id}", daemon=True)
            self._threads[site_id] = thread
            thread.start()

    def _loaded(self, control: Stores) -> list[str]:
        try:
            return [site.site_id for site in list_sites(control.pg)]
        except STORE_FAILURES as error:
            log.error("sites_unknown", why=f"{type(error).__name__}: {error}")
            try:
                control.reconnect()
            except STORE_FAILURES as again:
                log.error("reconnect_failed", why=f"{type(again).__name__}: {again}")
            return []

    def _site(self, site_id: str, stop: threading.Event) -> None:
        """The site's loop, again after an error: a fault in one site's data must not end the others."""
        failures = 0
        self.ticks[site_id] = 0
        while not stop.is_set():
            begun_s = time.monotonic()
            try:
                with open_stores(self.settings) as stores:
                    loop = self._loop(stores, site_id, stop)
                    try:
                        loop.run()
                    finally:
                        self.ticks[site_id] += loop.ticks
                return
            except EXPECTED as error:
                log.error("loop_failed", site_id=site_id, why=f"{type(error).__name__}: {error}")
            except Exception:
                log.exception("loop_failed", site_id=site_id)
            failures = 0 if time.monotonic() - begun_s > CALM_S else failures
            health = self.health.site(site_id)
            health.store_error, health.looped_s = "the loop ended with an error and is started again", time.monotonic()
            self.metrics.site(site_id).loop_restart()
            stop.wait(RESTART_S[min(failures, len(RESTART_S) - 1)])
            failures += 1

    def _loop(self, stores: Stores, site_id: str, stop: threading.Event) -> SiteLoop:
        on_tick = self.on_tick
        return SiteLoop(
            stores,
            self.clock,
            replace(self.options, site_id=site_id),
            stop,
            metrics=self.metrics.site(site_id),
            health=self.health.site(site_id),
            on_tick=None if on_tick is None else lambda at, result: on_tick(site_id, at, result),
        )
