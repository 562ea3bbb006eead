"""From a row of `optimization_policies` to the policy that it describes.

Not here: whether it may run (serving.dispatch.eligibility)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from core.errors import InputError
from core.policy_record import PolicyRecord
from policies.base import Policy
from policies.mpc import MpcPolicy

Factory = Callable[[PolicyRecord], Policy]
NO_ARTEFACT = "this controller carries no artefact"


def policy_of(record: PolicyRecord) -> Policy:
    """The policy of a row; raises InputError naming the field when its config is not valid."""
    if record.policy_type == "MPC":
        return MpcPolicy(record)
    raise InputError(
        source=f"optimization_policies {record.name!r}",
        field="policy_type",
        value=record.policy_type,
        expected=f"MPC: {NO_ARTEFACT} for learned policies",
    )


@dataclass(slots=True)
class Built:
    """Policies by row, kept so that solvers stay warm, built anew when the row changes."""

    factory: Factory = policy_of
    _known: dict[str, tuple[PolicyRecord, Policy]] = field(default_factory=dict)

    def policy(self, record: PolicyRecord) -> Policy:
        """The policy of a row; raises InputError when its config is not valid."""
        key = record.policy_id or record.name
        known = self._known.get(key)
        if known is None or known[0] != record:
            known = (record, self.factory(record))
            self._known[key] = known
        return known[1]
