"""The chain of load states: how a site's load moves from step to step, counted on years of it.

By type of day (weekend, working day) and local hour: what is usual, what lies above it in each state, and with what probability
a step's state follows that of the step before. Counts are few: neighbouring hours, the other type of day and all hours lend some
of theirs. Here: counting, the chain in an artefact's tensors, the site's clock. Not here: planning over it
(policies.learned.chain_plan).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from policies.learned.artefact import Artefact

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
CHAIN_LAYOUT = "load-chain/1"
KINDS, HOURS = 2, 24
PRIOR_STEPS, PRIOR_TYPE, PRIOR_COUNT = 20.0, 5.0, 10.0
"""Counts that the neighbouring hours, the type of day, and a state's mean over all hours weigh."""
SUM_TOLERANCE = 1e-3
"""Of probabilities in single precision."""
LOWER, UPPER, UPPER_STATES = (0.1, 0.3, 0.5, 0.7), (0.85, 0.9995), 8
"""Quantiles of load above the usual: edges of the states below; between which those above lie at equal distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """How the load moves, by type of day (0 weekend, 1 working day) and local hour; B states."""

    usual_kw: FloatArray
    """Median, (2, 24)."""
    above_kw: FloatArray
    """Mean above the usual in each state, (2, 24, B)."""
    moves: FloatArray
    """Probability of a step's state given that of the step before, (2, 24, B, B)."""
    edges_kw: FloatArray
    """Of load above the usual: between them lie the states, (B - 1,)."""

    @property
    def states(self) -> int:
        """B."""
        return len(self.edges_kw) + 1

    @property
    def highest_kw(self) -> float:
        """The highest load that a plan reckons with."""
        return float((self.usual_kw[:, :, None] + self.above_kw).max())

    def state(self, load_kw: FloatArray, kind: IntArray, hour: IntArray) -> IntArray:
        """States of loads."""
        return np.digitize(load_kw - self.usual_kw[kind, hour], self.edges_kw)

    def loads(self, kind: IntArray, hour: IntArray) -> FloatArray:
        """Load in each state, kW, (K, B)."""
        return np.asarray(self.usual_kw[kind, hour][:, None] + self.above_kw[kind, hour])

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """As an artefact holds them: W, single precision."""
        watts = {"usual_w": self.usual_kw, "above_w": self.above_kw, "edges_w": self.edges_kw}
        return {name: (1000.0 * value).astype(np.float32) for name, value in watts.items()} | {
            "moves": self.moves.astype(np.float32)
        }


def count_chain(load_kw: FloatArray, kind: IntArray, hour: IntArray, edges_kw: FloatArray) -> Chain:
    """The chain of steps one after another; all (T,). Each hour of both types of day must occur."""
    states = len(edges_kw) + 1
    usual = np.array([[np.median(load_kw[(kind == k) & (hour == h)]) for h in range(HOURS)] for k in range(KINDS)])
    above = load_kw - usual[kind, hour]
    state = np.digitize(above, edges_kw)
    number, total = np.zeros((KINDS, HOURS, states)), np.zeros((KINDS, HOURS, states))
    np.add.at(number, (kind, hour, state), 1.0)
    np.add.at(total, (kind, hour, state), above)
    first, last = 0.5 * (edges_kw[1] - edges_kw[0]), 0.5 * (edges_kw[-1] - edges_kw[-2])
    middle = np.concatenate([[edges_kw[0] - first], 0.5 * (edges_kw[1:] + edges_kw[:-1]), [edges_kw[-1] + last]])
    mean = (total.sum(axis=(0, 1)) + middle) / (number.sum(axis=(0, 1)) + 1.0)
    moved = np.zeros((KINDS, HOURS, states, states))
    np.add.at(moved, (kind[1:], hour[1:], state[:-1], state[1:]), 1.0)
    whole = _shares(moved.sum(axis=(0, 1)) + number.sum(axis=(0, 1)) / number.sum())
    near = moved + np.roll(moved, 1, axis=1) + np.roll(moved, -1, axis=1)
    near = _shares(near + PRIOR_TYPE * _shares(moved.sum(axis=1, keepdims=True) + whole))
    return Chain(
        usual_kw=usual,
        above_kw=(total + PRIOR_COUNT * mean) / (number + PRIOR_COUNT),
        moves=_shares(moved + PRIOR_STEPS * near),
        edges_kw=np.asarray(edges_kw, dtype=np.float64),
    )


