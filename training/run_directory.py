"""A run's directory: what exactly ran (`run.json`, `config.yaml`), and that two trainings do not write into the same one.

    run.json          versions, hashes of config, data and code, when it began
    config.yaml       the config with overrides, defaults and absolute paths
    seed-0/           checkpoint.safetensors, metrics.jsonl, tensorboard/, result.json, artefact/, log.txt; one a seed
    artefact/         that of the seed best on validation
    result.json       what every seed reached

Here: the record, comparison at resume, locks. Not here: what is in a seed's folder (training.rl_run, training.rl_export).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from core.errors import InputError
from training.files import write_whole

RECORD, CONFIG, RESULT, ARTEFACT = "run.json", "config.yaml", "result.json", "artefact"
PACKAGES = ("numpy", "numba", "torch", "stable-baselines3", "gymnasium", "safetensors")
SOURCES = ("core", "optimizer", "envs", "policies", "training")
LOCK_WAIT_S = 30.0
"""A training whose command was killed ends within a rollout; the next one waits for that."""


def seed_folder(run_dir: Path, seed: int) -> Path:
    """Where a seed writes."""
    return run_dir / f"seed-{seed}"


def config_text(config: BaseModel) -> str:
    """The whole config, defaults too, as YAML that reads back to the same."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_sha256(config: BaseModel) -> str:
    """Hash of everything that decides the result; the seeds, which are runs of their own, and files' places left out."""
    said = config.model_dump(mode="json", exclude={"seeds", "tuning"})
    for file in said.get("data", {}).values():
        if isinstance(file, dict):
            file.pop("path", None)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Packages that results depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def code_version() -> dict[str, str]:
    """The project's version, and a hash of its sources: it tells changed code apart where no version was made."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in SOURCES:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    try:
        made = version("pulsebms-optimizer")
    except PackageNotFoundError:
        made = "none"
    return {"version": made, "sources_sha256": digest.hexdigest()}


def begin(run_dir: Path, config: BaseModel, data_sha256: str, source: str, *, resume: bool) -> list[str]:
    """Make the directory and its record, or, to resume, compare with the one that is there; remarks for a person.

    Raises InputError when there is a run and `resume` was not asked for, none and it was, or config or data are others.
    """
    path = run_dir / RECORD
    if path.exists():
        if not resume:
            raise InputError(
                source="command line", field="--run-dir", value=str(run_dir),
                expected="a directory without a run; --resume continues the one that is there",
            )  # fmt: skip
        return _compared(path, config, data_sha256, source)
    if resume:
        raise InputError(source="command line", field="--resume", value=str(run_dir), expected=f"a directory with a {RECORD}")
    run_dir.mkdir(parents=True, exist_ok=True)
    write_whole(run_dir / CONFIG, config_text(config).encode())
    record = {
        "config_file": source, "config_sha256": config_sha256(config), "data_sha256": data_sha256,
        "packages": versions(), "python": platform.python_version(), "machine": platform.machine(), "code": code_version(),
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_json(path, record)
    return []


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file; InputError for one that is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a JSON object") from None
    if not isinstance(found, dict):
        raise InputError(source=str(path), field="file", value=type(found).__name__, expected="a JSON object")
    return found


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all; ValueError for a number that is not finite."""
    write_whole(path, (json.dumps(dict(values), indent=1, allow_nan=False) + "\n").encode())


@contextmanager
def locked(folder: Path, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Alone in a folder; the lock goes with the process, however it ends. InputError when another keeps it for `wait_s`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        end_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > end_s:
                    raise InputError(
                        source=str(folder), field="folder", value="in use", expected="no other training in it"
                    ) from None
                time.sleep(0.05)
        yield


def _compared(path: Path, config: BaseModel, data_sha256: str, source: str) -> list[str]:
    record = read_json(path) or {}
    if record.get("config_sha256") != config_sha256(config):
        raise InputError(
            source=source, field="config", value=_difference(path.parent / CONFIG, config),
            expected=f"the config of the run ({path.parent / CONFIG})",
        )  # fmt: skip
    if record.get("data_sha256") != data_sha256:
        raise InputError(
            source=source,
            field="data",
            value=data_sha256[:12],
            expected=f"that of the run: {str(record.get('data_sha256'))[:12]}",
        )
    remarks = []
    if record.get("packages") != versions():
        remarks.append("packages have changed since the run began: the result may differ from an uninterrupted run")
    if record.get("code") != code_version():
        remarks.append("the code has changed since the run began: the result may differ from an uninterrupted run")
    return remarks


def _difference(path: Path, config: BaseModel) -> str:
    """The first key by which the config differs from the run's."""
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return "another"
    return _first(before, yaml.safe_load(config_text(config)), "") or "another"


def _first(before: Any, now: Any, where: str) -> str:  # noqa: ANN401 - whatever YAML holds
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(key for key in now if key not in before)]:
            found = _first(before.get(key), now.get(key), f"{where}{key}.")
            if found and key not in ("seeds", "tuning"):
                return found
        return ""
    return "" if before == now else f"{where.removesuffix('.')}: {now} (was {before})"
