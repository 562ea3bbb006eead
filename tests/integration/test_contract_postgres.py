"""The PostgreSQL contract: what must be refused is, what must be there is, jobs move exactly what they should."""

import threading
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from core.errors import StoreError
from core.policy_record import PolicyRecord
from stores.postgres.maintenance import maintain_postgres
from stores.postgres.migrations import Migration, migrate, shipped
from stores.postgres.policies import ranked_policies, upsert_policy

DEVICE = {
    "device_id": "d1", "site_id": "s", "name": "n", "chemistry": "LFP", "nominal_capacity": 100, "nominal_voltage": 400,
    "max_charge_power": 1000, "max_discharge_power": 1000, "series_cells": 100, "parallel_cells": 2,
}  # fmt: skip
COMMAND = {"command_id": "c1", "site_id": "s", "device_id": "d1", "command_type": "start_charge"}
POLICY = {"site_id": "s", "name": "p", "policy_type": "MPC", "config": "{}"}


def insert(pg, table, row):
    columns = ", ".join(row)
    marks = ", ".join(["%s"] * len(row))
    return pg.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks}) RETURNING *", list(row.values()))


@pytest.mark.parametrize(
    ("table", "base", "change"),
    [
        ("device_configurations", DEVICE, {"chemistry": "NIMH"}),
        ("device_configurations", DEVICE, {"status": "asleep"}),
        ("device_configurations", DEVICE, {"nominal_capacity": 0}),
        ("device_configurations", DEVICE, {"nominal_voltage": -1}),
        ("device_configurations", DEVICE, {"series_cells": 0}),
        ("device_configurations", DEVICE, {"parallel_cells": 0}),
        ("device_configurations", DEVICE, {"site_id": None}),
        ("safety_constraints", {"device_id": "d1"}, {"device_id": "unknown"}),
        ("safety_constraints", {"device_id": "d1"}, {"min_cell_voltage": 4.3}),
        ("safety_constraints", {"device_id": "d1"}, {"min_cell_temperature": 70}),
        ("safety_constraints", {"device_id": "d1"}, {"min_soc": 95}),
        ("safety_constraints", {"device_id": "d1"}, {"min_soc": -1}),
        ("safety_constraints", {"device_id": "d1"}, {"max_soc": 101}),
        ("optimization_policies", POLICY, {"policy_type": "GUESS"}),
        ("optimization_policies", POLICY, {"status": "paused"}),
        ("optimization_policies", POLICY, {"horizon_hours": 0}),
        ("optimization_policies", POLICY, {"update_interval_seconds": 0}),
        ("optimization_policies", POLICY, {"performance_score": 1.1}),
        ("optimization_policies", POLICY, {"performance_score": -0.1}),
        ("optimization_policies", POLICY, {"performance_score": "NaN"}),
        ("optimization_policies", POLICY, {"config": None}),
        ("command_history", COMMAND, {"command_type": "explode"}),
        ("command_history", COMMAND, {"timeout_seconds": 0}),
        ("command_history", COMMAND, {"retry_count": -1}),
        ("command_history", COMMAND, {"max_retries": -1}),
        ("command_history", COMMAND, {"command_id": None}),
        ("optimizer.site_series", {"site_id": "s", "name": "x", "starts_at": "now", "dt_s": 900, "known_at": "now", "value": 1},
         {"value": "NaN"}),
    ],
)  # fmt: skip
def test_a_row_that_must_be_refused_is(pg, table, base, change):
    if table == "safety_constraints":
        insert(pg, "device_configurations", DEVICE)
    with pytest.raises(psycopg.Error):
        insert(pg, table, base | change)
    insert(pg, table, base)


def test_defaults(pg):
    insert(pg, "device_configurations", DEVICE)
    insert(pg, "safety_constraints", {"device_id": "d1"})
    row = pg.execute(
        "SELECT max_cell_voltage, min_cell_voltage, max_charge_current, max_discharge_current, max_cell_temperature, "
        "min_cell_temperature, max_temperature_delta, max_soc, min_soc, max_cycle_depth, max_c_rate, active, "
        "max_pack_voltage, max_charge_power FROM safety_constraints"
    ).fetchone()
    assert [None if v is None else float(v) for v in row] == [4.2, 2.5, 50, 100, 60, -20, 10, 95, 5, 80, 1, 1, None, None]
    assert pg.execute("SELECT status FROM device_configurations").fetchone() == ("offline",)
    insert(pg, "command_history", COMMAND)
    found = pg.execute("SELECT timeout_seconds, retry_count, max_retries, issued_at FROM command_history").fetchone()
    assert found[:3] == (30, 0, 3)
    insert(pg, "optimization_policies", POLICY)
    assert pg.execute("SELECT status FROM optimization_policies").fetchone() == ("inactive",)


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        ("idx_device_site", "(site_id)"),
        ("idx_device_status", "(status)"),
        ("idx_device_last_seen", "(last_seen)"),
        ("idx_command_device", "(device_id, issued_at)"),
        ("idx_command_status", "(success, completed_at)"),
    ],
)
def test_indexes(pg, name, definition):
    (found,) = pg.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", (name,)).fetchone()
    assert definition in found


