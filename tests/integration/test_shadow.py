"""Shadows beside a real dispatcher on real servers: they decide, they are kept, and whatever they do nothing of it commands."""

import os
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))  # the shadows' process imports the policies by name

import failing_policies
import shadow_site
from learned_cases import value_artefact
from shadow_site import SITE, STEP

from core.clock import ScaledClock
from core.policy_record import PolicyRecord
from serving.dispatch.artefacts import StoredArtefacts
from serving.dispatch.loop import LoopOptions
from serving.dispatch.metrics import DispatchMetrics
from serving.dispatch.policy_factory import Built
from serving.dispatch.ranking import PolicyBench
from serving.dispatch.runner import InlineRunner
from serving.dispatch.supervisor import Supervisor
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.shadow.desk import MOST_SHADOWS, ShadowDesk, Ticked, shadows_of
from stores.mongo.artefacts import store_artefact
from stores.postgres import leases
from stores.postgres.decisions import decisions
from stores.postgres.history import history
from stores.postgres.maintenance import maintain_postgres
from stores.postgres.policies import register_policy
from stores.postgres.shadow import shadow_decisions, shadow_state

pytestmark = pytest.mark.timeout(120)
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=1)
LONG_S = 60.0
COMPILING_S = 240.0
"""On a machine whose kernels have not been compiled yet."""
OPTIONS = TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60)


@pytest.fixture
def site(stores):
    config = shadow_site.load(stores)
    shadow_site.series(stores, NOW - timedelta(days=2), 24 * 5)
    shadow_site.live(stores, NOW)
    shadow_site.row(stores, "best", watt=1000.0, score=0.9)
    return config


@pytest.fixture
def metrics():
    return DispatchMetrics()


@pytest.fixture
def desk(stores, metrics):
    made = ShadowDesk(stores, SITE, StoredArtefacts(stores), failing_policies.make, metrics.site(SITE))
    yield made
    made.close()


def dispatcher(stores):
    return SiteDispatcher(stores, SITE, PolicyBench(InlineRunner(Built(failing_policies.make))))


def tick(stores, at=NOW, running=None):
    lease = leases.acquire(stores.pg, SITE, "test", 60.0)
    return (running or dispatcher(stores)).tick(at, OPTIONS, lease)


def ticked(result, deadline_s=LONG_S):
    return Ticked(
        observation=result.observation, meter=result.meter, decided_by=result.decision.policy_id, deadline_s=deadline_s,
        until_s=time.monotonic() + deadline_s,
    )  # fmt: skip


def turns(stores, at=NOW):
    return {item.policy: item for item in shadow_decisions(stores.pg, SITE, at, at + STEP)}


def everything_in_redis(stores):
    client = stores.redis
    return {key: client.dump(key) for key in client.keys("*")}


def test_a_shadow_decides_and_nothing_of_it_reaches_a_device(stores, site, desk, metrics):
    shadow_site.row(stores, "new", "testing", watt=-3000.0)
    result = tick(stores)
    assert result.decision.source == "best"
    queued, commanded = everything_in_redis(stores), history(stores.pg, SITE)
    desk.turns(ticked(result))
    (device_id,) = [pack.device_id for pack in site.packs]
    found = turns(stores)["new"]
    assert (found.outcome, found.power_w) == ("decided", {device_id: -3000.0})
    assert found.soc_pct[device_id] > 50.0
    assert everything_in_redis(stores).items() <= queued.items(), "nothing new, nothing changed; what expires may go"
    assert history(stores.pg, SITE) == commanded
    assert [d.source for d in decisions(stores.pg, SITE)] == ["best"]
    assert metrics.registry.get_sample_value("pulsebms_shadow_turns_total", {"site": SITE, "policy": "new", "outcome": "decided"})


def test_who_is_a_shadow(stores, site):
    for name in ("second", "third"):
        shadow_site.row(stores, name, score=0.5)
    for k in range(3):
        shadow_site.row(stores, f"new-{k}", "testing")
    shadow_site.row(stores, "off", "inactive")
    best = tick(stores).decision.policy_id
    names = [record.name for record in shadows_of(stores.pg, SITE, best)]
    assert len(names) == MOST_SHADOWS
    assert set(names[:3]) == {"new-0", "new-1", "new-2"}
    assert names[3] in ("second", "third")


