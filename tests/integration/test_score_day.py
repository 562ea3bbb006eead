"""Days scored on real servers: once, whole or not at all; and what follows for the policy that commanded them."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import failing_policies
import shadow_site
from shadow_site import SITE, ZONE

from core.clock import ScaledClock
from core.errors import InputError
from serving.cli import policies_cli, shadow_cli
from serving.cli.app import app
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.inputs import PRICE, SIGNAL
from serving.dispatch.metrics import DispatchMetrics
from serving.dispatch.policy_factory import Built
from serving.dispatch.ranking import PolicyBench
from serving.dispatch.runner import InlineRunner
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.evaluation.rows import LIFE_KEY, policy_named
from serving.shadow.days import day_bounds
from serving.shadow.keeper import DayKeeper
from serving.shadow.scorer import days_due, score_day
from stores.connections import Stores, connect_mongo, connect_postgres
from stores.postgres import leases
from stores.postgres.policies import ranked_policies
from stores.postgres.policy_days import (
    COMMANDED,
    SHADOW,
    PolicyDay,
    ScoredDay,
    lock_day,
    mark_day,
    policy_alarms,
    policy_days,
    scored_day,
    write_policy_days,
)

pytestmark = pytest.mark.timeout(120)
DAY = date(2026, 3, 29)
"""92 quarter hours in Amsterdam."""
QUARTERS = 92
LATER = datetime(2026, 3, 30, 6, tzinfo=UTC)
LONG_S = 60.0


@pytest.fixture
def site(stores):
    config = shadow_site.load(stores)
    shadow_site.series(stores, day_bounds(DAY, ZONE)[0] - timedelta(days=10), 24 * 13)
    return config


@pytest.fixture
def best(stores, site):
    return shadow_site.row(stores, "best", score=0.9)


def scored(stores, **arguments):
    return score_day(stores, SITE, DAY, now=LATER, **arguments)


def lived(stores, policy_id, **arguments):
    shadow_site.lived(stores, DAY, policy_id, "best", shadow_site.cycle(QUARTERS), **arguments)


def past_days(stores, policy_id, scores, *, drifted=(), detectors=None, room=10.0, name="best"):
    """Scores of the days before DAY, the newest last, as if each had been scored when it ended."""
    for back, score in enumerate(reversed(scores), start=1):
        day = DAY - timedelta(days=back)
        start, end = day_bounds(day, ZONE)
        mark_day(stores.pg, ScoredDay(site_id=SITE, day=day, starts_at=start, ends_at=end, why_not="", scored_by="test"))
        details = {"drift": {"drifted": list(drifted), "states": detectors or {}}}
        made = PolicyDay(
            site_id=SITE, day=day, role=COMMANDED, policy_id=policy_id, policy=name, score=max(0.0, min(1.0, score)),
            j_eur=score * room, idle_eur=0.0, best_eur=room, decided_share=1.0, violations=0, details=details,
        )  # fmt: skip
        write_policy_days(stores.pg, [made])


def another(stores):
    """Connections of another process."""
    return Stores(
        pg=connect_postgres(stores.database_url), mongo=connect_mongo(stores.settings.mongodb_uri), redis=stores.redis,
        database_url=stores.database_url, settings=stores.settings,
    )  # fmt: skip


def test_what_was_commanded_and_each_shadow_stand_side_by_side(stores, best):
    new = shadow_site.row(stores, "new", "testing")
    bad = shadow_site.row(stores, "bad", "testing")
    lived(stores, best)
    shadow_site.shadowed(stores, DAY, new, "new", 0.5 * shadow_site.cycle(QUARTERS))
    shadow_site.shadowed(stores, DAY, bad, "bad", shadow_site.cycle(QUARTERS), outcome="raised")
    found = scored(stores, by="me")
    assert found.mine
    assert [(row.role, row.policy) for row in found.days] == [(COMMANDED, "best"), (SHADOW, "bad"), (SHADOW, "new")]
    commanded, failed, shadow = found.days
    assert 0.0 < shadow.score < commanded.score < 1.0
    assert (failed.score, failed.decided_share) == (0.0, 0.0)
    assert failed.details["failures"] == {"raised": QUARTERS}
    assert failed.details["last_failure"] == "it did not"
    assert {row.idle_eur for row in found.days} == {commanded.idle_eur}
    assert commanded.details["load_measured_share"] == 1.0
    assert abs(commanded.details["replay_less_measured_soc_pct"]["pack-lfp"]) < 1.0
    assert commanded.details["drift"]["intervals"] == QUARTERS
    assert (scored_day(stores.pg, SITE, DAY).why_not, scored_day(stores.pg, SITE, DAY).scored_by) == ("", "me")


def test_a_policy_commands_and_shadows_alike_for_the_same_powers(stores, best):
    new = shadow_site.row(stores, "new", "testing")
    lived(stores, best)
    shadow_site.shadowed(stores, DAY, new, "new", shadow_site.cycle(QUARTERS))
    commanded, shadow = scored(stores).days
    assert shadow.score == commanded.score
    assert shadow.j_eur == commanded.j_eur


def test_scored_once_and_again_only_when_asked(stores, best):
    lived(stores, best)
    first = scored(stores, by="first")
    second = scored(stores, by="second")
    assert (first.mine, second.mine, second.marker.scored_by) == (True, False, "first")
    assert second.days == first.days
    third = scored(stores, by="third", again=True)
    assert (third.mine, third.marker.scored_by) == (True, "third")
    assert third.days == first.days, "the same day gives the same numbers"


def test_a_day_that_has_not_ended_is_refused(stores, best):
    with pytest.raises(InputError, match="has ended"):
        score_day(stores, SITE, DAY, now=day_bounds(DAY, ZONE)[1] - timedelta(seconds=1))
    assert scored_day(stores.pg, SITE, DAY) is None


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda s: s.pg.execute("DELETE FROM optimizer.site_series WHERE name = %s", (PRICE,)), PRICE),
        (lambda s: s.mongo["telemetry_data"].delete_many({}), "no telemetry at the day's start"),
        (lambda s: s.pg.execute("DELETE FROM optimizer.decisions"), "decisions"),
    ],
)
def test_a_day_that_cannot_be_scored_is_marked_with_the_reason(stores, best, broken, said):
    lived(stores, best)
    broken(stores)
    found = scored(stores)
    assert said in found.marker.why_not
    assert found.days == []
    assert DAY not in days_due(stores.pg, SITE, LATER)


def test_load_that_nobody_measured_is_that_of_the_forecast(stores, best):
    lived(stores, best)
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name IN ('load_w', 'pv_w')")
    (row,) = scored(stores).days
    assert (row.details["load_measured_share"], row.details["pv_measured_share"]) == (0.0, 0.0)
    assert 0.0 < row.score < 1.0


def test_two_scorers_at_once_write_it_once(stores, best):
    lived(stores, best)
    computed, go, results = threading.Event(), threading.Event(), []

    def hold():
        computed.set()
        assert go.wait(LONG_S)

    def first():
        with another(stores) as own:
            results.append(scored(own, by="first", before_writing=hold))

    thread = threading.Thread(target=first)
    thread.start()
    assert computed.wait(LONG_S)
    assert scored(stores, by="second") is None, "another has it"
    assert policy_days(stores.pg, SITE) == []
    go.set()
    thread.join(LONG_S)
    assert results[0].mine
    assert scored(stores, by="second").marker.scored_by == "first"


def test_a_scorer_that_lost_its_connection_writes_nothing_over_another_s(stores, best):
    lived(stores, best)

    def lose_the_lock():
        with another(stores) as other:
            assert not lock_day(other.pg, SITE, DAY)
            stores.pg.execute("SELECT pg_advisory_unlock_all()")
            assert scored(other, by="other").mine

    assert scored(stores, by="late", before_writing=lose_the_lock) is None
    assert scored_day(stores.pg, SITE, DAY).scored_by == "other"
    assert len(policy_days(stores.pg, SITE)) == 1


KILLED = """
import os, signal, sys
from datetime import date, datetime
sys.path.insert(0, {root!r})
from serving.shadow.scorer import score_day
from stores.connections import open_stores
from stores.settings import StoreSettings
with open_stores(StoreSettings.from_env()) as stores:
    where = sys.argv[1]
    if where == "writing":
        import serving.shadow.scorer as scorer
        written = scorer.write_policy_days
        def half(pg, rows):
            written(pg, rows)
            os.kill(os.getpid(), signal.SIGKILL)
        scorer.write_policy_days = half
    kill = (lambda: os.kill(os.getpid(), signal.SIGKILL)) if where == "computed" else (lambda: None)
    score_day(stores, {site!r}, date.fromisoformat({day!r}), now=datetime.fromisoformat({now!r}), before_writing=kill)
