"""An RL actor: observation vector of each pack, or of a site's packs together -> action in [-1, 1] -> share of rated power.

The vector is the environment's; `ObservationLayout` is all that this module knows of it. Not here: how it is made (given by
whoever builds the policy), training (PPO, SAC).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from core.decisions import Decision, Reason, SetPoint
from core.policy_record import PolicyRecord
from policies.base import Observation, PolicyUnableError
from policies.learned.artefact import Artefact
from policies.learned.bounds import bounds_of
from policies.learned.value import check_chemistries

SQUASHES = ("clip", "tanh")
"""`parameters.squash`: how the network's output becomes an action in [-1, 1]. clip: the mean of a Gaussian (PPO); tanh: SAC."""


class ObservationLayout(Protocol):
    """From what a policy sees to the numbers that a network was trained on."""

    @property
    def version(self) -> str:
        """Name and version; the artefact must have been made on the same."""
        ...

    @property
    def packs(self) -> int:
        """How many one vector shows; the network has an output for each."""
        ...

    @property
    def size(self) -> int:
        """Numbers that the network takes."""
        ...

    @property
    def base_columns(self) -> int:
        """How many of them, the last ones, are what the base decides, one a pack; 0 where the base is not shown."""
        ...

    def vectors(self, observation: Observation) -> NDArray[np.float64]:
        """All but the base's. Packs in the observation's order, `packs` of them a row, (devices / packs, size - base_columns).

        Raises PolicyUnableError when something that it needs is missing.
        """
        ...


class Actor:
    """The network `actor` of an artefact on a layout. Raises ArtefactError when kind, layout or shapes differ."""

    def __init__(self, artefact: Artefact, layout: ObservationLayout, kind: str) -> None:
        said = artefact.metadata
        where = f"artefact {artefact.sha256[:12]}"
        if said.kind != kind:
            raise ArtefactError(f"{where}: kind: got {said.kind!r}, expected {kind!r}")
        if said.layout != layout.version:
            raise ArtefactError(f"{where}: layout: got {said.layout!r}, expected {layout.version!r}")
        self.network = artefact.network("actor")
        if self.network.inputs != layout.size or self.network.outputs != layout.packs:
            got = (self.network.inputs, self.network.outputs)
            raise ArtefactError(f"{where}: shape of actor: got {got}, expected ({layout.size}, {layout.packs})")
        if layout.base_columns and kind != "residual":
            raise ArtefactError(f"{where}: layout: {layout.version!r} shows what the MPC decides, which an actor alone has not")
        squash = said.parameters.get("squash", "clip")
        if squash not in SQUASHES:
            raise ArtefactError(f"{where}: parameters.squash: got {squash!r}, expected one of {', '.join(SQUASHES)}")
        self.layout, self.artefact = layout, artefact
        self._tanh = squash == "tanh"

    def actions(self, observation: Observation, base: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """In [-1, 1], discharge positive, one a device; raises PolicyUnableError when the vector or the action is not finite.

        `base` (devices,): what is shifted, as a share of rated power from -1 to 1, for a layout that shows it.
        """
        check_chemistries(self.artefact, observation)
        vectors = self.layout.vectors(observation)
        if self.layout.base_columns and base is not None:
            vectors = np.concatenate([vectors, base.reshape(-1, self.layout.base_columns)], axis=1)
        if vectors.shape != (len(observation.devices) // self.layout.packs, self.layout.size) or not np.isfinite(vectors).all():
            raise PolicyUnableError(f"observation vector: shape {vectors.shape}, or a number that is not finite")
        found = self.network(vectors).reshape(-1).astype(np.float64)
        if not np.isfinite(found).all():
            raise PolicyUnableError("the actor gave a number that is not finite")
        return np.tanh(found) if self._tanh else np.clip(found, -1.0, 1.0)


class ActorPolicy:
    """Decides by an actor alone. Raises ArtefactError when the artefact does not fit the layout."""

    def __init__(self, record: PolicyRecord, artefact: Artefact, layout: ObservationLayout) -> None:
        self.record = record
        self._actor = Actor(artefact, layout, "actor")

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; the action is a share of each pack's rated power, within its bounds, as in training."""
        actions, bounds_w = self._actor.actions(observation), bounds_of(observation, observation.devices)
        points = []
        for device, action, (charge_w, discharge_w) in zip(observation.devices, actions.tolist(), bounds_w.tolist(), strict=True):
            rated_w = device.max_discharge_power_w if action > 0 else device.max_charge_power_w
            power_w = min(max(action * rated_w, -charge_w), discharge_w)
            reason = Reason.IDLE if action == 0 else Reason.PRICE_HIGH if action > 0 else Reason.PRICE_LOW
            points.append(SetPoint(device_id=device.device_id, power_w=power_w, reason=reason, detail=f"action {action:.4f}"))
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            policy_id=self.record.policy_id,
            set_points=tuple(points),
            inputs={**observation.inputs, "artefact": self._actor.artefact.sha256},
        )
