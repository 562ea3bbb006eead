"""The outer loop: meter and fleet meet at a price, one Newton step of every device per sweep.

Here: the schedule of the barrier parameter, stragglers, when to stop. Not here: what a sweep computes (sweep),
the meter (master),
starting points that outlive a solve (warm).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from core.errors import SolverError
from optimizer.site_fleet.layout import PRICE_UNIT
from optimizer.site_fleet.master import Meter
from optimizer.site_fleet.sweep import Answer, Iterate, sweep

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Schedule of the outer loop; powers are shares of the fleet's power."""

    first_mu: float = 0.1
    warm_mu: float = 3e-4
    """The next solve starts where this one was at this barrier parameter, or as soon below as its devices followed."""
    warm_floor: float = 3e-5
    """But at no smaller one: each solve would begin closer to where the last one ended, and the path be lost after a few."""
    last_mu: float = 5e-7
    shrink: float = 0.15
    follow: float = 0.6
    """The barrier parameter shrinks where the devices' mean step, weighted by power, exceeds this."""
    restart_below_mu: float = 1e-3
    straggler_step: float = 0.1
    """Devices with a shorter step start anew at the present price."""
    stuck_after: int = 5
    stuck_step: float = 0.95
    """The same after so many sweeps at the last barrier parameter."""
    net_tolerance: float = 5e-5
    """Largest |fleet's net power - the meter's|."""
    prediction_tolerance: float = 5e-4
    first_steps: int = 3
    last_steps: int = 4
    near: float = 3e-3
    """Residual from which `last_steps` are taken: before, devices that settle at a price make it swing."""
    lost: float = 0.05
    """Residual that says, at the last barrier parameter, that the path is lost: it is taken up again at the point that was
    kept for the next solve, or where there is none at `again_mu`."""
    again_mu: float = 1e-3
    careful_shrink: float = 0.5
    careful_near: float = 2e-4
    """From there on `shrink` and `near` are these: what was lost once went too fast."""
    patience: int = 10
    """Sweeps at the last barrier parameter after which a residual below `close` is enough: the gap judges what is left."""
    close: float = 4e-4
    max_sweeps: int = 50
    threads: int = 2
    deadline_s: float = np.inf


@dataclass(slots=True)
class Outcome:
    """Where the outer loop ended."""

    price_eur_per_kwh: FloatArray
    fleet_kw: FloatArray
    curtail_kw: FloatArray
    converged: bool
    sweeps: int
    mu: float
    residual: float
    slack: bool
    limits: Mapping[str, FloatArray] = field(default_factory=dict)
    """Shadow prices of the meter's limits, EUR/kW, (N,) each."""
    restarts: int = 0
    sweep_s: float = 0.0
    meter_s: float = 0.0
    kept_price: FloatArray | None = None
    """Price at the point that the iterate keeps."""
    trace: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Per sweep: mu, residual, prediction error, mean step."""


def coordinate(
    iterate: Iterate,
    meter: Meter,
    price: FloatArray,
    settings: Settings,
    pool: ThreadPoolExecutor,
    *,
    mu: float,
    steps: int,
    watch: Callable[[Outcome], None] | None = None,
) -> Outcome:
    """Run sweeps from `price` (N,) and barrier parameter `mu` until fleet and meter agree, or the sweeps or the time are spent.

    Raises SolverError when the meter's QP has no answer or a number is not finite.
    """
    began_s = time.perf_counter()
    unit_kw = float(iterate.blocks.weights_kw().sum())
    next_mu = max(mu * settings.shrink, settings.last_mu)

    def run(at: FloatArray, *, newton_steps: int, slowest: float) -> Answer:
        start_s = time.perf_counter()
        answer = sweep(
            iterate, PRICE_UNIT, at, meter.dt_h, mu, next_mu, newton_steps=newton_steps, slowest=slowest, pool=pool,
            threads=settings.threads,
        )  # fmt: skip
        outcome.sweep_s += time.perf_counter() - start_s
        outcome.sweeps += 1
        outcome.restarts += answer.restarts
        if not (np.isfinite(answer.predicted_kw).all() and np.isfinite(answer.sensitivity).all()):
            raise SolverError("site: a device's answer is not finite")
        return answer

    outcome = Outcome(price, np.zeros(meter.steps), np.zeros(meter.steps), False, 0, mu, np.inf, False)
    answer = run(price, newton_steps=steps, slowest=0.0)
    mu, at_last = next_mu, 0
    while outcome.sweeps < settings.max_sweeps and time.perf_counter() - began_s < settings.deadline_s:
        start_s = time.perf_counter()
        met = meter.respond(outcome.price_eur_per_kwh, answer.predicted_kw, answer.sensitivity, unit_kw)
        outcome.meter_s += time.perf_counter() - start_s
        next_mu = max(mu * settings.shrink, settings.last_mu)
        last = mu <= settings.last_mu
        answer = run(
            met.price_eur_per_kwh,
            newton_steps=settings.last_steps if last and outcome.residual < settings.near else 1,
            slowest=_slowest(settings, mu, at_last),
        )
        outcome.price_eur_per_kwh, outcome.fleet_kw, outcome.curtail_kw = met.price_eur_per_kwh, answer.net_kw, met.curtail_kw
        outcome.mu, outcome.slack, outcome.limits = mu, met.slack, met.limits
        outcome.residual = float(np.abs(answer.net_kw - met.fleet_kw).max()) / unit_kw
        prediction = float(np.abs(answer.predicted_kw - answer.net_kw).max()) / unit_kw
        outcome.trace.append((mu, outcome.residual, prediction, answer.mean_step))
        if watch is not None:
            watch(outcome)
        if outcome.kept_price is None and mu <= settings.warm_mu and answer.mean_step > settings.follow:
            iterate.keep(mu)
            outcome.kept_price = met.price_eur_per_kwh
        if last and outcome.residual < settings.net_tolerance and prediction < settings.prediction_tolerance:
            outcome.converged = True
            break
        at_last = at_last + 1 if last else 0
        if at_last >= settings.patience and outcome.residual < settings.close:
            break
        if last and outcome.residual > settings.lost:
            settings = replace(settings, shrink=max(settings.shrink, settings.careful_shrink), near=settings.careful_near)
            if outcome.kept_price is None:
                mu = settings.again_mu
                continue
            # Devices that settled fully where they are now are nearly without an answer: back to the point that was central.
            iterate.restore()
            mu = iterate.kept_mu
            next_mu = max(mu * settings.shrink, settings.last_mu)
            outcome.price_eur_per_kwh = outcome.kept_price
            answer = run(outcome.kept_price, newton_steps=1, slowest=0.0)
        elif answer.mean_step > settings.follow:
            mu = next_mu
    return outcome


def _slowest(settings: Settings, mu: float, at_last: int) -> float:
    """Step below which a device counts as a straggler: one that circles at the end keeps all others waiting."""
    if at_last >= settings.stuck_after:
        return settings.stuck_step
    return settings.straggler_step if mu < settings.restart_below_mu else 0.0
