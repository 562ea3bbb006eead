"""The aggregation pipelines of the metrics: telemetry -> parts -> hourly and daily documents. All arithmetic of the metrics
but rainflow (core.telemetry_cycles) is here, and runs in the database.

A *part* is what is known of one device over a stretch of time, such that parts can be joined: number of samples; min, max, mean
and m2 (sum of squared deviations) of each quantity; first and last sample {t, p, f}: time, power, alarm flags; energy between
them; alarms; turning points of the SoC. `first` and `last` let a join account for the gap between two parts.

    energy    power is linear between two samples at most GAP_MS apart, split where it changes sign; wider gaps add nothing
    alarms    a flag lasts until the next sample, over at most GAP_MS; an episode begins where the sample before lacks it
    std       population; joined by Chan, Golub and LeVeque, The American Statistician 37 (1983) 242
Not here: which device-hours are computed and when (stores.mongo.metrics).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

Document = dict[str, Any]
Expression = Any

QUANTITIES = ("voltage", "current", "power", "temperature", "soc")
GAP_MS = 300_000
"""Samples further apart are not joined: 300 s, after which a device counts as silent (device:status)."""
MS_PER_H_W_TO_KWH = 3.6e9


def _energy(dt_ms: Expression, before_w: Expression, after_w: Expression) -> tuple[Expression, Expression]:
    """(net, absolute) energy of a linear power between two samples, W ms, discharge positive."""
    net = {"$multiply": [dt_ms, {"$add": [before_w, after_w]}, 0.5]}
    same_sign: Document = {"$gte": [{"$multiply": [before_w, after_w]}, 0]}
    crossing = {
        "$divide": [
            {"$add": [{"$multiply": [before_w, before_w]}, {"$multiply": [after_w, after_w]}]},
            {"$abs": {"$subtract": [before_w, after_w]}},
        ]
    }
    height: Document = {"$cond": [same_sign, {"$abs": {"$add": [before_w, after_w]}}, crossing]}
    return net, {"$multiply": [dt_ms, height, 0.5]}


def _at(array: str, index: Expression) -> Document:
    return {"$arrayElemAt": [array, index]}


def _over_pairs(variables: Document, value: Expression) -> Document:
    """Sum of an expression over neighbouring samples; arrays are newest first: $$k-1 is the later, $$k the earlier one."""
    pairs = {"$range": [1, "$n"]}
    return {"$sum": {"$map": {"input": pairs, "as": "k", "in": {"$let": {"vars": variables, "in": value}}}}}


_EARLIER, _LATER = "$$k", {"$subtract": ["$$k", 1]}
_DT = {"$subtract": [_at("$t", _LATER), _at("$t", _EARLIER)]}


def parts_of_telemetry(
    devices: Sequence[str], start: datetime, end: datetime, *, by_device: bool, extra: Mapping[str, Expression]
) -> list[Document]:
    """Parts of devices over [start, end) from telemetry_data. `extra` fields are added to each (_id among them).

    `by_device`: few devices, read by (device_id, timestamp); otherwise all of the time range is read in its order and others
    are dropped, which keeps to neighbouring documents on the disk.
    """
    finite = {f"measurements.{name}": {"$gte": -1e12, "$lte": 1e12} for name in QUANTITIES}
    order = {"device_id": 1, "timestamp": -1} if by_device else {"timestamp": -1}
    match = {"timestamp": {"$gte": start, "$lt": end}, "device_id": {"$in": list(devices)}, **finite}
    group: Document = {
        "_id": "$device_id",
        "site_id": {"$first": "$site_id"},
        "n": {"$sum": 1},
        "t": {"$push": "$timestamp"},
        "p": {"$push": "$measurements.power"},
        "s": {"$push": "$measurements.soc"},
        "f": {"$push": {"$ifNull": ["$safety.alarm_flags", []]}},
        "alarmed": {"$sum": {"$cond": [{"$gt": [{"$size": {"$ifNull": ["$safety.alarm_flags", []]}}, 0]}, 1, 0]}},
    }
    for name in QUANTITIES:
        for short, operator in (("min", "$min"), ("max", "$max"), ("avg", "$avg"), ("std", "$stdDevPop")):
            group[f"{name}_{short}"] = {operator: f"$measurements.{name}"}
    return [{"$match": match}, {"$sort": order}, {"$group": group}, {"$set": _turning_inputs()}, {"$project": _part(extra, end)}]


def _turning_inputs() -> Document:
    """The SoC without repetitions, newest first."""
    changes = {"$or": [{"$eq": ["$$k", 0]}, {"$ne": [_at("$s", "$$k"), _at("$s", _LATER)]}]}
    kept = {"$filter": {"input": {"$range": [0, "$n"]}, "as": "k", "cond": changes}}
    return {"u": {"$map": {"input": kept, "as": "k", "in": _at("$s", "$$k")}}}


def _turns() -> Document:
    """Ends and turning points of `u`, oldest first."""
    last = {"$subtract": [{"$size": "$u"}, 1]}
    one = {"$subtract": [_at("$u", "$$k"), _at("$u", _LATER)]}
    other = {"$subtract": [_at("$u", {"$add": ["$$k", 1]}), _at("$u", "$$k")]}
    turns = {
        "$or": [
            {"$eq": ["$$k", 0]},
            {"$eq": ["$$k", last]},
            {"$lt": [{"$multiply": [one, other]}, 0]},
        ]
    }
    kept = {"$filter": {"input": {"$range": [0, {"$size": "$u"}]}, "as": "k", "cond": turns}}
    return {"$reverseArray": {"$map": {"input": kept, "as": "k", "in": _at("$u", "$$k")}}}


def _part(extra: Mapping[str, Expression], end: datetime) -> Document:
    values = {"dt": _DT, "a": _at("$p", _EARLIER), "b": _at("$p", _LATER)}
    net, absolute = _energy("$$dt", "$$a", "$$b")
    near = {"$lte": ["$$dt", GAP_MS]}
    flags = {"dt": _DT, "old": _at("$f", _EARLIER), "new": _at("$f", _LATER)}
    lasts = {"$cond": [{"$and": [near, {"$gt": [{"$size": "$$old"}, 0]}]}, "$$dt", 0]}
    begins = {"$size": {"$cond": [near, {"$setDifference": ["$$new", "$$old"]}, {"$setUnion": ["$$new"]}]}}
    oldest = {"$subtract": ["$n", 1]}
    none: Document = {"$eq": ["$alarmed", 0]}

    def sample(index: Expression) -> Document:
        return {"t": _at("$t", index), "p": _at("$p", index), "f": _at("$f", index)}

    return {
        **extra,
        "device_id": "$_id",
        "site_id": 1,
        "n": 1,
        "counts": _counts(end),
        "stats": {
            name: {
                "min": f"${name}_min",
                "max": f"${name}_max",
                "avg": f"${name}_avg",
                "m2": {"$multiply": ["$n", f"${name}_std", f"${name}_std"]},
            }
            for name in QUANTITIES
        },
        "first": sample(oldest),
        "last": sample(0),
        "net": _over_pairs(values, {"$cond": [near, net, 0]}),
        "abs": _over_pairs(values, {"$cond": [near, absolute, 0]}),
        "alarm_ms": {"$cond": [none, 0, _over_pairs(flags, lasts)]},
        "alarms": {"$cond": [none, 0, {"$add": [{"$size": {"$setUnion": [_at("$f", oldest)]}}, _over_pairs(flags, begins)]}]},
        "types": {
            "$cond": [none, [], {"$reduce": {"input": "$f", "initialValue": [], "in": {"$setUnion": ["$$value", "$$this"]}}}]
        },
        "turns": _turns(),
    }


def _counts(end: datetime) -> list[Document]:
    """Samples in each UTC hour that the stretch lies in: one, or two where local hours are not UTC's."""
    hour = (end - timedelta(milliseconds=1)).replace(minute=0, second=0, microsecond=0)
    later = {"$size": {"$filter": {"input": "$t", "as": "t", "cond": {"$gte": ["$$t", hour]}}}}
    return [{"h": hour - timedelta(hours=1), "n": {"$subtract": ["$n", later]}}, {"h": hour, "n": later}]