def test_one_that_hangs_delays_no_tick_and_is_ended_with_the_dispatcher(stores, site, desk, metrics):
    shadow_site.row(stores, "hangs", "testing", mode="hang_in_c")
    running = dispatcher(stores)
    desk.start()
    assert desk.offer(ticked(tick(stores, NOW, running), deadline_s=1e6))
    assert desk.asked.wait(LONG_S), "the shadow is being asked, and will never answer"
    shadow_site.live(stores, NOW + STEP)
    second = tick(stores, NOW + STEP, running)
    assert second.decision.source == "best"
    assert desk.asked.is_set(), "the tick came and went meanwhile"
    assert not desk.offer(ticked(second)), "and is not queued behind it"
    skipped = {"site": SITE, "policy": "", "outcome": "skipped"}
    assert metrics.registry.get_sample_value("pulsebms_shadow_turns_total", skipped) == 1
    pid = desk._process._process.pid
    desk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert turns(stores) == {}, "being ended with the dispatcher is no fault of the shadow"
    assert not [thread for thread in threading.enumerate() if thread.name == f"shadows-{SITE}"]


@pytest.mark.parametrize(("mode", "outcome"), [("hang", "deadline"), ("crash", "died"), ("raise", "raised")])
def test_a_bad_one_is_marked_and_the_next_decides(stores, site, desk, mode, outcome):
    shadow_site.row(stores, "bad", "testing", mode=mode, score=0.8)
    shadow_site.row(stores, "good", "testing", watt=500.0, score=0.7)
    result = tick(stores)
    desk._process.warm()
    desk.turns(ticked(result, deadline_s=2.0 if mode == "hang" else LONG_S))
    found = turns(stores)
    assert found["bad"].outcome == outcome
    assert found["bad"].detail
    assert found["bad"].power_w == {}
    assert shadow_state(stores.pg, SITE, found["bad"].policy_id) is not None, "its packs rest, and go on from there"
    if mode != "hang":
        assert found["good"].outcome == "decided"


@pytest.mark.timeout(300)
def test_a_learned_one_decides_from_its_artefact_and_one_without_is_refused(stores, site):
    artefact = value_artefact(share=0.5)
    store_artefact(stores.mongo, artefact.files)
    for name, sha256 in (("hybrid", artefact.sha256), ("lost", "0" * 64)):
        made = PolicyRecord(
            policy_id=None, site_id=SITE, name=name, policy_type="HYBRID", config={"artefact": sha256}, model_version="1",
            training_date=NOW, performance_metrics={}, horizon_hours=24, update_interval_seconds=900,
        )  # fmt: skip
        register_policy(stores.pg, made)
    result = tick(stores)
    desk = ShadowDesk(stores, SITE, StoredArtefacts(stores))
    try:
        desk.turns(ticked(result, deadline_s=COMPILING_S))
    finally:
        desk.close()
    found = turns(stores)
    assert found["hybrid"].outcome == "decided", found["hybrid"].detail
    assert found["lost"].outcome == "ineligible"
    assert "0000" in found["lost"].detail


def test_an_ineligible_one_is_not_asked(stores, site, desk):
    shadow_site.row(stores, "blind", "testing")
    stores.mongo["digital_twin_predictions"].delete_many({})
    desk.turns(ticked(tick(stores)))
    assert turns(stores)["blind"].outcome == "ineligible"
    assert "prediction" in turns(stores)["blind"].detail


def test_shadows_that_have_used_the_time_leave_the_rest_for_the_next_tick(stores, site, desk):
    shadow_site.row(stores, "late", "testing")
    desk.turns(replace(ticked(tick(stores)), until_s=time.monotonic()))
    assert turns(stores)["late"].outcome == "deadline"


def test_after_a_restart_it_goes_on_where_it_was(stores, site, desk):
    shadow_site.row(stores, "new", "testing", watt=10_000.0)
    (device_id,) = [pack.device_id for pack in site.packs]
    for k in range(2):
        shadow_site.live(stores, NOW + k * STEP)
        desk.turns(ticked(tick(stores, NOW + k * STEP)))
    desk.close()
    other = ShadowDesk(stores, SITE, StoredArtefacts(stores), failing_policies.make)
    try:
        shadow_site.live(stores, NOW + 2 * STEP)
        result = tick(stores, NOW + 2 * STEP)
        other.turns(ticked(result))
    finally:
        other.close()
    first, second, third = (turns(stores, NOW + k * STEP)["new"].soc_pct[device_id] for k in range(3))
    assert 50.0 > first > second > third
    assert third == pytest.approx(second - (first - second), abs=0.2)
    assert result.observation.states[device_id].soc_pct == 50.0, "the real pack did nothing of it"


