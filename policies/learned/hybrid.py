"""HYBRID: the MPC with a learned part, and the MPC as its floor.

By the artefact's kind: `energy_value`, the learned worth of energy is what the MPC's plan leaves its energy for (terminal value),
or, where prices come without a forecast, the step is decided by a mix of learned and planned worth (policies.learned.unforecast);
`residual`, an actor shifts the MPC's set points by a share of rated power. The gate is the share of the learned
part, chosen on validation (training.value_network) and part of the artefact: with 0 the MPC decides as it is. It also decides
where the learned part lacks an input, and the reason is on record. What the gate of serving.dispatch cuts is the same for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from core.artefact import ArtefactError
from core.decisions import Decision, Reason
from core.devices import DeviceConfig
from core.errors import InputError, SolverError
from core.policy_record import PolicyRecord
from optimizer.mpc import MpcSolver
from optimizer.plan import Plan
from optimizer.problem import SiteProblem
from policies.base import Observation, PolicyUnableError
from policies.learned.actor import Actor, ObservationLayout
from policies.learned.artefact import Artefact
from policies.learned.bounds import bounds_of
from policies.learned.layout import UNFORECAST_LAYOUTS
from policies.learned.value import EnergyValuePolicy, check_chemistries, energy_value
from policies.mpc import MpcPolicy, decision_of

ROUNDS = 3
"""Plans until the worth at the planned end is the worth that was planned with; the marginal falls as the end rises."""
CLOSE_EUR_PER_KWH = 1e-3
ARTEFACT_KEY = "artefact"
"""Of the row's config: the SHA-256; its other keys are the MPC's."""


class HybridPolicy:
    """Raises InputError when the row's config is no MPC's, ArtefactError when the artefact does not fit."""

    def __init__(self, record: PolicyRecord, artefact: Artefact, layout: ObservationLayout | None = None) -> None:
        self.record = record
        self.artefact = artefact
        expected = record.config.get(ARTEFACT_KEY)
        if expected != artefact.sha256:
            raise ArtefactError(f"optimization_policies {record.name!r}: sha256: got {artefact.sha256}, expected {expected}")
        self._mpc = MpcPolicy(replace(record, config={k: v for k, v in record.config.items() if k != ARTEFACT_KEY}))
        self._solver = MpcSolver(solver=self._mpc.config.solver)
        share = artefact.metadata.parameters.get("share")
        if not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
            raise ArtefactError(f"artefact {artefact.sha256[:12]}: parameters.share: got {share!r}, expected 0 to 1")
        self.share = float(share)
        value = artefact.metadata.kind == "energy_value"
        self._stepwise = EnergyValuePolicy(record, artefact, self.share) if _unforecast(artefact) else None
        self._value = energy_value(artefact) if value and self._stepwise is None else None
        self._actor = None
        if not value:
            if layout is None:
                raise ArtefactError(f"artefact {artefact.sha256[:12]}: a residual needs the layout {artefact.metadata.layout!r}")
            self._actor = Actor(artefact, layout, "residual")
        parameters = artefact.metadata.parameters
        self._price_alone = "base" in parameters  # the table that it was trained on knows no fee and no peak
        environment = parameters.get("environment")
        self._revealed = isinstance(environment, dict) and environment.get("information") == "revealed"

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; unable only where the MPC is."""
        if self.share == 0.0:
            return self._noted(self._mpc.decide(observation), "MPC", "the gate is 0: no gain on validation")
        try:
            if self._stepwise is not None:
                return self._noted(self._stepwise.decide(observation), "worth of energy, step by step", "")
            check_chemistries(self.artefact, observation)
            if self._value is not None:
                plan = self._planned(observation)
                return self._noted(decision_of(self.record, observation, plan), "terminal value", "")
            return self._shifted(observation)
        except PolicyUnableError as error:
            return self._noted(self._mpc.decide(observation), "MPC", str(error))

    def _planned(self, observation: Observation) -> Plan:
        """The plan whose terminal value is the learned worth at the energy that it ends with."""
        value = self._value
        assert value is not None  # noqa: S101 - decide asks only then
        problem = self._mpc.problem(observation)
        end = observation.starts_at + timedelta(seconds=problem.steps * problem.dt_s)
        # `marginals` are those after the step that begins at its argument.
        learned = value.marginals(observation, end - timedelta(seconds=value.dt_s))
        own = np.array([device.terminal_value_eur_per_kwh for device in problem.devices])
        worth = (1 - self.share) * own + self.share * float(np.median(learned))
        plan = None
        for _ in range(ROUNDS):
            try:
                plan = self._solver.plan(_with_terminal(problem, worth))
            except SolverError as error:
                raise PolicyUnableError(f"no plan with the learned terminal value: {error}") from None
            found = []
            for device, part, base in zip(problem.devices, plan.devices, own.tolist(), strict=True):
                span = max(device.energy_max_wh - device.energy_min_wh, 1e-9)
                level = np.clip((float(part.energy_wh[-1]) - device.energy_min_wh) / span, 0.0, 1.0)
                index = min(int(level * len(learned)), len(learned) - 1)
                found.append((1 - self.share) * base + self.share * max(0.0, float(learned[index])))
            if np.abs(np.array(found) - worth).max() < CLOSE_EUR_PER_KWH:
                break
            worth = 0.5 * (worth + np.array(found))
        assert plan is not None  # noqa: S101 - ROUNDS > 0
        return plan

    def _shifted(self, observation: Observation) -> Decision:
        """The MPC's decision, shifted; as it is, with the reason, where the actor lacks something."""
        decision = self._mpc.decide(observation)
        try:
            total_w = self._shifted_w(observation, {point.device_id: point.power_w for point in decision.set_points})
        except PolicyUnableError as error:
            return self._noted(decision, "MPC", str(error))
        points = tuple(
            point  # what could not be planned for rests
            if point.reason is Reason.STOP
            else replace(
                point,
                power_w=total_w[point.device_id],
                detail=f"{point.detail}; learned shift {total_w[point.device_id] - point.power_w:.0f} W",
            )
            for point in decision.set_points
        )
        return self._noted(replace(decision, set_points=points), "residual", "")

    def _shifted_w(self, observation: Observation, planned_w: Mapping[str, float]) -> dict[str, float]:
        """Power of each pack, within its bounds: training projected the sum onto them too, and a wish beyond cost nothing."""
        actor = self._actor
        assert actor is not None  # noqa: S101 - decide asks only then
        site, devices = observation.site, observation.devices
        fees = [name for name, value in site.tariff.model_dump().items() if value]
        if self._price_alone and (fees or site.grid.peak_price_eur_per_kw > 0):
            what = f"tariff.{fees[0]}" if fees else "a peak price"
            raise PolicyUnableError(f"the residual was trained where the price is all that counts; the site has {what}")
        until = observation.price_known_until
        if self._revealed and (until is None or until > observation.ends_at):
            raise PolicyUnableError("the residual was trained where prices are revealed step by step; here they are known ahead")
        base = np.array([_share_of_rated(device, planned_w[device.device_id]) for device in devices])
        total = np.clip(base + self.share * actor.actions(observation, base), -1.0, 1.0)
        rated_w = np.array([(device.max_charge_power_w, device.max_discharge_power_w) for device in devices]).reshape(-1, 2)
        bounds_w = bounds_of(observation, devices)
        power_w = np.clip(np.where(total > 0, total * rated_w[:, 1], total * rated_w[:, 0]), -bounds_w[:, 0], bounds_w[:, 1])
        return dict(zip((device.device_id for device in devices), power_w.tolist(), strict=True))

    def _noted(self, decision: Decision, how: str, why: str) -> Decision:
        said: dict[str, Any] = {"decided_by": how, "share": self.share, "artefact": self.artefact.sha256}
        if why:
            said["why"] = why
        return replace(decision, source=self.name, policy_id=self.record.policy_id, inputs={**decision.inputs, "hybrid": said})


def _share_of_rated(device: DeviceConfig, power_w: float) -> float:
    """From -1 to 1, discharge positive: as the environment shows the base (envs.residual_layout)."""
    rated_w = device.max_discharge_power_w if power_w > 0 else device.max_charge_power_w
    return float(np.clip(power_w / rated_w, -1.0, 1.0)) if rated_w > 0 else 0.0


def _unforecast(artefact: Artefact) -> bool:
    return artefact.metadata.kind == "energy_value" and artefact.metadata.layout in UNFORECAST_LAYOUTS


def _with_terminal(problem: SiteProblem, worth: np.ndarray[Any, np.dtype[np.float64]]) -> SiteProblem:
    devices = tuple(
        replace(device, terminal_value_eur_per_kwh=float(value))
        for device, value in zip(problem.devices, worth.tolist(), strict=True)
    )
    try:
        return replace(problem, devices=devices)
    except InputError as error:
        raise PolicyUnableError(str(error)) from None
