"""One sweep over the fleet: a Newton step of every device at the meter's price, then its predicted net power and sensitivity.

Here: the compiled driver over blocks, cold starts, stragglers, two threads. Not here: the outer loop (solver), the stage
algebra (recursion, forward, sensitivity).
"""
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202 - compiled by numba, which infers types

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from core.lanes import least, load, most, stage, store
from optimizer.site_fleet.border import BORDER_WORK_ROWS
from optimizer.site_fleet.cold import start_lane
from optimizer.site_fleet.compiled import kept_on_disk
from optimizer.site_fleet.forward import predict, ratios_first, ratios_second, take_step
from optimizer.site_fleet.layout import (
    BORDER_INEQUALITIES,
    BORDER_ROWS,
    INEQUALITIES,
    LANES,
    STATE_ROWS,
    WEIGHT,
    Blocks,
)  # fmt: skip
from optimizer.site_fleet.recursion import correct, factorise
from optimizer.site_fleet.rows import WORK_ROWS
from optimizer.site_fleet.sensitivity import CHAIN_ROWS, add_sensitivity

FloatArray = NDArray[np.float64]
STEP_SHARE = 0.998
"""Of the way to the boundary."""
SETTLED, SETTLED_STEP = 3.0, 0.9
"""A device is settled when its complementarity is below this many times the target and its last step was longer than this."""
RESTART_MU = 1.0
RESTART_STEPS = 60
HEALTHY = 1e12
"""Above, or NaN, a mean complementarity says that the device's step has failed."""
PATIENCE = 3.0
STALLED = 0.9
"""A step that leaves more than this share of the complementarity of a device that has not settled gets it nowhere: with the
second-order term it may circle for ever, so that the next PLAIN_STEPS do without and aim at CENTRED times what is left."""
CENTRED, PLAIN_STEPS = 0.3, 4.0
STEP, MU, SLOW, PLAIN = 0, 1, 2, 3
REPORT_ROWS = 4
"""Per lane: step length, mean complementarity after it, number of slow steps in a row, number of plain steps to come."""


