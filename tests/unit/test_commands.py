"""What a command is: parameters, wire format, refusals."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.commands import PARAMETERS, Command, CommandType, validate_parameters
from core.errors import InputError

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)


def make(**changes):
    values = {
        "command_id": "c1",
        "site_id": "s",
        "device_id": "d",
        "command_type": CommandType.START_CHARGE,
        "parameters": {"target_power": 5000.0},
        "issued_at": NOW,
        "seq": 7,
        "epoch": 3,
    }
    return Command(**(values | changes))


def test_wire_has_the_documented_fields_and_round_trips():
    command = make()
    text = command.to_wire()
    for field in (
        '"command_id":"c1"',
        '"type":"start_charge"',
        '"timeout":30',
        '"issued_at":"2026-01-02T03:04:05.678Z"',
    ):
        assert field in text
    assert Command.from_wire(text) == command


@given(
    power=st.floats(0.001, 1e9),
    timeout=st.integers(1, 86_400),
    seq=st.integers(0, 2**53),
    moment=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),
)
def test_wire_round_trip_keeps_everything(power, timeout, seq, moment):
    issued = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
    command = make(parameters={"target_power": power}, timeout_s=timeout, seq=seq, issued_at=issued)
    assert Command.from_wire(command.to_wire()) == command


def test_nan_never_reaches_the_wire():
    with pytest.raises(ValueError, match="JSON compliant"):
        make(parameters={"target_power": float("nan")}).to_wire()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"command_id": "x"}', make().to_wire().replace("start_charge", "go")])
def test_a_broken_message_is_named(text):
    with pytest.raises(InputError, match="pending list"):
        Command.from_wire(text)


@pytest.mark.parametrize(
    ("parameters", "needle"),
    [
        ({}, "target_power"),
        ({"target_power": float("nan")}, "target_power"),
        ({"target_power": float("inf")}, "target_power"),
        ({"target_power": -5}, "target_power"),
        ({"target_power": True}, "target_power"),
        ({"target_power": "5000"}, "target_power"),
        ({"target_powr": 5000}, "did you mean 'target_power'"),
        ({"target_power": 1, "stop_at_soc": 101}, "stop_at_soc"),
        ({"target_power": 1, "valid_for_seconds": 0}, "valid_for_seconds"),
    ],
)
def test_wrong_parameters_are_named(parameters, needle):
    with pytest.raises(InputError, match=needle):
        validate_parameters(CommandType.START_DISCHARGE, parameters)


@pytest.mark.parametrize("kind", list(CommandType))
def test_every_type_takes_a_reason_and_refuses_the_unknown(kind):
    needed = {name: 1.0 for name, spec in PARAMETERS[kind].items() if spec.required}
    assert validate_parameters(kind, {**needed, "reason": "test"})["reason"] == "test"
    with pytest.raises(InputError, match="banana"):
        validate_parameters(kind, {**needed, "banana": 1})


def test_naive_times_and_no_timeout_are_refused():
    with pytest.raises(InputError, match="aware"):
        make(issued_at=datetime(2026, 1, 1))
    with pytest.raises(InputError, match="timeout"):
        make(timeout_s=0)
    assert make(timeout_s=30).expires_at == NOW + timedelta(seconds=30)
