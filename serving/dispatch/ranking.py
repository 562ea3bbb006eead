"""Which policy decides: the ranked rows first, then the rule, then hold, then stop.

Here: asking those that are eligible in order, recording why better ones did not decide. Not here: what a policy is
(policies.base), whether one may run (serving.dispatch.eligibility), how one is run (serving.dispatch.runner).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import structlog

from core.decisions import Decision, Reason, SetPoint
from core.errors import PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation, Policy, PolicyUnableError
from policies.rules import Hold, ThresholdRule
from serving.dispatch.eligibility import Artefacts, NoArtefacts, why_not
from serving.dispatch.gate import Gated, gate
from serving.dispatch.meter import Meter
from serving.dispatch.runner import InlineRunner, PolicyFailedError, Runner, Why, checked

log = structlog.get_logger()

PROJECTED_TOO_FAR = 0.5
"""A decision of which the gate cuts more than this share is not the policy's any more: the next one is asked."""
MATERIAL_SHARE_W = 1000.0
DEADLINE_SHARE = 0.2
"""A policy may take this share of the interval ..."""
ALL_DEADLINES = 2.0
"""... and all ranked ones together this many times as long: the rule then has more than half of the interval left."""
LONGEST_S = 60.0
SHORTEST_S = 0.05


class PassedOver(NamedTuple):
    """A policy that did not decide."""

    name: str
    why: Why
    text: str


@dataclass(slots=True)
class PolicyBench:
    """The policies of one site, kept between ticks so that solvers stay warm."""

    runner: Runner = field(default_factory=InlineRunner)
    artefacts: Artefacts = field(default_factory=NoArtefacts)
    rule: Policy = field(default_factory=ThresholdRule)
    hold: Policy = field(default_factory=Hold)

    def decide(
        self,
        records: Sequence[PolicyRecord],
        observation: Observation,
        *,
        meter: Meter | None = None,
        deadline_s: float = LONGEST_S,
    ) -> tuple[Gated, list[PassedOver]]:
        """The best decision that passes the gate, and those passed over, better ones first.

        `deadline_s` bounds each ranked policy, twice that all of them. Never raises for a policy's failure: the last resort is
        a stop.
        """
        passed_over: list[PassedOver] = []
        if not records:
            passed_over.append(PassedOver("optimization_policies", Why.INELIGIBLE, "no active policy"))
        ends_s = time.monotonic() + ALL_DEADLINES * deadline_s
        for record in records:
            found = self._ranked(record, observation, meter, min(deadline_s, ends_s - time.monotonic()))
            if isinstance(found, Gated):
                return found, passed_over
            passed_over.append(found)
        for fallback in (self.rule, self.hold):
            found = self._fallback(fallback, observation, meter)
            if isinstance(found, Gated):
                return found, passed_over
            passed_over.append(found)
        return _stopped(observation, meter), passed_over

    def prepare(self, records: Sequence[PolicyRecord]) -> None:
        """Fetch and build the learned ones before a tick waits: the first load chain of an installation compiles for 20 s."""
        for record in records:
            if record.policy_type != "MPC":
                try:
                    self.artefacts.needs(record)
                except Exception as error:  # noqa: BLE001 - the tick asks again and says why
                    log.warning("policy_not_ready", policy=record.name, why=f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """End what runs policies."""
        self.runner.close()

    def _ranked(
        self, record: PolicyRecord, observation: Observation, meter: Meter | None, deadline_s: float
    ) -> Gated | PassedOver:
        ineligible = why_not(record, observation, self.artefacts)
        if ineligible:
            return _pass_over(record.name, Why.INELIGIBLE, ineligible)
        if deadline_s < SHORTEST_S:
            return _pass_over(record.name, Why.DEADLINE, "policies before it have used the time for deciding")
        try:
            files = None if record.policy_type == "MPC" else self.artefacts.files(record)
            gated = gate(self.runner.decide(record, observation, deadline_s, files), observation, meter)
        except PolicyFailedError as error:
            return _pass_over(record.name, error.why, str(error))
        except PulseBmsError as error:
            return _pass_over(record.name, Why.REFUSED, f"refused: {error}")
        too_far = cut_too_far(gated)
        return _pass_over(record.name, Why.CUT, too_far) if too_far else gated

    def _fallback(self, policy: Policy, observation: Observation, meter: Meter | None) -> Gated | PassedOver:
        """The rule and hold need no solver: they run here, and whatever the gate leaves of them stands."""
        try:
            return gate(checked(policy.decide(observation), observation), observation, meter)
        except PolicyUnableError as error:
            return _pass_over(policy.name, Why.UNABLE, str(error))
        except PulseBmsError as error:
            return _pass_over(policy.name, Why.REFUSED, f"refused: {error}")
        except Exception as error:
            log.exception("policy_raised", policy=policy.name)
            return _pass_over(policy.name, Why.RAISED, f"raised {type(error).__name__}: {error}")


def _stopped(observation: Observation, meter: Meter | None) -> Gated:
    """The last resort: zero for all, whatever the gate finds. Zero needs no gate; it only says more of it."""
    decision = stop_decision(observation)
    try:
        return gate(decision, observation, meter)
    except Exception as error:
        log.exception("gate_raised", policy=decision.source)
        why = f"the gate raised {type(error).__name__}: {error}"
        return Gated(decision=decision, changes={point.device_id: why for point in decision.set_points}, projected_w=0.0)


def _pass_over(name: str, why: Why, text: str) -> PassedOver:
    log.warning("policy_passed_over", policy=name, reason=why.value, why=text)
    return PassedOver(name, why, text)


def cut_too_far(gated: Gated) -> str:
    """Why what the gate left of a decision is not its policy's any more; empty when it still is."""
    total_w = sum(abs(point.power_w) for point in gated.decision.set_points) + gated.projected_w
    if gated.projected_w > PROJECTED_TOO_FAR * total_w and gated.projected_w > MATERIAL_SHARE_W:
        return f"the gate cut {gated.projected_w:.0f} of {total_w:.0f} W: {'; '.join(gated.changes.values())}"
    return ""


def deadline_of(interval_wall_s: float) -> float:
    """Seconds that one policy may take of an interval of so many wall seconds."""
    return min(LONGEST_S, DEADLINE_SHARE * interval_wall_s)


def stop_decision(observation: Observation) -> Decision:
    """Zero for every device: what is left when nothing could decide."""
    return Decision(
        site_id=observation.site.site_id,
        starts_at=observation.starts_at,
        interval_s=observation.interval_s,
        source="stop",
        set_points=tuple(SetPoint(device_id=device.device_id, power_w=0.0, reason=Reason.STOP) for device in observation.devices),
    )


def with_record(gated: Gated, passed_over: Sequence[PassedOver], left_out: Mapping[str, str]) -> Decision:
    """The decision as it is recorded: with what the gate changed and who was left out, and why."""
    inputs = {**gated.decision.inputs, "gate": dict(gated.changes), "left_out": dict(left_out)}
    if gated.meter:
        inputs["meter"] = dict(gated.meter)
    pairs = tuple((item.name, item.text) for item in passed_over)
    return replace(gated.decision, passed_over=pairs, inputs=inputs)
