"""Jobs and migrations at their edges: strays, races, boundaries of a year, copies left by others."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from core.errors import StoreError
from stores.postgres.maintenance import maintain_postgres
from stores.postgres.migrations import Migration, migrate, pending, shipped


def command(pg, command_id, issued_at):
    pg.execute(
        "INSERT INTO command_history (command_id, site_id, device_id, command_type, issued_at) "
        "VALUES (%s, 's', 'd', 'request_status', %s)",
        (command_id, issued_at),
    )


def device(pg, device_id, updated_at, status="offline"):
    return pg.execute(
        "INSERT INTO device_configurations (device_id, site_id, name, chemistry, nominal_capacity, nominal_voltage, "
        "max_charge_power, max_discharge_power, series_cells, parallel_cells, status, updated_at) "
        "VALUES (%s, 's', 'n', 'LFP', 100, 400, 1000, 1000, 100, 1, %s, %s) RETURNING id",
        (device_id, status, updated_at),
    ).fetchone()[0]


def bounds(pg):
    rows = pg.execute(
        "SELECT relname, pg_get_expr(relpartbound, c.oid) FROM pg_class c JOIN pg_inherits ON inhrelid = c.oid "
        "WHERE inhparent = 'command_history'::regclass ORDER BY relname"
    )
    return dict(rows.fetchall())


def in_threads(dsn, work, number=4):
    """Run work(connection) in several connections at once; the first error is raised."""
    barrier = threading.Barrier(number, timeout=60)

    def one(_):
        with psycopg.connect(dsn, autocommit=True) as conn:
            barrier.wait()
            return work(conn)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_migration_leaves_this_month_and_four_ahead_with_utc_bounds_and_a_default(pg):
    found = bounds(pg)
    assert found["command_history_default"] == "DEFAULT"
    month = datetime.now(UTC).replace(day=1)
    for _ in range(5):
        following = (month + timedelta(days=32)).replace(day=1)
        name = f"command_history_y{month:%Y}m{month:%m}"
        assert found[name] == f"FOR VALUES FROM ('{month:%Y-%m}-01 00:00:00+00') TO ('{following:%Y-%m}-01 00:00:00+00')"
        month = following


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
@pytest.mark.parametrize("style", ["ISO, MDY", "SQL, DMY"])
def test_months_join_without_holes_whatever_the_session_says(pg, zone, style):
    pg.execute("SELECT set_config('timezone', %s, false), set_config('datestyle', %s, false)", (zone, style))
    pg.execute("SELECT create_monthly_partition('2041-10-31'::date)")
    for k, stamp in enumerate(["2041-10-01 00:00:00+00", "2041-10-31 23:59:59.999999+00", "2041-11-01 00:00:00+00"]):
        pg.execute(
            "INSERT INTO command_history (command_id, site_id, device_id, command_type, issued_at) "
            f"VALUES (%s, 's', 'd', 'stop_charge', TIMESTAMPTZ '{stamp}')",
            (f"c{k}",),
        )
    counted = pg.execute("SELECT tableoid::regclass::text, count(*) FROM command_history GROUP BY 1 ORDER BY 1").fetchall()
    assert counted == [("command_history_y2041m10", 2), ("command_history_y2041m11", 1)]


def test_rows_in_the_default_partition_move_into_their_month_when_it_is_made(pg):
    command(pg, "stray", datetime(2040, 2, 10, tzinfo=UTC))
    command(pg, "other", datetime(2039, 12, 31, 23, tzinfo=UTC))
    pg.execute("SELECT create_monthly_partition('2040-01-15'::date)")
    assert pg.execute("SELECT command_id FROM command_history_y2040m02").fetchall() == [("stray",)]
    assert pg.execute("SELECT command_id FROM command_history_default").fetchall() == [("other",)]
    with pytest.raises(psycopg.errors.UniqueViolation):  # the keys came along with the attachment
        command(pg, "stray", datetime(2040, 2, 10, tzinfo=UTC))
    found = pg.execute("SELECT count(*) FROM pg_indexes WHERE tablename = 'command_history_y2040m02'").fetchone()
    assert found == (4,)
    with pytest.raises(psycopg.errors.CheckViolation):
        pg.execute("UPDATE command_history SET timeout_seconds = 0 WHERE command_id = 'stray'")


def test_partitions_are_made_by_many_at_once(pg, pg_dsn):
    before = len(bounds(pg))
    in_threads(pg_dsn, lambda conn: conn.execute("SELECT create_monthly_partition('2042-05-01'::date)"))
    assert len(bounds(pg)) == before + 5


def test_clean_up_keeps_exactly_a_year(pg):
    at = datetime(2032, 6, 1, tzinfo=UTC)
    pg.execute("SELECT create_monthly_partition('2031-03-01'::date)")
    edge = datetime(2031, 6, 1, tzinfo=UTC)
    for name, stamp in (
        ("before", edge - timedelta(microseconds=1)),
        ("edge", edge),
        ("stray", datetime(2030, 1, 1, tzinfo=UTC)),
    ):
        command(pg, name, stamp)
    pg.execute("INSERT INTO command_ids VALUES ('before', %s)", (edge,))
    there = set(bounds(pg))
    dropped, deleted = pg.execute("SELECT dropped, deleted FROM clean_command_history(%s)", (at,)).fetchone()
    gone = there - set(bounds(pg))
    assert {f"command_history_y2031m{month:02d}" for month in (3, 4, 5)} <= gone
    assert "command_history_y2031m06" not in gone
    assert (dropped, deleted) == (len(gone), 1)
    assert pg.execute("SELECT command_id FROM command_history").fetchall() == [("edge",)]
    assert pg.execute("SELECT command_id FROM command_ids").fetchall() == [("before",)], "ids stay taken for ever"
    assert pg.execute("SELECT dropped, deleted FROM clean_command_history(%s)", (at,)).fetchone() == (0, 0)


def test_archive_keeps_every_column_and_an_older_copy_gives_way(pg):
    at = datetime(2032, 6, 1, tzinfo=UTC)
    key = device(pg, "gone", at - timedelta(days=6 * 365))
    pg.execute("INSERT INTO device_configurations_archive SELECT * FROM device_configurations")
    pg.execute("UPDATE device_configurations SET name = 'renamed', location = 'hall 2' WHERE id = %s", (key,))
    row = pg.execute("SELECT * FROM device_configurations").fetchone()
    assert pg.execute("SELECT archive_device_configurations(%s)", (at,)).fetchone() == (1,)
    assert pg.execute("SELECT * FROM device_configurations_archive").fetchall() == [row]
    assert pg.execute("SELECT count(*) FROM device_configurations").fetchone() == (0,)


def test_an_inactive_constraint_still_refers_to_its_device(pg):
    at = datetime(2032, 6, 1, tzinfo=UTC)
    device(pg, "held", at - timedelta(days=6 * 365))
    pg.execute("INSERT INTO safety_constraints (device_id, active) VALUES ('held', false)")
    assert pg.execute("SELECT archive_device_configurations(%s)", (at,)).fetchone() == (0,)


def test_maintenance_says_what_it_did(pg):
    report = maintain_postgres(pg, datetime(2045, 1, 31, 23, 30, tzinfo=UTC))
    assert report["partitions made"] + report["partitions dropped"] >= 5
    assert report["rows in default partition"] == report["history rows deleted"] == report["devices archived"] == 0
    assert "command_history_y2045m05" in bounds(pg)


def test_pending_names_what_a_database_lacks(pg):
    assert pending(pg) == []
    pg.execute("DELETE FROM optimizer.schema_migrations WHERE name = '0004_jobs.sql'")
    assert pending(pg) == ["0004_jobs.sql"]
    assert migrate(pg) == ["0004_jobs.sql"]
    pg.execute("DROP SCHEMA optimizer CASCADE")
    assert pending(pg) == [item.name for item in shipped()]


def test_an_empty_database_is_migrated_once_by_many_at_once(servers, pg_dsn):
    name = pg_dsn.rsplit("/", 1)[1] + "_empty"
    with psycopg.connect(pg_dsn, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        try:
            results = in_threads(pg_dsn.rsplit("/", 1)[0] + "/" + name, migrate, number=3)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    assert sorted(results) == [[], [], [item.name for item in shipped()]]


def test_the_files_are_numbered_without_holes():
    assert [item.name[:4] for item in shipped()] == [f"{k:04d}" for k in range(1, len(shipped()) + 1)]


def test_a_connection_with_an_open_transaction_is_refused(pg_dsn):
    with psycopg.connect(pg_dsn) as conn, pytest.raises(StoreError, match="autocommit"):
        migrate(conn, [Migration("9997_x.sql", "SELECT 1")])


def test_a_failed_migration_does_not_keep_the_lock(pg, pg_dsn):
    with pytest.raises(StoreError, match="undone"):
        migrate(pg, [*shipped(), Migration("9996_broken.sql", "SELECT nonsense")])
    with psycopg.connect(pg_dsn, autocommit=True) as other:
        other.execute("SET lock_timeout = '5s'")
        assert migrate(other, [*shipped(), Migration("9995_x.sql", "SELECT 1")]) == ["9995_x.sql"]
