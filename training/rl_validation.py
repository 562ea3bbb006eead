"""What an actor earns on the validation years: without exploration, at sites that training has not seen.

The stretches lie evenly over the years, each at one of a few sites drawn from the environment's ranges by a seed of their own,
from half full. The score is money: bill saved, less wear, plus the energy gained from start to end at the stretch's mean price;
in EUR a year per installed kWh. As a scale, a plan made with all prices known is carried out in the same environment
(training.rl_foresight). Not here: when (training.rl_run), test years, which nothing here can reach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs import variants as at
from envs.config import EnvConfig
from envs.data import Part
from envs.kernel import CASH, PROJECTED, ROW, VARIANT, WEAR_COST
from envs.vector import Batched
from training.rl_config import AnyRlConfig
from training.rl_foresight import foresight_actor
from training.rl_model import make_batch

FloatArray = NDArray[np.float64]
Act = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Observations (M, size) to actions (M, P)."""
SITES_SEED = 7919
"""Added to the seed of the environment's sites."""
HOURS_PER_YEAR = 8766.0
ROUND_TRIPS = (0.86, 0.90, 0.94)
"""Of the plans with all prices known; the best of them is the scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Means over the stretches."""

    eur_per_kwh_year: float
    """Money a year per installed kWh, leftover energy and wear counted."""
    wear_eur_per_kwh_year: float
    projected_share: float
    """Share of rated power that limits cut from the actions."""


def validation_env(config: EnvConfig, sites: int) -> EnvConfig:
    """The training's environment with sites of its own."""
    return config.model_copy(update={"variants": sites, "variants_seed": config.variants_seed + SITES_SEED})


class Validator:
    """Made once for a run. The same actor gets the same score, whatever was scored before."""

    def __init__(self, config: AnyRlConfig, part: Part) -> None:
        self._given, said = (config, part), config.validation
        self.batch: Batched = make_batch(config, part, said.envs, validation_env(config.env.config, said.sites))
        engine = self.batch.engine
        features = engine.features
        per_day = round(86_400 / engine.dt_s)
        # One row is kept back: the last step must not end the episode, which would begin another.
        self.steps = min(said.days * per_day, features.last - features.first - 2)
        self.rows = np.linspace(features.first, features.last - self.steps - 2, said.envs).astype(np.int64)
        self.sites = np.arange(said.envs, dtype=np.int64) % len(engine.variants.site)
        self.options = {
            "row": self.rows, "variant": self.sites, "ambient_offset_k": np.zeros(said.envs),
            "soc_pct": np.full((said.envs, engine.packs), _half(config.env.config)), "steps": np.full(said.envs, self.steps + 1),
        }  # fmt: skip
        self._foresight: float | None = None

    def score(self, act: Act) -> Score:
        """Let it act on every stretch."""
        engine = self.batch.engine
        observation, _ = self.batch.reset(seed=0, options=self.options)
        stored = self.stored_kwh()
        totals = np.zeros(len(self.rows))
        wear, projected = 0.0, 0.0
        for _ in range(self.steps):
            made = engine.step(np.clip(act(observation), -1.0, 1.0).astype(np.float32))
            totals += made.results[:, CASH] - made.results[:, WEAR_COST]
            wear += float(made.results[:, WEAR_COST].sum())
            projected += float(made.results[:, PROJECTED].mean())
            observation = made.observation
        totals += (self.stored_kwh() - stored) * self._mean_price()
        installed = float(engine.variants.site[self.sites, at.SCALE].sum())
        years = self.steps * engine.dt_s / 3600.0 / HOURS_PER_YEAR
        return Score(
            eur_per_kwh_year=float(totals.sum()) / installed / years,
            wear_eur_per_kwh_year=wear / installed / years,
            projected_share=projected / self.steps,
        )

    def foresight(self) -> float | None:
        """The score of the best plan with all prices known, carried out here; none where a price is not all that counts.

        Not a strict bound: the plan knows a linear store, the environment is none.
        """
        config = self.batch.engine.config
        fees = any(value != 0.0 for value in config.tariff.model_dump().values())
        if fees or config.grid.peak_price_eur_per_kw or self.batch.engine.packs != 1:
            return None
        if self._given[0].base is not None:  # plans act by themselves
            given, part = self._given
            return Validator(given.model_copy(update={"base": None}), part).foresight()
        if self._foresight is None:
            plans = (foresight_actor(self.batch.engine, self.rows, self.sites, self.steps, share) for share in ROUND_TRIPS)
            self._foresight = max(self.score(act).eur_per_kwh_year for act in plans)
        return self._foresight

    def base(self) -> float | None:
        """The score of the base alone, to which a residual is added; none where there is none."""
        if self._given[0].base is None:
            return None
        return self.score(lambda observation: np.zeros((len(observation), self.batch.engine.packs))).eur_per_kwh_year

    def stored_kwh(self) -> FloatArray:
        """Energy in each environment's packs, (M,)."""
        engine = self.batch.engine
        site = engine.clocks[:, VARIANT]
        total = np.zeros(len(site))
        places = np.linspace(0.0, 1.0, engine.variants.energy_share.shape[1])
        for p in range(engine.packs):
            pack = engine.variants.pack[site, p]
            shares = [
                np.interp(soc, places, engine.variants.energy_share[int(cell)])
                for soc, cell in zip(engine.state[:, p, 0], pack[:, 3], strict=True)
            ]
            total += pack[:, at.ENERGY] / 1000.0 * np.array(shares)
        return total

    def _mean_price(self) -> FloatArray:
        """Of each stretch, (M,)."""
        price = self.batch.engine.part.exogenous.price_eur_per_kwh
        first = self.batch.engine.clocks[:, ROW] - self.steps
        return np.array([float(price[row : row + self.steps].mean()) for row in first.tolist()], dtype=np.float64)


def _half(config: EnvConfig) -> float:
    return 0.5 * (max(p.soc_min_pct for p in config.packs) + min(p.soc_max_pct for p in config.packs))
