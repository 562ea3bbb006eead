"""How `pulsebms evaluate` shows how far it is: a bar on a terminal; elsewhere a log line a job, and now and then between."""

from __future__ import annotations

import time
from types import TracebackType

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from serving.evaluation.progress import Status

log = structlog.get_logger(__name__)
EVERY_S = 30.0
"""Between lines while no job ends."""


def duration(seconds: float | None) -> str:
    """About: 40 s, 7 min, 2.5 h."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class EvaluationProgress:
    """A context in which `told` shows each Status."""

    def __init__(self, console: Console) -> None:
        self._bar: Progress | None = None
        self._said_s = 0.0
        if console.is_terminal:
            columns = (
                TextColumn("jobs"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("about {task.fields[left]} left"),
            )  # fmt: skip
            self._bar = Progress(*columns, console=console)
            self._task = self._bar.add_task("jobs", total=None, left="?")

    def __enter__(self) -> EvaluationProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def told(self, status: Status) -> None:
        """Show it."""
        if self._bar is not None:
            self._bar.update(self._task, completed=status.done, total=status.total, left=duration(status.left_s))
            if status.error and status.ended is not None:
                self._bar.console.print(
                    f"{' '.join(map(str, status.ended))}: {status.error}", style="red", markup=False, highlight=False
                )
            return
        now = time.monotonic()
        if status.ended is None and now - self._said_s < EVERY_S:
            return
        self._said_s = now
        said = {
            "done": status.done, "total": status.total, "from_cache": status.from_cache, "failed": status.failed,
            "left": duration(status.left_s),
        }  # fmt: skip
        if status.ended is None:
            log.info("evaluating", **said, steps_of_running=status.steps)
            return
        policy, scenario, week, seed = status.ended
        tell = log.warning if status.error else log.info
        tell(
            "job_failed" if status.error else "job_done", policy=policy, scenario=scenario, week=week, seed=seed,
            took_s=round(status.took_s, 1), **({"error": status.error} if status.error else {}), **said,
        )  # fmt: skip