"""


@pytest.mark.parametrize("where", ["computed", "writing"])
def test_killed_in_the_middle_nothing_is_there_and_the_next_start_scores(stores, best, tmp_path, where):
    lived(stores, best)
    script = KILLED.format(root=str(Path(__file__).parents[2]), site=SITE, day=DAY.isoformat(), now=LATER.isoformat())
    done = subprocess.run(
        [sys.executable, "-c", script, where], env=environment(stores, tmp_path), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == -9, done.stderr.decode()
    assert policy_days(stores.pg, SITE) == []
    assert scored_day(stores.pg, SITE, DAY) is None
    assert days_due(stores.pg, SITE, LATER) == [DAY]
    assert scored(stores).mine, "the lock went with the process"


def environment(stores, folder):
    clock = ScaledClock(LATER, 0.0, 1e-9)
    return {
        **os.environ, "COLUMNS": "220", "DATABASE_URL": stores.settings.database_url, "REDIS_URL": stores.settings.redis_url,
        "MONGODB_URI": stores.settings.mongodb_uri, "PULSEBMS_DATA": str(folder), VARIABLE: to_text(clock),
    }  # fmt: skip


def tick(stores):
    """The next tick of the site's dispatcher, this hour."""
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    shadow_site.series(stores, now - timedelta(days=2), 24 * 5)
    shadow_site.live(stores, now)
    lease = leases.acquire(stores.pg, SITE, "test", 60.0)
    bench = PolicyBench(InlineRunner(Built(failing_policies.make)))
    return SiteDispatcher(stores, SITE, bench).tick(now, TickOptions(interval_s=900, horizon_s=86_400, valid_for_s=60), lease)


