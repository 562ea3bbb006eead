"""The judge finds each kind of violation in a doctored record, and none in the record that it was doctored from."""

import copy
from dataclasses import replace

import pytest
from chaos.judge import Bounds, Record, Recorded, Round, judge
from chaos.schedule import WEIGHTS, schedule

WALL = 1_000_000.0
"""Wall clock minus monotonic clock, s."""
BOUNDS = Bounds(
    charge_w=1000.0,
    discharge_w=2000.0,
    charge_a=10.0,
    discharge_a=20.0,
    soc_min_pct=10.0,
    soc_max_pct=90.0,
    cell_min_v=3.0,
    cell_max_v=4.2,
    temperature_c=45.0,
)


def act(at_s, command_id, kind, seq, *, outcome="completed", epoch=1, valid_for_s=5.0, reset=False):
    return {
        "what": "act",
        "at_s": at_s,
        "device_id": "p",
        "command_id": command_id,
        "type": kind,
        "seq": seq,
        "epoch": epoch,
        "outcome": outcome,
        "power_w": 0.0,
        "valid_for_s": valid_for_s,
        "reset": reset,
    }


def sample(at_s, power_w, **changes):
    measured = {"current_a": power_w / 100.0, "soc_pct": 50.0, "temperature_c": 20.0, "cell_min_v": 3.6, "cell_max_v": 3.7}
    return {"what": "pack", "at_s": at_s, "device_id": "p", "power_w": power_w, **measured, **changes}


def recorded(kind, seq, issued_at_s, outcome="completed", timeout_s=2.0):
    return Recorded(device_id="p", type=kind, seq=seq, issued_s=WALL + issued_at_s, timeout_s=timeout_s, outcome=outcome)


@pytest.fixture
def record():
    """A charge, a stop, a shutdown with a refused start and a reset, a discharge; all as it should be."""
    return Record(
        entries=[
            {"what": "start", "at_s": 0.0, "device_id": "p"},
            act(1.0, "a", "start_charge", 1),
            sample(1.1, -900.0),
            act(4.0, "b", "stop_charge", 2),
            sample(4.1, 0.0),
            act(6.0, "c", "emergency_shutdown", 0, epoch=0),
            act(8.0, "d", "update_parameters", 4, epoch=2, reset=True),
            act(9.0, "e", "start_discharge", 5, epoch=2),
            sample(9.1, 1900.0),
            sample(14.1, 0.0),
        ],
        commands={
            "a": recorded("start_charge", 1, 0.5),
            "b": recorded("stop_charge", 2, 3.5),
            "c": recorded("emergency_shutdown", 0, 5.5),
            "x": recorded("start_charge", 3, 6.5, outcome="rejected"),
            "d": recorded("update_parameters", 4, 7.5),
            "e": recorded("start_discharge", 5, 8.5),
        },
        first_seen_s={"a": 0.6, "b": 3.6, "c": 5.8, "x": 6.6, "d": 7.6, "e": 8.6},
        redis_steps=[(float("-inf"), 0)],
        wall_of_monotonic=WALL,
        bounds={"p": BOUNDS},
        rounds=[Round(number=1, source="rule", devices=frozenset({"p"}), outcomes=("completed",), recovery_s=3.0)],
    )


def found(record):
    return {kind for kind, texts in judge(record).items() if texts}


def test_nothing_is_found_where_nothing_is_wrong(record):
    assert found(record) == set()


def change(record, command_id, **changes):
    record.commands[command_id] = replace(record.commands[command_id], **changes)


def entry(record, command_id):
    return next(one for one in record.entries if one.get("command_id") == command_id)


def twice(record):
    record.entries.insert(5, {**entry(record, "a"), "at_s": 5.0})


def twice_though_refused(record):
    record.entries.insert(5, {**entry(record, "a"), "at_s": 5.0, "outcome": "rejected"})


def late(record):
    entry(record, "a")["at_s"] = 2.6
    record.entries[2]["at_s"] = 2.7


def stop_overtaken(record):
    record.entries[2:2] = [act(1.05, "x", "start_charge", 3)]
    record.first_seen_s["x"] = 0.9
    change(record, "x", issued_s=WALL + 0.9, outcome="completed")


def older_epoch(record):
    entry(record, "e")["epoch"] = 1


def start_while_latched(record):
    record.entries.insert(6, act(7.0, "x", "start_charge", 3, epoch=2))
    change(record, "x", outcome="completed")


