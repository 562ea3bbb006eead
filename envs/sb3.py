"""The native batch as a Stable-Baselines3 `VecEnv`, without work in Python per environment and step.

Not here: training. Observations alternate between two buffers: Stable-Baselines3 still holds the last one while the next is made,
and copies what it keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from envs import kernel
from envs.vector import Batched


class NativeVecEnv(VecEnv):  # type: ignore[misc]
    """Adapter; `results` and `pack_results` are the last step's arrays (envs.kernel.RESULTS and PACK_RESULTS)."""

    def __init__(self, batched: Batched) -> None:
        self.batched = batched
        self.render_mode = None
        super().__init__(batched.num_envs, batched.single_observation_space, batched.single_action_space)
        self._actions = np.zeros((batched.num_envs, batched.engine.packs), dtype=np.float32)
        self._seed: int | None = None
        # One dictionary an environment, empty between ends of episodes; nobody writes into them.
        self._nothing: list[dict[str, Any]] = [{} for _ in range(batched.num_envs)]

    @property
    def results(self) -> NDArray[np.float64]:
        """Shape (M, 8)."""
        return self.batched.engine.buffers.results

    @property
    def pack_results(self) -> NDArray[np.float64]:
        """Shape (M, P, 4)."""
        return self.batched.engine.buffers.pack_results

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Takes effect with the next reset: environment i has seed + i."""
        self._seed = seed
        return [None if seed is None else seed + e for e in range(self.num_envs)]

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in each."""
        observation, _ = self.batched.reset(seed=self._seed)
        self._seed = None
        return observation

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Keep the actions."""
        self._actions = np.ascontiguousarray(actions, dtype=np.float32)

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step; infos are empty but for environments whose episode ended."""
        made = self.batched.engine.step(self._actions)
        infos = self._nothing
        if made.truncated.any():
            infos = [{} for _ in range(self.num_envs)]
            totals = self.batched.engine.final_accounts
            for e in np.flatnonzero(made.truncated):
                infos[e] = {
                    "terminal_observation": made.final_observation[e].copy(),
                    "TimeLimit.truncated": True,
                    "episode": {"r": float(totals[e, kernel.RETURN]), "l": int(totals[e, kernel.LENGTH]), "t": 0.0},
                }
        return made.observation, made.reward.astype(np.float32), made.truncated, infos

    def close(self) -> None:
        """End the threads."""
        self.batched.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:  # noqa: ANN401 - the base's signature
        """The batch's attribute, once an environment."""
        return [getattr(self.batched, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ANN401
        """Refused: environments of a batch share everything but their state."""
        raise AttributeError(f"{attr_name}: environments of a native batch have no attributes of their own")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:  # noqa: ANN401
        """Refused, for the same reason."""
        raise AttributeError(f"{method_name}: environments of a native batch have no methods of their own")

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:  # noqa: ANN401
        """Never."""
        return [False] * len(list(self._get_indices(indices)))
