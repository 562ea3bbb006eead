"""Which policy decides: the ranked rows first, then the rule, then hold, then stop.

Here: building policies from rows (once, rebuilt when a row changes), trying them in order, recording why better ones
did not decide. Not here: what a policy is (policies.base).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError, PulseBmsError
from core.policy_record import PolicyRecord
from policies.base import Observation, Policy, PolicyUnableError
from policies.mpc import MpcPolicy
from policies.rules import Hold, ThresholdRule
from serving.dispatch.gate import Gated, gate

log = structlog.get_logger()

PROJECTED_TOO_FAR = 0.5
"""A decision of which the gate cuts more than this share is not the policy's any more: the next one is asked."""
MATERIAL_SHARE_W = 1000.0


@dataclass(slots=True)
class PolicyBench:
    """Policies of one site, kept between ticks so that solvers stay warm."""

    _built: dict[str, tuple[PolicyRecord, Policy]] = field(default_factory=dict)
    rule: Policy = field(default_factory=ThresholdRule)
    hold: Policy = field(default_factory=Hold)

    def policy(self, record: PolicyRecord) -> Policy:
        """The policy of a row; raises InputError when its config is not valid."""
        key = record.policy_id or record.name
        known = self._built.get(key)
        if known is not None and known[0] == record:
            return known[1]
        if record.policy_type != "MPC":
            raise InputError(
                source=f"optimization_policies {record.name!r}",
                field="policy_type",
                value=str(record.policy_type),
                expected="MPC: this controller carries no artefact for learned policies",
            )
        policy = MpcPolicy(record)
        self._built[key] = (record, policy)
        return policy

    def decide(self, records: Sequence[PolicyRecord], observation: Observation) -> tuple[Gated, list[tuple[str, str]]]:
        """The best decision that passes the gate, and (name, why not) of those passed over, better ones first.

        Never raises for a policy's failure: the last resort is a stop.
        """
        passed_over: list[tuple[str, str]] = []
        if not records:
            passed_over.append(("optimization_policies", "no active policy"))
        for record in records:
            gated = self._try(record.name, lambda r=record: self.policy(r), observation, passed_over)
            if gated is not None:
                return gated, passed_over
        for fallback in (self.rule, self.hold):
            gated = self._try(fallback.name, lambda p=fallback: p, observation, passed_over)
            if gated is not None:
                return gated, passed_over
        return gate(stop_decision(observation), observation), passed_over

    def _try(self, name: str, build: object, observation: Observation, passed_over: list[tuple[str, str]]) -> Gated | None:
        assert callable(build)  # noqa: S101
        try:
            gated = gate(build().decide(observation), observation)
        except PolicyUnableError as error:
            why = str(error)
        except PulseBmsError as error:
            why = f"refused: {error}"
        except Exception as error:
            log.exception("policy_raised", policy=name)
            why = f"raised {type(error).__name__}: {error}"
        else:
            total_w = sum(abs(point.power_w) for point in gated.decision.set_points) + gated.projected_w
            far = gated.projected_w > PROJECTED_TOO_FAR * total_w and gated.projected_w > MATERIAL_SHARE_W
            if not far or name in (self.rule.name, self.hold.name):
                return gated
            why = f"the gate cut {gated.projected_w:.0f} of {total_w:.0f} W: {'; '.join(gated.changes.values())}"
        log.warning("policy_passed_over", policy=name, why=why)
        passed_over.append((name, why))
        return None


def stop_decision(observation: Observation) -> Decision:
    """Zero for every device: what is left when nothing could decide."""
    return Decision(
        site_id=observation.site.site_id,
        starts_at=observation.starts_at,
        interval_s=observation.interval_s,
        source="stop",
        set_points=tuple(SetPoint(device_id=device.device_id, power_w=0.0, reason=Reason.STOP) for device in observation.devices),
    )


def with_record(gated: Gated, passed_over: Sequence[tuple[str, str]], left_out: dict[str, str]) -> Decision:
    """The decision as it is recorded: with what the gate changed and who was left out, and why."""
    inputs = {**gated.decision.inputs, "gate": dict(gated.changes), "left_out": left_out}
    return replace(gated.decision, passed_over=tuple(passed_over), inputs=inputs)
