"""What must have held, read from the record after the faults. Pure: every finding is a text; none means that all held.

The record: what reached the inverters, command_history with its outbox, the clocks' steps, and how each round ended. Times are
monotonic seconds of the machine, which no fault touches.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

ROUNDING_S = 0.05
"""Redis TIME travels in milliseconds."""
TOLERANCE = 1.005
STARTS = ("start_charge", "start_discharge")
DENYING = ("expired", "superseded", "rejected")
LOST_WITH_REDIS_S = 10.0
"""An AOF that is synced every second may lose that much, and with it an answer that stood in it."""


@dataclass(frozen=True)
class Recorded:
    """A command as PostgreSQL has it; `issued_s` is Redis TIME when it was issued (Unix seconds)."""

    device_id: str
    type: str
    seq: int
    issued_s: float
    timeout_s: float
    outcome: str | None


@dataclass(frozen=True)
class Bounds:
    """The tightest of what a pack's rows say; magnitudes."""

    charge_w: float
    discharge_w: float
    charge_a: float
    discharge_a: float
    soc_min_pct: float
    soc_max_pct: float
    cell_min_v: float
    cell_max_v: float
    temperature_c: float


@dataclass(frozen=True)
class Round:
    """How the site was after a round of faults: the first decision for a whole interval after `ready`."""

    number: int
    source: str
    devices: frozenset
    """Those that the decision has a set point for."""
    outcomes: tuple
    """Of the commands of that decision."""
    recovery_s: float
    """From the end of the last fault to the end of that decision's commands."""
    still_open: tuple = ()
    """Commands past deadline, grace and interval without an end."""


@dataclass
class Record:
    """Everything that is judged."""

    entries: list
    commands: dict
    first_seen_s: dict
    redis_steps: list
    """[(monotonic s, step s)] of Redis' clock, the first at minus infinity."""
    wall_of_monotonic: float
    bounds: dict
    forgot_s: list = field(default_factory=list)
    """Moments at which Redis lost what it had not on disk, or everything."""
    rounds: list = field(default_factory=list)
    tracebacks: list = field(default_factory=list)


def judge(record):
    """Findings by kind; a kind without findings has an empty list."""
    acts = sorted((entry for entry in record.entries if entry["what"] == "act"), key=lambda entry: entry["at_s"])
    executed = [act for act in acts if act["outcome"] == "completed"]
    return {
        "executed twice": _twice(acts),
        "executed after the deadline": _late(executed, record),
        "out of order": _order(acts),
        "started while latched": _latched(executed),
        "executed without a record": _unrecorded(acts, record),
        "denied by the record": _denied(executed, record),
        "claimed by the record": _claimed(acts, record),
        "without an end": _open(record),
        "beyond a limit": _beyond(record),
        "held without a valid set point": _held(record),
        "not back to normal": _abnormal(record),
        "traceback": list(record.tracebacks),
    }


def _twice(acts):
    return [f"{key}: {count} times" for key, count in Counter(act["command_id"] for act in acts).items() if count > 1]


def issued_at_s(command, seen_s, record):
    """Monotonic time at which it was issued: the latest moment before it was seen at which Redis' clock showed `issued_s`."""
    found = []
    starts = [at_s for at_s, _ in record.redis_steps]
    for (begins_s, step_s), ends_s in zip(record.redis_steps, [*starts[1:], float("inf")], strict=True):
        at_s = command.issued_s - record.wall_of_monotonic - step_s
        if begins_s - ROUNDING_S <= at_s <= min(ends_s, seen_s) + ROUNDING_S:
            found.append(at_s)
    return max(found, default=seen_s)


def _late(executed, record):
    found = []
    for act in executed:
        command = record.commands.get(act["command_id"])
        if command is None:
            continue  # _unrecorded names it
        if act["type"] == "emergency_shutdown":
            # Late is better than never where only a clock's step makes it late: Redis' own clock judges these.
            step_s = [step for begins_s, step in record.redis_steps if begins_s <= act["at_s"]][-1]
            late_s = act["at_s"] + record.wall_of_monotonic + step_s - command.issued_s - command.timeout_s
            if late_s > ROUNDING_S:
                found.append(f"{act['command_id']} {act['type']}: {late_s:.2f} s late")
            continue
        seen_s = record.first_seen_s.get(act["command_id"], act["at_s"])
        late_s = act["at_s"] - issued_at_s(command, seen_s, record) - command.timeout_s
        if late_s > ROUNDING_S:
            found.append(f"{act['command_id']} {act['type']}: {late_s:.2f} s late")
    return found


