"""How far an evaluation is and how long it will still take. Not here: showing it (serving.cli.evaluate_progress)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

FORESIGHT = "perfect_foresight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is told at the beginning, when a job ends, and again and again between."""

    done: int
    total: int
    from_cache: int
    failed: int
    steps: int
    """Decided by the jobs that run now."""
    left_s: float | None
    """About; None while nothing is known."""
    ended: tuple[str, str, str, int] | None = None
    """Policy, scenario, week, seed of the job that has just ended."""
    error: str = ""
    """Of that job."""
    took_s: float = 0.0
    """By that job."""


Told = Callable[[Status], object]


@dataclass(slots=True, kw_only=True)
class Estimate:
    """Time left, from what jobs of each policy took, in this run or in those that left their results in the cache."""

    workers: int
    took_s: dict[str, list[float]] = field(default_factory=dict)

    def note(self, policy: str, result: dict[str, Any]) -> None:
        """A job has ended, now or before."""
        if result.get("took_s") is not None and result["status"] == "ok":
            self.took_s.setdefault(policy, []).append(float(result["took_s"]))

    def left_s(self, open_policies: Sequence[str], running_s: Sequence[float] = ()) -> float | None:
        """Of the jobs of these policies; `running_s` is what those under way have had. None while no job has ended."""
        if not open_policies:
            return 0.0
        if not self.took_s:
            return None
        mean = {policy: sum(values) / len(values) for policy, values in self.took_s.items()}
        usual = [mean[policy] for policy in mean if policy != FORESIGHT] or list(mean.values())
        known = sum(mean.get(policy, sum(usual) / len(usual)) for policy in open_policies)
        return max(0.0, known - sum(running_s)) / min(self.workers, len(open_policies))
