"""From a config to environment and model, and from a trained model to the network that is exported.

Here: building both, and the actor as the NumPy network that serving runs. Not here: the loop (training.rl_run), validation
(training.rl_validation), what is written beside the weights (training.rl_export).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from envs.config import EnvConfig
from envs.data import Part
from envs.residual import with_base
from envs.sb3 import NativeVecEnv
from envs.vector import Batched, PackVectorEnv, SiteVectorEnv
from policies.learned.network import Mlp
from training.artefacts import network_of_torch
from training.batched_ppo import BatchedPPO, KeptRolloutBuffer
from training.rl_base import mpc_table
from training.rl_config import AnyRlConfig, PpoConfig
from training.rl_state import Model

SQUASH = {"ppo": "clip", "sac": "tanh"}
"""How the actor's output becomes an action, in the words of policies.learned.actor."""
ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "silu": torch.nn.SiLU}


def make_batch(config: AnyRlConfig, part: Part, num_envs: int, env_config: EnvConfig) -> Batched:
    """A native batch of the config's kind; its arrays are overwritten by the step after the next."""
    kind = PackVectorEnv if config.env.kind == "pack" else SiteVectorEnv
    made: Batched = kind(num_envs, part, env_config, copy=False, threads=config.env.threads)
    if config.base is not None:
        return with_base(made, mpc_table(config.base, made.engine), config.base.share)
    return made


def make_model(config: AnyRlConfig, env: NativeVecEnv, seed: int) -> Model:
    """A model before its first step. Seeds torch's and numpy's global streams, which Stable-Baselines3 draws from."""
    # Their checks of every sample cost some per cent; that numbers are finite is checked where they leave (training.rl_run).
    torch.distributions.Distribution.set_default_validate_args(False)
    hidden = list(config.network.hidden)
    policy: dict[str, Any] = {"activation_fn": ACTIVATIONS[config.network.activation]}
    if isinstance(config, PpoConfig):
        ppo = config.ppo
        policy |= {
            "net_arch": {"pi": hidden, "vf": hidden}, "log_std_init": ppo.log_std_init, "optimizer_kwargs": {"fused": True},
        }  # fmt: skip
        model: Model = BatchedPPO(
            "MlpPolicy", env, learning_rate=ppo.learning_rate, n_steps=ppo.n_steps, batch_size=ppo.batch_size,
            n_epochs=ppo.n_epochs, gamma=ppo.gamma, gae_lambda=ppo.gae_lambda, clip_range=ppo.clip_range, ent_coef=ppo.ent_coef,
            vf_coef=ppo.vf_coef, max_grad_norm=ppo.max_grad_norm, target_kl=ppo.target_kl, device=config.device, seed=seed,
            policy_kwargs=policy, rollout_buffer_class=KeptRolloutBuffer,
        )  # fmt: skip
    else:
        sac = config.sac
        policy |= {"net_arch": hidden, "optimizer_kwargs": {"fused": True}}
        model = SAC(
            "MlpPolicy", env, learning_rate=sac.learning_rate, buffer_size=sac.buffer_size, learning_starts=sac.learning_starts,
            batch_size=sac.batch_size, tau=sac.tau, gamma=sac.gamma, train_freq=sac.train_freq,
            gradient_steps=sac.gradient_steps, ent_coef=sac.ent_coef, device=config.device, seed=seed, policy_kwargs=policy,
        )  # fmt: skip
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._setup_learn(config.steps)
    stagger(model, env, seed)
    return model


class Learner:
    """A model with its environments; `advance` is the unit between checkpoints."""

    def __init__(self, config: AnyRlConfig, part: Part, seed: int) -> None:
        self.config = config
        self.env = NativeVecEnv(make_batch(config, part, config.env.num_envs, config.env.config))
        self.model = make_model(config, self.env, seed)
        self._silent = _Silent()
        self._silent.init_callback(self.model)

    @property
    def steps(self) -> int:
        """Done so far, of all environments together."""
        return int(self.model.num_timesteps)

    def advance(self) -> dict[str, float]:
        """One rollout and the updates after it; what they say of themselves."""
        model = self.model
        if isinstance(self.config, PpoConfig):
            model.collect_rollouts(self.env, self._silent, model.rollout_buffer, model.n_steps)
            model._update_current_progress_remaining(model.num_timesteps, self.config.steps)
            model.train()
        else:
            model.collect_rollouts(self.env, self._silent, model.train_freq, model.replay_buffer, None, model.learning_starts)
            if model.num_timesteps > model.learning_starts:
                model.train(model.gradient_steps, model.batch_size)
        said = {name: float(value) for name, value in model.logger.name_to_value.items() if name != "time/iterations"}
        model.logger.name_to_value.clear()
        if isinstance(self.config, PpoConfig) and len(model.ended_returns):
            said["rollout/return_mean"] = float(model.ended_returns.mean())
        return said

    def close(self) -> None:
        """End the environments' threads."""
        self.env.close()


class _Silent(BaseCallback):  # type: ignore[misc]
    """Stable-Baselines3's loops ask for a callback."""

    def _on_step(self) -> bool:
        return True


def stagger(model: Model, env: NativeVecEnv, seed: int) -> None:
    """Begin the episodes so that they do not all end at the same step."""
    engine = env.batched.engine
    longest = engine.config.episode_steps or engine.features.last - engine.features.first
    steps = np.random.default_rng(seed).integers(1, longest + 1, env.num_envs)
    observation, _ = env.batched.reset(seed=seed, options={"steps": steps})
    model._last_obs = observation


def actor_network(model: Model) -> Mlp:
    """The deterministic actor: observation to what `SQUASH` turns into an action."""
    if isinstance(model, SAC):
        layers: tuple[Any, ...] = (*model.actor.latent_pi, model.actor.mu)
        return network_of_torch(layers, _activation(model.actor.activation_fn))
    layers = (*model.policy.mlp_extractor.policy_net, model.policy.action_net)
    return network_of_torch(layers, _activation(model.policy.activation_fn))


def acting(network: Mlp, algorithm: str) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Observations (M, size) to actions (M, P) in [-1, 1], as policies.learned.actor does."""
    if SQUASH[algorithm] == "tanh":
        return lambda observation: np.tanh(network(observation))
    return lambda observation: np.clip(network(observation), -1.0, 1.0)


def _activation(kind: type[torch.nn.Module]) -> Any:  # noqa: ANN401 - one of the literals
    return next(name for name, known in ACTIVATIONS.items() if known is kind)
