"""What scored days do to the policy that commanded them: kept, demoted, and who decides then; on real servers."""

import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import failing_policies
import shadow_site
from shadow_site import DAY, LATER, QUARTERS, SITE, ZONE, best_lived, past_days, scored

from serving.dispatch.inputs import SIGNAL
from serving.dispatch.policy_factory import Built
from serving.dispatch.ranking import PolicyBench
from serving.dispatch.runner import InlineRunner
from serving.dispatch.tick import SiteDispatcher, TickOptions
from serving.evaluation.rows import LIFE_KEY, policy_named
from serving.shadow.days import day_bounds
from serving.shadow.scorer import score_day
from stores.postgres import leases
from stores.postgres.policies import ranked_policies
from stores.postgres.policy_days import policy_alarms

pytestmark = pytest.mark.timeout(120)
site, best = shadow_site.site, shadow_site.best


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
    best_lived(stores, best, off_pct=1.5)
    found = scored(stores)
    (alarm,) = found.alarms
    assert (alarm.kind, alarm.action) == ("drift", "demoted")
    assert alarm.figures["drifted"][0]["shift"] == pytest.approx(1.5, abs=0.05)
    assert policy_named(stores.pg, SITE, "best").status == "testing"
    assert tick(stores).decision.source == "second"


def test_the_first_day_of_drift_demotes_nobody_and_is_remembered(stores, best):
    shadow_site.row(stores, "second", score=0.5)
    past_days(stores, best, [0.9], detectors=LEARNED)
    best_lived(stores, best, off_pct=1.5)
    found = scored(stores)
    assert found.alarms == []
    (drifted,) = found.days[0].details["drift"]["drifted"]
    assert drifted["quantity"] == "soc_pct"
    assert found.days[0].details["drift"]["states"]["pack-lfp"]["soc_pct"]["above"] > 12.0


def test_predictions_that_hold_raise_nothing(stores, best):
    past_days(stores, best, [0.9], drifted=[DRIFTED], detectors=LEARNED)
    best_lived(stores, best)
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
