"""Prometheus metrics of the dispatcher: names, units, labels. What each means and what to do: docs/runbook.md.

Labels are few and fixed (site, policy row, a class of reasons), never a device: a fleet must not flood the collector. Not
here: the port (serving.dispatch.health).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.commands import CommandType, Outcome
from core.decisions import Decision
from serving.dispatch.gate import Gated
from serving.dispatch.ranking import PassedOver
from stores.redis.pending import Depths

TICK_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SITE = ("site",)


@dataclass(slots=True)
class DispatchMetrics:
    """Every metric of one process; `site(...)` binds them to a site."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    tick_seconds: Histogram = field(init=False)
    ticks: Counter = field(init=False)
    ticks_missed: Counter = field(init=False)
    tick_late_seconds: Gauge = field(init=False)
    last_tick: Gauge = field(init=False)
    decisions: Counter = field(init=False)
    passed_over: Counter = field(init=False)
    policy_restarts: Counter = field(init=False)
    input_age_seconds: Gauge = field(init=False)
    devices: Gauge = field(init=False)
    gate_cuts: Counter = field(init=False)
    shutdowns: Counter = field(init=False)
    queue: Gauge = field(init=False)
    commands: Counter = field(init=False)
    outcomes: Counter = field(init=False)
    open_commands: Gauge = field(init=False)
    lease_epoch: Gauge = field(init=False)
    lease_seconds_left: Gauge = field(init=False)
    store_failures: Counter = field(init=False)
    loop_restarts: Counter = field(init=False)
    shadow_turns: Counter = field(init=False)
    days_scored: Counter = field(init=False)
    policy_alarms: Counter = field(init=False)
    policy_day_score: Gauge = field(init=False)
    policy_live_score: Gauge = field(init=False)
    predictions_adrift: Gauge = field(init=False)

    def __post_init__(self) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"pulsebms_{name}", text, (*SITE, *labels), registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"pulsebms_{name}", text, (*SITE, *labels), registry=self.registry)

        self.tick_seconds = Histogram(
            "pulsebms_tick_seconds", "Wall time of a tick", SITE, buckets=TICK_BUCKETS_S, registry=self.registry
        )
        self.ticks = counter("ticks", "Ticks by result: decided, no_decision, lost", "result")
        self.ticks_missed = counter("ticks_missed", "Intervals that passed without a tick of this dispatcher as the leader")
        self.tick_late_seconds = gauge("tick_late_seconds", "Wall seconds from the interval's boundary to the tick's begin")
        self.last_tick = gauge("last_tick_timestamp_seconds", "Unix time at which the last tick ended")
        self.decisions = counter("decisions", "Decisions by the policy that made them", "source")
        self.passed_over = counter("policy_passed_over", "Policies that did not decide, by class of reasons", "policy", "why")
        self.policy_restarts = counter("policy_process_restarts", "Policy processes that were killed or died")
        self.input_age_seconds = gauge("input_age_seconds", "Plant seconds since the oldest input of its kind", "input")
        self.devices = gauge("devices", "Devices: commanded, left_out, latched", "state")
        self.gate_cuts = counter("gate_cuts", "Set points changed by the gate: state, limits, replay, meter", "by")
        self.shutdowns = counter("alarm_shutdowns", "Emergency shutdowns that the dispatcher sent by itself")
        self.queue = gauge("queue_depth", "Messages in Redis: pending, processing, responses, unrecorded", "queue")
        self.commands = counter("commands_issued", "Commands recorded, by type", "type")
        self.outcomes = counter("commands_ended", "Commands that ended, by outcome", "outcome")
        self.open_commands = gauge("commands_open", "Commands that have not ended: recorded, pushed", "state")
        self.lease_epoch = gauge("lease_epoch", "Epoch of the lease while held, 0 as a standby")
        self.lease_seconds_left = gauge("lease_seconds_left", "Seconds for which the lease may still be trusted")
        self.store_failures = counter("store_failures", "Failures of a store, by exception", "kind")
        self.loop_restarts = counter("loop_restarts", "Loops of a site that ended with an error and were started again")

        self.shadow_turns = counter("shadow_turns", "Turns of shadows: decided, or why not", "policy", "outcome")
        self.days_scored = counter("days_scored", "Days: scored, unscored (marked with the reason), failed", "result")
        self.policy_alarms = counter("policy_alarms", "Alarms about policies, and what followed", "policy", "kind", "action")
        self.policy_day_score = gauge("policy_day_score", "Score of the newest scored day", "policy", "role")
        self.policy_live_score = gauge("policy_live_score", "Score of the newest scored days together", "policy", "role")
        self.predictions_adrift = gauge("predictions_adrift", "Packs' quantities that had drifted on the newest day", "policy")

    def site(self, site_id: str) -> SiteMetrics:
        """The same for one site."""
        return SiteMetrics(self, site_id)