def _order(acts):
    """Sequence numbers and epochs grow in the order of execution; shutdowns by hand carry neither."""
    found, last = [], defaultdict(lambda: (0, 0))
    for act in acts:
        if act["type"] == "emergency_shutdown":
            continue
        seq, epoch = last[act["device_id"]]
        if act["seq"] <= seq or act["epoch"] < epoch:
            found.append(f"{act['device_id']}: seq {act['seq']} epoch {act['epoch']} after seq {seq} epoch {epoch}")
        last[act["device_id"]] = (act["seq"], act["epoch"])
    return found


def _latched(executed):
    found, latched = [], set()
    for act in executed:
        if act["type"] == "emergency_shutdown":
            latched.add(act["device_id"])
        elif act["reset"]:
            latched.discard(act["device_id"])
        elif act["type"] in STARTS and act["device_id"] in latched:
            found.append(f"{act['command_id']}: {act['type']} of a latched {act['device_id']}")
    return found


def _unrecorded(acts, record):
    """Only a shutdown by hand may go out before its record; when PostgreSQL is away and Redis then forgets it, none is left."""
    found = [act for act in acts if act["command_id"] not in record.commands]
    return [
        f"{act['command_id']} {act['type']}"
        for act in found
        if act["type"] != "emergency_shutdown" or not _forgotten(act, record)
    ]


def _forgotten(act, record):
    """Whether Redis lost its memory so soon after that the answer may have been in it."""
    return any(-1.5 <= lost_s - act["at_s"] <= LOST_WITH_REDIS_S for lost_s in record.forgot_s)


def _denied(executed, record):
    """What was executed may be on record as completed, or as indeterminate after a crash. Where Redis lost its memory with the
    answer in it, nothing can tell the record better."""
    found = []
    for act in executed:
        command = record.commands.get(act["command_id"])
        if command is None or command.outcome not in DENYING:
            continue
        if not _forgotten(act, record):
            found.append(f"{act['command_id']} {act['type']}: on record as {command.outcome}")
    return found


def _claimed(acts, record):
    done = {act["command_id"] for act in acts}
    return [
        f"{key} {c.type}: never executed" for key, c in record.commands.items() if c.outcome == "completed" and key not in done
    ]


def _open(record):
    found = [f"{key} {command.type}" for key, command in record.commands.items() if command.outcome is None]
    return found + [f"{key}, after round {round_.number}" for round_ in record.rounds for key in round_.still_open]


def _beyond(record):
    found = []
    for entry in record.entries:
        if entry["what"] != "pack":
            continue
        bounds = record.bounds[entry["device_id"]]
        power_w, current_a = entry["power_w"], entry["current_a"]
        pairs = (
            ("discharge W", power_w, bounds.discharge_w),
            ("charge W", -power_w, bounds.charge_w),
            ("discharge A", current_a, bounds.discharge_a),
            ("charge A", -current_a, bounds.charge_a),
            ("SoC", entry["soc_pct"], bounds.soc_max_pct),
            ("minus SoC", -entry["soc_pct"], -bounds.soc_min_pct),
            ("cell V", entry["cell_max_v"], bounds.cell_max_v),
            ("minus cell V", -entry["cell_min_v"], -bounds.cell_min_v),
            ("temperature", entry["temperature_c"], bounds.temperature_c),
        )
        for name, value, limit in pairs:
            if value > limit + abs(limit) * (TOLERANCE - 1.0):
                found.append(f"{entry['device_id']}: {name} {value:.1f}, limit {limit:.1f}")
    return found


def _held(record):
    """Power flows only under a start that this life of the device executed and whose validity has not run out."""
    found, valid_until_s = [], {}
    for entry in sorted(record.entries, key=lambda entry: entry["at_s"]):
        device_id = entry["device_id"]
        if entry["what"] == "start":
            valid_until_s[device_id] = 0.0
        elif entry["what"] == "act":
            if entry["type"] in STARTS and entry["outcome"] == "completed":
                valid_until_s[device_id] = entry["at_s"] + entry["valid_for_s"]
        elif entry["power_w"] and entry["at_s"] > valid_until_s.get(device_id, 0.0) + 1e-6:
            late_s = entry["at_s"] - valid_until_s.get(device_id, 0.0)
            found.append(f"{device_id}: {entry['power_w']:.0f} W, {late_s:.2f} s past the set point's validity")
    return found


def _abnormal(record):
    found = []
    for round_ in record.rounds:
        missing = sorted(set(record.bounds) - round_.devices)
        if round_.source in ("", "stop") or missing:
            found.append(
                f"round {round_.number}: decided by {round_.source or 'nobody'}, without {', '.join(missing) or 'no device'}"
            )
        bad = [outcome for outcome in round_.outcomes if outcome != "completed"]
        if bad:
            found.append(f"round {round_.number}: commands ended as {', '.join(map(str, bad))}")
    return found
