"""Set points become the right commands, and nothing is sent that need not be."""

from datetime import UTC, datetime

import pytest

from core.commands import CommandType as C
from core.decisions import Decision, Reason, SetPoint
from core.devices import PackState
from core.errors import InputError
from serving.dispatch.translate import drafts_of, stop_drafts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def state(power_w=0.0):
    return PackState(
        device_id="d",
        measured_at=NOW,
        soc_pct=50,
        soh_pct=80,
        temperature_c=25,
        voltage_v=400,
        current_a=power_w / 400,
        power_w=power_w,
        internal_resistance_ohm=0.05,
    )


def translate(power_w, measured_w=0.0, last=None):
    decision = Decision(
        site_id="s",
        starts_at=NOW,
        interval_s=900,
        source="p",
        set_points=(SetPoint(device_id="d", power_w=power_w, reason=Reason.PRICE_LOW),),
    )
    return drafts_of(
        decision,
        {"d": state(measured_w)},
        valid_for_s=60,
        timeout_s=30,
        issued_by="t",
        last_type={} if last is None else {"d": last},
    )


@pytest.mark.parametrize(
    ("power_w", "measured_w", "last", "expected"),
    [
        (5000, 0, None, C.START_DISCHARGE),
        (-5000, 0, None, C.START_CHARGE),
        (5000, 5000, C.START_DISCHARGE, C.START_DISCHARGE),  # renews its validity
        (0, -5000, C.START_CHARGE, C.STOP_CHARGE),
        (0, 5000, C.START_DISCHARGE, C.STOP_DISCHARGE),
        (0, 0, C.START_CHARGE, C.STOP_CHARGE),  # at rest, but last told to charge
        (10, 5000, None, C.STOP_DISCHARGE),  # below the dead band, and moving without a record
        (0, -5000, C.STOP_CHARGE, C.STOP_CHARGE),  # told to stop and still charging
    ],
)
def test_command_of_a_set_point(power_w, measured_w, last, expected):
    (draft,) = translate(power_w, measured_w, last)
    assert draft.command_type is expected
    if expected.is_start:
        assert draft.parameters["target_power"] == abs(power_w)
        assert draft.parameters["valid_for_seconds"] == 60
    else:
        assert "target_power" not in draft.parameters


@pytest.mark.parametrize("last", [None, C.STOP_CHARGE, C.STOP_DISCHARGE])
def test_an_idle_pack_is_left_alone(last):
    assert translate(0, 0, last) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_set_point_that_is_not_finite_cannot_be_made(bad):
    with pytest.raises(InputError, match="finite"):
        SetPoint(device_id="d", power_w=bad, reason=Reason.IDLE)


def test_devices_left_out_are_stopped_once():
    common = {"reason": "telemetry is old", "timeout_s": 30, "issued_by": "t"}
    drafts = stop_drafts("s", ["a", "b", "c"], {}, last_type={"a": C.START_CHARGE, "b": C.STOP_CHARGE}, **common)
    assert [(d.device_id, d.command_type) for d in drafts] == [("a", C.STOP_CHARGE)]
