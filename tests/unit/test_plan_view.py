"""A plan on a terminal of 100 columns and as a picture: nothing cut, every reason, price, age and deviation in sight."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console

from core.site import Grid
from optimizer.mpc import MpcSolver
from serving.plan_view import WIDTH, device_table, inputs_table, summary
from serving.plots import plot_plan

START = datetime(2026, 3, 10, 10, tzinfo=UTC)
DAY = np.r_[np.full(8, 0.05), np.full(8, 0.30)]
GRID = Grid(import_limit_w=1e6, export_limit_w=1e6)


@pytest.fixture
def plan(make_site, make_device):
    """One pack, import limited, a signal in the last slots."""
    tracked = np.arange(16) >= 12
    device = make_device(16, wear_eur_per_kwh=0.01, device_id="pack-one")
    signal = {"target_w": np.full(16, 5e3), "tracked": tracked, "tracking_weight": 0.01}
    return MpcSolver().plan(make_site(DAY, device, import_limit_w=np.full(16, 8e3), **signal))


def shown(item):
    console = Console(width=WIDTH, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(item)
    return captured.get()


def test_the_table_fits_a_hundred_columns(plan):
    text = shown(device_table(plan, plan.devices[0], START, DAY))
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "…" not in text
    rows = [line for line in text.splitlines() if line.strip().startswith("03-10")]
    assert len(rows) == 16
    for k, row in enumerate(rows):
        assert plan.devices[0].reasons[k].value in row
    assert "grid_import" in text
    assert "EUR/kW" in text
    assert "W off the signal" in text
    assert "-0 " not in text


def test_inputs_have_source_and_age(plan):
    text = shown(
        inputs_table(
            {
                "load": {"source": "site_series", "age_s": 7200.0, "known_until": "2026-03-11T00:00:00+00:00"},
                "limits:pack-one": {"source": "safety_constraints", "age_s": None, "rows_in_force": 2, "set_by": {"a": "b"}},
                "days": {"source": "x", "age_s": 86_400.0 * 3},
            }
        )
    )
    assert "120 min" in text
    assert "72 h" in text
    assert "known_until 03-11 00:00" in text
    assert "rows_in_force 2" in text
    assert "set_by" not in text
    assert max(len(line) for line in text.splitlines()) <= WIDTH


def test_the_summary_says_where_prices_come_from_and_how_far_the_signal_is(plan):
    lines = summary(plan)
    assert "duals of structured" in lines[1]
    assert lines[2].startswith("signal: 4 slots tracked")


def test_the_summary_tells_corrections_why_not_and_the_margin_below_the_peak(plan):
    corrected = {"errors": 96, "latest_w": 1500.0, "lag_steps": 0, "phi": 0.8, "first_step_w": 1200.0}
    notes = {"load_w": corrected, "pv_w": "not corrected: another grid", "peak_margin_w": 4321.0}
    lines = summary(replace(plan, uncertainty={"mode": "deterministic", "corrected": notes}))
    assert "forecast load_w: corrected by +1200 W at first (latest error +1500 W, 96 known)" in lines
    assert "forecast pv_w: not corrected: another grid" in lines
    assert any("4321 W below the month's highest" in line and "peak_margin_w" in line for line in lines)


@pytest.mark.parametrize("devices", [0, 1, 3])
def test_the_picture_is_written(make_random_site, make_site, tmp_path, devices):
    problem = make_random_site(1, 16, 2) if devices else replace(make_site(DAY), devices=())
    if devices == 3:
        problem = make_random_site(1, 16, 3)
    plan = MpcSolver().plan(problem)
    plot_plan(tmp_path / "plan.png", START, plan, problem.grid.buy_eur_per_kwh, GRID)
    assert (tmp_path / "plan.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
