"""One seed's training as a process: `python -m training.worker RUN_DIR SEED`, told by lines of JSON on its output.

It reads the run directory's config, trains, exports. SIGINT, SIGTERM and the end of the process that started it end it after a
checkpoint. Not here: who starts it and shows what it says (training.seeds).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.errors import PulseBmsError
from training.config_file import read_config
from training.rl_config import PpoConfig, SacConfig
from training.rl_data import read_data
from training.rl_export import export
from training.rl_run import Progress, train_seed
from training.run_directory import CONFIG, config_sha256, locked, seed_folder
from training.seeds import FAILED, STOPPED

TOLD_EVERY_S = 0.2
"""Seconds between two words on progress; a validation is always told."""


class _Stop:
    """Whether to end: a signal came, or the parent has gone."""

    def __init__(self) -> None:
        self.asked = False
        self._parent = os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked or os.getppid() != self._parent


def say(event: str, values: Mapping[str, Any]) -> None:
    """One line. A parent that no longer listens is noticed by `_Stop`, not here."""
    try:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run(run_dir: Path, seed: int) -> int:
    """Train the seed of a run; the exit code."""
    stop = _Stop()
    folder = seed_folder(run_dir, seed)
    with locked(folder):
        found = read_config(run_dir / CONFIG)
        config = found.config
        assert isinstance(config, PpoConfig | SacConfig)  # noqa: S101 - training.seeds starts no other
        data = read_data(config, found.origin)

        told_s = 0.0

        def report(progress: Progress) -> None:
            nonlocal told_s
            if progress.score is None and time.monotonic() - told_s < TOLD_EVERY_S:
                return
            told_s = time.monotonic()
            values = {"step": progress.step, "steps": config.steps, "best": progress.best, "best_step": progress.best_step}
            say("progress", values | {"score": progress.score})

        identity = f"{config_sha256(config)[:16]} {data.exogenous.sha256()[:16]}"
        outcome = train_seed(config, data, folder, seed, report=report, stop=stop, identity=identity)
        if outcome.status == "stopped":
            say("stopped", {"step": outcome.step})
            return STOPPED
        artefact = export(config, data, outcome, folder, seed)
        say("done", {"step": outcome.step, "best": outcome.course.best, "sha256": artefact.sha256})
        return 0


def main(arguments: list[str]) -> int:
    """Errors that a person can mend become an event."""
    try:
        return run(Path(arguments[0]), int(arguments[1]))
    except PulseBmsError as error:
        say("failed", {"message": str(error)})
        return FAILED
    except OSError as error:
        say("failed", {"message": f"{error.filename or arguments[0]}: {error.strerror or error}; the last checkpoint is intact"})
        return FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
