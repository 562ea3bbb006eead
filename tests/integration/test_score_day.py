"""Days scored on real servers: once, whole or not at all; by hand and beside a dispatcher."""

import json
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import shadow_site
from shadow_site import DAY, LATER, QUARTERS, SITE, ZONE, best_lived, scored

from core.clock import ScaledClock
from core.errors import InputError
from serving.cli import policies_cli, shadow_cli
from serving.cli.app import app
from serving.clock_config import VARIABLE, to_text
from serving.dispatch.inputs import PRICE
from serving.dispatch.metrics import DispatchMetrics
from serving.shadow.days import day_bounds
from serving.shadow.keeper import DayKeeper
from serving.shadow.scorer import days_due, score_day
from stores.connections import Stores, connect_mongo, connect_postgres
from stores.postgres.policy_days import (
    COMMANDED,
    SHADOW,
    lock_day,
    policy_days,
    scored_day,
)

pytestmark = pytest.mark.timeout(120)
site, best = shadow_site.site, shadow_site.best
LONG_S = 60.0


def another(stores):
    """Connections of another process."""
    return Stores(
        pg=connect_postgres(stores.database_url), mongo=connect_mongo(stores.settings.mongodb_uri), redis=stores.redis,
        database_url=stores.database_url, settings=stores.settings,
    )  # fmt: skip


def test_what_was_commanded_and_each_shadow_stand_side_by_side(stores, best):
    new = shadow_site.row(stores, "new", "testing")
    bad = shadow_site.row(stores, "bad", "testing")
    best_lived(stores, best)
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
    best_lived(stores, best)
    shadow_site.shadowed(stores, DAY, new, "new", shadow_site.cycle(QUARTERS))
    commanded, shadow = scored(stores).days
    assert shadow.score == commanded.score
    assert shadow.j_eur == commanded.j_eur


def test_scored_once_and_again_only_when_asked(stores, best):
    best_lived(stores, best)
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
    best_lived(stores, best)
    broken(stores)
    found = scored(stores)
    assert said in found.marker.why_not
    assert found.days == []
    assert DAY not in days_due(stores.pg, SITE, LATER)


def test_load_that_nobody_measured_is_that_of_the_forecast(stores, best):
    best_lived(stores, best)
    stores.pg.execute("DELETE FROM optimizer.site_series WHERE name IN ('load_w', 'pv_w')")
    (row,) = scored(stores).days
    assert (row.details["load_measured_share"], row.details["pv_measured_share"]) == (0.0, 0.0)
    assert 0.0 < row.score < 1.0


def test_two_scorers_at_once_write_it_once(stores, best):
    best_lived(stores, best)
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
    best_lived(stores, best)

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
    best_lived(stores, best)
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


def test_the_dispatcher_s_keeper_scores_what_is_due_in_a_process_of_its_own(stores, best):
    best_lived(stores, best)
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
    best_lived(stores, best)
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
    best_lived(stores, best)
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
