"""One seed's training from beginning or checkpoint to artefact: rollouts and updates, validation, early stop, checkpoints.

The checkpoint holds the best actor on validation beside the present state, so that one file is all there is to lose. Not here:
several seeds and their processes (training.seeds), the run directory's record (training.run_directory).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import InputError, PulseBmsError
from envs.data import DataSet
from policies.learned.network import Mlp
from training.checkpoint import FILE_NAME, Checkpoint, read_checkpoint, write_checkpoint
from training.files import remove_leftovers
from training.metrics_log import MetricsLog
from training.rl_config import AnyRlConfig
from training.rl_model import Learner, acting, actor_network
from training.rl_state import restore, take
from training.rl_validation import Score, Validator

RECORDS = 400
"""Records of the updates' own figures in a whole training."""
Status = Literal["done", "stopped", "pruned"]


class TrainingError(PulseBmsError):
    """A training came to numbers that are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What is reported while a training runs."""

    step: int
    steps: int
    score: float | None = None
    """Of the latest validation, when there was one just now."""
    best: float | None = None
    best_step: int = 0


Report = Callable[[Progress], object]


@dataclass(slots=True, kw_only=True)
class Course:
    """How a training has gone so far; part of every checkpoint."""

    validations: list[list[float]] = field(default_factory=list)
    """[step, score] of each."""
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    """Validations after the best one."""
    cpu_s: float = 0.0
    network: Mlp | None = None
    """The best one."""

    def judged(self, step: int, score: float, network: Mlp) -> bool:
        """Note a validation; whether it is the best."""
        self.validations.append([step, score])
        better = self.best is None or score > self.best
        if better:
            self.best, self.best_step, self.since_best, self.network = score, step, 0, network
        else:
            self.since_best += 1
        return better


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How it ended. `network` is the best on validation; none when it was stopped before the first one."""

    status: Status
    step: int
    course: Course
    network: Mlp | None
    score: Score | None
    foresight: float | None
    base: float | None = None
    """Score of what a residual is added to, alone."""


def train_seed(
    config: AnyRlConfig,
    data: DataSet,
    folder: Path,
    seed: int,
    *,
    report: Report = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    prune: Callable[[int, float], bool] = lambda _step, _score: False,
    identity: str = "",
) -> Outcome:
    """Train until the steps are done, no validation is better any more, `stop` says so, or `prune` does of a (step, score).

    Continues from `folder`'s checkpoint where there is one. `identity` binds a checkpoint to config and data. Raises InputError
    when the checkpoint is another run's, TrainingError when a number is not finite, OSError when nothing can be written; the
    checkpoint that was there then stays.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    remove_leftovers(path)
    validator = Validator(config, data.part("validation"))
    learner = Learner(config, data.part("train"), seed)
    course = Course()
    saved = read_checkpoint(path)
    if saved is not None:
        course = _restored(saved, learner, path, f"{identity} seed {seed}", config)
    status: Status = "done"
    with MetricsLog(folder, learner.steps) as log:
        while learner.steps < config.steps and course.since_best < config.validation.patience:
            before, begun = learner.steps, time.process_time()
            said = learner.advance()
            course.cpu_s += time.process_time() - begun
            step = learner.steps
            ended = step >= config.steps
            if ended or _crossed(before, step, max(1, config.steps // RECORDS)):
                _record(log, step, said)
            score = None
            if ended or _crossed(before, step, config.validation.every_steps):
                score = _validate(validator, learner, course, log)
            report(Progress(step=step, steps=config.steps, score=score, best=course.best, best_step=course.best_step))
            if score is not None and prune(step, score):
                status = "pruned"
                break
            stopped = not ended and stop()
            finished = ended or course.since_best >= config.validation.patience
            if stopped or finished or _crossed(before, step, config.checkpoint.every_steps):
                write_checkpoint(_checkpoint(learner, course, f"{identity} seed {seed}"), path)
            if stopped and not finished:
                status = "stopped"
                break
    learner.close()
    best = None if course.network is None or status != "done" else validator.score(acting(course.network, config.algorithm))
    scale = validator.foresight() if status == "done" else None
    base = validator.base() if status == "done" else None
    return Outcome(
        status=status, step=learner.steps, course=course, network=course.network, score=best, foresight=scale, base=base,
    )  # fmt: skip


def _crossed(before: int, after: int, every: int) -> bool:
    return after // every > before // every


def _record(log: MetricsLog, step: int, said: Mapping[str, float]) -> None:
    for name, value in said.items():
        if not math.isfinite(value):
            raise TrainingError(
                f"{name} is {value} after {step} steps: the training has diverged; a lower learning_rate may help. "
                "The last checkpoint and the best actor so far are kept"
            )
    log.record(step, said)


def _validate(validator: Validator, learner: Learner, course: Course, log: MetricsLog) -> float:
    network = actor_network(learner.model)
    if not all(np.isfinite(part).all() for layer in network.layers for part in layer):
        raise TrainingError(
            f"the actor holds a number that is not finite after {learner.steps} steps: a lower learning_rate may help"
        )
    found = validator.score(acting(network, learner.config.algorithm))
    course.judged(learner.steps, found.eur_per_kwh_year, network)
    log.record(
        learner.steps,
        {
            "validation/eur_per_kwh_year": found.eur_per_kwh_year,
            "validation/wear_eur_per_kwh_year": found.wear_eur_per_kwh_year,
            "validation/projected_share": found.projected_share,
            "validation/best": course.best or 0.0,
        },
    )
    return found.eur_per_kwh_year


def _checkpoint(learner: Learner, course: Course, identity: str) -> Checkpoint:
    arrays, state = take(learner.model, learner.env)
    said: dict[str, Any] = {
        "identity": identity, "validations": course.validations, "best": course.best, "best_step": course.best_step,
        "since_best": course.since_best, "cpu_s": course.cpu_s,
    }  # fmt: skip
    if course.network is not None:
        arrays |= course.network.tensors("best.")
        said["best_layers"], said["best_activation"] = len(course.network.layers), course.network.activation
    return Checkpoint(arrays=arrays, state={**state, "course": said})


def _restored(saved: Checkpoint, learner: Learner, path: Path, identity: str, config: AnyRlConfig) -> Course:
    said = saved.state.get("course", {})
    if said.get("identity") != identity:
        raise InputError(
            source=str(path), field="config and data", value=said.get("identity"), expected=f"those of this run ({identity})"
        )
    restore(learner.model, learner.env, saved)
    network = None
    if "best_layers" in said:
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = [
            (saved.arrays[f"best.{k}.weight"], saved.arrays[f"best.{k}.bias"]) for k in range(int(said["best_layers"]))
        ]
        network = Mlp(tuple(layers), said["best_activation"])
    return Course(
        validations=[list(item) for item in said["validations"]], best=said["best"], best_step=said["best_step"],
        since_best=said["since_best"], cpu_s=said["cpu_s"], network=network,
    )  # fmt: skip
