"""Metrics on a real mongod against a recomputation in plain Python, with gaps, late data, time zones and repeated runs."""

import math
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
import rainflow

from stores.mongo import metrics
from stores.mongo.dirty import clear, mark, read_marks, touched_hours
from stores.mongo.ingest import Ingest
from stores.mongo.metrics import MetricsOptions, refresh
from stores.mongo.schema import DIRTY, PARTS, WORK
from stores.mongo.telemetry import delete_telemetry, insert_telemetry

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
DAY = TODAY - timedelta(days=10)
HOUR = timedelta(hours=1)
ALL = MetricsOptions(include_open=True, look_back=timedelta(0))
FIELDS = ("voltage", "current", "power", "temperature", "soc")
GAP_S = 300.0


def document(device_id, at, *, power=-10_000.0, soc=50.0, flags=(), site_id="s"):
    return {
        "site_id": site_id, "device_id": device_id, "timestamp": at,
        "measurements": {"voltage": 400.0 + soc / 100, "current": power / 400, "power": power, "temperature": 20 + soc / 50,
                         "soc": soc, "soh": 90.0, "internal_resistance": 0.05},
        "safety": {"alarm_flags": list(flags), "protection_status": {}},
        "metadata": {"data_quality": 1.0, "source": "edge_device"},
    }  # fmt: skip


def wild(device_id, start, end, seed, site_id="s"):
    """Irregular stamps, gaps shorter and longer than the limit, power of both signs, alarms that come and go."""
    dice, at, soc, flags, made = random.Random(seed), start, 50.0, set(), []  # noqa: S311
    while (
        at := at
        + timedelta(milliseconds=int(dice.choice([1000, 10_000, 60_000, 299_000, 301_000, 900_000]) * dice.uniform(0.5, 1)))
    ) < end:
        power = dice.choice([0.0, dice.uniform(-20e3, 20e3)])
        soc = min(100.0, max(0.0, soc + dice.choice([0.0, 0.0, dice.uniform(-4, 4)])))
        if dice.random() < 0.2:
            flags ^= {dice.choice(["high_temp_warning", "voltage_imbalance", "low_soc"])}
        made.append(document(device_id, at, power=power, soc=soc, flags=sorted(flags), site_id=site_id))
    return made


def energy(a, b, dt_s):
    """(charged, discharged) kWh of a line from a to b W, by its zero crossing."""
    if a * b >= 0:
        area = (a + b) / 2 * dt_s
        return (-area, 0.0) if area < 0 else (0.0, area)
    left, right = dt_s * abs(a) / (abs(a) + abs(b)), dt_s * abs(b) / (abs(a) + abs(b))
    areas = (a * left / 2, b * right / 2)
    return -min(areas), max(areas)


def brute(documents, start, end, period):
    """One contract document of [start, end), from all of a device's telemetry in order of time."""
    inside = [d for d in documents if start <= d["timestamp"] < end]
    charged = discharged = alarm_s = 0.0
    alarms = 0
    for before, after in zip([None, *documents], documents, strict=False):
        t1, flags = after["timestamp"], set(after["safety"]["alarm_flags"])
        near = before is not None and (t1 - before["timestamp"]).total_seconds() <= GAP_S
        if start <= t1 < end:
            same = near and before["timestamp"] >= start
            alarms += len(flags - set(before["safety"]["alarm_flags"])) if same else len(flags)
        if not near:
            continue
        t0 = before["timestamp"]
        low, high, span = max(t0, start), min(t1, end), (t1 - t0).total_seconds()
        # What lies in the period belongs to it only if the period has a sample of its own.
        if high <= low or not inside:
            continue
        a, b = before["measurements"]["power"], after["measurements"]["power"]
        at = [a + (b - a) * (moment - t0).total_seconds() / span for moment in (low, high)]
        c, d = energy(*at, (high - low).total_seconds())
        charged, discharged = charged + c, discharged + d
        if before["safety"]["alarm_flags"]:
            alarm_s += (high - low).total_seconds()
    aggregates = {}
    for name in FIELDS:
        values = [Fraction(d["measurements"][name]) for d in inside]
        mean = sum(values) / len(values)
        std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
        aggregates[name] = {"min": float(min(values)), "max": float(max(values)), "avg": float(mean), "std": std}
    soc = [d["measurements"]["soc"] for d in inside]
    counted = [(depth, count) for depth, _, count, _, _ in rainflow.extract_cycles([*soc, soc[-1]]) if depth >= 0.5]
    return {
        "site_id": inside[-1]["site_id"], "device_id": inside[-1]["device_id"], "timestamp": start, "period": period,
        "aggregates": aggregates,
        "energy_throughput": {"charged": charged / 3.6e6, "discharged": discharged / 3.6e6,
                              "net": (charged - discharged) / 3.6e6},
        "cycle_data": {"partial_cycles": sum(c for _, c in counted),
                       "equivalent_full_cycles": sum(d * c / 100 for d, c in counted)},
        "alarm_summary": {"total_alarms": alarms, "alarm_types": sorted({f for d in inside for f in d["safety"]["alarm_flags"]}),
                          "alarm_duration": alarm_s},
    }  # fmt: skip