@dataclass(slots=True)
class SiteMetrics:
    """What one site's dispatcher says of itself. Each method is cheap and never raises."""

    all: DispatchMetrics
    site_id: str

    @classmethod
    def unwatched(cls) -> SiteMetrics:
        """Metrics that nobody reads."""
        return DispatchMetrics().site("")

    def tick(self, result: str, wall_s: float, now_s: float) -> None:
        """A tick has ended."""
        self.all.ticks.labels(self.site_id, result).inc()
        self.all.tick_seconds.labels(self.site_id).observe(wall_s)
        self.all.last_tick.labels(self.site_id).set(now_s)

    def lost_tick(self, kind: str) -> None:
        """A tick that a store's failure ended."""
        self.all.ticks.labels(self.site_id, "lost").inc()
        self.all.store_failures.labels(self.site_id, kind).inc()

    def missed(self, count: int) -> None:
        """Intervals that passed while this leader could not tick."""
        if count:
            self.all.ticks_missed.labels(self.site_id).inc(count)

    def late(self, seconds: float) -> None:
        """A tick begins this long after its boundary."""
        self.all.tick_late_seconds.labels(self.site_id).set(seconds)

    def loop_restart(self) -> None:
        """The loop ended with an error and is started again."""
        self.all.loop_restarts.labels(self.site_id).inc()

    def decision(self, gated: Gated, passed_over: Iterable[PassedOver]) -> None:
        """Who decided, who did not, what the gate did."""
        self.all.decisions.labels(self.site_id, gated.decision.source).inc()
        for item in passed_over:
            self.all.passed_over.labels(self.site_id, item.name, item.why.value).inc()
        for by in gated.cut_by.values():
            self.all.gate_cuts.labels(self.site_id, by).inc()

    def inputs(self, decision: Decision) -> None:
        """Age of the oldest input of each kind."""
        for kind, age_s in input_ages(decision.inputs).items():
            self.all.input_age_seconds.labels(self.site_id, kind).set(age_s)

    def counted(self, *, commanded: int, left_out: int, depths: Depths, open_by_state: Mapping[str, int]) -> None:
        """Queues and devices after a tick."""
        for state, count in (("commanded", commanded), ("left_out", left_out), ("latched", depths.latched)):
            self.all.devices.labels(self.site_id, state).set(count)
        for queue in ("pending", "processing", "responses", "unrecorded"):
            self.all.queue.labels(self.site_id, queue).set(getattr(depths, queue))
        for state, count in open_by_state.items():
            self.all.open_commands.labels(self.site_id, state).set(count)

    def issued(self, kind: CommandType, count: int = 1) -> None:
        """Commands are on record and pushed."""
        self.all.commands.labels(self.site_id, kind.value).inc(count)

    def ended(self, outcome: Outcome) -> None:
        """A device's answer has ended a command; one that mends an end inferred before has not."""
        self.all.outcomes.labels(self.site_id, outcome.value).inc()

    def overdue(self, count: int) -> None:
        """Commands that ended without an answer."""
        if count:
            self.all.outcomes.labels(self.site_id, "overdue").inc(count)

    def shutdown(self) -> None:
        """Telemetry called for an emergency_shutdown."""
        self.all.shutdowns.labels(self.site_id).inc()

    def policy_restart(self) -> None:
        """The policy process was killed or died."""
        self.all.policy_restarts.labels(self.site_id).inc()

    def shadow(self, policy: str, outcome: str) -> None:
        """A shadow's turn has ended, or was left out."""
        self.all.shadow_turns.labels(self.site_id, policy, outcome).inc()

    def day_scored(self, result: str) -> None:
        """A day was scored, marked without a score, or failed."""
        self.all.days_scored.labels(self.site_id, result).inc()

    def policy_alarm(self, policy: str, kind: str, action: str) -> None:
        """Something was raised about an active policy."""
        self.all.policy_alarms.labels(self.site_id, policy, kind, action).inc()

    def policy_scores(self, policy: str, role: str, *, day: float | None, live: float | None, adrift: int) -> None:
        """Scores of the newest day and of the newest days together; what has none keeps its last."""
        if day is not None:
            self.all.policy_day_score.labels(self.site_id, policy, role).set(day)
        if live is not None:
            self.all.policy_live_score.labels(self.site_id, policy, role).set(live)
        if role == "commanded":
            self.all.predictions_adrift.labels(self.site_id, policy).set(adrift)

    def lease(self, epoch: int, seconds_left: float) -> None:
        """The lease as it is trusted."""
        self.all.lease_epoch.labels(self.site_id).set(epoch)
        self.all.lease_seconds_left.labels(self.site_id).set(seconds_left)


def input_ages(inputs: Mapping[str, Any]) -> dict[str, float]:
    """Kind of input -> age of its oldest, s. `telemetry:pack-1` is of kind `telemetry`; what has no age is left out."""
    ages: dict[str, float] = {}
    for name, note in inputs.items():
        age_s = note.get("age_s") if isinstance(note, Mapping) else None
        if isinstance(age_s, int | float):
            kind = name.split(":")[0]
            ages[kind] = max(ages.get(kind, 0.0), float(age_s))
    return ages
