"""The demo's account can say no: each limit beyond which it counts, and what makes a demo end with exit code 1."""

from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta

import pytest

from core.devices import Chemistry, DeviceConfig
from core.limits import PackLimits
from serving.demo.account import LIMITS, Account, MeasuredPack, failures, limit_violations

START = datetime(2026, 3, 1, tzinfo=UTC)
CONFIG = DeviceConfig(
    device_id="d", site_id="s", name="d", chemistry=Chemistry.LFP, nominal_capacity_ah=100, nominal_voltage_v=320,
    max_charge_power_w=20_000, max_discharge_power_w=20_000, series_cells=100, parallel_cells=1,
)  # fmt: skip
WIDE = PackLimits(
    device_id="d", charge_power_w=20_000, discharge_power_w=20_000, charge_current_a=60, discharge_current_a=60,
    voltage_min_v=250, voltage_max_v=365, cell_voltage_min_v=2.5, cell_voltage_max_v=3.65, temperature_min_c=0,
    temperature_max_c=50, temperature_delta_k=8, soc_min_pct=10, soc_max_pct=90, cycle_depth_pct=60, c_rate_per_h=0.7,
)  # fmt: skip
GOOD = {"voltage": 330.0, "current": 50.0, "power": 16_500.0, "temperature": 25.0, "soc": 50.0, "soh": 80.0}
CELLS = {"voltages": [3.3, 3.31], "temperatures": [24.0, 25.0]}


def pack(*changes, limits=WIDE):
    """A pack with one good document, and one more for each dictionary of changed values."""
    documents = []
    for k, change in enumerate(({}, *changes)):
        measured = {name: change.get(name, value) for name, value in GOOD.items()}
        cells = {name: change.get(name, value) for name, value in CELLS.items()}
        documents.append({"timestamp": START + timedelta(minutes=k), "measurements": measured, "cell_data": cells})
    return MeasuredPack(CONFIG, limits, documents)


def broken(*packs):
    return {name: count for name, count in limit_violations(packs).items() if count}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"voltage": 366.0}, "voltage"),
        ({"voltage": 249.0}, "voltage"),
        ({"voltages": [3.3, 3.66]}, "cell voltage"),
        ({"current": -57.0}, "C-rate"),  # 0.7 of 80 Ah, which is what the pack holds: 56 A
        ({"power": 20_100.0}, "power"),
        ({"power": -20_100.0}, "power"),
        ({"temperature": 50.2}, "temperature"),
        ({"temperature": -1.0}, "temperature"),
        ({"temperatures": [20.0, 28.1]}, "cell spread"),
        ({"soc": 90.2}, "SoC"),
    ],
)
def test_a_document_beyond_a_limit_is_counted_under_its_name(change, name):
    assert broken(pack()) == {}
    assert broken(pack(change)) == {name: 1}
    assert broken(pack(), pack(change, {}, change)) == {name: 2}


def test_a_current_beyond_its_own_limit_is_counted_apart_from_the_c_rate():
    tight = replace(WIDE, charge_current_a=40.0, c_rate_per_h=float("inf"))
    assert broken(pack({"current": -40.5}, limits=tight)) == {"current": 1}


def test_depth_is_the_swing_over_the_run_not_the_step():
    down = [{"soc": soc} for soc in (40.0, 30.0, 20.0, 40.0, 60.0, 75.0)]
    assert broken(pack(*down)) == {}
    assert broken(pack(*down, {"soc": 80.5})) == {"cycle depth": 1}
    assert broken(pack(*down, {"soc": 80.5}, limits=replace(WIDE, cycle_depth_pct=float("inf")))) == {}


def test_a_pack_without_documents_is_no_pack_without_violations():
    assert broken(MeasuredPack(CONFIG, WIDE, [])) == {"no telemetry": 1}


def account(**changes):
    values = dict.fromkeys(field.name for field in fields(Account))
    values |= {
        "violations": dict.fromkeys(LIMITS, 0),
        "telemetry_documents": 4,
        "mpc_decisions": 2,
        "commands": {"issued": 3, "acknowledged": 3, "completed": 3, "expired": 0},
    }
    return Account(**(values | changes))


def test_a_demo_that_shows_what_it_claims_has_not_failed():
    assert failures(account()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"violations": {"SoC": 2, "power": 0}}, "limits violated: {'SoC': 2}"),
        ({"violations": {"grid import": 1}}, "limits violated: {'grid import': 1}"),
        ({"telemetry_documents": 0}, "no telemetry"),
        ({"mpc_decisions": 0}, "no interval was decided by an MPC"),
        ({"commands": {"issued": 3, "open": 2}}, "2 commands are still open"),
    ],
)
def test_what_a_demo_must_not_end_with(change, said):
    (found,) = failures(account(**change))
    assert said in found


def test_depth_counts_within_a_day():
    """Down today and up the day after tomorrow are two cycles."""
    deep = pack({"soc": 20.0}, {"soc": 80.0})
    far = [dict(document) for document in deep.documents]
    far[-1]["timestamp"] = START + timedelta(hours=30)
    assert broken(replace(deep, documents=far)) == broken(pack())
    far[-1]["timestamp"] = START + timedelta(hours=20)
    assert broken(replace(deep, documents=far, limits=replace(WIDE, cycle_depth_pct=50.0))) == {"cycle depth": 1}