def test_two_dispatchers_write_an_interval_once(stores, site, desk):
    shadow_site.row(stores, "new", "testing", watt=10_000.0)
    result = tick(stores)
    desk.turns(ticked(result))
    kept = shadow_state(stores.pg, SITE, turns(stores)["new"].policy_id)
    stores.pg.execute("UPDATE optimization_policies SET config = '{\"watt\": -9000.0}' WHERE name = 'new'")
    other = ShadowDesk(stores, SITE, StoredArtefacts(stores), failing_policies.make)
    try:
        other.turns(ticked(result))
    finally:
        other.close()
    rows = shadow_decisions(stores.pg, SITE, NOW, NOW + STEP)
    assert [next(iter(item.power_w.values())) for item in rows] == [10_000.0]
    assert shadow_state(stores.pg, SITE, rows[0].policy_id) == kept


def test_a_store_that_fails_costs_the_shadows_their_interval_and_no_more(stores, site, desk):
    shadow_site.row(stores, "new", "testing")
    result = tick(stores)
    desk.start()
    stores.pg.execute("ALTER TABLE optimizer.shadow_decisions RENAME TO away")
    desk.offer(ticked(result))
    assert desk.idle(LONG_S)
    stores.pg.execute("ALTER TABLE optimizer.away RENAME TO shadow_decisions")
    assert desk.offer(ticked(result))
    assert desk.idle(LONG_S)
    assert turns(stores)["new"].outcome == "decided"


def test_what_shadows_decided_is_kept_for_a_month(stores, site, desk):
    shadow_site.row(stores, "new", "testing")
    desk.turns(ticked(tick(stores)))
    assert maintain_postgres(stores.pg)["shadow decisions deleted"] == 0
    stores.pg.execute("UPDATE optimizer.shadow_decisions SET recorded_at = recorded_at - interval '31 days'")
    stores.pg.execute("UPDATE optimizer.shadow_states SET written_at = written_at - interval '31 days'")
    policy_id = turns(stores)["new"].policy_id
    assert maintain_postgres(stores.pg)["shadow decisions deleted"] == 1
    assert (turns(stores), shadow_state(stores.pg, SITE, policy_id)) == ({}, None)


def test_beside_the_whole_dispatcher(stores, site, metrics):
    """The loop as `pulsebms dispatch` runs it: the active one commands at every boundary, shadows are kept beside it."""
    for name, config in (("new", {"watt": -2000.0}), ("bad", {"mode": "raise"})):
        shadow_site.row(stores, name, "testing", **config)
    for k in range(-2, 96):
        shadow_site.live(stores, NOW + k * STEP)
    clock = ScaledClock(NOW - timedelta(seconds=1500), time.monotonic(), 120.0)
    stop = threading.Event()

    wanted = {("new", "decided"), ("bad", "raised")}

    def kept():
        rows = shadow_decisions(stores.pg, SITE, NOW - STEP, NOW + timedelta(days=1))
        return {(item.policy, item.outcome) for item in rows}

    def seen(_site, _at, _result):
        if kept() >= wanted and len(decisions(stores.pg, SITE)) >= 3:
            stop.set()

    options = LoopOptions(site_id="", telemetry_max_age_s=1e6, watch=True, factory=failing_policies.make)
    guard = threading.Timer(180.0, stop.set)
    guard.start()
    Supervisor(stores.settings, clock, options, [SITE], metrics=metrics, on_tick=seen).run(stores, stop)
    guard.cancel()
    assert {d.source for d in decisions(stores.pg, SITE)} == {"best"}
    # Intervals are seven seconds here: on a busy machine the first may pass before the shadows' process is up.
    assert wanted <= kept() <= wanted | {("new", "deadline"), ("bad", "deadline")}
    assert all(command.issued_by for command in history(stores.pg, SITE))
    assert {command.parameters["target_power"] for command in history(stores.pg, SITE) if command.command_type.is_start} == {
        1000.0
    }