def joined(key: Mapping[str, Expression]) -> list[Document]:
    """Stages that join parts, in time order within a device, into one part for each `key` (which holds device_id).

    What lies between two parts of one key counts; what lies between two keys is left to `with_edges`.
    """
    window = {
        "$setWindowFields": {
            "partitionBy": "$device_id",
            "sortBy": {"first.t": 1},
            "output": {"before": {"$shift": {"output": {"last": "$last", "key": dict(key)}, "by": -1}}},
        }
    }
    dt_ms = {"$subtract": ["$first.t", "$before.last.t"]}
    net, absolute = _energy("$dt", "$before.last.p", "$first.p")
    near = {"$and": [{"$eq": ["$before.key", dict(key)]}, {"$ne": ["$dt", None]}, {"$lte": ["$dt", GAP_MS]}]}
    shared = {"$size": {"$setIntersection": ["$before.last.f", "$first.f"]}}
    alarm_ms = {"$cond": [{"$gt": [{"$size": "$before.last.f"}, 0]}, "$dt", 0]}
    bridge = {
        "net": {"$add": ["$net", {"$cond": ["$near", net, 0]}]},
        "abs": {"$add": ["$abs", {"$cond": ["$near", absolute, 0]}]},
        "alarm_ms": {"$add": ["$alarm_ms", {"$cond": ["$near", alarm_ms, 0]}]},
        "alarms": {"$subtract": ["$alarms", {"$cond": ["$near", shared, 0]}]},
    }
    group: Document = {
        "_id": dict(key),
        "site_id": {"$last": "$site_id"},
        "n": {"$sum": "$n"},
        "first": {"$first": "$first"},
        "last": {"$last": "$last"},
        "parts": {"$push": {"n": "$n", "stats": "$stats", "counts": "$counts", "types": "$types", "turns": "$turns"}},
        **{name: {"$sum": f"${name}"} for name in bridge},
    }
    for name in QUANTITIES:
        group[f"{name}_min"], group[f"{name}_max"] = {"$min": f"$stats.{name}.min"}, {"$max": f"$stats.{name}.max"}
        group[f"{name}_sum"] = {"$sum": {"$multiply": ["$n", f"$stats.{name}.avg"]}}
    return [
        window,
        {"$set": {"dt": dt_ms}},
        {"$set": {"near": near}},
        {"$set": bridge},
        {"$sort": {"device_id": 1, "first.t": 1}},
        {"$group": group},
        {"$set": {f"{name}_avg": {"$divide": [f"${name}_sum", "$n"]} for name in QUANTITIES}},
        {"$project": _joined_part(dict(key), list(bridge))},
    ]


