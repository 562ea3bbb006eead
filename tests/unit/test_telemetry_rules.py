"""The rules of telemetry: what is set aside and why, the fast judgement never kinder than the slow one, derived fields."""

import copy
import math
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.telemetry import judge, normalise, parse_stamp, suspects
from core.telemetry_cycles import cycle_data
from core.telemetry_periods import HOUR, window_of, windows_between
from core.telemetry_soc import SocWatch

NOW = datetime(2026, 1, 15, 14, 30, tzinfo=UTC)


def document(**changes):
    made = {
        "site_id": "site_001", "device_id": "battery_pack_001", "timestamp": NOW,
        "measurements": {"voltage": 400.5, "current": -25.3, "power": -10126.5, "temperature": 23.7, "soc": 67.5, "soh": 87.2,
                         "internal_resistance": 0.045},
        "cell_data": {"voltages": [3.45, 3.46], "temperatures": [23.1, 23.9], "balancing_status": [0, 1]},
        "safety": {"alarm_flags": ["high_temp_warning"], "protection_status": {"overvoltage": False}},
        "metadata": {"data_quality": 0.98, "source": "edge_device", "firmware_version": "1.2.3", "communication_latency": 85},
    }  # fmt: skip
    for path, value in changes.items():
        *parents, last = path.split("__")
        holder = made
        for name in parents:
            holder = holder[name]
        if value is ...:
            del holder[last]
        else:
            holder[last] = value
    return made


BAD = [
    ({"site_id": ""}, "identity"), ({"device_id": 7}, "identity"), ({"device_id": "a\nb"}, "identity"),
    ({"device_id": ...}, "identity"), ({"device_id": "\ud800"}, "identity"), ({"_id": 1}, "shape"), ({"$set": 1}, "shape"),
    ({"timestamp": ...}, "timestamp"), ({"timestamp": "soon"}, "timestamp"), ({"timestamp": 1.7e9}, "timestamp"),
    ({"timestamp": "2026-01-15T14:30:00"}, "naive_timestamp"), ({"timestamp": NOW.replace(tzinfo=None)}, "naive_timestamp"),
    ({"timestamp": "2026-01-15T14:30:00+00:07"}, "wrong_offset"), ({"timestamp": "2026-01-15T14:30:00+15:00"}, "wrong_offset"),
    ({"day": "2026-01-16"}, "wrong_offset"), ({"hour": 15}, "wrong_offset"),
    ({"timestamp": NOW + timedelta(hours=1)}, "future"), ({"timestamp": NOW - timedelta(days=90)}, "expired"),
    ({"measurements": ...}, "shape"), ({"measurements": [1]}, "shape"),
    *(({f"measurements__{name}": value}, "not_a_number")
      for name in document()["measurements"] for value in (math.nan, math.inf, None, "1", True, 10**400, ...)),
    ({"measurements__soc": 100.1}, "range"), ({"measurements__soc": -0.1}, "range"), ({"measurements__soh": 0.87}, "range"),
    ({"measurements__soh": 1.0}, "range"), ({"measurements__temperature": 296.9}, "range"),
    ({"measurements__voltage": -1.0}, "range"), ({"measurements__internal_resistance": -0.1}, "range"),
    ({"measurements__power": 10126.5}, "sign"), ({"measurements__current": 25.3}, "sign"),
    ({"measurements__power": -10.1265}, "unit"), ({"measurements__current": -25300.0}, "unit"),
    ({"cell_data": []}, "shape"), ({"cell_data__voltages": 3.4}, "shape"), ({"cell_data__voltages": ["3.4"]}, "cell_data"),
    ({"cell_data__voltages": [math.nan]}, "cell_data"), ({"cell_data__voltages": [3450.0]}, "cell_data"),
    ({"cell_data__balancing_status": [2]}, "cell_data"), ({"cell_data__balancing_status": [True]}, "cell_data"),
    ({"safety": "none"}, "shape"), ({"safety__alarm_flags": "none"}, "safety"), ({"safety__alarm_flags": [1]}, "safety"),
    ({"safety__protection_status": {"overvoltage": "no"}}, "safety"), ({"safety__protection_status": []}, "safety"),
    ({"metadata": 1}, "shape"), ({"metadata__data_quality": 1.1}, "quality"), ({"metadata__data_quality": math.nan}, "quality"),
    ({"metadata__data_quality": None}, "quality"), ({"metadata__chemistry": 1}, "shape"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_what_is_wrong_is_named_and_suspected(changes, reason):
    made = document(**changes)
    verdict = judge(made, NOW)
    assert verdict is not None
    assert verdict.reason == reason
    assert suspects([document()] * 20 + [made] + [document()] * 20, NOW)[20]


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"timestamp": "2026-01-15T15:30:00+01:00"}, {"timestamp": {"$date": "2026-01-15T14:30:00Z"}},
        {"timestamp": {"$date": 1768487400000}}, {"day": "2026-01-15", "hour": 14}, {"cell_data": ...}, {"safety": ...},
        {"metadata": ...}, {"cell_data__voltages": []}, {"measurements__soc": 0}, {"measurements__soc": 100},
        {"measurements__power": 150.0, "measurements__current": -0.2}, {"measurements__power": 0.0, "measurements__current": 0.0},
        {"measurements__power": -9000.0}, {"device_id": "Bäckerei 1"}, {"note": "a sender's own field"},
        {"timestamp": NOW + timedelta(minutes=4)},
    ],
)  # fmt: skip
def test_what_is_good_is_accepted(changes):
    assert judge(document(**changes), NOW) is None


