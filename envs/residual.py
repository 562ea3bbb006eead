"""Environments in which an action is added to what another policy decides, the base, and the base is seen.

Here: `with_base`, which makes a native batch one of these. The reward values stored energy as the base does, in place of the
trailing mean: cash - wear + worth after - worth before - what the base expects of an empty store, each over price spread x
installed kWh as in envs.single. The worths cancel from step to step, and the last is no act's doing, so that the sum is still
money; each step is then nearly zero where the base is right, and what an act gains or loses is seen at once (Ng, Harada, Russell,
ICML 1999). Everything else is the environment's own. Not here: a base (training.rl_base), the same sum of base and action in
serving (policies.learned.hybrid).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from core.errors import InputError
from envs import variants as at
from envs.engine import Engine
from envs.kernel import POTENTIAL, ROW, SPREAD, VARIANT
from envs.residual_layout import BaseLayout
from envs.single import spaces
from envs.vector import Batched

if TYPE_CHECKING:
    from envs.engine import _Buffers

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Decided(NamedTuple):
    """What a base says of M environments of P packs at the beginning of a step."""

    actions: FloatArray
    """Shares of rated power, from -1 to 1, discharge positive, (M, P)."""
    worth_eur: FloatArray
    """What their stored energy is worth, over an empty store, (M,)."""
    idle_eur: FloatArray
    """What an empty store would earn in this step, less what it would then hold is worth; not the actor's doing, (M,)."""


class Base(Protocol):
    """What would be decided without the actor."""

    def decide(self, row: IntArray, variant: IntArray, soc: FloatArray) -> Decided:
        """For the steps that begin at rows (M,) of the part, at sites (M,), at states of charge from 0 to 1 (M, P)."""
        ...


class ResidualEngine(Engine):
    """An engine whose step is clip(base + share x action, -1, 1), and which shows the base. It takes over another's arrays."""

    def __init__(self, engine: Engine, base: Base, share: float) -> None:
        if not 0.0 <= share <= 1.0:
            raise InputError(source="residual", field="share", value=share, expected="from 0 to 1")
        vars(self).update(vars(engine))
        self.base, self.share = base, share
        own = self.layout
        self.layout = BaseLayout(own.packs, own.forecast_hours, own.marginal_points, own.load_forecast_hours)
        self._soc_columns = [own.index[f"pack{p}_soc"] for p in range(self.packs)]
        # The kernel goes on writing into its own arrays; what is handed out is wider.
        self._inner = [(b.observation, b.final_observation) for b in self.both_buffers]
        for b in self.both_buffers:
            b.observation = np.zeros((self.num_envs, self.layout.size), dtype=np.float32)
            b.final_observation = np.zeros_like(b.observation)
        self._now = Decided(np.zeros((self.num_envs, self.packs)), np.zeros(self.num_envs), np.zeros(self.num_envs))

    def step(self, actions: NDArray[np.float32]) -> _Buffers:
        """One step; actions (M, P) in [-1, 1] are the actor's. InputError when one is no number."""
        row, variant, before = self.clocks[:, ROW].copy(), self.clocks[:, VARIANT].copy(), self._now
        mixed = before.actions + self.share * np.asarray(actions, dtype=np.float64)
        made = super().step(np.clip(mixed, -1.0, 1.0).astype(np.float32))
        self._show()
        after = self._now.worth_eur
        if made.ended and self.autoreset:
            ended, inner = np.flatnonzero(made.truncated), self._inner[self.turn][1]
            soc = 0.5 * (inner[ended][:, self._soc_columns].astype(np.float64) + 1.0)
            last = self.base.decide(row[ended] + 1, variant[ended], soc)
            made.final_observation[ended] = np.concatenate([inner[ended], last.actions.astype(np.float32)], axis=1)
            after = after.copy()
            after[ended] = last.worth_eur
        gained = after - before.worth_eur - before.idle_eur - made.results[:, POTENTIAL]
        made.reward[:] += gained / (self.features.economics[row, SPREAD] * self.variants.site[variant, at.SCALE])
        return made

    def restore(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """See Engine.restore."""
        super().restore(saved)
        self._decide()

    def _observe(self) -> NDArray[np.float32]:
        super()._observe()
        self._show()
        return self.buffers.observation

    def _show(self) -> None:
        """Put the base beside what the kernel wrote."""
        self._decide()
        shown, packs = self.buffers.observation, self.packs
        shown[:, :-packs], shown[:, -packs:] = self._inner[self.turn][0], self._now.actions

    def _decide(self) -> None:
        clocks = self.clocks
        self._now = self.base.decide(clocks[:, ROW], clocks[:, VARIANT], self.state[:, :, 0])


def with_base(batch: Batched, base: Base, share: float) -> Batched:
    """The batch itself, now with a base; to be called before its first reset."""
    batch.engine = ResidualEngine(batch.engine, base, share)
    batch.layout = batch.engine.layout
    batch.single_observation_space, batch.single_action_space = spaces(batch.engine.packs, batch.layout.size)
    batch.observation_space = batch_space(batch.single_observation_space, batch.num_envs)
    return batch
