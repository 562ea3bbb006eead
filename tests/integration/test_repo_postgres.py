"""Repositories on a real PostgreSQL: what is written comes back, in the order and as known at the moment asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import psycopg
import pytest

from core.decisions import Decision, Reason, SetPoint
from core.devices import Chemistry, DeviceConfig, DeviceStatus
from core.errors import InputError
from core.limits import ConstraintRow
from core.policy_record import PolicyRecord
from core.series import Series
from stores.postgres.constraints import add_constraint, constraint_rows, deactivate_constraints
from stores.postgres.decisions import decisions, last_decision, record_decision
from stores.postgres.devices import get_device, list_devices, touch_device, upsert_device
from stores.postgres.history import history, outcome_counts
from stores.postgres.policies import ranked_policies, set_policy_status, upsert_policy
from stores.postgres.series import delete_series, latest_value, read_series, write_series
from stores.postgres.sites import get_site, list_sites, put_site

NOW = datetime(2026, 1, 15, 14, 30, tzinfo=UTC)
HOUR = timedelta(hours=1)


def pack(device_id="a", site_id="s"):
    return DeviceConfig(
        device_id=device_id, site_id=site_id, name=f"pack {device_id}", chemistry=Chemistry.NMC, nominal_capacity_ah=120.55,
        nominal_voltage_v=350.4, max_charge_power_w=20_000.25, max_discharge_power_w=25_000, series_cells=96, parallel_cells=3,
    )  # fmt: skip


def policy(name, score=None, **more):
    return PolicyRecord(
        policy_id=None, site_id="s", name=name, policy_type="MPC", config={"a": 1}, performance_score=score, **more
    )


# Devices


def test_devices_come_back_in_order_and_only_those_of_the_site(pg):
    for device_id, site in (("b", "s"), ("a", "s"), ("c", "t")):
        upsert_device(pg, pack(device_id, site), by="me")
    assert list_devices(pg, "s") == [pack("a"), pack("b")]
    assert get_device(pg, "c") == pack("c", "t")
    assert get_device(pg, "unknown") is None


def test_a_second_upsert_keeps_status_and_creator_and_says_who_changed_it(pg):
    upsert_device(pg, pack(), by="first")
    touch_device(pg, "a", DeviceStatus.ONLINE, NOW)
    before = pg.execute("SELECT id, created_at, updated_at FROM device_configurations").fetchone()
    upsert_device(pg, replace(pack(), max_charge_power_w=5_000), by="second")
    found = get_device(pg, "a")
    assert (found.status, found.max_charge_power_w) == (DeviceStatus.ONLINE, 5_000)
    row = pg.execute("SELECT id, created_at, created_by, updated_by, last_seen, updated_at FROM device_configurations").fetchone()
    assert row[:5] == (*before[:2], "first", "second", NOW)
    assert row[5] > before[2]


# Constraints


def test_a_constraint_row_comes_back_bound_for_bound(pg):
    upsert_device(pg, pack(), by="me")
    written = ConstraintRow(
        row_id="", device_id="a", max_cell_voltage_v=4.123, min_cell_voltage_v=2.9, max_pack_voltage_v=400.25,
        min_pack_voltage_v=None, max_charge_current_a=33.5, max_discharge_current_a=None, max_cell_temperature_c=45.5,
        min_cell_temperature_c=-10.25, max_temperature_delta_k=6, max_soc_pct=90, min_soc_pct=12.5, max_charge_power_w=9_000,
        max_discharge_power_w=11_000.5, max_cycle_depth_pct=60, max_c_rate_per_h=0.45, effective_from=NOW,
        effective_until=NOW + HOUR,
    )  # fmt: skip
    row_id = add_constraint(pg, written, by="me")
    assert constraint_rows(pg, "s") == {"a": [replace(written, row_id=row_id)]}
    assert constraint_rows(pg, "elsewhere") == {}


def test_all_active_rows_of_a_device_are_read_and_inactive_ones_are_not(pg):
    upsert_device(pg, pack(), by="me")
    first = add_constraint(pg, ConstraintRow(row_id="", device_id="a"), by="me")
    second = add_constraint(pg, ConstraintRow(row_id="", device_id="a", max_soc_pct=80.0), by="me")
    assert {row.row_id for row in constraint_rows(pg, "s")["a"]} == {first, second}
    assert deactivate_constraints(pg, "a") == 2
    assert constraint_rows(pg, "s") == {}
    assert deactivate_constraints(pg, "a") == 0


def test_a_constraint_for_no_device_is_refused(pg):
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        add_constraint(pg, ConstraintRow(row_id="", device_id="nobody"), by="me")


# Policies


def test_every_field_of_a_policy_comes_back(pg):
    written = policy(
        "p", 0.9321, model_version="7", training_date=NOW, performance_metrics={"eur": 1.5}, horizon_hours=24,
        update_interval_seconds=900, status="active", deployed_at=NOW,
    )  # fmt: skip
    key = upsert_policy(pg, written)
    assert ranked_policies(pg, "s") == [replace(written, policy_id=key)]


def test_ranking_of_ties_that_the_column_makes(pg):
    same = NOW - HOUR
    upsert_policy(pg, policy("rounded", 0.94995, status="active", deployed_at=NOW))
    upsert_policy(pg, policy("exact", 0.95, status="active", deployed_at=same))
    upsert_policy(pg, policy("worst", 0.0, status="active", deployed_at=NOW))
    upsert_policy(pg, policy("unscored", None, status="active", deployed_at=NOW))
    twins = sorted(
        (upsert_policy(pg, policy(name, 0.5, status="active", deployed_at=same)), name) for name in ("twin 1", "twin 2")
    )
    expected = ["rounded", "exact", *(name for _, name in twins), "worst", "unscored"]
    assert [record.name for record in ranked_policies(pg, "s")] == expected
    pg.execute("UPDATE optimization_policies SET deployed_at = NULL WHERE name = 'rounded'")
    assert [record.name for record in ranked_policies(pg, "s")][:2] == ["exact", "rounded"]


def test_a_score_that_is_no_number_is_refused(pg):
    with pytest.raises(psycopg.errors.CheckViolation):
        upsert_policy(pg, policy("p", float("nan")))
    assert ranked_policies(pg, "s", "inactive") == []


def test_upsert_is_by_site_and_name(pg):
    key = upsert_policy(pg, policy("p", 0.5))
    assert upsert_policy(pg, policy("p", 0.6)) == key
    assert upsert_policy(pg, replace(policy("p"), site_id="t")) != key
    assert [record.performance_score for record in ranked_policies(pg, "s", "inactive")] == [0.6]


def test_only_becoming_active_stamps_the_deployment(pg):
    key = upsert_policy(pg, policy("p"))
    assert ranked_policies(pg, "s", "inactive")[0].deployed_at is None
    set_policy_status(pg, key, "active")
    first = ranked_policies(pg, "s")[0].deployed_at
    assert first is not None
    set_policy_status(pg, key, "active")
    upsert_policy(pg, policy("p", 0.7, status="active"))
    assert ranked_policies(pg, "s")[0].deployed_at == first
    set_policy_status(pg, key, "deprecated")
    assert ranked_policies(pg, "s", "deprecated")[0].deployed_at == first
    upsert_policy(pg, policy("p", 0.7, status="active"))
    assert ranked_policies(pg, "s")[0].deployed_at > first


@pytest.mark.parametrize("key", ["00000000-0000-0000-0000-000000000000", "no id"])
def test_the_status_of_an_unknown_policy_cannot_be_set(pg, key):
    with pytest.raises(InputError, match="id of a policy"):
        set_policy_status(pg, key, "active")


# Sites


def test_sites(pg):
    put_site(pg, "b", "B", "Europe/Berlin", {"meter": {"limit_w": 1.5}})
    put_site(pg, "a", "A", "UTC", {})
    put_site(pg, "b", "B 2", "Europe/Berlin", {"meter": {"limit_w": 2}})
    assert [(site.site_id, site.name) for site in list_sites(pg)] == [("a", "A"), ("b", "B 2")]
    assert get_site(pg, "b").config == {"meter": {"limit_w": 2}}
    assert get_site(pg, "c") is None


# Series


def series(values, start=NOW, dt_s=900.0, name="load_w"):
    return Series(name, start, dt_s, np.asarray(values, dtype=float))


def read(pg, known_at, hours=1, name="load_w", start=NOW):
    return read_series(pg, "s", name, start, start + hours * HOUR, known_at=known_at)


def test_each_value_is_the_newest_that_was_known_then(pg):
    write_series(pg, "s", series([1, 2, 3, 4]), known_at=NOW - 2 * HOUR)
    write_series(pg, "s", series([20, 30], start=NOW + timedelta(minutes=15)), known_at=NOW - HOUR)
    assert read(pg, NOW).values.tolist() == [1, 20, 30, 4]
    assert read(pg, NOW - HOUR).values.tolist() == [1, 20, 30, 4]
    assert read(pg, NOW - HOUR - timedelta(microseconds=1)).values.tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match=r"site_series of s: load_w: got None"):
        read(pg, NOW - 3 * HOUR)


def test_writing_again_replaces_and_adds_nothing(pg):
    for values in ([1, 2, 3, 4], [5, 6, 7, 8]):
        assert write_series(pg, "s", series(values), known_at=NOW) == 4
    assert read(pg, NOW).values.tolist() == [5, 6, 7, 8]
    assert pg.execute("SELECT count(*) FROM optimizer.site_series").fetchone() == (4,)


def test_the_grid_comes_back_in_utc_across_the_change_of_the_hour(pg):
    start = datetime(2026, 3, 29, 1, tzinfo=timezone(HOUR))  # 00:00 UTC: Berlin skips 02:00 that night
    write_series(pg, "s", series(range(12), start=start), known_at=NOW)
    found = read(pg, NOW, hours=3, start=start)
    assert (found.start, found.dt_s, found.end) == (datetime(2026, 3, 29, tzinfo=UTC), 900, datetime(2026, 3, 29, 3, tzinfo=UTC))
    assert found.values.tolist() == list(range(12))


@pytest.mark.parametrize(
    ("missing", "at"),
    [((1,), "14:45"), ((2,), "15:00"), ((1, 3, 5, 7), "14:45"), ((1, 2, 3, 4, 5, 6), "14:45")],
    ids=["second", "third", "every other", "all but the first and the last"],
)
def test_a_gap_is_named_even_one_that_leaves_a_uniform_grid(pg, missing, at):
    write_series(pg, "s", series(range(8)), known_at=NOW)
    for k in missing:
        pg.execute("DELETE FROM optimizer.site_series WHERE starts_at = %s", (NOW + k * timedelta(minutes=15),))
    with pytest.raises(InputError, match=rf"site_series of s: load_w at 2026-01-15T{at}"):
        read(pg, NOW, hours=2)


def test_steps_of_two_lengths_are_refused(pg):
    write_series(pg, "s", series([1, 2], dt_s=3600.0), known_at=NOW)
    write_series(pg, "s", series([3, 4, 5, 6], start=NOW + 2 * HOUR), known_at=NOW)
    with pytest.raises(InputError, match="step of 900 s"):
        read(pg, NOW, hours=3)
    assert read(pg, NOW, hours=2).dt_s == 3600


def test_one_value_keeps_its_step(pg):
    write_series(pg, "s", series([7], dt_s=3600.0), known_at=NOW)
    found = read(pg, NOW)
    assert (found.dt_s, found.values.tolist()) == (3600, [7])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_no_numbers_are_refused_whole(pg, value):
    with pytest.raises(psycopg.errors.CheckViolation):
        write_series(pg, "s", series([1, value]), known_at=NOW)
    assert pg.execute("SELECT count(*) FROM optimizer.site_series").fetchone() == (0,)


def test_latest_value_and_deletion(pg):
    assert latest_value(pg, "s", "peak_w", NOW) is None
    write_series(pg, "s", series([5], name="peak_w"), known_at=NOW)
    write_series(pg, "s", series([6], name="peak_w"), known_at=NOW + HOUR)
    write_series(pg, "t", series([9], name="peak_w"), known_at=NOW)
    assert [latest_value(pg, "s", "peak_w", NOW + k * HOUR) for k in (0, 1)] == [5, 6]
    assert delete_series(pg, "s") == 2
    assert latest_value(pg, "t", "peak_w", NOW) == 9


# Decisions


def decision(starts_at=NOW, site_id="s", **more):
    points = (
        SetPoint(device_id="a", power_w=-1234.5, reason=Reason.PRICE_LOW, detail="0.02 EUR/kWh"),
        SetPoint(device_id="b", power_w=0.0, reason=Reason.IDLE),
    )
    return Decision(site_id=site_id, starts_at=starts_at, interval_s=900, set_points=points, source="mpc-24h", **more)


def test_a_decision_comes_back_as_it_was(pg):
    made = decision(
        policy_id="00000000-0000-0000-0000-0000000000aa", solver="piqp", objective_eur=-1.25,
        passed_over=(("better", "stale inputs"),), plan={"power_w": {"a": [1.5, -2.0]}}, inputs={"price": {"age_s": 60}},
    )  # fmt: skip
    key = record_decision(pg, made)
    assert last_decision(pg, "s") == made
    assert pg.execute("SELECT id::text FROM optimizer.decisions").fetchall() == [(key,)]
    assert last_decision(pg, "t") is None


def test_decisions_of_a_window_oldest_first(pg):
    for k in (2, 0, 1):
        record_decision(pg, decision(NOW + k * HOUR))
    record_decision(pg, decision(site_id="t"))
    starts = [made.starts_at for made in decisions(pg, "s")]
    assert starts == [NOW, NOW + HOUR, NOW + 2 * HOUR]
    assert [made.starts_at for made in decisions(pg, "s", NOW + HOUR, NOW + 2 * HOUR)] == [NOW + HOUR]
    assert [made.starts_at for made in decisions(pg, "s", until=NOW + HOUR)] == [NOW]
    assert last_decision(pg, "s").starts_at == NOW + 2 * HOUR


def test_of_two_decisions_for_an_interval_the_later_stands(pg):
    record_decision(pg, decision(solver="first"))
    record_decision(pg, decision(solver="second"))
    assert last_decision(pg, "s").solver == "second"


def test_a_plan_with_nan_is_refused(pg):
    with pytest.raises((psycopg.Error, ValueError)):
        record_decision(pg, decision(plan={"power_w": [float("nan")]}))
    assert decisions(pg, "s") == []


# History


def issued(pg, command_id, minutes, outcome=None, device_id="a"):
    data = None if outcome is None else f'{{"outcome": "{outcome}"}}'
    done = None if outcome is None else NOW
    pg.execute(
        "INSERT INTO command_history (command_id, site_id, device_id, command_type, parameters, issued_at, acknowledged_at, "
        "success, response_data) VALUES (%s, 's', %s, 'start_charge', '{\"target_power\": 5}', %s, %s, %s, %s)",
        (command_id, device_id, NOW + timedelta(minutes=minutes), done, outcome and outcome == "completed", data),
    )


def test_history_newest_first_filtered_and_limited(pg):
    for k, device_id in enumerate(["a", "b", "a"]):
        issued(pg, f"c{k}", k, "completed", device_id)
    assert [row.command_id for row in history(pg, "s")] == ["c2", "c1", "c0"]
    assert [row.command_id for row in history(pg, "s", limit=1)] == ["c2"]
    assert [row.command_id for row in history(pg, "s", device_id="a")] == ["c2", "c0"]
    assert [row.command_id for row in history(pg, "s", since=NOW + timedelta(minutes=1))] == ["c2", "c1"]
    assert history(pg, "t") == []
    first = history(pg, "s", device_id="b")[0]
    assert (first.parameters, first.success, first.response_data) == ({"target_power": 5}, True, {"outcome": "completed"})


def test_outcomes_add_up_to_what_was_issued(pg):
    for k, outcome in enumerate(["completed", "completed", "rejected", "expired", None, "indeterminate"]):
        issued(pg, f"c{k}", k, outcome)
    issued(pg, "early", -60, "failed")
    counts = outcome_counts(pg, "s", NOW)
    expected = {"completed": 2, "rejected": 1, "expired": 1, "open": 1, "indeterminate": 1}
    assert counts == {"issued": 6, "acknowledged": 5, **expected}
    assert sum(expected.values()) == counts["issued"]
    assert outcome_counts(pg, "t", NOW) == {"issued": 0, "acknowledged": 0, "completed": 0, "expired": 0}
