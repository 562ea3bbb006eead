"""What a demo may delete: its own data, known by the mark that it leaves, and nobody else's."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from core.decisions import Decision
from core.errors import InputError
from core.series import Series
from serving.demo.ownership import check_data, mark_run
from stores.mongo.telemetry import insert_telemetry
from stores.postgres.decisions import record_decision
from stores.postgres.series import write_series

START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=2)
END = START + timedelta(days=2)
LIVE = END + timedelta(hours=9)
MEASURED = {
    "voltage": 390.0, "current": 0.0, "power": 0.0, "temperature": 20.0, "soc": 50.0, "soh": 90.0, "internal_resistance": 0.05,
}  # fmt: skip


def telemetry(stores, at):
    insert_telemetry(stores.mongo, [{"site_id": "s", "device_id": "d", "timestamp": at, "measurements": MEASURED}])


def decision(stores, at):
    record_decision(stores.pg, Decision(site_id="s", starts_at=at, interval_s=900, set_points=(), source="rule"))


def series(stores, at):
    write_series(stores.pg, "s", Series("day_ahead_price", at, 3600.0, np.ones(2)), START)


def test_a_site_without_data_may_be_run(stores):
    check_data(stores, "s")


@pytest.mark.parametrize(("write", "name"), [(telemetry, "telemetry"), (decision, "decisions"), (series, "series")])
def test_data_without_a_mark_are_somebodys(stores, write, name):
    write(stores, START)
    with pytest.raises(InputError, match=f"{name}.*--forget"):
        check_data(stores, "s")
    check_data(stores, "another")


@pytest.mark.parametrize("write", [telemetry, decision, series])
def test_data_within_a_demos_window_are_its_own(stores, write):
    mark_run(stores, "s", START, END)
    for at in (START, END - timedelta(minutes=15)):
        write(stores, at)
    check_data(stores, "s")


@pytest.mark.parametrize(("write", "at"), [(telemetry, LIVE), (decision, LIVE), (series, LIVE + timedelta(days=6))])
def test_data_that_came_after_a_demo_are_somebodys(stores, write, at):
    mark_run(stores, "s", START, END)
    write(stores, START)
    write(stores, at)
    with pytest.raises(InputError, match="an earlier demo's"):
        check_data(stores, "s")


def test_a_new_mark_replaces_the_last_one(stores):
    mark_run(stores, "s", START - timedelta(days=30), END - timedelta(days=30))
    mark_run(stores, "s", START, END)
    telemetry(stores, START - timedelta(days=30))
    with pytest.raises(InputError):
        check_data(stores, "s")
