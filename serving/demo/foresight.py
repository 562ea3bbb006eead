"""Perfect foresight: the same site, the same days, everything known beforehand, in one plan.

Stored like a decision under a site id of its own, so that the account can read it back. Its devices are linearised around
the twin's prediction at rest from the state that telemetry shows at the start.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from core.errors import InputError
from core.limits import tightest
from core.policy_record import PolicyRecord
from core.series import Series
from core.site import SiteConfig
from core.twin import predict
from policies.base import Observation
from policies.mpc import MpcPolicy, decision_of
from serving.demo.world import FORESIGHT
from stores.connections import Stores
from stores.datasets import Scenario
from stores.mongo.telemetry import latest_states
from stores.postgres.constraints import constraint_rows
from stores.postgres.decisions import record_decision
from stores.postgres.devices import list_devices

DT_S = 900.0


def store_perfect_foresight(stores: Stores, site: SiteConfig, scenario: Scenario, start: datetime, end: datetime) -> None:
    """Plan [start, end) with actual prices, load and PV, and record the plan."""
    hours = round((end - start).total_seconds() / 3600)
    steps = round(hours * 3600 / DT_S)
    devices = list_devices(stores.pg, site.site_id)
    rows = constraint_rows(stores.pg, site.site_id)
    states = latest_states(stores.mongo, [d.device_id for d in devices], not_after=start + timedelta(minutes=1))
    missing = [d.device_id for d in devices if d.device_id not in states]
    if missing:
        raise InputError(source="telemetry_data", field="device_id", value=missing, expected="a state at the start")
    ambient_c = scenario.ambient_c.window(start, steps, DT_S)
    predictions = {
        d.device_id: predict(d, states[d.device_id], np.zeros(steps), dt_s=DT_S, start=start, ambient_c=ambient_c)
        for d in devices
    }
    record = PolicyRecord(
        policy_id=None,
        site_id=site.site_id + FORESIGHT,
        name="perfect_foresight",
        policy_type="MPC",
        config={},
        horizon_hours=hours,
        update_interval_seconds=int(DT_S),
    )
    observation = Observation(
        site=site,
        starts_at=start,
        interval_s=int(DT_S),
        devices=tuple(devices),
        limits={d.device_id: tightest(d, rows[d.device_id], start) for d in devices},
        states=states,
        predictions=predictions,
        price_eur_per_kwh=_quarter_hours(scenario.price_eur_per_kwh, start, steps),
        load_w=scenario.load_w,
        pv_w=scenario.pv_w,
        ambient_c=scenario.ambient_c,
    )
    decision = decision_of(record, observation, MpcPolicy(record).plan(observation))
    from dataclasses import replace

    record_decision(stores.pg, replace(decision, site_id=site.site_id + FORESIGHT))


def _quarter_hours(series: Series, start: datetime, steps: int) -> Series:
    return Series(series.name, start, DT_S, series.window(start, steps, DT_S))