def off_the_record(record):
    del record.commands["b"]


def start_off_the_record_though_redis_forgot(record):
    del record.commands["a"]
    record.forgot_s = [1.2]


def shutdown_off_the_record(record):
    del record.commands["c"]


def denied(record):
    change(record, "b", outcome="expired")


def claimed(record):
    change(record, "x", outcome="completed")


def open_(record):
    change(record, "x", outcome=None)


def open_after_a_round(record):
    record.rounds.append(Round(2, "rule", frozenset({"p"}), (), 1.0, ("x",)))


def held(record):
    record.entries[-1]["power_w"] = 1900.0


def held_over_a_restart(record):
    record.entries[2:2] = [{"what": "start", "at_s": 1.05, "device_id": "p"}]


def nobody_decides(record):
    record.rounds.append(Round(2, "", frozenset({"p"}), (), 1.0))


def a_device_left_out(record):
    record.rounds.append(Round(2, "rule", frozenset(), (), 1.0))


def expired_after_the_faults(record):
    record.rounds.append(Round(2, "rule", frozenset({"p"}), ("expired",), 1.0))


def traceback(record):
    record.tracebacks.append("dispatcher-a.1.log")


@pytest.mark.parametrize(
    ("doctor", "kinds"),
    [
        (twice, {"executed twice", "out of order", "executed after the deadline"}),
        (twice_though_refused, {"executed twice", "out of order"}),
        (late, {"executed after the deadline"}),
        (stop_overtaken, {"out of order"}),
        (older_epoch, {"out of order"}),
        (start_while_latched, {"started while latched"}),
        (off_the_record, {"executed without a record"}),
        (start_off_the_record_though_redis_forgot, {"executed without a record"}),
        (shutdown_off_the_record, {"executed without a record"}),
        (denied, {"denied by the record"}),
        (claimed, {"claimed by the record"}),
        (open_, {"without an end"}),
        (open_after_a_round, {"without an end"}),
        (held, {"held without a valid set point"}),
        (held_over_a_restart, {"held without a valid set point"}),
        (nobody_decides, {"not back to normal"}),
        (a_device_left_out, {"not back to normal"}),
        (expired_after_the_faults, {"not back to normal"}),
        (traceback, {"traceback"}),
    ],
)
def test_each_violation_is_found(record, doctor, kinds):
    before = copy.deepcopy(record)
    doctor(record)
    assert record != before
    assert found(record) == kinds


@pytest.mark.parametrize(
    "changes",
    [
        {"power_w": -1010.0},
        {"power_w": 2020.0},
        {"current_a": -10.1},
        {"current_a": 20.2},
        {"soc_pct": 91.0},
        {"soc_pct": 9.0},
        {"cell_max_v": 4.25},
        {"cell_min_v": 2.9},
        {"temperature_c": 46.0},
    ],
)
def test_each_limit_is_watched(record, changes):
    record.entries[2] |= changes
    assert found(record) == {"beyond a limit"}


def test_a_start_of_before_the_clock_was_set_back_is_late_by_true_time(record):
    """Redis was 300 s ahead when the command was issued: by its own clock the device is early for it, by the truth late."""
    record.redis_steps = [(float("-inf"), 0), (0.4, 300), (0.9, 0)]
    change(record, "a", issued_s=WALL + 300.5)
    assert found(record) == set()
    entry(record, "a")["at_s"] = record.entries[2]["at_s"] = 3.0
    assert found(record) == {"executed after the deadline"}


def test_what_redis_forgot_cannot_be_held_against_the_record(record):
    change(record, "b", outcome="expired")
    record.forgot_s = [4.5]
    assert found(record) == set()
    record.forgot_s = [1.0]
    assert found(record) == {"denied by the record"}


def test_the_schedule_is_the_seed_s_and_holds_every_kind():
    first = schedule(7, 48, 24)
    assert first == schedule(7, 48, 24)
    assert first != schedule(8, 48, 24)
    faults = [fault for faults in first for fault in faults]
    assert [fault.number for fault in faults] == list(range(1, 49))
    assert {fault.kind for fault in faults} == set(WEIGHTS)
    for a_round in first:
        busy_until_s = {}
        for fault in a_round:
            place = (fault.target, fault.store)
            assert fault.at_s >= busy_until_s.get(place, 0.0)
            busy_until_s[place] = fault.at_s + fault.hold_s
