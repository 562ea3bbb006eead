"""A site that is tried out, or fed from files: what `data replay` and `data load` write is what the dispatcher reads."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import structlog
from typer.testing import CliRunner

from core.series import Series
from serving.cli.app import app
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST, Freshness, gather
from serving.site_inputs import replay_inputs
from serving.site_loader import load_site
from stores.postgres.series import read_series

SITE_FILE = Path(__file__).parents[2] / "configs" / "sites" / "demo.yaml"
PRICES = Series("price", datetime(2022, 12, 1, tzinfo=UTC), 3600.0, 0.1 + 0.05 * np.sin(np.arange(24 * 430) / 24 * 2 * np.pi))


@pytest.fixture
def site(stores):
    return load_site(stores.pg, SITE_FILE)


@pytest.mark.parametrize(("hour", "continued_h"), [(0, 1), (9, 10), (12, 0), (23, 0)])
def test_replayed_inputs_suffice_for_a_decision_at_any_hour(stores, site, hour, continued_h):
    now = datetime(2026, 11, 24, hour, tzinfo=UTC)
    scenario, count = replay_inputs(stores, site, PRICES, now, 2)
    assert scenario.price_shift % timedelta(days=7) == timedelta(0)
    inputs = gather(stores, site.site_id, now, 900, horizon_s=24 * 3600, fresh=Freshness()).observation
    assert all(inputs.inputs[name]["source"] == "site_series" for name in (PRICE, LOAD_FORECAST, PV_FORECAST, AMBIENT))
    # Tomorrow's prices are known from 13:00 local time on; before that yesterday's continue them, and it says so.
    assert inputs.inputs[PRICE]["continued_by_yesterday_s"] == 3600 * continued_h

    again = replay_inputs(stores, site, PRICES, now, 2)[1]
    rows = stores.pg.execute("SELECT count(*) FROM optimizer.site_series").fetchone()[0]
    assert again == count == rows


def test_own_prices_from_a_file_count_from_now_on(stores, site, monkeypatch, tmp_path):
    for name in ("DATABASE_URL", "MONGODB_URI", "REDIS_URL"):
        monkeypatch.setenv(name, getattr(stores.settings, name.lower()))
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for value in (0.10, 0.12):
        stamps = [start + timedelta(hours=k) for k in range(48)]
        file = tmp_path / "prices.csv"
        file.write_text("time,eur_per_kwh\n" + "".join(f"{stamp.isoformat()},{value}\n" for stamp in stamps))
        result = CliRunner().invoke(app, ["data", "load", str(file), "--site", site.site_id])
        structlog.reset_defaults()
        assert result.exit_code == 0, result.output
        assert "48 values of 3600 s" in result.output
    known = read_series(stores.pg, site.site_id, PRICE, start, start + timedelta(days=2), known_at=datetime.now(UTC))
    assert (len(known), set(known.values)) == (48, {0.12})
