"""A search of a config's settings with Optuna: studies in SQLite, continued by the same command.

A trial is a training of the config's first seed with drawn settings; its value is the best validation score. Hopeless ones are
ended early. Here: drawing, running, continuing. Not here: one training (training.rl_run), what a terminal shows
(serving.cli.train_cli).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from core.errors import InputError
from envs.data import DataSet
from training.config_file import AnyConfig, Read, parse_config
from training.rl_config import AnyRlConfig, Tuned, TuningConfig
from training.rl_data import read_data, with_files
from training.rl_run import Progress, TrainingError, train_seed
from training.run_directory import config_sha256, locked

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
IDENTITY, SPACE = "config_sha256", "space"
Told = Callable[[int, Mapping[str, Any], Progress], object]
"""Called with the trial's number, its settings, and its progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The best of a study so far."""

    trials: int
    """Finished ones: complete or pruned."""
    pruned: int
    value: float | None
    overrides: tuple[str, ...]
    """As for --set."""
    stopped: bool


def check_space(config: AnyConfig, read: Read) -> TuningConfig:
    """The config's search; InputError at its line when there is none, or a key of it is none of the config's."""
    tuning = getattr(config, "tuning", None)
    if not isinstance(tuning, TuningConfig):
        expected = "what `pulsebms tune` searches (docs/training.md)"
        raise InputError(source=read.origin.of("tuning"), field="tuning", value=None, expected=expected)
    for key, tuned in tuning.space.items():
        field = f"tuning.space.{key}"
        for value in tuned.choices or (tuned.low, tuned.high):
            try:
                parse_config(read.origin.text, read.origin.file, [*read.overrides, f"{key}={_written(tuned, value)}"])
            except InputError as error:
                where = read.origin.of(field)
                raise InputError(source=where, field=field, value=value, expected=error.expected) from None
    return tuning


def tune(
    read: Read,
    folder: Path,
    trials: int,
    *,
    folders: Sequence[Path],
    told: Told = lambda _number, _settings, _progress: None,
    stop: Callable[[], bool] = lambda: False,
) -> Found:
    """Run trials until the study has `trials` finished ones, those of earlier calls counted.

    The study is `folder/study.db`. A trial that a kill broke off is run again with the same settings. Raises InputError when the
    study is another config's or in use.
    """
    config = read.config
    tuning = check_space(config, read)
    base: AnyRlConfig = config  # type: ignore[assignment]
    data = read_data(with_files(base, folders, read.origin), read.origin)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with locked(folder, wait_s=5.0):
        study = _study(base, tuning, folder)
        stopped = False
        while _count(study, FINISHED) < trials and not stopped:
            trial = study.ask()
            overrides = _draw(trial, tuning)
            stopped = _run(study, trial, read, overrides, data, folder, folders, told, stop)
        return _found(study, tuning, stopped)


def _study(base: AnyRlConfig, tuning: TuningConfig, folder: Path) -> optuna.Study:
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    most = max(1, base.steps // base.validation.every_steps)
    pruner: optuna.pruners.BasePruner = (
        optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=tuning.warmup_validations)
        if tuning.pruner == "median"
        else optuna.pruners.HyperbandPruner(min_resource=max(1, tuning.warmup_validations), max_resource=most)
    )
    study = optuna.create_study(
        study_name=base.name, storage=storage, load_if_exists=True, direction="maximize", pruner=pruner,
    )  # fmt: skip
    # The sampler's own random numbers are not kept: with another seed a continued study does not draw its first trials again.
    study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(deepcopy=False)))
    identity = config_sha256(base)
    if study.user_attrs.get(IDENTITY, identity) != identity:
        raise InputError(
            source=str(folder), field="study", value="another config's", expected="this config's: another name makes a new study"
        )
    # Choices are kept by their place, and Optuna wants them unchanged.
    space = {key: tuned.model_dump(mode="json") for key, tuned in tuning.space.items()}
    if study.user_attrs.get(SPACE, space) != space:
        raise InputError(
            source=str(folder), field="tuning.space", value="another", expected="the study's: another name makes a new study"
        )
    study.set_user_attr(IDENTITY, identity)
    study.set_user_attr(SPACE, space)
    # A trial that is still running was broken off: nobody else may be in the folder. Its settings are drawn again.
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    read: Read,
    overrides: list[str],
    data: DataSet,
    folder: Path,
    folders: Sequence[Path],
    told: Told,
    stop: Callable[[], bool],
) -> bool:
    """One trial; whether it was told to stop."""
    settings = dict(trial.params)
    try:
        found = parse_config(read.origin.text, read.origin.file, [*read.overrides, *overrides])
        config: AnyRlConfig = with_files(found.config, folders, found.origin)  # type: ignore[arg-type]
    except InputError as error:  # settings that do not go together
        trial.set_user_attr("refused", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return False
    validations = 0

    def prune(_step: int, score: float) -> bool:
        nonlocal validations
        trial.report(score, validations)
        validations += 1
        return bool(trial.should_prune())

    try:
        outcome = train_seed(
            config, data, folder / f"trial-{trial.number:04d}", config.seeds[0], stop=stop, prune=prune,
            report=lambda progress: told(trial.number, settings, progress), identity=f"trial {trial.number}",
        )  # fmt: skip
    except TrainingError as error:
        trial.set_user_attr("diverged", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        return False
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(settings)
        raise
    if outcome.status == "stopped":
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(settings)
        return True
    trial.set_user_attr("overrides", overrides)
    if outcome.status == "pruned":
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, outcome.course.best)
    return False


def _draw(trial: optuna.Trial, tuning: TuningConfig) -> list[str]:
    return [f"{key}={_written(tuned, _suggest(trial, key, tuned))}" for key, tuned in tuning.space.items()]


def _suggest(trial: optuna.Trial, key: str, tuned: Tuned) -> Any:  # noqa: ANN401 - a number, or one of the choices
    if tuned.choices:
        place = trial.suggest_categorical(key, list(range(len(tuned.choices))))
        return tuned.choices[place]
    low, high = tuned.low or 0, tuned.high or 0
    if tuned.whole:
        return trial.suggest_int(key, int(low), int(high), log=tuned.log)
    return trial.suggest_float(key, float(low), float(high), log=tuned.log)


def _written(tuned: Tuned, value: Any) -> str:  # noqa: ANN401
    text = str(list(value)) if isinstance(value, list | tuple) else repr(value) if isinstance(value, float) else str(value)
    return tuned.text.replace("{}", text)


def _count(study: optuna.Study, states: Sequence[TrialState]) -> int:
    return len(study.get_trials(deepcopy=False, states=tuple(states)))


def _found(study: optuna.Study, tuning: TuningConfig, stopped: bool) -> Found:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = max(complete, key=lambda trial: float("-inf") if trial.value is None else trial.value, default=None)
    return Found(
        trials=_count(study, FINISHED),
        pruned=_count(study, (TrialState.PRUNED,)),
        value=None if best is None else best.value,
        overrides=() if best is None else tuple(best.user_attrs["overrides"]),
        stopped=stopped,
    )
