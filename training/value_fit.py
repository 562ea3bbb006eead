"""Fitting a network to what energy turned out to be worth: supervised, minutes at most, validated by money and not by its loss.

Here: one fit of one network. Targets are marginal values of energy in hindsight, so that the network learns their mean given what
was known. Every `checkpoint_every` iterations the network acts on validation data; the best checkpoint is what is kept, and
`patience` checkpoints without a better one end the fit. Not here: what the rows are (training.value_data), files
(training.artefacts).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from policies.learned.network import Mlp
from training.artefacts import network_of_torch
from training.value_config import FitSettings

FloatArray = NDArray[np.float64]
Array32 = NDArray[np.float32]
Progress = Callable[[int, int, float], object]
"""Called with iterations done, iterations in all, and the validation score of the checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The best checkpoint and how it was reached."""

    network: Mlp
    score: float
    """On validation."""
    iterations: int
    best_at: int
    cpu_s: float
    history: list[tuple[int, float, float]] = field(default_factory=list)
    """(iteration, training loss, validation score) of each checkpoint."""


def fit_network(
    features: Array32,
    targets: Array32,
    settings: FitSettings,
    score: Callable[[Mlp], float],
    *,
    seed: int = 0,
    start: Mlp | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit `targets` (N, O) on `features` (N, F); `score` says what a network is worth on validation data, more is better.
    `start`: a network of the same shape to go on from.

    Same seed, same result on one machine. Raises ValueError when a number is not finite.
    """
    if not (np.isfinite(features).all() and np.isfinite(targets).all()):
        raise ValueError("features or targets hold a number that is not finite")
    begun = time.process_time()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = _module(features.shape[1], targets.shape[1], settings)
        if start is not None:
            _set_weights(net, start)
        acting = copy.deepcopy(net) if settings.average else net
        weights, averaged = list(net.parameters()), list(acting.parameters())
        x, y = torch.from_numpy(features), torch.from_numpy(targets)
        optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.iterations)
        best, best_at, history, running, done = None, 0, [], 0.0, 0
        top = -np.inf
        for done in range(1, settings.iterations + 1):
            rows = torch.randint(0, len(x), (settings.batch,), generator=generator)
            inputs = x[rows]
            if settings.input_noise:
                inputs = inputs + settings.input_noise * torch.randn(inputs.shape, generator=generator)
            loss = torch.nn.functional.huber_loss(net(inputs), y[rows], delta=settings.huber_delta)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if settings.average:  # the mean is short at first, so that it forgets where it began
                kept = min(settings.average, done / (done + 10.0))
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, weights, 1.0 - kept)
            running += float(loss.detach())
            if done % settings.checkpoint_every == 0 or done == settings.iterations:
                found = network_of_torch(acting, settings.activation)
                reached = score(found)
                history.append((done, running / settings.checkpoint_every, reached))
                running = 0.0
                if reached > top or best is None:
                    best, best_at, top = found, done, reached
                if progress is not None:
                    progress(done, settings.iterations, reached)
                if done - best_at >= settings.patience * settings.checkpoint_every:
                    break
    assert best is not None  # noqa: S101 - the last iteration is a checkpoint
    cpu_s = time.process_time() - begun
    return Fit(network=best, score=top, iterations=done, best_at=best_at, cpu_s=cpu_s, history=history)


def _set_weights(net: torch.nn.Sequential, start: Mlp) -> None:
    linear = [part for part in net if isinstance(part, torch.nn.Linear)]
    with torch.no_grad():
        for part, (weight, bias) in zip(linear, start.layers, strict=True):
            part.weight.copy_(torch.tensor(weight))
            part.bias.copy_(torch.tensor(bias))


def _module(inputs: int, outputs: int, settings: FitSettings) -> torch.nn.Sequential:
    between = {"silu": torch.nn.SiLU, "tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[settings.activation]
    parts: list[torch.nn.Module] = []
    width = inputs
    for hidden in settings.hidden:
        parts += [torch.nn.Linear(width, hidden), between()]
        if settings.dropout:
            parts.append(torch.nn.Dropout(settings.dropout))
        width = hidden
    return torch.nn.Sequential(*parts, torch.nn.Linear(width, outputs))
