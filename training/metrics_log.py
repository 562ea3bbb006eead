"""What a training says of itself: `metrics.jsonl`, one line a record, and the same for TensorBoard.

Here: writing, and cutting off what a continued run will write again. Not here: what is said (training.rl_run).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch.utils.tensorboard import SummaryWriter

from training.files import write_whole

FILE_NAME, TENSORBOARD = "metrics.jsonl", "tensorboard"


class MetricsLog:
    """Opened at a step: records of later steps, which a kill made void, are removed."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / FILE_NAME
        if path.exists():
            kept = [line for line in path.read_bytes().splitlines(keepends=True) if _step(line) <= step]
            write_whole(path, b"".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / TENSORBOARD), purge_step=step + 1 if step else None)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """One line, flushed. Raises OSError when the disk is full, ValueError for a number that is not finite."""
        self._file.write(json.dumps({"step": step, **values}, allow_nan=False) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        self._board.close()


def _step(line: bytes) -> float:
    """The step of a line; a line that was broken off counts as later than any."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
