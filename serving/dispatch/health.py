"""How the dispatcher is: /healthz and /metrics on a loopback port, and what the watchdog asks.

Here: the state that loops report and its judgement. Not here: the metrics (serving.dispatch.metrics), the loops
(serving.dispatch.loop).
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from core.errors import InputError

STUCK_S = 300.0
"""A loop that has not come round for this long hangs: every wait and every request in it is bounded well below."""
LATE_INTERVALS = 2.0
LOOPBACK = "127.0.0.1"


@dataclass(slots=True)
class SiteHealth:
    """What one site's loop last said. Times are monotonic."""

    site_id: str
    looped_s: float = field(default_factory=time.monotonic)
    started_s: float = field(default_factory=time.monotonic)
    interval_wall_s: float = 0.0
    ticked_s: float | None = None
    source: str = ""
    """Who decided last."""
    leading_since_s: float | None = None
    """None as a standby."""
    epoch: int = 0
    store_error: str = ""
    """The last store failure, until a round without one."""
    lease_seconds_left: Callable[[], float] = lambda: 0.0

    def lead(self, epoch: int) -> None:
        """The lease was won (an epoch) or lost (0)."""
        self.epoch = epoch
        self.leading_since_s = time.monotonic() if epoch else None

    def problems(self) -> list[str]:
        """What is wrong; empty when all is well. A standby is well without ticks."""
        now_s = time.monotonic()
        found = []
        if now_s - self.looped_s > STUCK_S:
            found.append(f"the loop has been in one step for {now_s - self.looped_s:.0f} s")
        if self.store_error:
            found.append(f"store: {self.store_error}")
        if self.leading_since_s is not None and self.interval_wall_s:
            since_s = now_s - max(self.leading_since_s, self.ticked_s or 0.0)
            if since_s > LATE_INTERVALS * self.interval_wall_s + 1.0:
                found.append(f"no tick for {since_s:.0f} s, the interval is {self.interval_wall_s:.0f} s")
        return found

    def as_json(self) -> dict[str, Any]:
        """For /healthz."""
        problems = self.problems()
        age_s = None if self.ticked_s is None else round(time.monotonic() - self.ticked_s, 1)
        return {
            "site": self.site_id,
            "ok": not problems,
            "problems": problems,
            "lease": "held" if self.epoch else "standby",
            "epoch": self.epoch,
            "lease_seconds_left": round(self.lease_seconds_left(), 1),
            "last_tick_age_s": age_s,
            "last_source": self.source,
            "stores": self.store_error or "ok",
        }


@dataclass(slots=True)
class Health:
    """All sites of one process."""

    sites: dict[str, SiteHealth] = field(default_factory=dict)

    def site(self, site_id: str) -> SiteHealth:
        """The site's entry, made when new."""
        return self.sites.setdefault(site_id, SiteHealth(site_id))

    def as_json(self) -> dict[str, Any]:
        """For /healthz; without a site nothing is dispatched, which is no health."""
        sites = [health.as_json() for _, health in sorted(self.sites.items())]
        return {"ok": bool(sites) and all(site["ok"] for site in sites), "sites": sites}

    def moves(self) -> bool:
        """Whether every loop comes round: what a watchdog restarts for. A store that is down is no reason to restart."""
        now_s = time.monotonic()
        return all(now_s - health.looped_s <= STUCK_S for health in list(self.sites.values()))


class HealthServer:
    """/metrics and /healthz on 127.0.0.1, answered in threads of their own: a slow tick does not keep them waiting."""

    def __init__(self, port: int, health: Health, registry: CollectorRegistry, refresh: Callable[[], None]) -> None:
        """Port 0 takes a free one (`self.port`). Raises InputError when the port cannot be had."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    refresh()
                    self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
                elif self.path == "/healthz":
                    state = health.as_json()
                    self._answer(200 if state["ok"] else 503, "application/json", json.dumps(state, indent=1).encode())
                else:
                    self._answer(404, "text/plain", b"/metrics or /healthz\n")

            def _answer(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are not worth a line each."""

        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                source="command line", field="--metrics-port", value=port, expected=f"a free port on {LOOPBACK} ({error})"
            ) from None
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