def partitions(pg):
    rows = pg.execute("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'command_history'::regclass")
    return {row[0] for row in rows}


def test_partitions_are_made_ahead_twice_over_and_in_utc(pg):
    pg.execute("SET TIME ZONE 'America/New_York'")
    pg.execute("SELECT create_monthly_partition('2031-11-20'::date)")
    first = partitions(pg)
    pg.execute("SELECT create_monthly_partition('2031-11-20'::date)")
    assert partitions(pg) == first
    assert {f"command_history_y{m}" for m in ("2031m11", "2031m12", "2032m01", "2032m02", "2032m03")} <= first
    insert(pg, "command_history", COMMAND | {"issued_at": "2031-12-01 00:00:00+00"})
    assert pg.execute("SELECT count(*) FROM command_history_y2031m12").fetchone() == (1,)
    pg.execute("SELECT create_monthly_partition()")


def test_a_missing_month_lands_in_the_default_partition_and_is_an_alarm(pg):
    insert(pg, "command_history", COMMAND | {"issued_at": "2040-01-01 00:00:00+00"})
    assert maintain_postgres(pg)["rows in default partition"] == 1


def test_command_ids_are_unique_for_ever(pg):
    pg.execute("INSERT INTO command_ids VALUES ('c1', now())")
    with pytest.raises(psycopg.errors.UniqueViolation):
        pg.execute("INSERT INTO command_ids VALUES ('c1', now() + interval '1 year')")


def test_clean_up_drops_whole_partitions_and_deletes_the_rest(pg):
    at = datetime(2032, 6, 15, tzinfo=UTC)
    for month in (3, 4, 5, 6, 7):
        pg.execute("SELECT create_monthly_partition(%s::date)", (f"2031-{month:02d}-01",))
    stamps = ["2031-04-10", "2031-06-10", "2031-06-20", "2032-01-01"]
    for k, stamp in enumerate(stamps):
        insert(pg, "command_history", COMMAND | {"command_id": f"c{k}", "issued_at": f"{stamp} 12:00:00+00"})
    report = maintain_postgres(pg, at)
    kept = {row[0] for row in pg.execute("SELECT command_id FROM command_history")}
    assert kept == {"c2", "c3"}
    assert report["partitions dropped"] >= 3
    assert report["history rows deleted"] == 1
    assert "command_history_y2031m06" in partitions(pg)
    assert maintain_postgres(pg, at)["history rows deleted"] == 0


def test_archive_moves_once_and_never_a_device_that_is_referenced_or_online(pg):
    old = datetime.now(UTC) - timedelta(days=6 * 365)
    for name, extra in (("gone", {}), ("young", {"updated_at": None}), ("online", {"status": "online"}), ("held", {})):
        insert(pg, "device_configurations", DEVICE | {"device_id": name, "updated_at": old} | extra)
    pg.execute("UPDATE device_configurations SET updated_at = now() WHERE device_id = 'young'")
    insert(pg, "safety_constraints", {"device_id": "held"})
    assert maintain_postgres(pg)["devices archived"] == 1
    assert maintain_postgres(pg)["devices archived"] == 0
    assert pg.execute("SELECT device_id FROM device_configurations_archive").fetchall() == [("gone",)]
    left = {row[0] for row in pg.execute("SELECT device_id FROM device_configurations")}
    assert left == {"young", "online", "held"}


def test_ranking_puts_the_unscored_last_and_the_newest_of_equals_first(pg):
    def policy(name, score, day):
        deployed = datetime(2026, 1, day, tzinfo=UTC)
        upsert_policy(
            pg,
            PolicyRecord(
                policy_id=None, site_id="s", name=name, policy_type="MPC", config={}, status="active",
                deployed_at=deployed, performance_score=score,
            ),
        )  # fmt: skip

    policy("none", None, 9)
    policy("low", 0.5, 1)
    policy("old", 0.95, 2)
    policy("new", 0.95, 3)
    assert [record.name for record in ranked_policies(pg, "s")] == ["new", "old", "low", "none"]
    assert ranked_policies(pg, "s", "testing") == []


def test_migrations_twice_changed_and_broken(pg):
    assert migrate(pg) == []
    changed = [Migration(item.name, item.sql + "\n-- edited") for item in shipped()]
    with pytest.raises(StoreError, match="another version"):
        migrate(pg, changed)
    broken = [*shipped(), Migration("9999_broken.sql", "CREATE TABLE half (x int); SELECT nonsense;")]
    with pytest.raises(StoreError, match="9999_broken"):
        migrate(pg, broken)
    assert pg.execute("SELECT to_regclass('half')").fetchone() == (None,)


def test_two_processes_may_migrate_at_once(pg_dsn):
    extra = [*shipped(), Migration("9998_once.sql", "CREATE TABLE once (x int)")]
    results = []

    def work():
        with psycopg.connect(pg_dsn, autocommit=True) as conn:
            results.append(migrate(conn, extra))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, results)) == [0, 0, 0, 1]