def test_below_its_floor_it_is_demoted_and_the_next_in_rank_decides_at_the_next_tick(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.1] * 6)
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    assert tick(stores).decision.source == "best"
    stores.pg.execute("DELETE FROM optimizer.decisions WHERE starts_at > %s", (LATER,))
    (alarm,) = scored(stores, by="scorer").alarms
    assert (alarm.kind, alarm.action, alarm.policy, alarm.raised_by) == ("floor", "demoted", "best", "scorer")
    assert alarm.figures["floor"] == pytest.approx(0.45)
    row = policy_named(stores.pg, SITE, "best")
    assert row.status == "testing"
    entry = row.performance_metrics[LIFE_KEY][-1]
    assert (entry["step"], entry["from"], entry["to"], entry["by"]) == ("demote", "active", "testing", "scorer")
    assert "below its floor 0.450" in entry["reason"]
    assert tick(stores).decision.source == "second"
    stored = [replace(item, raised_at=None) for item in policy_alarms(stores.pg, SITE)]
    assert stored == [alarm]
    assert scored(stores, again=True).alarms == [], "once"


def test_one_bad_day_demotes_nobody(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.8] * 6)
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    assert scored(stores).alarms == []
    assert policy_named(stores.pg, SITE, "best").status == "active"


def test_the_last_active_policy_is_kept_with_an_alarm(stores, best):
    shadow_site.row(stores, "new", "testing")
    past_days(stores, best, [0.1] * 6)
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    (alarm,) = scored(stores).alarms
    assert alarm.action == "kept"
    assert "last active policy" in alarm.reason
    assert [row.name for row in ranked_policies(stores.pg, SITE)] == ["best"]
    assert tick(stores).decision.source == "best"