def test_the_usual_document_is_not_even_suspected():
    assert not suspects([document() for _ in range(100)], NOW).any()
    assert suspects([], NOW).shape == (0,)


@pytest.mark.parametrize("thing", [None, 1, "text", [], {}, {"site_id": "s"}])
def test_what_is_no_document_is_judged_not_raised(thing):
    assert judge(thing, NOW).reason in ("shape", "identity")
    assert suspects([document(), thing, document()], NOW)[1]


values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just([]), st.just({}), st.floats(-1, 101),
    st.sampled_from([NOW, NOW.isoformat(), 10**400, [3.4], [None], ["flag"], {"a": True}]),
)  # fmt: skip
paths = st.sampled_from(
    [
        *document(), *(f"measurements__{name}" for name in document()["measurements"]),
        *(f"{group}__{name}" for group in ("cell_data", "safety", "metadata") for name in document()[group]),
        "day", "hour", "other",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(changes=st.lists(st.tuples(paths, values), max_size=3), others=st.integers(0, 12))
def test_the_fast_judgement_never_passes_what_the_slow_one_refuses(changes, others):
    made = document()
    for path, value in changes:
        *parents, last = path.split("__")
        holder = made
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder[last] = value
    marked = suspects([*[document() for _ in range(others)], made], NOW)
    if judge(made, NOW) is not None:
        assert marked[-1]


def test_normal_form_is_utc_milliseconds_with_day_and_hour():
    east = timezone(timedelta(hours=11))
    for stamp in (NOW.astimezone(east), NOW.isoformat(), NOW + timedelta(microseconds=999)):
        made, stamp_ms = normalise(document(timestamp=stamp))
        assert (made["timestamp"], made["day"], made["hour"]) == (NOW, "2026-01-15", 14)
        assert stamp_ms == 1_768_487_400_000


@given(st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)))
def test_the_stamp_is_exact_to_the_millisecond(stamp):
    made, stamp_ms = normalise(document(timestamp=stamp))
    assert stamp_ms == (made["timestamp"] - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert timedelta(0) <= stamp - made["timestamp"] < timedelta(milliseconds=1)
    assert (made["day"], made["hour"]) == (f"{stamp:%Y-%m-%d}", stamp.hour)


def test_normalising_leaves_the_callers_document_alone():
    made = document(timestamp=NOW.isoformat())
    before = copy.deepcopy(made)
    normalise(made)
    assert made == before
    assert parse_stamp({"$date": True}) is None


# State of charge as a share


def test_shares_are_told_from_percent_only_over_many_documents():
    watch = SocWatch()
    assert watch.all_shares() is None
    watch.add(
        [("share", 0.2 + 0.02 * k) for k in range(30)] + [("rests", 0.4)] * 30 + [("percent", 0.2 + 2.0 * k) for k in range(30)]
    )
    assert watch.shares() == {"share"}
    assert watch.resting() == ["rests"]
    assert watch.all_shares() is None


def test_a_file_of_shares_and_a_file_of_empty_packs():
    watch = SocWatch()
    watch.add([("a", 0.0), ("b", 1.0)])
    assert watch.all_shares() is None
    watch.add([("b", 0.67)])
    watch.add([("b", 0.5)])
    assert watch.all_shares() == (0.0, 1.0)
    watch.add([("c", 1.5)])
    assert watch.all_shares() is None


# Hours and days

ZONES = ["UTC", "Europe/Amsterdam", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "America/Havana",
         "Pacific/Apia", "Asia/Kolkata"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.datetimes(datetime(2011, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)), st.sampled_from(ZONES))
def test_hours_tile_the_day_and_days_tile_the_year(moment, zone):
    found = window_of(moment, zone)
    assert found.day_starts_at <= found.starts_at <= moment < found.ends_at <= found.day_ends_at
    hours = windows_between(found.day_starts_at, found.day_ends_at, zone)
    assert hours[0].starts_at == found.day_starts_at
    assert hours[-1].ends_at == found.day_ends_at
    assert all(one.ends_at == other.starts_at for one, other in pairwise(hours))
    assert all(one.ends_at - one.starts_at == HOUR for one in hours[:-1])
    assert 22 * HOUR <= found.day_ends_at - found.day_starts_at <= 26 * HOUR
    assert window_of(found.day_ends_at, zone).day_starts_at == found.day_ends_at


# Cycles


@pytest.mark.parametrize(
    ("soc", "partial", "full"),
    [
        ([], 0, 0), ([50], 0, 0), ([65.2, 69.8], 0.5, 0.023), ([50, 60, 50, 60, 50], 2.0, 0.2), ([0, 100, 0], 1.0, 1.0),
        ([50, 50.4, 50], 0, 0), ([20, 80, 79.7, 80, 20], 1.0, 0.6), ([50] * 9, 0, 0),
    ],
)  # fmt: skip
def test_cycles(soc, partial, full):
    assert cycle_data(soc) == {"partial_cycles": partial, "equivalent_full_cycles": pytest.approx(full)}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=2, max_size=60))
def test_turning_points_are_enough_and_half_the_travel_bounds_the_cycles(soc):
    whole = cycle_data(soc)
    turns = [soc[0], *(b for a, b, c in zip(soc, soc[1:], soc[2:], strict=False) if (b - a) * (c - b) <= 0), soc[-1]]
    assert cycle_data(turns) == pytest.approx(whole)
    assert whole["equivalent_full_cycles"] <= np.abs(np.diff(soc)).sum() / 200 + 1e-9