def _joined_part(key: Document, sums: list[str]) -> Document:
    def chained(field: str) -> Document:
        return {"$reduce": {"input": f"$parts.{field}", "initialValue": [], "in": {"$concatArrays": ["$$value", "$$this"]}}}

    stats = {}
    for name in QUANTITIES:
        deviation = {"$subtract": [f"$$part.stats.{name}.avg", f"${name}_avg"]}
        m2 = {"$add": [f"$$part.stats.{name}.m2", {"$multiply": ["$$part.n", deviation, deviation]}]}
        stats[name] = {
            "min": f"${name}_min",
            "max": f"${name}_max",
            "avg": f"${name}_avg",
            "m2": {"$sum": {"$map": {"input": "$parts", "as": "part", "in": m2}}},
        }
    types = {"$reduce": {"input": "$parts.types", "initialValue": [], "in": {"$setUnion": ["$$value", "$$this"]}}}
    kept = dict.fromkeys(("site_id", "n", "first", "last", *sums), 1)
    named = {name: f"$_id.{name}" for name in key}
    return {**kept, **named, "stats": stats, "types": types, "counts": chained("counts"), "turns": chained("turns")}


def with_edges() -> list[Document]:
    """Stages that give each part (with starts_at, ends_at) its share of what lies between it and its neighbours.

    The line between two samples is cut at the boundary, so that hours add up to the day.
    """
    window = {
        "$setWindowFields": {
            "partitionBy": "$device_id",
            "sortBy": {"first.t": 1},
            "output": {
                "before": {"$shift": {"output": "$last", "by": -1}},
                "after": {"$shift": {"output": "$first", "by": 1}},
            },
        }
    }
    fields: Document = {
        "left_dt": {"$subtract": ["$first.t", "$before.t"]},
        "right_dt": {"$subtract": ["$after.t", "$last.t"]},
        "left_ms": {"$subtract": ["$first.t", "$starts_at"]},
        "right_ms": {"$subtract": ["$ends_at", "$last.t"]},
    }
    near: Document = {
        side: {"$and": [{"$gt": [f"${side}_dt", 0]}, {"$lte": [f"${side}_dt", GAP_MS]}]} for side in ("left", "right")
    }

    def cut(start_w: str, end_w: str, passed: Expression, whole: str) -> Document:
        return {"$add": [start_w, {"$multiply": [{"$subtract": [end_w, start_w]}, {"$divide": [passed, whole]}]}]}

    left_w = cut("$before.p", "$first.p", {"$subtract": ["$left_dt", "$left_ms"]}, "$left_dt")
    right_w = cut("$last.p", "$after.p", "$right_ms", "$right_dt")
    at_edges = {
        "left_w": {"$cond": ["$left", left_w, None]},
        "right_w": {"$cond": ["$right", right_w, None]},
    }
    left, right = _energy("$left_ms", "$left_w", "$first.p"), _energy("$right_ms", "$last.p", "$right_w")
    burns_left = {"$cond": [{"$gt": [{"$size": {"$ifNull": ["$before.f", []]}}, 0]}, "$left_ms", 0]}
    burns_right = {"$cond": [{"$gt": [{"$size": "$last.f"}, 0]}, "$right_ms", 0]}
    sums = {
        "net": {"$add": ["$net", {"$cond": ["$left", left[0], 0]}, {"$cond": ["$right", right[0], 0]}]},
        "abs": {"$add": ["$abs", {"$cond": ["$left", left[1], 0]}, {"$cond": ["$right", right[1], 0]}]},
        "alarm_ms": {"$add": ["$alarm_ms", {"$cond": ["$left", burns_left, 0]}, {"$cond": ["$right", burns_right, 0]}]},
    }
    return [window, {"$set": fields}, {"$set": near}, {"$set": at_edges}, {"$set": sums}]


