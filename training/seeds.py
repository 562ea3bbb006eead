"""Several seeds of one run side by side, each a process of its own, none left behind.

Here: starting, listening, ending. Not here: what a process does (training.worker), what a terminal shows (serving.cli.train_cli).
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from policies.learned.artefact import read_artefact
from training.artefacts import write_artefact
from training.run_directory import ARTEFACT, RESULT, read_json, seed_folder, write_json

LOG = "log.txt"
STOPPED, FAILED = 3, 2
"""Exit codes of a process: ended after a checkpoint because it was told to; an error that a person can mend."""
END_WITHIN_S = 60.0
"""A process that was told to end finishes its rollout and a checkpoint first."""
Listen = Callable[[int, dict[str, Any]], object]
"""Called with the seed and an event of training.worker: progress, stopped, done, failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a seed's process ended: its last word (done, stopped, failed), and what it said of it."""

    event: str
    message: str = ""


def run_seeds(run_dir: Path, seeds: Sequence[int], listen: Listen, *, jobs: int) -> dict[int, Ended]:
    """Run those seeds of a run that have no result yet, `jobs` at a time.

    A KeyboardInterrupt tells all to end after a checkpoint and waits for that; a second one ends them at once. No process of it
    outlives the call.
    """
    waiting = [seed for seed in seeds if read_json(seed_folder(run_dir, seed) / RESULT) is None]
    ended = {seed: Ended(event="done") for seed in seeds if seed not in waiting}
    events: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    running: dict[int, subprocess.Popen[str]] = {}
    last: dict[int, dict[str, Any]] = {}
    told = False
    try:
        while running or (waiting and not told):
            try:
                while waiting and len(running) < jobs and not told:
                    seed = waiting.pop(0)
                    running[seed] = _start(run_dir, seed, events)
                seed, event = events.get()
                if event is not None:
                    last[seed] = event
                    listen(seed, event)
                    continue
                code = running.pop(seed).wait()
                ended[seed] = _ended(last.get(seed), code, seed_folder(run_dir, seed) / LOG)
            except KeyboardInterrupt:
                if told:
                    raise
                told = True
                for process in running.values():
                    process.send_signal(signal.SIGTERM)
    finally:
        _end(running)
    return ended | {seed: Ended(event="stopped", message="not begun") for seed in waiting}


def choose(run_dir: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Write the run's artefact, that of the seed best on validation, and `result.json`; what it says."""
    results = {seed: read_json(seed_folder(run_dir, seed) / RESULT) or {} for seed in seeds}
    best = max(results, key=lambda seed: results[seed].get("validation_eur_per_kwh_year", float("-inf")))
    write_artefact(read_artefact(seed_folder(run_dir, best) / ARTEFACT), run_dir / ARTEFACT)
    kept = {seed: {key: value for key, value in result.items() if key != "validations"} for seed, result in results.items()}
    said = {"best_seed": best, "sha256": kept[best]["sha256"], "seeds": [kept[seed] for seed in seeds]}
    write_json(run_dir / RESULT, said)
    return said


def _start(run_dir: Path, seed: int, events: queue.Queue[tuple[int, dict[str, Any] | None]]) -> subprocess.Popen[str]:
    folder = seed_folder(run_dir, seed)
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "training.worker", str(run_dir), str(seed)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches it through us, once
        )
    assert process.stdout is not None  # noqa: S101 - PIPE
    threading.Thread(target=_listen, args=(seed, process.stdout, events), daemon=True).start()
    return process


def _listen(seed: int, lines: IO[str], events: queue.Queue[tuple[int, dict[str, Any] | None]]) -> None:
    with lines:
        for line in lines:
            try:
                events.put((seed, json.loads(line)))
            except ValueError:
                continue  # a library's own words
    events.put((seed, None))


def _ended(last: dict[str, Any] | None, code: int, log: Path) -> Ended:
    name = "" if last is None else str(last.get("event"))
    if (name, code) in (("done", 0), ("stopped", STOPPED)):
        return Ended(event=name, message=str((last or {}).get("step", "")))
    if name == "failed":
        return Ended(event="failed", message=str((last or {}).get("message")))
    lines = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
    what = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
    return Ended(event="failed", message=f"{what}{': ' + lines[0] if lines else ''} (all of it: {log})")


def _end(running: dict[int, subprocess.Popen[str]]) -> None:
    for process in running.values():
        process.terminate()
    for process in running.values():
        try:
            process.wait(END_WITHIN_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            process.kill()
            process.wait()
