"""A whole day of the real MPC with a shadow that is its copy, and one that must be worse: what the score says of them."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import shadow_site
from shadow_site import SITE, ZONE

from core.pack import Pack
from core.policy_record import PolicyRecord
from core.twin import predict
from serving.dispatch.artefacts import StoredArtefacts
from serving.dispatch.inputs import planned_power
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.shadow.days import day_bounds
from serving.shadow.desk import ShadowDesk, Ticked
from serving.shadow.scorer import score_day
from stores.mongo.predictions import write_predictions
from stores.mongo.telemetry import insert_telemetry, pack_document
from stores.postgres import leases
from stores.postgres.devices import list_devices
from stores.postgres.policies import upsert_policy
from stores.postgres.policy_days import COMMANDED, SHADOW

pytestmark = pytest.mark.timeout(180)
HOUR = timedelta(hours=1)
OPTIONS = TickOptions(interval_s=3600, horizon_s=86_400, valid_for_s=60)


def row(stores, name, status, **config):
    upsert_policy(
        stores.pg,
        PolicyRecord(
            policy_id=None, site_id=SITE, name=name, policy_type="MPC", config=config, horizon_hours=24,
            update_interval_seconds=3600, status=status, deployed_at=shadow_site.LONG_AGO,
        ),
    )  # fmt: skip


def test_a_copy_of_the_active_policy_scores_as_it_does_and_a_poor_one_below(stores):
    shadow_site.load(stores)
    day = datetime.now(UTC).date() - timedelta(days=2)
    start, end = day_bounds(day, ZONE)
    shadow_site.series(stores, start - timedelta(days=9), 24 * 13)
    row(stores, "active", "active")
    row(stores, "copy", "testing")
    row(stores, "timid", "testing", soc_stress_eur_per_h=5.0)  # stays half full
    (device,) = list_devices(stores.pg, SITE)
    pack = Pack(device, soc_pct=50.0, soh_pct=92.0, temperature_c=20.0, ambient_c=18.0)
    desk = ShadowDesk(stores, SITE, StoredArtefacts(stores))
    dispatcher = SiteDispatcher(stores, SITE)
    plan, at = None, start
    shadow_site.live(stores, start)
    dispatcher.tick(start, replace(OPTIONS, dry_run=True), None)  # compiles what a lease would not outlast on a fresh machine
    while at < end:
        state = pack.state(at)
        insert_telemetry(stores.mongo, [pack_document(state, site_id=SITE, firmware="1")])
        profile = np.zeros(26) if plan is None else plan.window(at, 26, 3600.0)
        write_predictions(stores.mongo, [predict(device, state, profile, dt_s=3600.0, start=at, ambient_c=18.0)])
        result = dispatcher.tick(at, OPTIONS, leases.acquire(stores.pg, SITE, "test", 60.0))
        assert result.decision.source == "active", result.decision.passed_over
        desk.turns(
            Ticked(
                observation=result.observation, meter=result.meter, decided_by=result.decision.policy_id, deadline_s=60.0,
                until_s=float("inf"),
            )
        )  # fmt: skip
        (point,) = result.decision.set_points
        plan = planned_power(result.decision)[device.device_id]
        pack.step(point.power_w, 3600.0)
        at += HOUR
    insert_telemetry(stores.mongo, [pack_document(pack.state(end), site_id=SITE, firmware="1")])
    desk.close()
    found = {(item.role, item.policy): item for item in score_day(stores, SITE, day, now=end + HOUR).days}
    active, copy, timid = found[COMMANDED, "active"], found[SHADOW, "copy"], found[SHADOW, "timid"]
    assert copy.decided_share == active.decided_share == 1.0
    assert copy.score == pytest.approx(active.score, abs=0.005)
    assert copy.details["end_soc_pct"][device.device_id] == pytest.approx(pack.soc_pct, abs=0.5)
    assert active.score > 0.6
    assert timid.score < active.score - 0.1
    assert active.violations == copy.violations == 0
    assert abs(active.details["replay_less_measured_soc_pct"][device.device_id]) < 0.2
