"""A checkpoint of a training: everything that its continuation depends on, in one safetensors file with JSON in its header.

Numbers and text, nothing that runs: Stable-Baselines3's own zip holds a pickle and is not used. Here: `Checkpoint`, writing,
reading. Not here: which state an algorithm has (training.rl_state).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from core.errors import InputError
from training.files import write_whole

FORMAT = "pulsebms-checkpoint/1"
FILE_NAME = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Arrays by name, and what else must be known: JSON-ready, finite numbers alone."""

    arrays: Mapping[str, NDArray[Any]]
    state: Mapping[str, Any]


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Whole or not at all. Raises OSError (disk full): the previous one is then intact."""
    arrays = {name: np.ascontiguousarray(value) for name, value in checkpoint.arrays.items()}
    header = {"format": FORMAT, "state": json.dumps(dict(checkpoint.state), sort_keys=True, allow_nan=False)}
    write_whole(path, save(arrays, metadata=header))


def read_checkpoint(path: Path) -> Checkpoint | None:
    """None where there is none. Raises InputError for a file that is no checkpoint of this format."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise InputError(source=str(path), field="format", value=said.get("format"), expected=FORMAT)
            return Checkpoint(arrays={name: file.get_tensor(name) for name in file.keys()}, state=json.loads(said["state"]))  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a checkpoint of this run") from None