def midnights(documents, zone):
    """(start, end) of the local days of the documents, by walking the clock minute by minute over each change."""
    days = sorted({d["timestamp"].astimezone(ZoneInfo(zone)).date() for d in documents})
    return [tuple(_first_moment(day + timedelta(days=k), zone) for k in (0, 1)) for day in days]


def _first_moment(day, zone):
    moment = datetime(day.year, day.month, day.day, tzinfo=UTC) - timedelta(hours=15)
    while moment.astimezone(ZoneInfo(zone)).date() < day:
        moment += timedelta(minutes=15)
    return moment


def expected(documents, zone="UTC"):
    """(hourly, daily) by device and timestamp."""
    by_device, hourly, daily = defaultdict(list), {}, {}
    for made in sorted(documents, key=lambda d: d["timestamp"]):
        by_device[made["device_id"]].append(made)
    for device_id, own in by_device.items():
        for start, end in midnights(own, zone):
            daily[device_id, start] = brute(own, start, end, "daily")
            at = start
            while at < end:
                if any(at <= d["timestamp"] < min(at + HOUR, end) for d in own):
                    hourly[device_id, at] = brute(own, at, min(at + HOUR, end), "hourly")
                at += HOUR
    return hourly, daily


def stored(mongo_db, period, **query):
    found = list(mongo_db[f"metrics_{period}"].find(query, {"_id": 0}))
    by_key = {(made["device_id"], made["timestamp"]): made for made in found}
    assert len(by_key) == len(found)
    return by_key


def agree(found, wanted):
    assert found.keys() == wanted.keys()
    for key, made in wanted.items():
        assert flat(found[key]).keys() == flat(made).keys(), key
        for name, value in flat(made).items():
            if isinstance(value, float):
                assert flat(found[key])[name] == pytest.approx(value, rel=1e-9, abs=1e-8), (key, name)
            else:
                assert flat(found[key])[name] == value, (key, name)


def flat(made, prefix=""):
    found = {}
    for name, value in made.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def check(mongo_db, documents, zone="UTC"):
    hourly, daily = expected(documents, zone)
    agree(stored(mongo_db, "hourly"), hourly)
    agree(stored(mongo_db, "daily"), daily)


def test_a_recomputation_by_hand_agrees(mongo_db):
    """One hour that a pencil can follow: 10 kW charging for half an hour, 5 kW discharging, a gap, two alarms."""
    at = lambda minute: DAY + timedelta(minutes=minute)  # noqa: E731
    insert_telemetry(
        mongo_db,
        [
            *(document("d", at(m), power=-10_000, soc=50 + m / 10) for m in range(0, 31, 5)),
            document("d", at(40), power=5000, soc=53, flags=["a"]),
            document("d", at(44), power=5000, soc=53, flags=["a", "b"]),
            document("d", at(45), power=5000, soc=52),
        ],
    )
    refresh(mongo_db, {}, TODAY, ALL)
    (made,) = stored(mongo_db, "hourly").values()
    assert made["energy_throughput"]["charged"] == pytest.approx(5.0)
    assert made["energy_throughput"]["discharged"] == pytest.approx(5 * 5 / 60)
    assert made["energy_throughput"]["net"] == pytest.approx(5.0 - 5 * 5 / 60)
    assert made["cycle_data"] == {"partial_cycles": 1.0, "equivalent_full_cycles": pytest.approx((3 + 1) / 200)}
    assert made["alarm_summary"] == {"total_alarms": 2, "alarm_types": ["a", "b"], "alarm_duration": 300.0}
    assert made["aggregates"]["soc"]["max"] == 53.0


