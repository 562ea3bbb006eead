"""Which faults come when: a pure function of the seed. How each is done: chaos.faults."""

import random
from dataclasses import dataclass

DISPATCHERS = ("dispatcher-a", "dispatcher-b")
DEVICES = ("pack-lfp", "pack-nmc")
SERVERS = ("postgres", "valkey", "mongod")
STORES_OF = {**dict.fromkeys(DISPATCHERS, SERVERS), **dict.fromkeys(DEVICES, ("valkey", "mongod"))}
"""Devices use PostgreSQL only while they are provisioned."""

INTERVAL_S = 3
TIMEOUT_S = 2
LEASE_TTL_S = 4
GRACE_S = 5.0
"""Of serving.dispatch.tick: past deadline and grace a command has ended."""
LOST_PATIENCE_S = 8.0
"""A call whose answer is to be lost must be made first: so long it is waited for."""
CLOCK_STEPS_S = (-300, -60, -7, 7, 60, 300)

WEIGHTS = {
    "kill": 30,
    "lost": 28,
    "slow": 10,
    "pause": 5,
    "silent": 1,
    "clock": 12,
    "disk_full": 3,
    "empty": 3,
    "read_only": 4,
    "shutdown": 4,
}


@dataclass(frozen=True)
class Fault:
    """One fault: `target` is a process or a server, `at_s` counts from the round's beginning, `size` means what the kind says."""

    number: int
    kind: str
    target: str
    at_s: float
    hold_s: float
    store: str = ""
    size: float = 0.0

    def __str__(self):
        place = f"{self.target}/{self.store}" if self.store else self.target
        return f"#{self.number} {self.kind} {place} at {self.at_s:.2f} s for {self.hold_s:.2f} s, size {self.size:g}"


def schedule(seed, count, a_round, *, step_clocks=True):
    """Rounds of faults, `count` in all; every kind is there once before any is drawn by chance."""
    rng = random.Random(seed)  # noqa: S311
    kinds = [kind for kind in WEIGHTS if step_clocks or kind != "clock"]
    drawn = kinds[:count] + rng.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=max(0, count - len(kinds)))
    rng.shuffle(drawn)
    rounds = []
    for first in range(0, count, a_round):
        free_s, at_s, faults = {}, 0.0, []
        for number, kind in enumerate(drawn[first : first + a_round], first + 1):
            at_s += rng.uniform(0.05, 0.7)
            fault = _fault(rng, number, kind, at_s)
            # One fault at a time in one place: what is dead cannot be killed.
            place = (fault.target, fault.store)
            at_s = max(at_s, free_s.get(place, 0.0))
            faults.append(Fault(number, kind, fault.target, at_s, fault.hold_s, fault.store, fault.size))
            free_s[place] = at_s + fault.hold_s + 0.05
        rounds.append(faults)
    return rounds


def _fault(rng, number, kind, at_s):
    hold_s, store, size = rng.uniform(0.1, 2.0), "", 0.0
    if kind == "kill":
        target = rng.choice((*DISPATCHERS, *DEVICES, *DEVICES, "postgres", "valkey", "valkey", "mongod"))
    elif kind in ("lost", "slow"):
        target = rng.choice(list(STORES_OF))
        # A running device asks MongoDB once a minute: there an answer is late, but hardly ever there to be lost.
        store = "valkey" if kind == "lost" and target in DEVICES else rng.choice((*STORES_OF[target], "valkey"))
        hold_s = LOST_PATIENCE_S if kind == "lost" else rng.uniform(1.0, 3.0)
        size = rng.randrange(20) if kind == "lost" else rng.uniform(0.1, 1.5)
    elif kind == "pause":
        target, hold_s = "leader", LEASE_TTL_S + rng.uniform(1.0, 3.0)
    elif kind == "silent":
        target, hold_s = rng.choice(DEVICES), 10.0 * TIMEOUT_S
    elif kind == "clock":
        target, size = rng.choice((*DISPATCHERS, *DEVICES, "postgres", "valkey", "valkey")), rng.choice(CLOCK_STEPS_S)
        hold_s = rng.uniform(0.5, 5.0)
    elif kind == "shutdown":
        target, hold_s = rng.choice(DEVICES), rng.uniform(1.0, 4.0)
    else:
        target = "postgres" if kind == "read_only" else "valkey"
        hold_s = rng.uniform(0.5, 4.0)
    return Fault(number, kind, target, at_s, hold_s, store, size)
