"""What stored energy is worth where prices come without a forecast: a network of `energy-value-unforecast/1` or `/2`, and a plan.

The plan expects the mean of the same time on the last days, corrected by the latest error (AR(1)), by dynamic programming on the
plant of training: the MPC that the network's gate was chosen against. `share` of the worth is the network's. Prices that the
observation holds past the present step are never looked at. Not here: training's features of whole series (training.value_data;
a test holds the two equal), the step's merit order (policies.learned.market).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from core.errors import InputError
from optimizer.dynamic import Lattice, lattice, non_increasing, rolling
from policies.base import Observation, PolicyUnableError
from policies.learned.artefact import Artefact
from policies.learned.layout import (
    CLOCK_LAYOUT,
    CLOCK_STEPS,
    FLOOR_EUR_PER_KWH,
    RECENT_STEPS,
    UNFORECAST_LAYOUT,
    clock_features,
    season_of,
    unforecast_features,
)
from policies.learned.network import Mlp

FloatArray = NDArray[np.float64]
DAY_S, WEEK_DAYS = 86_400.0, 7
HOURS = 24
YEAR_2000 = datetime(2000, 1, 1, tzinfo=UTC)
INPUTS = {UNFORECAST_LAYOUT: 6 + len(RECENT_STEPS) + 2 * HOURS, CLOCK_LAYOUT: 15 + 1 + len(CLOCK_STEPS) + 3 * HOURS}
"""By layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnforecastValue:
    """Made by `unforecast_value`, which verifies layout, shapes and numbers."""

    layout: str
    networks: tuple[Mlp, ...]
    plant: Lattice
    horizon_steps: int
    phi: float
    """Share of the latest error that is left a step later."""
    profile_days: int
    share: float = 1.0
    """Of the network; the rest is the plan's."""

    @property
    def dt_s(self) -> float:
        """Step that it decides."""
        return self.plant.dt_s

    @property
    def eta(self) -> float:
        """One way."""
        return self.plant.eta_charge

    def marginals(self, observation: Observation, at: datetime) -> FloatArray:
        """EUR per stored kWh after the step that begins at `at`, the interval's own, empty to full, non-increasing; (n,).

        Raises PolicyUnableError when the interval is not of the trained length, its own price is not known, or prices of seven
        whole days (UTC) before today are not in the observation.
        """
        if at != observation.starts_at or observation.interval_s != self.dt_s:
            raise PolicyUnableError(
                f"without a forecast the network decides the present step of {self.dt_s:g} s, not {observation.interval_s} s"
            )
        if observation.price_known_until is not None and observation.price_known_until < at + timedelta(seconds=self.dt_s):
            raise PolicyUnableError(f"the price of the step is not known: prices end at {observation.price_known_until:%FT%TZ}")
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        day, step = round(DAY_S / self.dt_s), round((at - midnight).total_seconds() / self.dt_s)
        try:
            past = observation.price_eur_per_kwh.window(
                midnight - timedelta(days=WEEK_DAYS), WEEK_DAYS * day + step + 1, self.dt_s
            )
        except InputError as error:
            raise PolicyUnableError(f"without a forecast the network needs prices of {WEEK_DAYS} days before: {error}") from None
        week = past[-WEEK_DAYS * day :]
        mean, spread = float(week.mean()), float(week.std()) + FLOOR_EUR_PER_KWH
        found = np.zeros(0)
        if self.share > 0:
            made = clock_features_at if self.layout == CLOCK_LAYOUT else unforecast_features_at
            features = made(past, at, day, step, mean, spread)
            said = np.mean([network(features[0]) for network in self.networks], axis=0)
            found = non_increasing(mean + spread * said.astype(np.float64))
        if self.share == 1.0:
            return found
        planned = self._planned(past, day, step)
        return planned if self.share == 0.0 else non_increasing(self.share * found + (1.0 - self.share) * planned)

    def _planned(self, past: FloatArray, day: int, step: int) -> FloatArray:
        """The plan's marginals, (n,)."""
        target = step + 1 + np.arange(self.horizon_steps)
        profile = _profile(past, self.profile_days, day)
        if self.profile_days == 1:
            back = np.maximum(1, -((step - target) // day)) * day
            expected = past[WEEK_DAYS * day + target - back]
        else:
            expected = profile[target % day]
        left = self.phi ** np.arange(1, self.horizon_steps + 1)
        expected = expected + (past[-1] - profile[step]) * left
        return np.asarray(rolling(expected[None, :], np.array([self.horizon_steps]), self.plant)[0])


def unforecast_features_at(
    past: FloatArray, at: datetime, day: int, step: int, mean: float, spread: float
) -> NDArray[np.float32]:
    """Layout `energy-value-unforecast/1` of one decision, (1, inputs); `past`: seven days of `day` steps and today's so far."""
    hourly = day // HOURS
    hour_means = past[-day:].reshape(HOURS, hourly).mean(axis=1)[::-1]  # of the hour that ends now, and those before it
    recent = np.concatenate([past[[-1 - lag for lag in RECENT_STEPS]], hour_means])
    profile = _profile(past, WEEK_DAYS, day).reshape(HOURS, hourly).mean(axis=1)
    return unforecast_features(
        np.array([at.hour + at.minute / 60.0]), np.array([at.weekday()]), recent[None, :],
        np.roll(profile, -(step // hourly))[None, :], np.array([mean]), np.array([spread]),
    )  # fmt: skip


def clock_features_at(past: FloatArray, at: datetime, day: int, step: int, mean: float, spread: float) -> NDArray[np.float32]:
    """Layout `energy-value-unforecast/2` of one decision, (1, inputs)."""
    hourly = day // HOURS
    now = WEEK_DAYS * HOURS + step // hourly  # the running hour, of those that `past` begins
    whole = np.median(past[: now * hourly].reshape(now, hourly), axis=1)
    days = np.stack([whole[now - HOURS * k : now - HOURS * (k - 1)] for k in range(1, WEEK_DAYS + 1)])
    prices = [[np.median(past[now * hourly :])], past[[-1 - lag for lag in CLOCK_STEPS]], whole[: -HOURS - 1 : -1], days[-1]]
    hour = np.array([at.hour + at.minute / 60.0])
    return clock_features(
        hour, np.array([at.weekday()]), season_of(np.array([(at - YEAR_2000).total_seconds()])) % 1.0, hour % 1.0,
        np.concatenate([*prices, days.mean(axis=0)])[None, :], np.array([mean]), np.array([spread]),
    )  # fmt: skip


def _profile(past: FloatArray, days: int, day: int) -> FloatArray:
    """Mean of each step of a day over the last whole days, (day,)."""
    return np.asarray(past[: WEEK_DAYS * day].reshape(WEEK_DAYS, day)[WEEK_DAYS - days :].mean(axis=0))


def unforecast_value(artefact: Artefact, share: float = 1.0) -> UnforecastValue:
    """Of an artefact; `share` of the network.

    Raises ArtefactError when it is of another kind, layout or shape, or lacks a number that the plan needs.
    """
    said, where = artefact.metadata, f"artefact {artefact.sha256[:12]}"
    if said.kind != "energy_value" or said.layout not in INPUTS:
        got = f"{said.kind!r}, {said.layout!r}"
        raise ArtefactError(f"{where}: kind and layout: got {got}, expected 'energy_value', {' or '.join(map(repr, INPUTS))}")
    networks = tuple(artefact.network(name) for name in sorted(said.networks))
    try:
        made = UnforecastValue(
            layout=said.layout,
            networks=networks,
            plant=lattice(
                capacity_wh=float(said.plant["capacity_wh"]),
                power_w=float(said.plant["power_w"]),
                round_trip=float(said.plant["round_trip"]),
                wear_eur_per_kwh=float(said.plant["wear_eur_per_kwh"]),
                dt_s=float(said.parameters["dt_s"]),
                charge_steps=int(said.plant["charge_steps"]),
            ),
            horizon_steps=int(said.parameters["horizon_steps"]),
            phi=float(said.parameters["correction_phi"]),
            profile_days=int(said.parameters["correction_days"]),
            share=share,
        )
    except KeyError as error:
        raise ArtefactError(f"{where}: plant, parameters: {error} is missing") from None
    except (InputError, TypeError, ValueError, OverflowError) as error:
        raise ArtefactError(f"{where}: plant, parameters: {error}") from None
    if 3600.0 % made.dt_s or not 1 <= made.profile_days <= WEEK_DAYS or not 0.0 <= made.phi <= 1.0:
        got = f"dt_s {made.dt_s:g}, correction_days {made.profile_days}, correction_phi {made.phi:g}"
        raise ArtefactError(f"{where}: parameters: got {got}, expected a part of an hour, 1 to {WEEK_DAYS}, 0 to 1")
    expected = (INPUTS[said.layout], made.plant.intervals)
    for network in networks:
        if (network.inputs, network.outputs) != expected:
            raise ArtefactError(f"{where}: shape of the network: got {(network.inputs, network.outputs)}, expected {expected}")
    return made
