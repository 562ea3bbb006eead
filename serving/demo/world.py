"""The demo's world: plant dates, series in the store, and the meter that publishes what has happened.

Here: what the demo simulates beside the packs. Not here: the packs (serving.device), the account (serving.demo.account).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from core.series import Series
from core.site import SiteConfig
from serving.demo.ownership import mark_run
from serving.dispatch.inputs import GRID_IMPORT, LOAD_ACTUAL, PV_ACTUAL
from serving.site_inputs import write_known_beforehand
from stores import datasets
from stores.connections import Stores
from stores.datasets import Scenario
from stores.mongo.predictions import delete_predictions
from stores.mongo.telemetry import delete_telemetry, telemetry_range
from stores.postgres.calibrations import delete_calibrations
from stores.postgres.decisions import delete_decisions
from stores.postgres.series import delete_series, write_series

FORESIGHT = ".perfect_foresight"
"""Suffix of the site id under which the benchmark's plan is stored, apart from real decisions."""
SEED = 20230


def plant_start(site: SiteConfig, days: float, now: datetime) -> datetime:
    """Local midnight such that the simulated days have ended before today: stamps stay inside every TTL."""
    zone = ZoneInfo(site.timezone)
    day = now.astimezone(zone).date() - timedelta(days=int(np.ceil(days)))
    return datetime.combine(day, time(0), tzinfo=zone).astimezone(UTC)


def prepare(stores: Stores, site: SiteConfig, prices: Series, start: datetime, days: float) -> Scenario:
    """Forget this site's earlier demo, write what is known beforehand, and return the scenario.

    command_history is kept: it is a record. Whether the data may be deleted is asked before (serving.demo.ownership).
    """
    ids = [pack.device_id for pack in site.packs]
    delete_telemetry(stores.mongo, site.site_id)
    delete_predictions(stores.mongo, ids)
    delete_calibrations(stores.pg, site.site_id)
    for site_id in (site.site_id, site.site_id + FORESIGHT):
        delete_series(stores.pg, site_id)
        delete_decisions(stores.pg, site_id)
    mark_run(stores, site.site_id, start, start + timedelta(days=days))
    scenario = datasets.build_scenario(site, prices, start, int(np.ceil(days)), seed=SEED)
    write_known_beforehand(stores, site.site_id, scenario, start - timedelta(days=2))
    return scenario


@dataclass(slots=True)
class Meter:
    """The site's meter: after each interval it publishes load, PV and net import."""

    stores: Stores
    site: SiteConfig
    scenario: Scenario
    interval_s: int
    next_start: datetime

    def publish_until(self, now: datetime) -> int:
        """Write every interval that has ended by `now`; returns how many."""
        step = timedelta(seconds=self.interval_s)
        count = 0
        while self.next_start + step <= now:
            start, end = self.next_start, self.next_start + step
            load_w = float(self.scenario.load_w.window(start, 1, self.interval_s)[0])
            pv_w = float(self.scenario.pv_w.window(start, 1, self.interval_s)[0])
            packs_w = sum(mean_power(self.stores, pack.device_id, start, end) for pack in self.site.packs)
            for name, value in ((LOAD_ACTUAL, load_w), (PV_ACTUAL, pv_w), (GRID_IMPORT, load_w - pv_w - packs_w)):
                series = Series(name, start, self.interval_s, np.array([value]))
                write_series(self.stores.pg, self.site.site_id, series, end)
            self.next_start = end
            count += 1
        return count


def mean_power(stores: Stores, device_id: str, start: datetime, end: datetime) -> float:
    """Mean measured power of a pack over [start, end), W, discharge positive; 0 without telemetry."""
    documents = telemetry_range(stores.mongo, device_id, start, end)
    if not documents:
        return 0.0
    return float(np.mean([document["measurements"]["power"] for document in documents]))
