"""Environment steps per CPU second of PPO, its rollouts, and its updates; of Stable-Baselines3's own PPO beside it.

    python -m benchmarks.training [--rollouts 6]

1,024 packs of a made-up year, quarter hours, substeps of 300 s, batches of 4,096, two epochs, networks of 64 x 64, one thread.
"CPU" is per second of processor time of the one process; the best of three goes, since others may use the machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from stable_baselines3 import PPO

from benchmarks.common import Table, progress
from envs.data import Part, whole
from envs.sample import sample_year
from envs.sb3 import NativeVecEnv
from training.config_file import parse_config
from training.rl_config import PpoConfig
from training.rl_model import ACTIVATIONS, Learner, make_batch

TARGET_PER_S = 150e3
GOES = 5
CONFIG = """\
algorithm: ppo
name: speed
env: {num_envs: 1024, config: {substep_s: 300.0}}
data: {price: {path: none.csv, column: none}}
split: {train: 2020, validation: 2021, test: 2022}
steps: 1_000_000_000
"""


def rate(work: Callable[[], object], steps: int) -> float:
    """Steps per CPU second of a piece of work, best of GOES."""
    best = 0.0
    for _ in range(GOES):
        begun = time.process_time()
        work()
        best = max(best, steps / (time.process_time() - begun))
    return best


def ours(config: PpoConfig, part: Part, rollouts: int) -> tuple[float, float]:
    """Of whole iterations, and of rollouts alone."""
    learner = Learner(config, part, 0)
    learner.advance()
    steps = config.ppo.n_steps * config.env.num_envs * rollouts
    both = rate(lambda: [learner.advance() for _ in range(rollouts)], steps)
    model = learner.model

    def collect() -> None:
        for _ in range(rollouts):
            model.collect_rollouts(learner.env, learner._silent, model.rollout_buffer, model.n_steps)

    return both, rate(collect, steps)


def theirs(config: PpoConfig, part: Part, rollouts: int) -> float:
    """Stable-Baselines3's PPO on the same environments."""
    env = NativeVecEnv(make_batch(config, part, config.env.num_envs, config.env.config))
    ppo, hidden = config.ppo, list(config.network.hidden)
    policy = {"net_arch": {"pi": hidden, "vf": hidden}, "activation_fn": ACTIVATIONS[config.network.activation]}
    model = PPO(
        "MlpPolicy", env, n_steps=ppo.n_steps, batch_size=ppo.batch_size, n_epochs=ppo.n_epochs, device="cpu", seed=0,
        policy_kwargs=policy,
    )  # fmt: skip
    steps = ppo.n_steps * config.env.num_envs * rollouts
    model.learn(ppo.n_steps * config.env.num_envs)
    return rate(lambda: model.learn(steps), steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rollouts", type=int, default=6)
    rollouts = parser.parse_args().rollouts
    torch.set_num_threads(1)
    part = whole(sample_year(365))
    table = Table("PPO at 1,024 environments", ("activation", "steps / CPU s", "rollouts alone", "Stable-Baselines3's PPO"))
    best = 0.0
    for activation in ("relu", "silu", "tanh"):
        progress(activation)
        config = PpoConfig.model_validate(parse_config(CONFIG, "benchmark", [f"network.activation={activation}"]).values)
        both, alone = ours(config, part, rollouts)
        table.add(activation, both, alone, theirs(config, part, rollouts))
        best = max(best, both)
    print(table.markdown())
    print(f"{'PASS' if best >= TARGET_PER_S else 'FAIL'}: {best:,.0f} steps per CPU second; aim {TARGET_PER_S:,.0f}")


if __name__ == "__main__":
    main()
