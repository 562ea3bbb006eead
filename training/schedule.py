"""Numbers that change over a training: `7e-4`, `lin_7e-4`, `cos_7e-4_1e-5`, as they are written in a config.

Here: reading and evaluating them. Not here: what they are used for (training.rl_model).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

EXPECTED = "a positive number, or lin_7e-4 (falls to 0 at the end), lin_7e-4_1e-5 (falls to 1e-5), cos_7e-4 (along a half cosine)"


class Schedule(BaseModel):
    """A value that is constant or falls with the steps done."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Literal["const", "lin", "cos"]
    start: float
    end: float

    def __call__(self, remaining: float) -> float:
        """Value when this share (1 at the start, 0 at the end) of the training is left."""
        left = min(max(remaining, 0.0), 1.0)
        if self.shape == "cos":
            left = 0.5 - 0.5 * math.cos(math.pi * left)
        return self.end + (self.start - self.end) * left

    def __str__(self) -> str:
        """As in a config."""
        if self.shape == "const":
            return f"{self.start!r}"
        return f"{self.shape}_{self.start!r}" + (f"_{self.end!r}" if self.end else "")


def parse_schedule(value: object) -> Schedule:
    """Raises ValueError, which says what can be written, for what is no schedule or one that cannot be."""
    if isinstance(value, Schedule):
        return value
    words = str(value).split("_") if isinstance(value, str) else ["const", str(value)]
    if isinstance(value, bool) or len(words) == 1:
        words = ["const", "" if isinstance(value, bool) else words[0]]
    shape, numbers = words[0], words[1:]
    try:
        ends = [float(number) for number in numbers]
    except ValueError:
        ends = []
    if shape not in ("const", "lin", "cos") or not 1 <= len(ends) <= (1 if shape == "const" else 2):
        raise ValueError(EXPECTED)
    start, end = ends[0], ends[0] if shape == "const" else (ends[1] if len(ends) > 1 else 0.0)
    if not (math.isfinite(start) and start > 0.0):
        raise ValueError(f"{EXPECTED}; this one starts at {start:g}")
    if not (math.isfinite(end) and 0.0 <= end <= start):
        raise ValueError(f"{EXPECTED}; this one rises from {start:g} to {end:g}, or falls below 0")
    return Schedule(shape=shape, start=start, end=end)


Scheduled = Annotated[Schedule, BeforeValidator(parse_schedule), PlainSerializer(str, return_type=str)]
"""A config's field: read from a number or a text, written back as text."""