def test_alarm_only_where_the_row_says_so(stores, site):
    policy_id = shadow_site.row(stores, "best", score=0.9, watch={"demote": False})
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, policy_id, [0.1] * 6)
    shadow_site.lived(stores, DAY, policy_id, "best", -shadow_site.cycle(QUARTERS))
    (alarm,) = scored(stores).alarms
    assert (alarm.action, policy_named(stores.pg, SITE, "best").status) == ("kept", "active")


def test_a_promotion_begins_with_new_evidence(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.1] * 6)
    stores.pg.execute("UPDATE optimization_policies SET deployed_at = %s WHERE name = 'best'", (LATER - timedelta(days=2),))
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    assert scored(stores).alarms == []


def test_no_floor_where_a_signal_was_followed_or_a_peak_is_paid_for(stores, best):
    from core.series import Series
    from stores.postgres.series import write_series

    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.1] * 4)
    start = day_bounds(DAY, ZONE)[0]
    write_series(stores.pg, SITE, Series(SIGNAL, start, 3600.0, [1e4] * 3), start)
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    found = scored(stores)
    assert "signal" in found.days[0].details["why_no_floor"]
    assert found.alarms == [], "four days that count are too few"


LEARNED = {
    "pack-lfp": {
        "soc_pct": {
            "least_spread": 0.1, "learning": [], "reference": 0.0, "spread": 0.1, "above": 0.0, "below": 0.0, "count": 96
        }
    }
}  # fmt: skip
DRIFTED = {"device_id": "pack-lfp", "quantity": "soc_pct", "shift": 1.5, "statistic": 24.0, "spread": 0.1, "residuals": 92}


def test_predictions_that_drift_demote_on_the_second_day(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.9], drifted=[DRIFTED], detectors=LEARNED)
    lived(stores, best, off_pct=1.5)
    found = scored(stores)
    (alarm,) = found.alarms
    assert (alarm.kind, alarm.action) == ("drift", "demoted")
    assert alarm.figures["drifted"][0]["shift"] == pytest.approx(1.5, abs=0.05)
    assert policy_named(stores.pg, SITE, "best").status == "testing"
    assert tick(stores).decision.source == "second"


def test_the_first_day_of_drift_demotes_nobody_and_is_remembered(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.9], detectors=LEARNED)
    lived(stores, best, off_pct=1.5)
    found = scored(stores)
    assert found.alarms == []
    (drifted,) = found.days[0].details["drift"]["drifted"]
    assert drifted["quantity"] == "soc_pct"
    assert found.days[0].details["drift"]["states"]["pack-lfp"]["soc_pct"]["above"] > 12.0


def test_predictions_that_hold_raise_nothing(stores, best):
    past_days(stores, best, [0.9], drifted=[DRIFTED], detectors=LEARNED)
    lived(stores, best)
    found = scored(stores)
    assert (found.alarms, found.days[0].details["drift"]["drifted"]) == ([], [])


def test_an_old_day_scored_again_judges_nobody(stores, site):
    policy_id = shadow_site.row(stores, "best", score=0.9, watch={"demote": False})
    past_days(stores, policy_id, [0.1] * 7)
    shadow_site.lived(stores, DAY, policy_id, "best", -shadow_site.cycle(QUARTERS))
    assert [alarm.kind for alarm in scored(stores).alarms] == ["floor"]
    older = DAY - timedelta(days=1)
    shadow_site.lived(stores, older, policy_id, "best", -shadow_site.cycle(96))
    again = score_day(stores, SITE, older, now=LATER, again=True)
    assert again.mine
    assert again.alarms == [], "what came after it has been judged"


