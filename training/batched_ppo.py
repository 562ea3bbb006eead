"""Stable-Baselines3's PPO on a native batch: rollouts without work in Python per environment.

Here: `BatchedPPO`. Its losses and updates are Stable-Baselines3's own; only the collecting differs, to the same numbers. Not
here: the loop of a run, checkpoints (training.rl_run).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer

from envs import kernel
from envs.sb3 import NativeVecEnv


class KeptRolloutBuffer(RolloutBuffer):  # type: ignore[misc]
    """A rollout buffer whose arrays are made once and overwritten: making them anew costs more than filling them."""

    _made: dict[str, NDArray[Any]] | None = None

    def reset(self) -> None:
        """Begin a rollout."""
        if self._made is None:
            super().reset()
            self._made = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        else:
            for name, value in self._made.items():
                setattr(self, name, value)  # sampling has replaced it by a flat copy
            self.generator_ready, self.pos, self.full = False, 0, False


class BatchedPPO(PPO):  # type: ignore[misc]
    """PPO (Schulman et al., arXiv 1707.06347) that steps `NativeVecEnv` as the batch it is.

    The value of what comes after a truncated episode is added to its last reward, as Stable-Baselines3 does, but by one forward
    pass a rollout in place of one an episode. Callbacks and infos are not served.
    """

    _last_obs: NDArray[np.float32]
    _last_episode_starts: NDArray[np.bool_]
    ended_returns: NDArray[np.float64] = np.zeros(0)
    """Returns of the episodes that ended in the last rollout."""

    def collect_rollouts(self, env: NativeVecEnv, callback: object, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """Fill the buffer; always True."""
        self.policy.set_training_mode(False)
        rollout_buffer.reset()
        engine = env.batched.engine
        ends: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]] = []
        returns = []
        with torch.no_grad():
            for step in range(n_rollout_steps):
                actions, values, log_probs = self.policy(torch.from_numpy(self._last_obs))
                chosen = actions.numpy()
                made = engine.step(np.clip(chosen, -1.0, 1.0))
                self.num_timesteps += env.num_envs
                rollout_buffer.add(self._last_obs, chosen, made.reward, self._last_episode_starts, values, log_probs)
                if made.truncated.any():
                    ended = np.flatnonzero(made.truncated)
                    ends.append((step, ended, made.final_observation[ended]))
                    returns.append(engine.final_accounts[ended, kernel.RETURN])
                self._last_obs, self._last_episode_starts = made.observation, made.truncated.copy()
            if ends:
                after = self.policy.predict_values(torch.from_numpy(np.concatenate([last for _, _, last in ends])))
                worth = np.split(after.numpy().flatten(), np.cumsum([len(ended) for _, ended, _ in ends])[:-1])
                for (step, ended, _), value in zip(ends, worth, strict=True):
                    rollout_buffer.rewards[step, ended] += self.gamma * value
            values = self.policy.predict_values(torch.from_numpy(self._last_obs))
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=self._last_episode_starts)
        self.ended_returns = np.concatenate(returns) if returns else np.zeros(0)
        return True
