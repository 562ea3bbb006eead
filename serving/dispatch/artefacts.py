"""Artefacts of learned policies on a site controller: fetched from GridFS by the hash in the row, verified, kept in memory.

Here: `StoredArtefacts`, which says what a learned policy needs before it may decide. Verified are hash, metadata, shapes, layout
version and that row and artefact make a policy; chemistry and information are compared with the observation by
serving.dispatch.eligibility. Not here: GridFS itself (stores.mongo.artefacts).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from core.artefact import ArtefactFiles
from core.policy_record import PolicyRecord
from policies.learned.artefact import Metadata, open_artefact
from serving.dispatch.eligibility import MPC_NEEDS, Needs
from serving.dispatch.inputs import PRICE
from serving.dispatch.policy_factory import artefact_sha256, policy_of
from stores.connections import Stores
from stores.mongo.artefacts import load_artefact

KEPT = 8
"""Artefacts in memory; a site ranks few policies, and each has at most core.artefact.MAX_BYTES."""


@dataclass(slots=True)
class StoredArtefacts:
    """GridFS of the stores. What was verified once is not fetched again: its name is its hash."""

    stores: Stores
    _files: dict[str, ArtefactFiles] = field(default_factory=dict)
    _needs: dict[str, tuple[PolicyRecord, Needs]] = field(default_factory=dict)

    def files(self, record: PolicyRecord) -> ArtefactFiles:
        """The files of the row's artefact. Raises InputError, ArtefactError (missing, damaged) or StoreError."""
        sha256 = artefact_sha256(record)
        found = self._files.get(sha256)
        if found is None:
            found = load_artefact(self.stores.mongo, sha256)
            while len(self._files) >= KEPT:
                self._files.pop(next(iter(self._files)))
            self._files[sha256] = found
        return found

    def needs(self, record: PolicyRecord) -> Needs:
        """What the row's policy needs; raises PulseBmsError saying what is missing, damaged or does not fit."""
        key = record.policy_id or record.name
        known = self._needs.get(key)
        if known is not None and known[0] == record:
            return known[1]
        files = self.files(record)
        policy_of(record, files)  # built for its checks: what does not fit is a reason, not a failure while deciding
        needs = needs_of_artefact(record, open_artefact(files).metadata)
        self._needs[key] = (record, needs)
        return needs


def needs_of_artefact(record: PolicyRecord, metadata: Metadata) -> Needs:
    """HYBRID needs what its floor, the MPC, needs; others what they were made to see.

    Where the artefact was made for prices that nobody knows ahead, none need be known past the interval.
    """
    environment = metadata.parameters.get("environment")
    said = environment.get("information") if isinstance(environment, dict) else metadata.parameters.get("information")
    price_s = MPC_NEEDS.known_s[PRICE] if said in (None, "published") else 0.0
    if record.policy_type == "HYBRID":
        return Needs(
            predictions=True,
            known_s={**MPC_NEEDS.known_s, PRICE: price_s},
            information=frozenset(metadata.information),
            chemistries=frozenset(metadata.chemistries) & MPC_NEEDS.chemistries,
        )
    return Needs(
        known_s={PRICE: price_s},
        information=frozenset(metadata.information),
        chemistries=frozenset(metadata.chemistries),
    )
