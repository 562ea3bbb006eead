"""From a row of `optimization_policies`, and its artefact where it is learned, to the policy that it describes.

Not here: whether it may run (serving.dispatch.eligibility), where artefacts are kept (serving.dispatch.artefacts)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from core.artefact import ArtefactFiles
from core.errors import InputError
from core.policy_record import PolicyRecord
from policies.base import Policy
from policies.learned.actor import ActorPolicy
from policies.learned.artefact import Artefact, open_artefact
from policies.learned.chain_policy import LoadChainPolicy
from policies.learned.hybrid import ARTEFACT_KEY, HybridPolicy
from policies.learned.value import EnergyValuePolicy
from policies.mpc import MpcPolicy
from serving.dispatch.pack_layout import layout_of
from serving.shadow.settings import without_watch

NO_ARTEFACT = "this controller carries no artefact"


class Factory(Protocol):
    """Makes the policy of a row; `files` are its artefact's, None where it has none."""

    def __call__(self, record: PolicyRecord, files: ArtefactFiles | None = None) -> Policy:
        """Raises InputError or ArtefactError when row and artefact make no policy."""
        ...


def policy_of(record: PolicyRecord, files: ArtefactFiles | None = None) -> Policy:
    """The policy of a row.

    Raises InputError naming the field when its config is not valid, ArtefactError naming what of the artefact does not fit: hash,
    shapes, observation layout, kind.
    """
    record = without_watch(record)
    if record.policy_type == "MPC":
        return MpcPolicy(record)
    source = f"optimization_policies {record.name!r}"
    if record.policy_type not in ("RL", "HYBRID"):
        raise InputError(source=source, field="policy_type", value=record.policy_type, expected="MPC, RL or HYBRID")
    if files is None:
        expected = f"MPC: {NO_ARTEFACT} for learned policies"
        raise InputError(source=source, field="policy_type", value=record.policy_type, expected=expected)
    artefact = open_artefact(files, sha256=artefact_sha256(record), source=f"{source}: artefact")
    if record.policy_type == "HYBRID":
        if artefact.metadata.kind == "load_chain":
            return LoadChainPolicy(record, artefact)
        return HybridPolicy(record, artefact, None if artefact.metadata.kind == "energy_value" else layout_of(artefact))
    return _alone(record, artefact, source)


def _alone(record: PolicyRecord, artefact: Artefact, source: str) -> Policy:
    """An RL row: a network that decides without a plan."""
    if artefact.metadata.kind == "load_chain":
        raise InputError(source=source, field="policy_type", value="RL", expected="HYBRID: a load chain plans with the MPC's row")
    unknown = sorted(set(record.config) - {ARTEFACT_KEY})
    if unknown:
        raise InputError(
            source=source,
            field=f"config.{unknown[0]}",
            value=record.config[unknown[0]],
            expected="artefact alone for an RL policy",
        )
    if artefact.metadata.kind == "energy_value":
        return EnergyValuePolicy(record, artefact)
    return ActorPolicy(record, artefact, layout_of(artefact))


def artefact_sha256(record: PolicyRecord) -> str:
    """The SHA-256 that a learned policy's row names; raises InputError when it names none."""
    found = record.config.get(ARTEFACT_KEY)
    if not isinstance(found, str) or not found:
        raise InputError(
            source=f"optimization_policies {record.name!r}",
            field=f"config.{ARTEFACT_KEY}",
            value=found,
            expected="the SHA-256 of its artefact",
        )
    return found


@dataclass(slots=True)
class Built:
    """Policies by row, kept so that solvers stay warm, built anew when the row changes."""

    factory: Factory = policy_of
    _known: dict[str, tuple[PolicyRecord, Policy]] = field(default_factory=dict)

    def policy(self, record: PolicyRecord, files: ArtefactFiles | None = None) -> Policy:
        """The policy of a row; raises as its factory does."""
        key = record.policy_id or record.name
        known = self._known.get(key)
        if known is None or known[0] != record:
            known = (record, self.factory(record) if files is None else self.factory(record, files))
            self._known[key] = known
        return known[1]
