"""Every column of the contract's four tables, from PostgreSQL's catalogue: name, type, whether it may be NULL, default."""

import pytest

KEY = ("uuid", True, "gen_random_uuid()")
TIME, NOW = ("timestamp with time zone", False, None), ("timestamp with time zone", False, "now()")


def text(length, *, needed=False):
    return (f"character varying({length})", needed, None)


def number(digits, scale, default=None, *, needed=False):
    return (f"numeric({digits},{scale})", needed, default)


COLUMNS = {
    "device_configurations": {
        "id": KEY,
        "device_id": text(255, needed=True),
        "site_id": text(255, needed=True),
        "name": text(255, needed=True),
        "chemistry": ("chemistry_enum", True, None),
        "nominal_capacity": number(10, 2, needed=True),
        "nominal_voltage": number(10, 2, needed=True),
        "max_charge_power": number(10, 2, needed=True),
        "max_discharge_power": number(10, 2, needed=True),
        "series_cells": ("integer", True, None),
        "parallel_cells": ("integer", True, None),
        "location": text(255),
        "rack_position": text(50),
        "installation_date": ("date", False, None),
        "manufacturing_date": ("date", False, None),
        "status": ("device_status_enum", False, "'offline'::device_status_enum"),
        "firmware_version": text(50),
        "last_seen": TIME,
        "created_at": NOW,
        "updated_at": NOW,
        "created_by": text(255),
        "updated_by": text(255),
    },
    "safety_constraints": {
        "id": KEY,
        "device_id": text(255, needed=True),
        "max_cell_voltage": number(5, 3, "4.2"),
        "min_cell_voltage": number(5, 3, "2.5"),
        "max_pack_voltage": number(8, 2),
        "min_pack_voltage": number(8, 2),
        "max_charge_current": number(8, 2, "50.0"),
        "max_discharge_current": number(8, 2, "100.0"),
        "max_cell_temperature": number(5, 2, "60.0"),
        "min_cell_temperature": number(5, 2, "'-20.0'::numeric"),
        "max_temperature_delta": number(5, 2, "10.0"),
        "max_soc": number(5, 2, "95.0"),
        "min_soc": number(5, 2, "5.0"),
        "max_charge_power": number(10, 2),
        "max_discharge_power": number(10, 2),
        "max_cycle_depth": number(5, 2, "80.0"),
        "max_c_rate": number(5, 2, "1.0"),
        "active": ("boolean", False, "true"),
        "effective_from": NOW,
        "effective_until": TIME,
        "created_at": NOW,
        "created_by": text(255),
    },
    "optimization_policies": {
        "id": KEY,
        "site_id": text(255, needed=True),
        "name": text(255, needed=True),
        "policy_type": ("policy_type_enum", True, None),
        "config": ("jsonb", True, None),
        "model_version": text(50),
        "training_date": TIME,
        "performance_metrics": ("jsonb", False, None),
        "horizon_hours": ("integer", False, None),
        "update_interval_seconds": ("integer", False, None),
        "status": ("policy_status_enum", False, "'inactive'::policy_status_enum"),
        "deployed_at": TIME,
        "performance_score": number(5, 4),
        "created_at": NOW,
        "created_by": text(255),
    },
    "command_history": {
        "id": KEY,
        "command_id": text(255, needed=True),
        "site_id": text(255, needed=True),
        "device_id": text(255, needed=True),
        "command_type": ("command_type_enum", True, None),
        "parameters": ("jsonb", False, None),
        "issued_at": ("timestamp with time zone", True, "now()"),  # the partition key
        "acknowledged_at": TIME,
        "completed_at": TIME,
        "success": ("boolean", False, None),
        "response_message": ("text", False, None),
        "response_data": ("jsonb", False, None),
        "timeout_seconds": ("integer", False, "30"),
        "retry_count": ("integer", False, "0"),
        "max_retries": ("integer", False, "3"),
        "issued_by": text(255),
        "source_system": text(100),
    },
}
ENUMS = {
    "chemistry_enum": ["LFP", "NMC", "LCO", "NCA"],
    "device_status_enum": ["online", "offline", "error", "maintenance"],
    "policy_type_enum": ["MPC", "RL", "HYBRID"],
    "policy_status_enum": ["active", "inactive", "testing", "deprecated"],
    "command_type_enum": [
        "start_charge", "stop_charge", "start_discharge", "stop_discharge", "emergency_shutdown", "update_parameters",
        "request_status",
    ],
}  # fmt: skip


@pytest.mark.parametrize("table", COLUMNS)
def test_columns_are_those_of_the_contract(pg, table):
    rows = pg.execute(
        "SELECT attname, format_type(atttypid, atttypmod), attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [table],
    ).fetchall()
    assert {name: (kind, needed, default) for name, kind, needed, default in rows} == COLUMNS[table]
    assert [row[0] for row in rows] == list(COLUMNS[table]), "in the contract's order: archives copy SELECT *"


@pytest.mark.parametrize("name", ENUMS)
def test_enums_are_those_of_the_contract(pg, name):
    query = "SELECT enumlabel FROM pg_enum WHERE enumtypid = %s::regtype ORDER BY enumsortorder"
    assert [label for (label,) in pg.execute(query, [name])] == ENUMS[name]