@dataclass(slots=True)
class Iterate:
    """Where the fleet stands: state, border and flows of every block, and how the last step of each device went."""

    blocks: Blocks
    state: FloatArray = field(init=False)
    border: FloatArray = field(init=False)
    flows: FloatArray = field(init=False)
    """Charge and discharge, scaled: (nb, 2 (N + 1), 8)."""
    report: FloatArray = field(init=False)
    kept: tuple[NDArray[np.float32], ...] | None = None
    """State, border and flows on the central path at a larger barrier parameter: where the next solve starts. That needs no more
    digits, and ten thousand packs take 0.15 GB less."""
    kept_mu: float = 0.0

    def __post_init__(self) -> None:
        nb, stages = self.blocks.blocks, self.blocks.steps + 1
        self.state = np.empty((nb, stages * STATE_ROWS, LANES))
        self.border = np.empty((nb, BORDER_ROWS, LANES))
        self.flows = np.zeros((nb, 2 * stages, LANES))
        self.report = np.zeros((nb, REPORT_ROWS, LANES))

    def start_cold(self, mu: float, pool: ThreadPoolExecutor, threads: int) -> None:
        """Every device as if nothing were known, at complementarity about `mu`."""
        cuts = [self.blocks.blocks * i // threads for i in range(threads + 1)]
        blocks = self.blocks

        def run(i: int) -> None:
            _start_all(cuts[i], cuts[i + 1], blocks.data, blocks.constants, self.state, self.border, self.flows, mu)

        list(pool.map(run, range(threads)))
        self.report[:] = 0.0
        self.report[:, MU] = mu

    def keep(self, mu: float) -> None:
        """Remember the present point, which is about central at `mu`."""
        if self.kept is None:
            self.kept = tuple(array.astype(np.float32) for array in (self.state, self.border, self.flows))
        else:
            for target, source in zip(self.kept, (self.state, self.border, self.flows), strict=True):
                np.copyto(target, source, casting="same_kind")
        self.kept_mu = mu

    def restore(self) -> None:
        """Go back to what was kept."""
        if self.kept is not None:
            for target, source in zip((self.state, self.border, self.flows), self.kept, strict=True):
                np.copyto(target, source)
            self.report[:] = 0.0
            self.report[:, MU], self.report[:, STEP] = self.kept_mu, 1.0

    def powers_kw(self) -> tuple[FloatArray, FloatArray]:
        """Charge and discharge of the devices, (B, N) each."""
        nb, n = self.blocks.blocks, self.blocks.steps
        scaled = self.flows.reshape(nb, n + 1, 2, LANES)[:, :n] * self.blocks.weights_kw()[:, None, None, :]
        by_device = scaled.transpose(0, 3, 2, 1).reshape(nb * LANES, 2, n)[: self.blocks.count]
        return by_device[:, 0], by_device[:, 1]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the fleet says to a price; net power is charge less discharge, kW, (N,)."""

    net_kw: FloatArray
    predicted_kw: FloatArray
    """After a full step towards the next barrier parameter."""
    sensitivity: FloatArray
    """-d net / d price, kW per EUR/kWh, (N, N), positive semidefinite."""
    mean_step: float
    """Weighted by power."""
    restarts: int


@kept_on_disk
def _start_all(first, last, data, constants, state, border, flows, mu):
    for b in range(first, last):
        for lane in range(LANES):
            start_lane(data[b], constants[b], state[b], border[b], flows[b], lane, mu)


@stage
def _exceeds(x, y):
    """1.0 where x > y, else 0.0."""
    return least(most(1e30 * (x - y), 0.0), 1.0)


@njit(error_model="numpy")
def _newton(data, constants, state, border, flows, work, border_work, report, prices, mu, last):
    """One step of a block towards complementarity `mu`, no faster than each device can follow; `last` is 1.0 where mu falls no
    further."""
    stages = len(prices)
    none = 0.0 * load(constants, WEIGHT)
    count = 1.0 / (INEQUALITIES * stages + BORDER_INEQUALITIES)
    factorise(data, constants, state, border, work, border_work, prices, (none, none))
    worst, products, linear, square = ratios_first(data, constants, state, border, work, border_work, prices, (none, none))
    step = least(1.0, 1.0 / worst)
    left = most(1.0 - step + step * step * square / products, 0.0)
    settled = _exceeds(SETTLED * mu, products * count) * _exceeds(load(report, STEP), SETTLED_STEP)
    stalled = (1.0 - settled) * (last * least(load(report, PLAIN), 1.0))
    share = most(least(left * left * left, 1.0), CENTRED * stalled)
    target = most(mu, (1.0 - settled) * share * products * count)
    targets = (target, 1.0 - most(settled, stalled))
    correct(data, constants, state, border, work, border_work, prices, targets)
    before = products * count
    worst, products, linear, square = ratios_second(data, constants, state, border, work, border_work, prices, targets)
    step = least(1.0, STEP_SHARE / worst)
    take_step(state, border, work, border_work, flows, step, stages)
    store(report, STEP, step)
    after = (products + step * linear + step * step * square) * count
    store(report, MU, after)
    store(report, PLAIN, most(PLAIN_STEPS * _exceeds(after, STALLED * before), most(load(report, PLAIN) - 1.0, 0.0)))


@njit(error_model="numpy")
def _behind(report, mu):
    """Number of lanes that have not settled at `mu`."""
    found = 0
    for lane in range(LANES):
        if not (report[MU, lane] < SETTLED * mu and report[STEP, lane] > 0.5):
            found += 1
    return found


@njit(error_model="numpy")
def _restart(data, constants, state, border, flows, report, slowest):
    """Start lanes anew that failed, or hardly moved in PATIENCE steps one after the other; their number."""
    found = 0
    for lane in range(LANES):
        report[SLOW, lane] = report[SLOW, lane] + 1.0 if report[STEP, lane] < slowest else 0.0
        if not abs(report[MU, lane]) < HEALTHY or report[SLOW, lane] >= PATIENCE:
            start_lane(data, constants, state, border, flows, lane, RESTART_MU)
            report[STEP, lane], report[MU, lane], report[SLOW, lane], report[PLAIN, lane] = 0.0, RESTART_MU, 0.0, 0.0
            found += 1
    return found


@kept_on_disk
def _sweep(
    first, last, data, constants, state, border, flows, report, prices, mu, next_mu, newton_steps, slowest, net, predicted, total
):
    stages = len(prices)
    work = np.zeros((stages * WORK_ROWS, LANES))
    chain = np.zeros((stages * CHAIN_ROWS, LANES))
    border_work = np.zeros((BORDER_WORK_ROWS, LANES))
    ahead = np.zeros((stages - 1, LANES))
    final = 1.0 if next_mu >= mu else 0.0
    restarts = 0
    for b in range(first, last):
        args = (data[b], constants[b], state[b], border[b], flows[b])
        for _ in range(newton_steps):
            _newton(*args, work, border_work, report[b], prices, mu, final)
            if _behind(report[b], mu) == 0:
                break
        found = _restart(*args, report[b], slowest)
        restarts += found
        for _ in range(RESTART_STEPS):
            if found == 0:
                break
            _newton(*args, work, border_work, report[b], prices, mu, final)
            _restart(*args, report[b], 0.0)
            found = _behind(report[b], mu)
        weight = load(constants[b], WEIGHT)
        factorise(data[b], constants[b], state[b], border[b], work, border_work, prices, (next_mu + 0.0 * weight, 0.0 * weight))
        predict(data[b], constants[b], work, border_work, ahead, stages - 1)
        add_sensitivity(data[b], constants[b], work, border_work, chain, total, weight, stages - 1)
        for k in range(stages - 1):
            for lane in range(LANES):
                kw = constants[b, WEIGHT, lane]
                predicted[k] += kw * ahead[k, lane]
                net[k] += kw * (flows[b, 2 * k, lane] - flows[b, 2 * k + 1, lane])
    return restarts


def sweep(
    iterate: Iterate, price_unit: float, price_eur_per_kwh: FloatArray, dt_h: float, mu: float, next_mu: float, *,
    newton_steps: int,
    slowest: float, pool: ThreadPoolExecutor, threads: int,
) -> Answer:  # fmt: skip
    """Up to `newton_steps` of each block of devices at price (N,), until it has settled, then their answer; devices with a
    step below `slowest` start anew."""
    blocks = iterate.blocks
    n = blocks.steps
    factor = dt_h / price_unit
    prices = np.concatenate([price_eur_per_kwh * factor, [0.0]])
    cuts = [blocks.blocks * i // threads for i in range(threads + 1)]
    parts = [(np.zeros(n), np.zeros(n), np.zeros((n * (n + 1) // 2, LANES))) for _ in range(threads)]

    def run(i: int) -> int:
        return int(_sweep(
            cuts[i], cuts[i + 1], blocks.data, blocks.constants, iterate.state, iterate.border, iterate.flows, iterate.report,
            prices, mu, next_mu, newton_steps, slowest, *parts[i],
        ))  # fmt: skip

    restarts = sum(pool.map(run, range(threads)))
    triangle = np.zeros((n, n))
    triangle[np.triu_indices(n)] = sum(part[2].sum(axis=1) for part in parts)
    matrix = triangle + np.triu(triangle, 1).T
    weights = blocks.weights_kw()
    return Answer(
        net_kw=np.sum([part[0] for part in parts], axis=0),
        predicted_kw=np.sum([part[1] for part in parts], axis=0),
        sensitivity=matrix * factor,
        mean_step=float((iterate.report[:, STEP] * weights).sum() / weights.sum()),
        restarts=restarts,
    )