@pytest.mark.parametrize("bite", [metrics.BITE, 25], ids=["one bite", "many bites"])
@pytest.mark.parametrize("few", [metrics.FEW_DEVICES, 0], ids=["by device", "by time"])
def test_wild_telemetry_agrees_with_brute_force(mongo_db, monkeypatch, bite, few):
    monkeypatch.setattr(metrics, "BITE", bite)
    monkeypatch.setattr(metrics, "FEW_DEVICES", few)
    monkeypatch.setattr(metrics, "DEVICES", 2)
    documents = [d for k in range(3) for d in wild(f"d{k}", DAY, DAY + timedelta(hours=30), seed=k)]
    insert_telemetry(mongo_db, documents)
    refresh(mongo_db, {}, TODAY, ALL)
    check(mongo_db, documents)
    assert mongo_db[WORK].count_documents({}) == 0


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Amsterdam", datetime(2026, 10, 25, tzinfo=UTC), 25),
        ("Europe/Amsterdam", datetime(2026, 3, 29, tzinfo=UTC), 23),
        ("Australia/Lord_Howe", datetime(2026, 4, 5, tzinfo=UTC), 24.5),
        ("Asia/Kathmandu", datetime(2026, 5, 5, tzinfo=UTC), 24),
        ("America/Santiago", datetime(2026, 9, 6, tzinfo=UTC), 23),
    ],
)
def test_a_day_is_the_sites_calendar_day(mongo_db, zone, day, hours):
    documents = wild("d", day - timedelta(hours=16), day + timedelta(hours=40), seed=7)
    insert_telemetry(mongo_db, documents)
    now = day + timedelta(days=5)
    refresh(mongo_db, {"s": zone}, now, ALL)
    check(mongo_db, documents, zone)
    starts = sorted(at for _, at in stored(mongo_db, "daily"))
    assert timedelta(hours=hours) in [after - before for before, after in pairwise(starts)]


def test_running_twice_gives_the_same_documents(mongo_db):
    documents = wild("d", DAY, DAY + timedelta(hours=20), seed=3)
    insert_telemetry(mongo_db, documents)
    refresh(mongo_db, {}, TODAY, ALL)
    before = [list(mongo_db[f"metrics_{period}"].find().sort("_id", 1)) for period in ("hourly", "daily")]
    assert refresh(mongo_db, {}, TODAY, ALL).device_hours == 0
    mark(mongo_db, touched_hours(documents))
    assert refresh(mongo_db, {}, TODAY, ALL).device_hours > 0
    assert [list(mongo_db[f"metrics_{period}"].find().sort("_id", 1)) for period in ("hourly", "daily")] == before


def test_hours_add_up_to_the_day(mongo_db):
    insert_telemetry(mongo_db, wild("d", DAY, DAY + timedelta(days=1), seed=11))
    refresh(mongo_db, {}, TODAY, ALL)
    hourly = stored(mongo_db, "hourly").values()
    day = stored(mongo_db, "daily")["d", DAY]
    for name in ("charged", "discharged", "net"):
        assert sum(made["energy_throughput"][name] for made in hourly) == pytest.approx(day["energy_throughput"][name])
    assert sum(made["alarm_summary"]["alarm_duration"] for made in hourly) == pytest.approx(
        day["alarm_summary"]["alarm_duration"]
    )


