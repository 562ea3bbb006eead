"""State and buffers of M environments around the kernel: seeding, reset, step, what an evaluation may set by hand.

Here: `Engine`, which single and batched environments share. Not here: Gymnasium's interfaces (envs.single, envs.vector).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC, BY_TEMPERATURE
from core.errors import InputError, nearest
from envs import kernel
from envs.config import EnvConfig
from envs.data import Part
from envs.features import Marginal, make_features
from envs.layout import Layout
from envs.projection import LEVEL_OF, SPANS
from envs.variants import PEAK_FIRST, draw_variants

FloatArray = NDArray[np.float64]
OPTIONS = ("start", "row", "variant", "soc_pct", "temperature_c", "ambient_offset_k", "peak_w", "steps")
"""What `reset(options=...)` may set instead of drawing it: scalars, or a value an environment (soc, temperature: a pack)."""


SCRATCH = 64
"""Numbers that a thread works on: 30, and a cache line apart from the next one's."""


class Engine:
    """M environments of one config over one part of the data."""

    def __init__(
        self, part: Part, config: EnvConfig, num_envs: int, marginal: Marginal | None = None, *, autoreset: bool, threads: int = 1
    ) -> None:
        if num_envs < 1 or threads < 1:
            raise InputError(
                source="environment", field="num_envs", value=num_envs, expected="one or more, on one or more threads"
            )
        self.part, self.config, self.num_envs = part, config, num_envs
        self.features = make_features(part, config, marginal)
        self.variants = draw_variants(config, part.exogenous)
        points = self.features.marginal.shape[1]
        self.packs = len(config.packs)
        self.layout = Layout(self.packs, config.forecast_hours, points, config.load_forecast_hours)
        self.dt_s = part.exogenous.dt_s
        self.substeps = max(1, int(np.ceil(self.dt_s / config.substep_s - 1e-9)))
        m, width = num_envs, self.layout.size
        self.stream = np.zeros(m, dtype=np.uint64)
        self.clocks = np.zeros((m, 3), dtype=np.int64)
        self.accounts, self.final_accounts = np.zeros((m, 5)), np.zeros((m, 5))
        self.state = np.zeros((m, self.packs, 4))
        self._buffers = [_Buffers(m, width, self.packs) for _ in range(2)]
        self._turn = 0
        self.autoreset = autoreset
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        edges = np.linspace(0, m, threads + 1).astype(int).tolist()
        self._shares = list(itertools.pairwise(edges))
        self._scratch = [np.zeros(SCRATCH) for _ in self._shares]

    @property
    def buffers(self) -> _Buffers:
        """What the last step wrote. Two sets take turns: it stays as it is until the step after the next."""
        return self._buffers[self._turn]

    def seed(self, seeds: list[int]) -> None:
        """One seed an environment; its stream depends on that alone."""
        for e, seed in enumerate(seeds):
            self.stream[e] = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def reset(self, options: Mapping[str, Any] | None = None, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Begin episodes, all or those of the mask; observations (M, size)."""
        f, c, v = self.features, self.config, self.variants
        chosen = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        for e in chosen.tolist():
            kernel.begin(e, self.stream, self.clocks, self.accounts, self.state, v.site, v.pack, f.economics, f.first, f.last,
                         c.episode_steps or 0, *c.ambient_offset_k)  # fmt: skip
        if options:
            self._set(options, chosen)
        buffers = self.buffers
        for e in range(self.num_envs):
            self._observe(e, buffers.observation[e])
        return buffers.observation

    def step(self, actions: NDArray[np.float32]) -> _Buffers:
        """One step; actions (M, P) in [-1, 1]. InputError when one is no number."""
        if not np.isfinite(actions.sum(dtype=np.float64)):
            at = np.argwhere(~np.isfinite(actions))[0]
            raise InputError(source=f"environment {at[0]}", field=f"action of pack {at[1]}", value=actions[tuple(at)],
                             expected="a number from -1 to 1")  # fmt: skip
        self._turn = 1 - self._turn
        b, f, v, c = self.buffers, self.features, self.variants, self.config
        # fmt: off
        shared = (
            actions, self.stream, self.clocks, self.accounts, self.state, v.site, v.pack, v.shown, v.energy_share, SPANS,
            LEVEL_OF, BY_SOC, BY_TEMPERATURE, f.rows, f.economics, f.load_ahead_w, f.pv_ahead_w, f.marginal, f.marginal_soc,
            f.first, f.last, c.episode_steps or 0, *c.ambient_offset_k, self.dt_s, self.substeps, c.projection_cost, c.potential,
            self.autoreset, b.observation, b.final_observation, b.reward, b.truncated, b.results, b.pack_results,
            self.final_accounts,
        )
        # fmt: on
        if self._pool is None:
            kernel.step_many(0, self.num_envs, *shared, self._scratch[0])
            return b
        work = list(zip(self._shares, self._scratch, strict=True))
        others = [self._pool.submit(kernel.step_many, *share, *shared, scratch) for share, scratch in work[1:]]
        kernel.step_many(*self._shares[0], *shared, self._scratch[0])
        for other in others:
            other.result()
        return b

    def _observe(self, e: int, out: NDArray[np.float32]) -> None:
        f, v = self.features, self.variants
        kernel.observe(e, self.clocks, self.accounts, self.state, v.site, v.pack, v.shown, f.rows, f.economics, f.load_ahead_w,
                       f.pv_ahead_w, f.marginal, f.marginal_soc, out)  # fmt: skip

    def time(self, e: int = 0) -> datetime:
        """When the next step of an environment begins."""
        data = self.part.exogenous
        return data.start + timedelta(seconds=self.dt_s * int(self.clocks[e, kernel.ROW]))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """What the next step depends on beside the action, by name; the engine's own arrays, to be copied."""
        return {"stream": self.stream, "clocks": self.clocks, "accounts": self.accounts, "state": self.state}

    def restore(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `snapshot` of an engine of the same part, config and size was taken; ValueError for another size."""
        for name, own in self.snapshot().items():
            if own.shape != saved[name].shape or own.dtype != saved[name].dtype:
                raise ValueError(f"{name}: shape {saved[name].shape}, expected {own.shape}")
            own[...] = saved[name]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _set(self, options: Mapping[str, Any], chosen: NDArray[np.int64]) -> None:
        for name in options:
            if name not in OPTIONS:
                raise InputError(source="reset", field=f"options.{name}", value=options[name], expected="a known option"
                                 + nearest(name, list(OPTIONS)))  # fmt: skip
        f, m = self.features, len(chosen)
        clocks, accounts, state = self.clocks, self.accounts, self.state
        if "start" in options or "row" in options:
            start = options.get("start")
            row = self.part.exogenous.row(start) if isinstance(start, datetime) else options.get("row")
            rows = np.broadcast_to(np.asarray(row, dtype=np.int64), m)
            _within("row", rows, f.first, f.last - 1)
            clocks[chosen, kernel.ROW] = rows
            length = self.config.episode_steps or f.last
            clocks[chosen, kernel.LEFT] = np.minimum(length, f.last - rows)
        if "steps" in options:
            steps = np.broadcast_to(np.asarray(options["steps"], dtype=np.int64), m)
            _within("steps", steps, 1, f.last)
            clocks[chosen, kernel.LEFT] = np.minimum(steps, f.last - clocks[chosen, kernel.ROW])
        if "variant" in options:
            variant = np.broadcast_to(np.asarray(options["variant"], dtype=np.int64), m)
            _within("variant", variant, 0, len(self.variants.site) - 1)
            clocks[chosen, kernel.VARIANT] = variant
            accounts[chosen, kernel.PEAK] = accounts[chosen, kernel.IDLE_PEAK] = self.variants.site[variant, PEAK_FIRST]
        if "ambient_offset_k" in options:
            accounts[chosen, kernel.OFFSET] = _numbers(options, "ambient_offset_k", -60.0, 60.0, (m,))
        if "soc_pct" in options:
            state[chosen, :, 0] = _numbers(options, "soc_pct", 0.0, 100.0, (m, self.packs)) / 100.0
        if "temperature_c" in options:
            state[chosen, :, 3] = _numbers(options, "temperature_c", -40.0, 80.0, (m, self.packs))
        if "peak_w" in options:
            accounts[chosen, kernel.PEAK] = accounts[chosen, kernel.IDLE_PEAK] = _numbers(options, "peak_w", 0.0, 1e12, (m,))


class _Buffers:
    """Output arrays of one step."""

    def __init__(self, m: int, width: int, packs: int) -> None:
        self.observation = np.zeros((m, width), dtype=np.float32)
        self.final_observation = np.zeros((m, width), dtype=np.float32)
        self.reward = np.zeros(m)
        self.truncated = np.zeros(m, dtype=np.bool_)
        self.terminated = np.zeros(m, dtype=np.bool_)
        self.results = np.zeros((m, len(kernel.RESULTS)))
        self.pack_results = np.zeros((m, packs, len(kernel.PACK_RESULTS)))


def _numbers(options: Mapping[str, Any], name: str, low: float, high: float, shape: tuple[int, ...]) -> FloatArray:
    values = np.broadcast_to(np.asarray(options[name], dtype=np.float64), shape)
    _within(name, values, low, high)
    return values


def _within(name: str, values: NDArray[Any], low: float, high: float) -> None:
    if not ((values >= low) & (values <= high)).all():
        raise InputError(source="reset", field=f"options.{name}", value=values.ravel()[0], expected=f"from {low:g} to {high:g}")
