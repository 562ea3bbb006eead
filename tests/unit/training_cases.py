"""A market and configs small enough to train on in a second."""

from datetime import UTC, datetime, timedelta

import numpy as np

START = datetime(2020, 11, 10, tzinfo=UTC)
DAYS = 90

CONFIG = """\
algorithm: {algorithm}
name: tiny
env:
  num_envs: 8
  config:
    substep_s: 300.0
    episode_steps: 40
    variants: 4
    forecast_hours: 6
    packs: [{{replacement_eur_per_kwh: 20.0}}]
data:
  price: {{path: {path}, column: eur_per_kwh}}
  dt_s: 3600.0
split:
  train: 2020
  validation: 2021
  test: [2022, 2023]
steps: 1600
network: {{hidden: [16]}}
validation: {{every_steps: 320, envs: 4, days: 3, sites: 2}}
checkpoint: {{every_steps: 320}}
{settings}
"""
PPO = """\
ppo:
  learning_rate: lin_1e-3
  n_steps: 8
  batch_size: 32
  log_std_init: -1.0
"""
SAC = """\
sac:
  learning_starts: 200
  buffer_size: 1000
  batch_size: 32
  gradient_steps: 1
"""


def write_prices(path, days=DAYS):
    """Hourly prices with a day's shape and noise, half in 2020, half in 2021."""
    g = np.random.default_rng(0)
    hours = np.arange(24 * days)
    price = 0.08 + 0.04 * np.sin(2 * np.pi * (hours - 10) / 24) + 0.015 * g.standard_normal(len(hours))
    lines = [f"{START + timedelta(hours=int(k)):%Y-%m-%dT%H:%MZ},{value:.5f}" for k, value in zip(hours, price, strict=True)]
    path.write_text("utc,eur_per_kwh\n" + "\n".join(lines) + "\n")
    return path


def config_text(path, algorithm="ppo"):
    return CONFIG.format(algorithm=algorithm, path=path, settings=PPO if algorithm == "ppo" else SAC)
