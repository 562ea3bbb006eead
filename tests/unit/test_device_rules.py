"""What a device accepts, refuses and does by itself."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.commands import Command, Outcome
from core.commands import CommandType as C
from core.device_logic import DeviceController
from core.devices import Chemistry, DeviceConfig
from core.limits import ConstraintRow, power_bounds, tightest
from core.pack import Pack

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = DeviceConfig(
    device_id="d",
    site_id="s",
    name="d",
    chemistry=Chemistry.NMC,
    nominal_capacity_ah=100,
    nominal_voltage_v=370,
    max_charge_power_w=20_000,
    max_discharge_power_w=25_000,
    series_cells=100,
    parallel_cells=20,
)
LIMITS = tightest(CONFIG, [ConstraintRow(row_id="r", device_id="d")], NOW)


def make(kind, seq=1, *, epoch=1, age_s=0.0, device_id="d", **parameters):
    return Command(
        command_id=f"c{seq}",
        site_id="s",
        device_id=device_id,
        command_type=kind,
        parameters=parameters,
        issued_at=NOW - timedelta(seconds=age_s),
        seq=seq,
        epoch=epoch,
    )


@pytest.fixture
def pack():
    return Pack(CONFIG, soc_pct=50, soh_pct=80, temperature_c=25, ambient_c=20)


@pytest.fixture
def device():
    return DeviceController(device_id="d", limits=LIMITS)


def run(device, pack, command, monotonic_s=0.0, age_s=0.0):
    refused = device.check(command, redis_now=NOW, taken_age_s=age_s)
    if refused is not None:
        return refused
    return device.execute(command, monotonic_s=monotonic_s, condition=pack.condition(60), state=lambda: {"soc": 50})


def applied(device, pack, monotonic_s):
    return device.applied_power(monotonic_s=monotonic_s, soc_pct=pack.soc_pct, condition=pack.condition(60), dt_s=60)


def test_all_seven_types(device, pack):
    assert run(device, pack, make(C.START_CHARGE, 1, target_power=5000.0)).outcome is Outcome.COMPLETED
    assert device.power_w == -5000
    assert run(device, pack, make(C.STOP_CHARGE, 2)).message == "stopped"
    assert run(device, pack, make(C.START_DISCHARGE, 3, target_power=5000.0)).outcome is Outcome.COMPLETED
    assert run(device, pack, make(C.STOP_CHARGE, 4)).message.startswith("nothing to stop")
    assert device.power_w == 5000
    run(device, pack, make(C.STOP_DISCHARGE, 5))
    assert device.power_w == 0
    assert run(device, pack, make(C.REQUEST_STATUS, 6)).data == {"soc": 50}
    assert run(device, pack, make(C.UPDATE_PARAMETERS, 7, max_charge_power=1000.0)).outcome is Outcome.COMPLETED
    assert run(device, pack, make(C.START_CHARGE, 8, target_power=5000.0)).outcome is Outcome.REJECTED
    assert run(device, pack, make(C.EMERGENCY_SHUTDOWN, 9)).outcome is Outcome.COMPLETED
    refused = run(device, pack, make(C.START_DISCHARGE, 10, target_power=100.0))
    assert refused.outcome is Outcome.REJECTED
    assert "latched" in refused.message
    run(device, pack, make(C.UPDATE_PARAMETERS, 11, reset_latch=1.0))
    assert run(device, pack, make(C.START_DISCHARGE, 12, target_power=100.0)).outcome is Outcome.COMPLETED


def test_a_start_beyond_a_limit_is_refused_and_the_limit_named(device, pack):
    verdict = run(device, pack, make(C.START_CHARGE, target_power=19_999.0))
    assert verdict.outcome is Outcome.REJECTED
    assert "current allows" in verdict.message
    assert device.power_w == 0


def test_order_epoch_deadline_and_address(device, pack):
    run(device, pack, make(C.REQUEST_STATUS, 5, epoch=3))
    assert "sequence" in run(device, pack, make(C.START_CHARGE, 5, epoch=3, target_power=1.0)).message
    assert "epoch" in run(device, pack, make(C.START_CHARGE, 6, epoch=2, target_power=1.0)).message
    assert run(device, pack, make(C.START_CHARGE, 7, epoch=3, age_s=31, target_power=1.0)).outcome is Outcome.EXPIRED
    aged = run(device, pack, make(C.START_CHARGE, 8, epoch=3, age_s=20, target_power=1.0), age_s=11)
    assert aged.outcome is Outcome.EXPIRED
    assert "meant for" in run(device, pack, make(C.START_CHARGE, 9, epoch=3, device_id="e", target_power=1.0)).message
    assert device.power_w == 0


def test_an_emergency_shutdown_is_obeyed_whatever_its_order(device, pack):
    run(device, pack, make(C.START_CHARGE, 9, epoch=5, target_power=1000.0))
    assert run(device, pack, make(C.EMERGENCY_SHUTDOWN, 2, epoch=1)).outcome is Outcome.COMPLETED
    assert (device.power_w, device.latched) == (0, True)


def test_the_set_point_ends_by_itself(device, pack):
    run(device, pack, make(C.START_CHARGE, target_power=5000.0, valid_for_seconds=10.0), monotonic_s=100.0)
    assert applied(device, pack, 109.0) == -5000
    assert applied(device, pack, 110.0) == 0
    assert applied(device, pack, 105.0) == 0  # and does not come back


def test_a_renewal_is_no_new_write_to_the_inverter(device, pack):
    for seq in range(1, 6):
        run(device, pack, make(C.START_CHARGE, seq, target_power=5000.0, valid_for_seconds=10.0), monotonic_s=seq)
    assert device.inverter_writes == 1
    assert applied(device, pack, 14.0) == -5000


def test_stop_at_soc(device, pack):
    run(device, pack, make(C.START_CHARGE, target_power=5000.0, stop_at_soc=50.5, valid_for_seconds=9999.0))
    for _ in range(30):
        pack.step(applied(device, pack, 1.0), 60)
    assert 50.4 < pack.soc_pct < 50.8
    assert device.power_w == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(C)), st.integers(1, 40), st.integers(1, 3), st.floats(0, 60), st.floats(1, 40_000)),
        max_size=25,
    )
)
def test_no_sequence_of_commands_breaks_a_limit_or_runs_backwards(commands):
    """Whatever arrives: nothing past its deadline, no older sequence after a newer one, power within the bounds."""
    pack = Pack(CONFIG, soc_pct=90, soh_pct=60, temperature_c=30, ambient_c=25)
    device = DeviceController(device_id="d", limits=LIMITS)
    newest = 0
    for clock_s, (kind, seq, epoch, age_s, power) in enumerate(commands):
        parameters = {"target_power": power} if kind.is_start else {}
        verdict = run(device, pack, make(kind, seq, epoch=epoch, age_s=age_s, **parameters), monotonic_s=clock_s)
        if verdict.outcome is Outcome.COMPLETED:
            assert age_s < 30
            assert seq > newest or kind is C.EMERGENCY_SHUTDOWN
            newest = max(newest, seq)
        bounds = power_bounds(LIMITS, pack.condition(60), 60)
        power_w = applied(device, pack, clock_s)
        assert -bounds.charge_w[0] - 1e-6 <= power_w <= bounds.discharge_w[0] + 1e-6
        pack.step(power_w, 60)
        assert LIMITS.soc_min_pct - 1e-6 <= pack.soc_pct <= LIMITS.soc_max_pct + 1e-6
        assert not (device.latched and device.power_w)
