"""All that the continuation of a PPO or SAC training depends on, as arrays and JSON: networks, optimisers, random streams,
environments, replay buffer.

Here: taking it out of a model and putting it back. A run restored from it makes the same numbers as one that was never stopped.
Not here: when (training.rl_run), files (training.checkpoint).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC

from core.errors import InputError
from envs.sb3 import NativeVecEnv
from training.checkpoint import Checkpoint

Model = Any
"""BatchedPPO or SAC; Stable-Baselines3 is not type-checked here."""
Arrays = dict[str, NDArray[Any]]
REPLAY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def take(model: Model, env: NativeVecEnv) -> tuple[Arrays, dict[str, Any]]:
    """Copies of arrays, and the rest. To be called between an update and the next rollout."""
    arrays: Arrays = {f"policy.{name}": value.numpy(force=True).copy() for name, value in model.policy.state_dict().items()}
    for name, optimiser in _optimisers(model):
        for index, parts in optimiser.state_dict()["state"].items():
            arrays |= {f"{name}.{index}.{part}": value.numpy(force=True).copy() for part, value in parts.items()}
    arrays |= {f"env.{name}": value.copy() for name, value in env.batched.engine.snapshot().items()}
    arrays["last.observation"] = model._last_obs.copy()
    arrays["last.starts"] = np.asarray(model._last_episode_starts, dtype=np.bool_)
    arrays["random.torch"] = torch.get_rng_state().numpy().copy()
    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    arrays["random.numpy"] = np.asarray(keys)
    state: dict[str, Any] = {
        "timesteps": int(model.num_timesteps), "updates": int(model._n_updates), "episodes": int(model._episode_num),
        "remaining": float(model._current_progress_remaining),
        "numpy": [str(kind), int(position), int(has_gauss), float(gauss)],
        "action_space": model.action_space.np_random.bit_generator.state,
    }  # fmt: skip
    if isinstance(model, SAC):
        buffer = model.replay_buffer
        filled = buffer.buffer_size if buffer.full else buffer.pos
        arrays |= {f"replay.{name}": getattr(buffer, name)[:filled] for name in REPLAY}
        state |= {"replay": [int(buffer.pos), bool(buffer.full)]}
        if model.ent_coef_optimizer is not None:
            arrays["log_ent_coef"] = model.log_ent_coef.numpy(force=True).copy()
    return arrays, state


def restore(model: Model, env: NativeVecEnv, checkpoint: Checkpoint) -> None:
    """Put it back into a model made from the same config. Raises InputError when the shapes are another config's."""
    arrays, state = checkpoint.arrays, checkpoint.state
    try:
        model.policy.load_state_dict(_tensors(arrays, "policy."))
        for name, optimiser in _optimisers(model):
            saved = optimiser.state_dict()
            inner: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in _tensors(arrays, f"{name}.").items():
                index, _, part = key.partition(".")
                inner.setdefault(int(index), {})[part] = value
            optimiser.load_state_dict({"state": inner, "param_groups": saved["param_groups"]})
        env.batched.engine.restore({name: arrays[f"env.{name}"] for name in env.batched.engine.snapshot()})
        if isinstance(model, SAC):
            _restore_sac(model, checkpoint)
    except (RuntimeError, KeyError, ValueError) as error:
        raise InputError(
            source="checkpoint", field="arrays", value=str(error).splitlines()[0], expected="those of this config"
        ) from None
    model._last_obs = arrays["last.observation"].copy()
    model._last_episode_starts = arrays["last.starts"].copy()
    model.num_timesteps, model._n_updates = int(state["timesteps"]), int(state["updates"])
    model._episode_num, model._current_progress_remaining = int(state["episodes"]), float(state["remaining"])
    torch.set_rng_state(torch.from_numpy(arrays["random.torch"].copy()))
    kind, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, arrays["random.numpy"].copy(), position, has_gauss, gauss))
    model.action_space.np_random.bit_generator.state = state["action_space"]


def _optimisers(model: Model) -> Iterator[tuple[str, torch.optim.Optimizer]]:
    if not isinstance(model, SAC):
        yield "optimiser", model.policy.optimizer
        return
    yield "optimiser_actor", model.actor.optimizer
    yield "optimiser_critic", model.critic.optimizer
    if model.ent_coef_optimizer is not None:
        yield "optimiser_ent_coef", model.ent_coef_optimizer


def _restore_sac(model: SAC, checkpoint: Checkpoint) -> None:
    buffer, arrays = model.replay_buffer, checkpoint.arrays
    for name in REPLAY:
        own, saved = getattr(buffer, name), arrays[f"replay.{name}"]
        own[: len(saved)] = saved
    buffer.pos, buffer.full = int(checkpoint.state["replay"][0]), bool(checkpoint.state["replay"][1])
    if model.ent_coef_optimizer is not None:
        with torch.no_grad():
            model.log_ent_coef.copy_(torch.from_numpy(arrays["log_ent_coef"]))


def _tensors(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): torch.from_numpy(value.copy()) for name, value in arrays.items() if name.startswith(prefix)
    }