def test_someone_who_demotes_at_the_same_moment_is_no_error(stores, best, monkeypatch):
    from serving.shadow import judge

    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.1] * 6)
    shadow_site.lived(stores, DAY, best, "best", -shadow_site.cycle(QUARTERS))
    real = judge.step_life

    def faster(pg, site_id, name, step, **arguments):
        with psycopg.connect(stores.database_url, autocommit=True) as other:
            other.execute("UPDATE optimization_policies SET status = 'testing' WHERE name = 'best'")
        return real(pg, site_id, name, step, **arguments)

    monkeypatch.setattr(judge, "step_life", faster)
    found = scored(stores)
    assert (found.mine, found.alarms, policy_alarms(stores.pg, SITE)) == (True, [], [])


def test_the_dispatcher_s_keeper_scores_what_is_due_in_a_process_of_its_own(stores, best):
    lived(stores, best)
    metrics = DispatchMetrics()
    keeper = DayKeeper(stores, SITE, ScaledClock(LATER, 0.0, 1e-9), "keeper", metrics.site(SITE))
    try:
        keeper.look()
        assert scored_day(stores.pg, SITE, DAY).scored_by == "keeper"
        (row,) = policy_days(stores.pg, SITE)
        labels = {"site": SITE, "policy": "best", "role": COMMANDED}
        assert metrics.registry.get_sample_value("pulsebms_policy_day_score", labels) == row.score
        assert metrics.registry.get_sample_value("pulsebms_days_scored_total", {"site": SITE, "result": "scored"}) == 1
        keeper.look()
        assert len(policy_days(stores.pg, SITE)) == 1
    finally:
        keeper.close()


def test_a_scoring_process_that_dies_is_an_error_that_is_tried_again(stores, best):
    lived(stores, best)
    keeper = DayKeeper(stores, SITE, ScaledClock(LATER, 0.0, 1e-9), "keeper")
    stores.pg.execute("ALTER TABLE optimizer.policy_days ADD CONSTRAINT away CHECK (j_eur > 1e11)")
    try:
        with pytest.raises(InputError, match="failed"):
            keeper.look()
        assert scored_day(stores.pg, SITE, DAY) is None, "the marker went with the rows"
        stores.pg.execute("ALTER TABLE optimizer.policy_days DROP CONSTRAINT away")
        keeper.look()
        assert scored_day(stores.pg, SITE, DAY).scored_by == "keeper"
    finally:
        keeper.close()


def test_the_command_line(stores, best, tmp_path, monkeypatch):
    new = shadow_site.row(stores, "new", "testing")
    lived(stores, best)
    shadow_site.shadowed(stores, DAY, new, "new", 0.5 * shadow_site.cycle(QUARTERS))
    for name, value in environment(stores, tmp_path).items():
        monkeypatch.setenv(name, value)

    for module in (shadow_cli, policies_cli):
        monkeypatch.setattr(module.console, "width", 220)

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, ["policies", *arguments, "--site", SITE])
        assert done.exit_code == code, done.output
        return done.output

    assert "scored now" in run("score-day", "--date", DAY.isoformat())
    assert "scored before" in run("score-day", "--date", DAY.isoformat())
    assert "not scored" in run("score-day", "--date", (DAY - timedelta(days=1)).isoformat(), code=1)
    shown = run("shadow", "--each-day")
    assert "commanded" in shown
    assert "new" in shown
    assert f"{DAY - timedelta(days=1)}: not scored" in shown
    assert "shadow" in run("list")
    document = json.loads(run("show", "best"))
    assert document["floor"] == pytest.approx(0.45)
    (day,) = document["days_on_the_twin"]
    assert (day["day"], day["role"]) == (DAY.isoformat(), COMMANDED)
    assert "states" not in day["drift"]
    bad = CliRunner().invoke(app, ["policies", "score-day", "--site", SITE, "--date", "yesterday"])
    assert isinstance(bad.exception, InputError)
