"""State and buffers of M environments around the kernel: seeding, reset, step, what an evaluation may set by hand.

Here: `Engine`, which single and batched environments share. Not here: Gymnasium's interfaces (envs.single, envs.vector).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from core.battery.cells import BY_SOC, BY_TEMPERATURE, LANES_BY_SOC, LANES_BY_TEMPERATURE
from core.battery.reach_lanes import OCV_WAYS, SPANS, WAYS
from core.errors import InputError, nearest
from core.lane_tables import lined_up
from core.lanes import LANES
from envs import block, kernel
from envs.config import EnvConfig
from envs.data import Part
from envs.features import Marginal, make_features
from envs.handing import ENDED, NO_NUMBER, Handed, step_handed
from envs.layout import Layout
from envs.projection import QUERY_ROWS
from envs.variants import PEAK_FIRST, draw_variants
from envs.waiting import QUERIES

FloatArray = NDArray[np.float64]
OPTIONS = ("start", "row", "variant", "soc_pct", "temperature_c", "ambient_offset_k", "peak_w", "steps")
"""What `reset(options=...)` may set instead of drawing it: scalars, or a value an environment (soc, temperature: a pack)."""


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
        self.substeps = config.substeps_of(self.dt_s)
        blocks = -(-num_envs // LANES)
        # Environments side by side, filled up to whole blocks; an odd number of cache lines keeps columns apart in the cache.
        columns = LANES * (blocks + 1 - blocks % 2)
        self.stream = np.zeros(columns, dtype=np.uint64)
        self._clocks = np.zeros((3, columns), dtype=np.int64)
        self._accounts, self._final_accounts = zeros((5, columns)), zeros((5, columns))
        self._state = zeros((self.packs, 4, columns))
        self._own_site = zeros((columns // LANES, self.variants.site.shape[1], LANES))
        self._own = zeros((columns // LANES, self.packs, block.OWN_COLUMNS, LANES))
        self._settled, self._before = block.settled_at(self.features), block.known_before(self.features)
        self._rows = block.in_chunks(self.features.rows)
        self._energy_share = np.ascontiguousarray(self.variants.energy_share.reshape(-1, 1))
        self.both_buffers = [_Buffers(num_envs, columns, self.layout.size, self.packs) for _ in range(2)]
        self.turn = 0
        self.autoreset = autoreset
        self._pool = ThreadPoolExecutor(threads - 1) if threads > 1 else None
        edges = np.linspace(0, blocks, threads + 1).astype(int).tolist()
        shares = list(itertools.pairwise(edges))
        self._handed = [[Handed(self._given(buffers, share)) for share in shares] for buffers in self.both_buffers]

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """TypeError: what a step is given lies at this engine's addresses, a copy's steps would be this one's."""
        raise TypeError(
            "an environment is not copied or pickled: make another of the same config, and restore(snapshot()) into it"
        )

    @property
    def clocks(self) -> NDArray[np.int64]:
        """Row, steps left, site of each (envs.kernel.ROW ...), shape (M, 3); written to as well."""
        return self._clocks.T[: self.num_envs]

    @property
    def accounts(self) -> FloatArray:
        """Shape (M, 5): envs.kernel.OFFSET ...; written to as well."""
        return self._accounts.T[: self.num_envs]

    @property
    def final_accounts(self) -> FloatArray:
        """Accounts at the end of the last episode, shape (M, 5)."""
        return self._final_accounts.T[: self.num_envs]

    @property
    def state(self) -> FloatArray:
        """The packs' circuits (core.battery.ecm.STATE), shape (M, P, 4); written to as well."""
        return self._state.transpose(2, 0, 1)[: self.num_envs]

    @property
    def buffers(self) -> _Buffers:
        """What the last step wrote. Two sets take turns: it stays as it is until the step after the next."""
        return self.both_buffers[self.turn]

    def seed(self, seeds: list[int]) -> None:
        """One seed an environment; its stream depends on that alone."""
        for e, seed in enumerate(seeds):
            self.stream[e] = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def reset(self, options: Mapping[str, Any] | None = None, mask: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
        """Begin episodes, all or those of the mask; observations (M, size)."""
        f, c, v = self.features, self.config, self.variants
        chosen = np.arange(self.num_envs) if mask is None else np.flatnonzero(mask)
        for e in chosen.tolist():
            kernel.begin(e, self.stream, self._clocks, self._accounts, self._state, v.site, v.pack, f.economics, f.first, f.last,
                         c.episode_steps or 0, *c.ambient_offset_k)  # fmt: skip
        if options:
            self._set(options, chosen)
        self._furnish(chosen)
        return self._observe()

    def step(self, actions: NDArray[np.float32]) -> _Buffers:
        """One step; actions (M, P) in [-1, 1]. InputError when one is no number."""
        mine, *others = self._handed[1 - self.turn]
        if self._pool is None:
            answer = step_handed(actions, mine.table)
        else:
            running = [self._pool.submit(step_handed, actions, other.table) for other in others]
            answer = step_handed(actions, mine.table)
            for one in running:
                answer |= one.result()
        if answer >= NO_NUMBER:
            at = np.argwhere(~np.isfinite(actions))[0]
            raise InputError(source=f"environment {at[0]}", field=f"action of pack {at[1]}", value=actions[tuple(at)],
                             expected="a number from -1 to 1")  # fmt: skip
        self.turn = 1 - self.turn
        buffers = self.buffers
        buffers.ended = answer == ENDED
        return buffers

    def _given(self, b: _Buffers, share: tuple[int, int]) -> dict[str, Any]:
        """What a step of these blocks that writes into these buffers is given, by its names in envs.handing."""
        f, v, c = self.features, self.variants, self.config
        # fmt: off
        return {
            "b_first": share[0], "b_last": share[1], "count": self.num_envs, "row_width": f.rows.shape[1], "first": f.first,
            "last": f.last, "episode_steps": c.episode_steps or 0, "substeps": self.substeps, "potential": c.potential,
            "autoreset": self.autoreset, "offset_low": c.ambient_offset_k[0], "offset_high": c.ambient_offset_k[1],
            "dt_s": self.dt_s, "projection_cost": c.projection_cost,
            "stream": self.stream, "clocks": self._clocks, "accounts": self._accounts, "state": self._state,
            "own_site": self._own_site, "own": self._own, "site": v.site, "pack": v.pack, "shown": v.shown,
            "energy_share": self._energy_share, "spans": SPANS, "ways": WAYS, "ocv_ways": OCV_WAYS, "by_soc": LANES_BY_SOC,
            "by_temperature": LANES_BY_TEMPERATURE, "cell_by_soc": BY_SOC, "cell_by_temperature": BY_TEMPERATURE,
            "rows": self._rows, "settled": self._settled, "before": self._before, "economics": f.economics,
            "load_ahead": f.load_ahead_w, "pv_ahead": f.pv_ahead_w, "marginal": f.marginal, "marginal_soc": f.marginal_soc,
            "observation": b.all_observation, "final_observation": b.final_observation, "reward": b.all_reward,
            "truncated": b.all_truncated, "results": b.all_results, "pack_results": b.all_pack_results,
            "final_accounts": self._final_accounts,
            "desk": zeros((block.DESK_ROWS, LANES)), "queries": zeros((QUERIES, QUERY_ROWS, LANES)),
            "owners": np.zeros(QUERIES * LANES, dtype=np.int64),
        }
        # fmt: on

    def _furnish(self, chosen: NDArray[np.int64]) -> None:
        """Put the numbers of their sites into the chosen environments' lanes, and those of the first into the stand-ins."""
        v = self.variants
        for e in chosen.tolist():
            block.furnish(e, int(self._clocks[kernel.VARIANT, e]), v.site, v.pack, v.shown, self._own_site, self._own)
        for e in range(self.num_envs, self._accounts.shape[1]):
            block.furnish(e, int(self._clocks[kernel.VARIANT, 0]), v.site, v.pack, v.shown, self._own_site, self._own)
            self._state[:, :, e], self._accounts[:, e] = self._state[:, :, 0], self._accounts[:, 0]

    def _observe(self) -> NDArray[np.float32]:
        f, b = self.features, self.buffers
        for k in range(-(-self.num_envs // LANES)):
            block.observe_block(k, self._clocks, self._accounts, self._state, self._own_site, self._own,
                                f.rows.shape[1], self._rows, self._before, f.load_ahead_w, f.pv_ahead_w, f.marginal,
                                f.marginal_soc, b.all_observation)  # fmt: skip
        return b.observation

    def time(self, e: int = 0) -> datetime:
        """When the next step of an environment begins."""
        data = self.part.exogenous
        return data.start + timedelta(seconds=self.dt_s * int(self.clocks[e, kernel.ROW]))

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """What the next step depends on beside the action, by name; the engine's own arrays, to be copied."""
        count = self.num_envs
        return {"stream": self.stream[:count], "clocks": self.clocks, "accounts": self.accounts, "state": self.state}

    def restore(self, saved: Mapping[str, NDArray[Any]]) -> None:
        """Continue where `snapshot` of an engine of the same part, config and size was taken; ValueError for another size."""
        for name, own in self.snapshot().items():
            if own.shape != saved[name].shape or own.dtype != saved[name].dtype:
                raise ValueError(f"{name}: shape {saved[name].shape}, expected {own.shape}")
            own[...] = saved[name]
        self._furnish(np.arange(self.num_envs))

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
    """Output arrays of one step: the kernel's own, filled up to whole blocks (`all_...`), and views, an environment a row."""

    def __init__(self, count: int, columns: int, width: int, packs: int) -> None:
        self.all_observation = np.zeros((columns, width), dtype=np.float32)
        self.final_observation = np.zeros((count, width), dtype=np.float32)
        self.all_reward = zeros(columns)
        self.all_truncated = np.zeros(columns, dtype=np.bool_)
        self.terminated = np.zeros(count, dtype=np.bool_)
        self.all_results = zeros((len(kernel.RESULTS), columns))
        self.all_pack_results = zeros((packs, len(kernel.PACK_RESULTS), columns))
        self.ended = False
        """Whether any is truncated."""
        self.observation, self.reward = self.all_observation[:count], self.all_reward[:count]
        self.truncated = self.all_truncated[:count]
        self.results = self.all_results.T[:count]
        self.pack_results = self.all_pack_results.transpose(2, 0, 1)[:count]


def zeros(shape: int | tuple[int, ...]) -> FloatArray:
    """Zeros that begin at a cache line."""
    return lined_up(np.zeros(shape))


def _numbers(options: Mapping[str, Any], name: str, low: float, high: float, shape: tuple[int, ...]) -> FloatArray:
    values = np.broadcast_to(np.asarray(options[name], dtype=np.float64), shape)
    _within(name, values, low, high)
    return values


def _within(name: str, values: NDArray[Any], low: float, high: float) -> None:
    if not ((values >= low) & (values <= high)).all():
        raise InputError(source="reset", field=f"options.{name}", value=values.ravel()[0], expected=f"from {low:g} to {high:g}")
