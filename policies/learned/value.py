"""The energy-value policy: what a kWh in each pack will be worth, by a network, and one step decided by merit order.

Here: features from an observation, the learned value. Not here: the step's merit order (policies.learned.market), training, and
the MPC that HYBRID starts from (policies.learned.hybrid).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError
from core.policy_record import PolicyRecord
from optimizer.dynamic import non_increasing
from policies.base import Observation, PolicyUnableError
from policies.learned.artefact import Artefact
from policies.learned.layout import FLOOR_EUR_PER_KWH, RESIDUAL_LAYOUT, UNFORECAST_LAYOUTS, VALUE_LAYOUT, value_features
from policies.learned.market import merit_order, offers_of
from policies.learned.network import Mlp
from policies.learned.unforecast import UnforecastValue, unforecast_value

FloatArray = NDArray[np.float64]
HISTORY = timedelta(days=7)
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class EnergyValue:
    """Networks of an artefact that say what stored energy is worth.

    Made by `energy_value`, which verifies layout and shapes.
    """

    networks: tuple[Mlp, ...]
    horizon_steps: int
    dt_s: float
    eta: float
    """One way, of the plant that it was trained on."""

    def marginals(self, observation: Observation, at: datetime) -> FloatArray:
        """EUR per stored kWh after the step that begins at `at`, empty to full, non-increasing; (n,).

        On the network's own grid: within one of its steps, what holds after that step. Raises PolicyUnableError when prices of
        the 7 days before the interval or of the horizon are not in the observation.
        """
        prices = observation.price_eur_per_kwh
        at = _on_grid(at, self.dt_s)
        begin = _on_grid(observation.starts_at, self.dt_s) - HISTORY
        try:
            past = prices.window(begin, round(HISTORY.total_seconds() / self.dt_s) + 1, self.dt_s)
            ahead = prices.window(at, self.horizon_steps + 1, self.dt_s)
        except InputError as error:
            raise PolicyUnableError(
                f"the energy-value network needs prices of 7 days before and of its horizon: {error}"
            ) from None
        until = observation.price_known_until
        first = (at + timedelta(seconds=self.dt_s)).timestamp()
        known = self.horizon_steps if until is None else int(max(0.0, until.timestamp() - first) // self.dt_s)
        mean, spread = float(past[1:].mean()), float(past[1:].std()) + FLOOR_EUR_PER_KWH
        features = value_features(
            np.array([at.hour + at.minute / 60.0]),
            np.array([at.weekday()]),
            ahead[None, :],
            np.array([min(1.0, known / self.horizon_steps)]),
            np.array([mean]),
            np.array([spread]),
        )
        said = np.mean([network(features[0]) for network in self.networks], axis=0)
        return non_increasing(mean + spread * said.astype(np.float64))


def _on_grid(at: datetime, dt_s: float) -> datetime:
    """The beginning of the step of `dt_s` (a whole part of a day) that holds a time."""
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    return midnight + timedelta(seconds=dt_s * ((at - midnight).total_seconds() // dt_s))


def energy_value(artefact: Artefact) -> EnergyValue:
    """The learned value of an artefact; raises ArtefactError when it is of another kind, layout or shape."""
    said = artefact.metadata
    if said.layout == RESIDUAL_LAYOUT:
        raise ArtefactError(
            f"artefact {artefact.sha256[:12]}: layout: {said.layout!r} needs price forecasts and their errors on record, "
            "which no site keeps"
        )
    if said.kind != "energy_value" or said.layout != VALUE_LAYOUT:
        raise ArtefactError(
            f"artefact {artefact.sha256[:12]}: kind and layout: got {said.kind!r}, {said.layout!r}, "
            f"expected 'energy_value', {VALUE_LAYOUT!r}"
        )
    networks = tuple(artefact.network(name) for name in sorted(said.networks))
    try:
        steps, dt_s = int(said.parameters["horizon_steps"]), float(said.parameters["dt_s"])
        round_trip = float(said.plant["round_trip"])
    except KeyError as error:
        raise ArtefactError(f"artefact {artefact.sha256[:12]}: parameters: {error} is missing") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise ArtefactError(f"artefact {artefact.sha256[:12]}: parameters: {error}") from None
    if not (steps > 0 and 0.0 < dt_s <= DAY_S and 0.0 < round_trip <= 1.0):
        raise ArtefactError(
            f"artefact {artefact.sha256[:12]}: parameters: got horizon_steps {steps}, dt_s {dt_s:g}, round_trip {round_trip:g}, "
            "expected steps > 0, seconds of a day at most, a share"
        )
    eta = float(np.sqrt(round_trip))
    for network in networks:
        if network.inputs != 6 + steps:
            raise ArtefactError(f"artefact {artefact.sha256[:12]}: inputs: got {network.inputs}, expected {6 + steps}")
    return EnergyValue(networks, steps, dt_s, eta)


class EnergyValuePolicy:
    """Decides by a learned value of energy, without a quadratic programme. Raises ArtefactError when the artefact does not fit.

    `share`: of the network, where prices come without a forecast; the rest is a plan's (policies.learned.unforecast).
    """

    def __init__(self, record: PolicyRecord, artefact: Artefact, share: float = 1.0) -> None:
        self.record = record
        self.artefact = artefact
        unforecast = artefact.metadata.layout in UNFORECAST_LAYOUTS
        self._value: EnergyValue | UnforecastValue = unforecast_value(artefact, share) if unforecast else energy_value(artefact)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; needs prices from 7 days before the interval to the end of the network's horizon."""
        check_chemistries(self.artefact, observation)
        marginals = self._value.marginals(observation, observation.starts_at)
        step_s = observation.interval_s
        try:
            price = observation.price_eur_per_kwh.window(observation.starts_at, 1, step_s)
            load_w = observation.load_w.window(observation.starts_at, 1, step_s)[0]
            pv_w = observation.pv_w.window(observation.starts_at, 1, step_s)[0]
        except InputError as error:
            raise PolicyUnableError(str(error)) from None
        buy, sell = observation.site.tariff.buy_sell(price)
        offers = offers_of(observation, marginals, self._value.eta)
        powers_w = merit_order(offers, float(load_w - pv_w), float(buy[0]), float(min(sell[0], buy[0])))
        detail = f"energy worth {marginals[-1]:.4f} (full) to {marginals[0]:.4f} (empty) EUR/kWh, import at {buy[0]:.4f}"
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=step_s,
            source=self.name,
            policy_id=self.record.policy_id,
            set_points=tuple(
                SetPoint(device_id=key, power_w=value, reason=_reason(value), detail=detail)
                for key, value in zip(offers.device_ids, powers_w.tolist(), strict=True)
            ),
            inputs={**observation.inputs, "artefact": self.artefact.sha256},
        )


def _reason(power_w: float) -> Reason:
    if power_w > 0:
        return Reason.PRICE_HIGH
    return Reason.PRICE_LOW if power_w < 0 else Reason.IDLE


def check_chemistries(artefact: Artefact, observation: Observation) -> None:
    """Raise PolicyUnableError when a pack is of a chemistry that the artefact was not made for."""
    for device in observation.devices:
        if device.chemistry not in artefact.metadata.chemistries:
            covered = ", ".join(item.value for item in artefact.metadata.chemistries)
            raise PolicyUnableError(f"{device.device_id} is {device.chemistry.value}; the artefact covers {covered}")