def test_late_telemetry_recomputes_what_it_touches_and_nothing_else(mongo_db):
    documents = wild("d", DAY, DAY + timedelta(hours=30), seed=5) + wild("e", DAY, DAY + timedelta(hours=30), seed=6)
    random.Random(1).shuffle(documents)  # noqa: S311
    late, first = documents[: len(documents) // 3], documents[len(documents) // 3 :]
    insert_telemetry(mongo_db, first)
    refresh(mongo_db, {}, TODAY, ALL)
    runs = lambda: {(made["device_id"], made["starts_at"]): made["run"] for made in mongo_db[PARTS].find()}  # noqa: E731
    before = runs()
    one = max(late, key=lambda d: d["timestamp"])
    insert_telemetry(mongo_db, [one])
    assert refresh(mongo_db, {}, TODAY, ALL).device_hours == 1
    after = runs()
    hour = one["timestamp"].replace(minute=0, second=0, microsecond=0)
    assert {key for key in after if after[key] != before.get(key)} == {(one["device_id"], hour)}
    insert_telemetry(mongo_db, late)
    refresh(mongo_db, {}, TODAY, ALL)
    check(mongo_db, documents)


def test_an_hour_waits_until_it_has_ended_and_settled(mongo_db):
    insert_telemetry(mongo_db, [document("d", DAY + timedelta(minutes=m)) for m in range(0, 120, 4)])
    options = MetricsOptions(look_back=timedelta(0))
    found = refresh(mongo_db, {}, DAY + HOUR + timedelta(seconds=119), options)
    assert (found.device_hours, found.waiting) == (0, 2)
    assert refresh(mongo_db, {}, DAY + HOUR + timedelta(seconds=120), options).device_hours == 1
    assert set(stored(mongo_db, "hourly")) == {("d", DAY)}
    assert refresh(mongo_db, {}, DAY + 3 * HOUR, options).device_hours == 1
    assert set(stored(mongo_db, "hourly")) == {("d", DAY), ("d", DAY + HOUR)}
    assert mongo_db[DIRTY].count_documents({}) == 0


def test_a_write_that_falls_into_a_run_is_seen_again(mongo_db):
    insert_telemetry(mongo_db, [document("d", DAY)])
    marks = read_marks(mongo_db)
    insert_telemetry(mongo_db, [document("d", DAY + timedelta(seconds=10))])
    assert clear(mongo_db, marks) == 0
    assert refresh(mongo_db, {}, TODAY, ALL).device_hours == 1
    assert mongo_db[PARTS].find_one()["n"] == 2


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
def test_what_other_services_wrote_is_found_by_counting(mongo_db, zone):
    documents = [document("d", DAY + timedelta(minutes=m)) for m in range(0, 180, 4)]
    now = DAY + timedelta(hours=4)
    Ingest(mongo_db, now=lambda: now, source="t").finish()
    others = [{**made, "day": f"{made['timestamp']:%Y-%m-%d}", "hour": made["timestamp"].hour} for made in documents]
    mongo_db["telemetry_data"].insert_many(others[::2])
    options = MetricsOptions(include_open=True, look_back=timedelta(hours=5))
    assert refresh(mongo_db, {"s": zone}, now, options).device_hours > 0
    assert refresh(mongo_db, {"s": zone}, now, options).device_hours == 0
    mongo_db["telemetry_data"].insert_many(others[1::2])
    assert refresh(mongo_db, {"s": zone}, now, options).device_hours > 0
    check(mongo_db, documents, zone)


def test_telemetry_that_was_deleted_takes_its_metrics_along(mongo_db):
    insert_telemetry(mongo_db, [document("d", DAY), document("d", DAY + HOUR), document("e", DAY)])
    refresh(mongo_db, {}, TODAY, ALL)
    mongo_db["telemetry_data"].delete_many({"timestamp": DAY})
    mark(mongo_db, {("d", int(DAY.timestamp() // 3600)): "s", ("e", int(DAY.timestamp() // 3600)): "s"})
    assert refresh(mongo_db, {}, TODAY, ALL).removed == 3
    assert set(stored(mongo_db, "hourly")) == {("d", DAY + HOUR)}
    assert set(stored(mongo_db, "daily")) == {("d", DAY)}
    assert delete_telemetry(mongo_db, "s") == 1
    assert stored(mongo_db, "hourly") == stored(mongo_db, "daily") == {}


def test_hours_beyond_retention_are_left_alone(mongo_db):
    insert_telemetry(mongo_db, [document("d", DAY)])
    refresh(mongo_db, {}, TODAY, ALL)
    before = stored(mongo_db, "hourly")
    mongo_db["telemetry_data"].delete_many({})
    mark(mongo_db, {("d", int(DAY.timestamp() // 3600)): "s"})
    found = refresh(mongo_db, {}, DAY + timedelta(days=91), ALL)
    assert (found.too_old, found.device_hours, found.removed) == (1, 0, 0)
    assert stored(mongo_db, "hourly") == before
    assert mongo_db[DIRTY].count_documents({}) == 0


def test_only_the_sites_that_were_asked_for(mongo_db):
    insert_telemetry(mongo_db, [document("d", DAY, site_id="one"), document("e", DAY, site_id="two")])
    refresh(mongo_db, {}, TODAY, ALL, site_ids=["two"])
    assert set(stored(mongo_db, "hourly")) == {("e", DAY)}
    refresh(mongo_db, {}, TODAY, ALL)
    assert set(stored(mongo_db, "hourly")) == {("d", DAY), ("e", DAY)}