def _shares(counts: FloatArray) -> FloatArray:
    return np.asarray(counts / counts.sum(axis=-1, keepdims=True))


def edges_of(load_kw: FloatArray, kind: IntArray, hour: IntArray) -> FloatArray:
    """Edges for a load: by quantiles of what lies above the usual, at equal distances where peaks are made; rising, (12,).

    Raises ValueError where the load does not vary.
    """
    usual = np.array([[np.median(load_kw[(kind == k) & (hour == h)]) for h in range(HOURS)] for k in range(KINDS)])
    above = load_kw - usual[kind, hour]
    low, high = np.quantile(above, UPPER)
    edges = np.concatenate([np.quantile(above, LOWER), np.linspace(low, high, UPPER_STATES)])
    least = 1e-3 * float(np.ptp(above))
    if not least > 0:
        raise ValueError("the load is the same at all times of a kind: there is nothing to count")
    for k in range(1, len(edges)):
        edges[k] = max(edges[k], edges[k - 1] + least)
    return np.asarray(edges)


def local_clock(start: datetime, count: int, dt_s: float, zone: ZoneInfo) -> tuple[IntArray, IntArray, BoolArray]:
    """(type of day, local hour, whether it ends a month) of steps from a time on, (count,) each. `dt_s`: a whole part of 1 h.

    Steps begin on whole ones of the hour.
    """
    per_hour = round(3600.0 / dt_s)
    hour_start = start.replace(minute=0, second=0, microsecond=0)
    first = round((start - hour_start).total_seconds() / dt_s)
    hours = -(-(first + count + 1) // per_hour)
    local = [(hour_start + timedelta(hours=k)).astimezone(zone) for k in range(hours)]
    # Where an offset is no whole hour, a local hour begins within one of these: its steps count as the hour before.
    kind = np.repeat(np.array([int(at.weekday() < 5) for at in local], dtype=np.int64), per_hour)[first:]
    hour = np.repeat(np.array([at.hour for at in local], dtype=np.int64), per_hour)[first:]
    month = np.repeat(np.array([at.month for at in local], dtype=np.int64), per_hour)[first:]
    return kind[:count], hour[:count], month[1 : count + 1] != month[:count]


def chain_of(artefact: Artefact) -> Chain:
    """The chain of an artefact; ArtefactError naming what of its layout, tensors or numbers does not fit."""
    where, said = f"artefact {artefact.sha256[:12]}", artefact.metadata
    if said.kind != "load_chain" or said.layout != CHAIN_LAYOUT:
        raise ArtefactError(
            f"{where}: kind and layout: got {said.kind!r}, {said.layout!r}, expected 'load_chain', {CHAIN_LAYOUT!r}"
        )
    edges = _tensor(artefact.tensors, "edges_w", (None,), where)
    states = len(edges) + 1
    chain = Chain(
        usual_kw=_tensor(artefact.tensors, "usual_w", (KINDS, HOURS), where) / 1000.0,
        above_kw=_tensor(artefact.tensors, "above_w", (KINDS, HOURS, states), where) / 1000.0,
        moves=_tensor(artefact.tensors, "moves", (KINDS, HOURS, states, states), where),
        edges_kw=edges / 1000.0,
    )
    if states < 2 or (np.diff(edges) <= 0).any():
        raise ArtefactError(f"{where}: edges_w: got {edges.tolist()}, expected at least one edge, each above the one before")
    if (chain.moves < 0).any() or np.abs(chain.moves.sum(axis=-1) - 1.0).max() > SUM_TOLERANCE:
        raise ArtefactError(f"{where}: moves: expected probabilities that sum to 1")
    return Chain(
        usual_kw=chain.usual_kw, above_kw=chain.above_kw, moves=_shares(chain.moves), edges_kw=chain.edges_kw
    )  # fmt: skip


def _tensor(tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int | None, ...], where: str) -> FloatArray:
    found = tensors.get(name)
    expected = ", ".join("any" if n is None else str(n) for n in shape)
    if found is None:
        raise ArtefactError(f"{where}: tensors: no {name!r} ({expected}); it has {sorted(tensors)}")
    if found.ndim != len(shape) or any(n not in (None, size) for n, size in zip(shape, found.shape, strict=True)):
        raise ArtefactError(f"{where}: {name}: got the shape {found.shape}, expected ({expected})")
    values = found.astype(np.float64)
    if not np.isfinite(values).all():
        raise ArtefactError(f"{where}: {name}: holds a number that is not finite")
    return values
