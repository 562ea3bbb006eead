"""The policies that every evaluation carries along, and from a config or row to a policy. Not here: perfect foresight."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from core.artefact import ArtefactFiles
from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError
from core.policy_record import PolicyRecord
from core.series import Series
from policies.base import Observation, Policy
from policies.mpc import MpcPolicy
from policies.rules import ThresholdRule
from policies.rules_cycle import OneCycleRule
from serving.dispatch.policy_factory import policy_of
from serving.evaluation.config import EvaluationConfig

HOUR_S = 3600.0
PRICE_ERRORS = "price_eur_per_kwh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """What is evaluated: a baseline by its name, or a row with its artefact."""

    name: str
    record: PolicyRecord | None = None
    files: ArtefactFiles | None = None
    policy_id: str | None = None
    """Of the row that the score is written to."""

    def identity(self) -> dict[str, Any]:
        """All that its decisions depend on; JSON-ready."""
        record = self.record
        return {
            "name": self.name if record is None else "row",
            "policy_type": None if record is None else record.policy_type,
            "config": None if record is None else dict(record.config),
            "horizon_hours": None if record is None else record.horizon_hours,
            "artefact": None if self.files is None else self.files.sha256,
        }

    def policy(self, config: EvaluationConfig, interval_s: float) -> Policy:
        """A new policy. Raises InputError or ArtefactError when it cannot be made."""
        if self.record is not None:
            record = replace(self.record, update_interval_seconds=int(interval_s))
            return policy_of(record) if record.policy_type == "MPC" else policy_of(record, self.files)
        if self.name == "idle":
            return Idle()
        if self.name == "threshold":
            return ThresholdRule()
        if self.name == "one_cycle":
            return OneCycleRule()
        row = PolicyRecord(
            policy_id=None, site_id="evaluation", name=self.name, policy_type="MPC", config={},
            horizon_hours=config.mpc_horizon_hours, update_interval_seconds=int(interval_s),
        )  # fmt: skip
        if self.name == "mpc":
            return MpcPolicy(row)
        if self.name == "mpc_corrected":
            return CorrectedMpc(row, config.correction_phi)
        raise InputError(source="evaluation", field="policy", value=self.name, expected="a baseline or a row")


class Idle:
    """Zero, always: what the other policies' money is counted from."""

    name = "idle"

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide."""
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(SetPoint(device_id=d.device_id, power_w=0.0, reason=Reason.IDLE) for d in observation.devices),
        )


@dataclass(slots=True)
class CorrectedMpc:
    """The MPC on prices whose unknown part is shifted by what is left of the latest error: phi^k after k hours (AR(1))."""

    record: PolicyRecord
    phi: float
    _mpc: MpcPolicy = field(init=False)

    def __post_init__(self) -> None:
        self._mpc = MpcPolicy(self.record)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide."""
        errors, until = observation.errors.get(PRICE_ERRORS), observation.price_known_until
        if errors is None or until is None or not len(errors):
            return self._mpc.decide(observation)
        prices = observation.price_eur_per_kwh
        first = int(np.ceil((until - prices.start).total_seconds() / prices.dt_s - 1e-9))
        hours = (np.arange(first, len(prices)) * prices.dt_s - (observation.starts_at - prices.start).total_seconds()) / HOUR_S
        values = prices.values.copy()
        values[first:] += float(errors.values[-1]) * self.phi**hours
        return self._mpc.decide(replace(observation, price_eur_per_kwh=Series(prices.name, prices.start, prices.dt_s, values)))
