"""What an evaluation shows: time left, claims on jobs, tables at 80 columns, the report's words."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from serving.cli.evaluate_progress import EvaluationProgress, duration
from serving.cli.evaluate_tables import show_comparison, show_ranking
from serving.evaluation.progress import Estimate, Status
from serving.evaluation.report_life import life_part
from serving.evaluation.result_cache import ResultCache

KEY = "ab" + "0" * 62


def test_time_left_is_that_of_the_policies_that_are_open():
    made = Estimate(workers=2)
    assert made.left_s(["mpc"]) is None, "nothing is known yet"
    for policy, took_s in (("mpc", 8.0), ("mpc", 12.0), ("perfect_foresight", 100.0), ("idle", 2.0)):
        made.note(policy, {"status": "ok", "took_s": took_s})
    made.note("mpc", {"status": "failed", "took_s": 1e6})
    made.note("mpc", {"status": "ok"})  # of a cache that an older version wrote
    assert made.left_s([]) == 0.0
    assert made.left_s(["mpc", "mpc", "mpc", "perfect_foresight"]) == pytest.approx(65.0)
    assert made.left_s(["mpc"]) == pytest.approx(10.0), "one job has one process"
    assert made.left_s(["another", "another"]) == pytest.approx(6.0), "as the others, perfect foresight apart"
    assert made.left_s(["mpc"], [4.0]) == pytest.approx(6.0)
    assert made.left_s(["mpc"], [40.0]) == 0.0


@pytest.mark.parametrize(("seconds", "said"), [(None, "?"), (0.0, "0 s"), (89.0, "89 s"), (300.0, "5 min"), (9000.0, "2.5 h")])
def test_durations_are_short(seconds, said):
    assert duration(seconds) == said


def test_on_a_terminal_there_is_a_bar_and_failures_are_named():
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with EvaluationProgress(console) as progress:
        told = {"total": 4, "from_cache": 0, "steps": 0, "left_s": 130.0}
        progress.told(Status(done=1, failed=0, **told))
        progress.told(Status(done=2, failed=1, ended=("bad", "s", "2023-03-06", 0), error="raised [x]", took_s=1.0, **told))
    assert "2/4" in out.getvalue()
    assert "about 2 min left" in out.getvalue()
    assert "bad s 2023-03-06 0: raised [x]" in out.getvalue()


def test_a_job_has_one_holder_and_what_he_leaves_is_taken_away(tmp_path):
    mine, other = ResultCache(tmp_path), ResultCache(tmp_path)
    claim = mine.claim(KEY)
    assert claim is not None
    assert other.claim(KEY) is None
    claim.release()
    (tmp_path / "ab" / f".{KEY}.json.torn").write_text("{")
    again = other.claim(KEY)
    assert again is not None
    assert list((tmp_path / "ab").glob(".*")) == [], "the torn file of a writer that was killed"
    other.put(KEY, {"status": "ok"})
    again.release()
    assert mine.get(KEY)["status"] == "ok"
    assert [path.name for path in (tmp_path / "ab").iterdir()] == [f"{KEY}.json"]


def interval(value):
    return {"value": value, "low": value - 100.25, "high": value + 100.25}


def ranked(policy, **changes):
    row = {
        "policy": policy, "score": 0.98765, "score_interval": {"value": 0.98, "low": 0.123456, "high": 0.999}, "eligible": True,
        "against_mpc": {"points": interval(-123.45)}, "j_eur": -12345.67, "full_cycles": 12.3, "latency_p99_s": 0.0123,
        "violated": {}, "why_not": "",
    }  # fmt: skip
    return row | changes


def test_a_ranking_with_long_names_and_failures_fits_in_80_columns():
    ranking = [
        ranked("a-policy-with-a-name-that-nobody-would-want-to-type-twice-[x]"),
        ranked("hot", eligible=False, violated={"temperature_max": 7}, why_not="limits passed: temperature_max 7"),
        ranked("bad", score=None, eligible=False, why_not="raised ZeroDivisionError: 1 / 0"),
    ]
    document = {"benchmarks": {"published": {"ranking": ranking, "blocks": 8, "foresight_gap_pct": 0.72}}}
    shown = {}
    for width in (80, 160):
        out = io.StringIO()
        show_ranking(Console(file=out, width=width), document)
        shown[width] = out.getvalue()
        assert max(map(len, shown[width].splitlines())) <= width
        assert "0.988" in shown[width]
        assert "0.123-0.999" in shown[width]
        assert "-123.5 [-223.7, -23.2]" in shown[width]
        assert "…" not in shown[width], "nothing is cut off"
        assert "bad: no score: raised ZeroDivisionError: 1 / 0" in shown[width]
        assert "hot: ineligible: limits passed: temperature_max 7" in shown[width]
    assert "p99 ms" in shown[160]
    assert "p99 ms" not in shown[80]


def test_one_week_has_no_interval():
    document = {"benchmarks": {"published": {"ranking": [ranked("a", score_interval=None)], "blocks": 2, "weeks": 1}}}
    out = io.StringIO()
    show_ranking(Console(file=out, width=80), document)
    assert "-123.5" in out.getvalue()
    assert "[" not in out.getvalue()


def test_a_comparison_fits_in_80_columns():
    one = {"points": interval(1.0), "eur": 12345.6, "weeks_won": 10, "weeks_lost": 12}
    found = {
        "published": {"by_scenario": {"a-scenario-with-a-long-name-[y]": one, "none": None}, "together": one},
        "five_minute": {"why_not": "one of the two did not finish every week"},
    }
    out = io.StringIO()
    show_comparison(Console(file=out, width=80), found, "mpc", "another")
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "+1.0 [-99.2, +101.2]" in out.getvalue()
    assert "five_minute: one of the two did not finish every week" in out.getvalue()


def lived(life_years, profit):
    return {
        "soh_pct": {"1": 79.0, "10": 66.0}, "life_years": life_years, "profit_eur_per_year": profit, "wear_eur_per_year": 10.0,
        "net_of_wear_eur_per_year": profit - 10.0,
    }  # fmt: skip


def test_the_report_says_what_a_life_is_and_what_profit_is_net_of():
    beside = {"more_life": 0.3, "profit_share": 0.97, "net_share": 1.02}
    part = {
        "policies": {"wise": lived(13.0, 97.0), "greedy": lived(10.0, 100.0), "idle": lived(30.0, 0.0)},
        "pareto": ["greedy", "wise", "idle"],
        "packs": [{"device_id": "pack", "chemistry": "NMC", "soh_pct": 80.0, "until_soh_pct": 60.0}],
        "target": {"naive": "greedy", "more_life": 0.25, "less_profit": 0.05, "met_by": ["wise"],
                   "policies": {"wise": beside, "idle": {"more_life": 2.0, "profit_share": 0.0, "net_share": None}}},
    }  # fmt: skip
    page = "\n".join(life_part({"s": part, "empty": {"policies": {}}}))
    assert "pack (NMC) from 80 % until 60 %" in page
    assert "another 20 points" in page
    assert "Neither wear nor a new pack is taken off" in page
    for cell in ("13.0", "+30 %", "-3.0 %", "+2.0 %", "30 or more"):
        assert f"<td>{cell}</td>" in page
    assert "25 % more life than greedy at no more than 5 % less profit: wise." in page