def contract_documents(period: str, cycles: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Stages from parts with edges to the contract's documents; `cycles`: {_id: {d, t}, cycle_data} of each of them."""
    charged = {"$divide": [{"$max": [0, {"$subtract": ["$abs", "$net"]}]}, 2 * MS_PER_H_W_TO_KWH]}
    discharged = {"$divide": [{"$max": [0, {"$add": ["$abs", "$net"]}]}, 2 * MS_PER_H_W_TO_KWH]}
    aggregates = {
        name: {
            **{short: f"$stats.{name}.{short}" for short in ("min", "max", "avg")},
            "std": {"$sqrt": {"$divide": [{"$max": [0, f"$stats.{name}.m2"]}, "$n"]}},
        }
        for name in QUANTITIES
    }
    document = {
        "site_id": "$site_id",
        "device_id": "$device_id",
        "timestamp": "$starts_at",
        "period": period,
        "aggregates": aggregates,
        "energy_throughput": {
            "charged": charged,
            "discharged": discharged,
            "net": {"$divide": [{"$multiply": [-1, "$net"]}, MS_PER_H_W_TO_KWH]},
        },
        "alarm_summary": {
            "total_alarms": "$alarms",
            "alarm_types": {"$sortArray": {"input": "$types", "sortBy": 1}},
            "alarm_duration": {"$divide": ["$alarm_ms", 1000]},
        },
    }
    return [
        {"$project": {"_id": {"d": "$device_id", "t": "$starts_at"}, "made": document}},
        {"$unionWith": {"pipeline": [{"$documents": list(cycles)}]}},
        {"$group": {"_id": "$_id", "made": {"$mergeObjects": "$made"}, "cycle_data": {"$mergeObjects": "$cycle_data"}}},
        {"$match": {"made.device_id": {"$exists": True}}},
        {"$replaceRoot": {"newRoot": {"$mergeObjects": ["$made", {"cycle_data": "$cycle_data"}]}}},
        {
            "$merge": {
                "into": f"metrics_{period}",
                "on": ["device_id", "timestamp"],
                "whenMatched": "replace",
                "whenNotMatched": "insert",
            }
        },
    ]
