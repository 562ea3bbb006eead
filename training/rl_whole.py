"""A whole part of the data, a year say, at every site: what an actor earns step by step, and its weeks against another's.

All sites begin half full at the part's first row. Here: the run, and the gate of a residual: the share of its actor, chosen on
the validation years, 0 unless the interval of its weekly gain lies above zero. Not here: the score that checkpoints are chosen by
(training.rl_validation), which part (a training reaches no test year; benchmarks.policies_rl reads them).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import InputError
from envs import variants as at
from envs.data import DataSet, Part
from envs.kernel import CASH, WEAR_COST
from envs.residual import ResidualEngine
from policies.learned.network import Mlp
from training.rl_config import AnyRlConfig
from training.rl_foresight import foresight_actor
from training.rl_model import acting
from training.rl_validation import HOURS_PER_YEAR, ROUND_TRIPS, Act, Validator
from training.value_score import Run, compare

SITES = 26
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Of the share that was trained with, from which the gate is chosen."""
GAIN_DIGITS = 3


class Whole:
    """A part from its first row to its last at `SITES` sites; `seed_shift` is added to the seed that sites are drawn by."""

    def __init__(self, config: AnyRlConfig, part: Part, seed_shift: int = 0) -> None:
        data = part.exogenous
        days = int(np.ceil(len(data) * data.dt_s / 86_400.0))  # of which the validator takes what there is
        whole = config.validation.model_copy(update={"days": days, "envs": SITES, "sites": SITES})
        seeded = config.env.config.model_copy(update={"variants_seed": config.env.config.variants_seed + seed_shift})
        section = config.env.model_copy(update={"config": seeded})
        self._given = config, part, seed_shift
        self.course = Validator(config.model_copy(update={"validation": whole, "env": section}), part)
        self.engine, self.rows, self.sites = self.course.batch.engine, self.course.rows, self.course.sites
        first, steps = int(self.rows[0]), self.course.steps
        self.price = self.engine.part.exogenous.price_eur_per_kwh[first : first + steps]
        self.week = round(7 * 86_400 / self.engine.dt_s)

    def run(self, act: Act) -> Run:
        """All sites together; what is left in the stores at the end is sold at the part's mean price."""
        observation, _ = self.course.batch.reset(seed=0, options=self.course.options)
        earned, stored = np.zeros(len(self.price)), np.zeros(len(self.price))
        before = self.course.stored_kwh().sum()
        for k in range(len(self.price)):
            made = self.engine.step(np.clip(act(observation), -1.0, 1.0).astype(np.float32))
            earned[k] = (made.results[:, CASH] - made.results[:, WEAR_COST]).sum()
            if (k + 1) % self.week == 0:
                stored[k] = self.course.stored_kwh().sum()
            observation = made.observation
        earned[-1] += (self.course.stored_kwh().sum() - before) * self.price.mean()
        return Run(earned_eur=earned, stored_kwh=stored)

    def idle(self, _: NDArray[np.float32]) -> NDArray[np.float64]:
        """No action: rest, or where there is a base, the base alone."""
        return np.zeros((SITES, self.engine.packs))

    def eur_per_kwh_year(self, run: Run) -> float:
        """EUR a year per installed kWh."""
        installed = float(self.engine.variants.site[self.sites, at.SCALE].sum())
        return run.total_eur / installed / (len(self.price) * self.engine.dt_s / 3600.0 / HOURS_PER_YEAR)

    def foresight(self) -> Run:
        """The best of the plans that know all prices; they act by themselves, without a base."""
        config, part, seed_shift = self._given
        if config.base is not None:
            return Whole(config.model_copy(update={"base": None}), part, seed_shift).foresight()
        plans = (foresight_actor(self.engine, self.rows, self.sites, self.course.steps, share) for share in ROUND_TRIPS)
        return max((self.run(act) for act in plans), key=lambda run: run.total_eur)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """How much of a residual decides, and why."""

    share: float
    """Of rated power; 0 where the gain is not sure."""
    best_share: float
    """Of those tried, the one that earned most."""
    gain_pct: tuple[float, float, float]
    """Of `best_share` over the base alone, in % of what the base earns: mean and ends of the 95 % interval, by paired weeks."""
    base_eur_per_kwh_year: float
    """The base alone, over the whole of the validation years."""


def residual_gate(config: AnyRlConfig, data: DataSet, network: Mlp) -> Gate:
    """The gate of an actor that was trained with config's base, on the validation years at sites that training has not seen."""
    if config.base is None:
        raise InputError(source=config.name, field="base", value=None, expected="a base, whose residual the actor is")
    course = Whole(config, data.part("validation"))
    engine, act = course.engine, acting(network, config.algorithm)
    assert isinstance(engine, ResidualEngine)  # noqa: S101 - by the base
    base = course.run(course.idle)
    found = {}
    for fraction in FRACTIONS:
        engine.share = fraction * config.base.share
        found[engine.share] = course.run(act)
    best = max(found, key=lambda share: found[share].total_eur)
    gain = compare(found[best], base, abs(base.total_eur), course.price, course.week)
    return Gate(
        share=round(best, 6) if gain.low > 0.0 else 0.0,
        best_share=round(best, 6),
        gain_pct=(round(gain.points, GAIN_DIGITS), round(gain.low, GAIN_DIGITS), round(gain.high, GAIN_DIGITS)),
        base_eur_per_kwh_year=course.eur_per_kwh_year(base),
    )
