"""From J of weeks to scores, intervals and paired comparisons. Pure: the same numbers give the same result to the last digit.

    performance_score = clip((sum J - sum J_idle) / (sum J_PF - sum J_idle), 0, 1)
over the blocks of one information set; a block is a week of a scenario under a seed. Intervals: paired bootstrap over weeks,
within each scenario, all seeds of a week together. Interquartile mean of the blocks' own scores after Agarwal et al., NeurIPS
2021 (rliable). Not here: J (serving.evaluation.account).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Block = tuple[str, str, int]
"""Scenario, week, seed."""
SPIKE = 2.5
"""A week in which perfect foresight earns so many times its scenario's median stands apart."""
WON_EUR = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A number with its interval."""

    value: float
    low: float
    high: float

    def document(self) -> dict[str, float]:
        """JSON-ready."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What scores are counted from: the blocks of one benchmark in order, J of idle and of perfect foresight, (B,) each."""

    blocks: tuple[Block, ...]
    idle_eur: FloatArray
    best_eur: FloatArray
    level: float = 0.95
    resamples: int = 4000

    @property
    def room_eur(self) -> FloatArray:
        """What there is to earn in each block."""
        return self.best_eur - self.idle_eur

    def spikes(self) -> NDArray[np.bool_]:
        """Blocks that stand apart."""
        found = np.zeros(len(self.blocks), dtype=np.bool_)
        names = np.array([block[0] for block in self.blocks])
        for name in sorted(set(names.tolist())):
            own = names == name
            median = float(np.median(self.room_eur[own]))
            found |= own & (self.room_eur > SPIKE * median) & (median > 0)
        return found

    def draws(self) -> NDArray[np.int64]:
        """Block indices of each resample, (resamples, B): weeks drawn within their scenario, with all their seeds."""
        rng = np.random.default_rng(0)
        parts = []
        for name in sorted({block[0] for block in self.blocks}):
            weeks = sorted({block[1] for block in self.blocks if block[0] == name})
            of_week = [[k for k, block in enumerate(self.blocks) if block[:2] == (name, week)] for week in weeks]
            seeds = min(len(item) for item in of_week)
            table = np.array([item[:seeds] for item in of_week], dtype=np.int64)
            chosen = rng.integers(0, len(weeks), (self.resamples, len(weeks)))
            parts.append(table[chosen].reshape(self.resamples, -1))
        return np.concatenate(parts, axis=1)


def ratio(frame: Frame, j_eur: FloatArray, keep: NDArray[np.bool_] | None = None) -> float | None:
    """(sum J - sum J_idle) / (sum J_PF - sum J_idle), not clipped; None where there is nothing to earn."""
    own = np.ones(len(j_eur), dtype=np.bool_) if keep is None else keep
    room = float(frame.room_eur[own].sum())
    return float((j_eur - frame.idle_eur)[own].sum()) / room if own.any() and room > 0 else None


def performance_score(frame: Frame, j_eur: FloatArray, keep: NDArray[np.bool_] | None = None) -> float | None:
    """In [0, 1]; None where there is nothing to earn."""
    found = ratio(frame, j_eur, keep)
    return None if found is None else float(np.clip(found, 0.0, 1.0))


def score_interval(frame: Frame, j_eur: FloatArray, draws: NDArray[np.int64]) -> Interval | None:
    """The score with its interval."""
    value = performance_score(frame, j_eur)
    room = frame.room_eur[draws].sum(axis=1)
    if value is None or (room <= 0).any():
        return None
    shares = np.clip((j_eur - frame.idle_eur)[draws].sum(axis=1) / room, 0.0, 1.0)
    return _interval(value, shares, frame.level)


def iqm(values: FloatArray) -> float:
    """Mean of the middle half; of the values at its edges the part that lies within."""
    ordered = np.sort(values)
    cut = len(ordered) / 4.0
    places = np.arange(len(ordered), dtype=np.float64)
    weight = np.clip(np.minimum(places + 1.0, len(ordered) - cut) - np.maximum(places, cut), 0.0, 1.0)
    return float((ordered * weight).sum() / weight.sum())


def iqm_interval(frame: Frame, j_eur: FloatArray, draws: NDArray[np.int64]) -> Interval | None:
    """Interquartile mean of the blocks' own scores (not clipped), over blocks in which there is something to earn."""
    rich = frame.room_eur > 0
    if not rich.any():
        return None
    own = np.where(rich, (j_eur - frame.idle_eur) / np.where(rich, frame.room_eur, 1.0), np.nan)
    samples = []
    for row in draws:
        found = own[row]
        found = found[np.isfinite(found)]
        samples.append(iqm(found) if len(found) else 0.0)
    return _interval(iqm(own[rich]), np.array(samples), frame.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A policy less another, block by block; in points of what perfect foresight earns beyond idle."""

    points: Interval
    eur: float
    weeks_won: int
    weeks_lost: int
    blocks: int
    chance_better: float
    """Share of the resamples in which it earns more."""

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "points": self.points.document(), "eur": self.eur, "weeks_won": self.weeks_won, "weeks_lost": self.weeks_lost,
            "blocks": self.blocks, "chance_better": self.chance_better,
        }  # fmt: skip


def compare(frame: Frame, j_eur: FloatArray, other_eur: FloatArray, draws: NDArray[np.int64]) -> Comparison | None:
    """Paired; None where there is nothing to earn."""
    difference, room = j_eur - other_eur, float(frame.room_eur.sum())
    drawn_room = frame.room_eur[draws].sum(axis=1)
    if room <= 0 or (drawn_room <= 0).any():
        return None
    samples = 100.0 * difference[draws].sum(axis=1) / drawn_room
    return Comparison(
        points=_interval(100.0 * float(difference.sum()) / room, samples, frame.level),
        eur=float(difference.sum()),
        weeks_won=int((difference > WON_EUR).sum()),
        weeks_lost=int((difference < -WON_EUR).sum()),
        blocks=len(difference),
        chance_better=float((samples > 0).mean()),
    )


def only(frame: Frame, keep: NDArray[np.bool_]) -> Frame:
    """The same with some of the blocks."""
    chosen = np.flatnonzero(keep).tolist()
    return Frame(
        blocks=tuple(frame.blocks[k] for k in chosen), idle_eur=frame.idle_eur[keep], best_eur=frame.best_eur[keep],
        level=frame.level, resamples=frame.resamples,
    )  # fmt: skip


def frame_of(
    blocks: Sequence[Block], idle: Mapping[Block, float], best: Mapping[Block, float], level: float, resamples: int
) -> Frame:
    """The frame of blocks, in sorted order."""
    ordered = tuple(sorted(blocks))
    return Frame(
        blocks=ordered,
        idle_eur=np.array([idle[block] for block in ordered]),
        best_eur=np.array([best[block] for block in ordered]),
        level=level,
        resamples=resamples,
    )


def _interval(value: float, samples: FloatArray, level: float) -> Interval:
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(samples, [tail, 100.0 - tail])
    return Interval(value=value, low=float(low), high=float(high))
