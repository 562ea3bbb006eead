"""The same environments natively batched: a Gymnasium `VectorEnv` with SAME_STEP autoreset.

Here: `PackVectorEnv`, `SiteVectorEnv`. Not here: what they mean (envs.single), the adapter for Stable-Baselines3 (envs.sb3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from core.errors import InputError
from envs import kernel
from envs.config import EnvConfig
from envs.data import Exogenous, Part
from envs.engine import Engine
from envs.features import Marginal
from envs.layout import LAYOUT_VERSION
from envs.single import pack_config, part_of, site_config, spaces

Arrays = NDArray[np.float32]


class _Vector(VectorEnv[Arrays, Arrays, NDArray[Any]]):  # type: ignore[misc]
    """M environments, stepped by one call of the kernel.

    Seed s gives environment i the stream of a single environment with seed s + i, whatever M is. Returned arrays are copies, or
    with `copy=False` buffers that are overwritten by the step after the next. `infos`: the results of the step by name, shapes
    (M,) and (M, P); with an ended episode also `final_obs` (M, size) and `episode` (return, length), where their masks are set.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": [], "layout_version": LAYOUT_VERSION,
    }  # fmt: skip

    def __init__(
        self, num_envs: int, part: Part, config: EnvConfig, marginal: Marginal | None, *, copy: bool, threads: int
    ) -> None:
        self.engine = Engine(part, config, num_envs, marginal, autoreset=True, threads=threads)
        self.num_envs, self.layout, self.copy = num_envs, self.engine.layout, copy
        self.single_observation_space, self.single_action_space = spaces(self.engine.packs, self.layout.size)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._views = [_by_name(b.results, b.pack_results) for b in self.engine.both_buffers]
        self._seeded = False

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Begin an episode in each, or in those of options["reset_mask"]. Other options as in a single one, or an array of M."""
        given = dict(options or {})
        mask = given.pop("reset_mask", None)
        if isinstance(seed, Sequence):
            if len(seed) != self.num_envs:
                raise InputError(source="reset", field="seed", value=f"{len(seed)} seeds", expected=f"{self.num_envs}")
            self.engine.seed([int(one) for one in seed])
        elif seed is not None or not self._seeded:
            super().reset(seed=seed)
            base = int(self.np_random.integers(2**62)) if seed is None else seed
            self.engine.seed([base + e for e in range(self.num_envs)])
        self._seeded = True
        return self.engine.reset(given, mask).copy(), {}

    def step(self, actions: Arrays) -> tuple[Arrays, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """One step of each. InputError when an action is no number or the shape is another."""
        given = np.ascontiguousarray(actions, dtype=np.float32)
        if given.shape != self.action_space.shape:
            raise InputError(
                source="environment", field="actions", value=f"shape {given.shape}", expected=f"shape {self.action_space.shape}"
            )
        made = self.engine.step(given)
        own = np.copy if self.copy else np.asarray
        info = _by_name(np.copy(made.results), np.copy(made.pack_results)) if self.copy else dict(self._views[self.engine.turn])
        truncated = own(made.truncated)
        if made.ended:
            info["final_obs"], info["_final_obs"] = own(made.final_observation), truncated
            totals = self.engine.final_accounts
            info["episode"] = {"r": totals[:, kernel.RETURN].copy(), "l": totals[:, kernel.LENGTH].astype(np.int64)}
            info["_episode"] = truncated
        return own(made.observation), own(made.reward), own(made.terminated), truncated, info

    def close_extras(self, **kwargs: Any) -> None:  # noqa: ANN401 - Gymnasium's signature
        """End the threads."""
        self.engine.close()


def _by_name(results: NDArray[np.float64], by_pack: NDArray[np.float64]) -> dict[str, Any]:
    """Columns of results (M, 8) and pack results (M, P, 4) under their names."""
    info: dict[str, Any] = {name: results[:, k] for k, name in enumerate(kernel.RESULTS)}
    return info | {name: by_pack[:, :, k] for k, name in enumerate(kernel.PACK_RESULTS)}


class PackVectorEnv(_Vector):
    """`PulseBMS/Pack-v0`, natively batched. `threads` splits the batch; 2 pays from about 1,000 environments on."""

    def __init__(
        self,
        num_envs: int,
        data: Part | Exogenous | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        marginal: Marginal | None = None,
        *,
        copy: bool = True,
        threads: int = 1,
    ) -> None:
        super().__init__(num_envs, part_of(data), pack_config(config), marginal, copy=copy, threads=threads)


class SiteVectorEnv(_Vector):
    """`PulseBMS/Site-v0`, natively batched."""

    def __init__(
        self,
        num_envs: int,
        data: Part | Exogenous | None = None,
        config: EnvConfig | Mapping[str, Any] | None = None,
        marginal: Marginal | None = None,
        *,
        copy: bool = True,
        threads: int = 1,
    ) -> None:
        super().__init__(num_envs, part_of(data), site_config(config), marginal, copy=copy, threads=threads)


Batched = PackVectorEnv | SiteVectorEnv
