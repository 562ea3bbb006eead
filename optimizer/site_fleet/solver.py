"""Plans for a site of many devices: warm or cold solve, directions, repair, replay; and what happens when a step of that fails.

Chain: warm start, cold start, cold with stiff penalties for devices that had to be cut, the joint QP for a handful of devices,
the last plan re-projected onto today's limits, hold. Every plan returned has passed the independent replay; every fall down the
chain is named in its status. Not here: the interior point (coordinate and below).
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import structlog
from numpy.typing import NDArray

from core.errors import InputError, SolverError
from optimizer.fleet import FleetData, stack
from optimizer.plan import Plan
from optimizer.problem import DeviceData, GridData, SiteProblem, SoftCosts
from optimizer.site_fleet.bound import fleet_bound
from optimizer.site_fleet.coordinate import Outcome, Settings, coordinate
from optimizer.site_fleet.directions import fix_directions
from optimizer.site_fleet.joint import MOST_DEVICES, solve_joint
from optimizer.site_fleet.layout import Blocks, pack
from optimizer.site_fleet.master import Meter
from optimizer.site_fleet.plan import SiteFleetPlan, as_plan
from optimizer.site_fleet.reasons import explain
from optimizer.site_fleet.repair import repair
from optimizer.site_fleet.replay import FleetReplay, replay
from optimizer.site_fleet.sweep import Iterate
from optimizer.site_fleet.warm import Memory, carry, shifted

log = structlog.get_logger()
FloatArray = NDArray[np.float64]
REPORTED_GAP = 2e-4
"""Of the objective, at least of one euro: a larger one is named in the status."""
REFUSED_GAP = 2e-2
"""From here on a solve is not believed and the next link of the chain tried."""
REFUSED_GAP_SMALL = 2e-4
"""The same where trying again costs little."""
SMALL = 1000
SMALL_LAST_MU, SMALL_SHRINK, SMALL_NEAR = 1e-7, 0.3, 5e-4
SMALL_NET, SMALL_PREDICTION, SMALL_CLOSE = 1e-5, 1e-4, 4e-5
"""Small fleets can afford a sweep more: what the barrier and the repair leave is a larger share of their objective."""
DIRECTION_ROUNDS = 2
FALLBACK_NOTES = {"re-projected": "the last plan, re-projected", "hold": "hold"}
LIFT = 0.1
"""A kept slack or multiplier starts with at least this share of the barrier parameter in its product."""


@dataclass(slots=True)
class _Found:
    """A candidate plan."""

    source: str
    power_w: FloatArray
    curtail_w: FloatArray
    run: FleetReplay
    notes: list[str]
    price: FloatArray
    value: FloatArray
    bound_eur: float = -np.inf
    """Of the relaxation."""
    restricted_eur: float = -np.inf
    """Of the problem with the directions that were fixed: what the plan is judged by."""
    outcome: Outcome | None = None
    both_ways: int = 0
    cut: list[int] = field(default_factory=list)
    """Devices whose limits the solver broke, where that left too large a gap after repair."""
    stiff: frozenset[str] = frozenset()
    """Devices whose limits cost more to break: a bound says nothing about plans for which they cost less."""


@dataclass(slots=True)
class SiteFleetSolver:
    """Keeps memory, compiled code and the last solve between calls; not to be used by two threads at once."""

    settings: Settings = field(default_factory=Settings)
    fallback_counts: Counter[str] = field(default_factory=Counter)
    _blocks: Blocks | None = None
    _memory: Memory | None = None
    _last: tuple[tuple[str, ...], FloatArray, FloatArray] | None = None
    """Device ids, net powers and curtailment of the last plan."""
    _stiff: set[str] = field(default_factory=set)
    """Devices whose limits a solve would rather have broken than kept: theirs cost more from then on (layout.pack)."""
    _pool: ThreadPoolExecutor | None = None

    def solve(
        self, grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts | None = None, *, shift_steps: int = 1
    ) -> SiteFleetPlan:
        """The best plan found, checked; `shift_steps` is how many steps time has moved since the last solve.

        Raises InputError when grid and fleet do not fit together, SolverError when not even holding passes the replay.
        """
        began_s = time.perf_counter()
        soft = soft or SoftCosts()
        _check(grid, fleet, dt_s)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.settings.threads)
        failures: list[str] = []
        found: list[_Found] = []
        for source in ("warm", "cold", "stiff", "joint", "re-projected", "hold"):
            if not self._has(source, fleet, shift_steps) or (source == "stiff" and not any(c.cut for c in found)):
                continue
            try:
                if source in ("warm", "cold", "stiff"):
                    candidate = self._optimise(source, grid, fleet, dt_s, soft, shift_steps)
                elif source == "joint":
                    candidate = self._accept(source, grid, fleet, dt_s, soft, *solve_joint(grid, fleet, dt_s, soft))
                else:
                    candidate = self._fall_back(source, grid, fleet, dt_s, soft, shift_steps)
            except SolverError as error:
                self._failed(source, str(error), failures)
                continue
            found.append(candidate)
            self._stiff.update(fleet.device_ids[i] for i in candidate.cut)
            if candidate.outcome is None or self._good_enough(candidate, fleet.count):
                break
            self._failed(source, f"gap {_relative_gap(candidate):.1e}", failures)
        if not found:
            raise SolverError("; ".join(failures))
        # One that is proven before one that is a little cheaper, as where a limit is exceeded within the replay's tolerance.
        best = min(found, key=lambda candidate: (not self._good_enough(candidate, fleet.count), candidate.run.objective_eur))
        bound = max(candidate.bound_eur for candidate in found if candidate.stiff == best.stiff)
        return self._finish(grid, fleet, dt_s, soft, best, bound, failures, began_s)

    def plan(self, problem: SiteProblem, *, shift_steps: int = 1) -> Plan:
        """A SiteProblem's plan in the form of the other solvers; raises like `solve`."""
        return as_plan(
            self.solve(problem.grid, stack(problem.devices), problem.dt_s, problem.soft, shift_steps=shift_steps), problem
        )

    def _good_enough(self, candidate: _Found, count: int) -> bool:
        """Whether the gap to the best plan with the same directions and the same violation of the meter's limits is small."""
        return _relative_gap(candidate) <= (REFUSED_GAP_SMALL if count <= SMALL else REFUSED_GAP)

    def _has(self, source: str, fleet: FleetData, shift_steps: int) -> bool:
        """Whether there is what that link of the chain needs."""
        if source == "warm":
            memory = self._memory
            known = memory is not None and memory.iterate.blocks.steps == fleet.steps and 0 <= shift_steps < fleet.steps
            return known and memory is not None and bool(set(memory.device_ids) & set(fleet.device_ids))
        if source == "re-projected":
            return self._last is not None and self._last[1].shape[1] == fleet.steps and 0 <= shift_steps < fleet.steps
        return source != "joint" or fleet.count <= MOST_DEVICES

    def _optimise(self, source: str, grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts, shift_steps: int) -> _Found:
        pool, settings, memory, dt_h = self._pool, self.settings, self._memory, dt_s / 3600.0
        if fleet.count <= SMALL:
            settings = replace(
                settings,
                last_mu=min(settings.last_mu, SMALL_LAST_MU),
                shrink=max(settings.shrink, SMALL_SHRINK),
                near=min(settings.near, SMALL_NEAR),
                net_tolerance=min(settings.net_tolerance, SMALL_NET),
                prediction_tolerance=min(settings.prediction_tolerance, SMALL_PREDICTION),
                close=min(settings.close, SMALL_CLOSE),
            )
        assert pool is not None  # noqa: S101 - set by solve
        same = self._blocks is not None and (self._blocks.steps, self._blocks.count) == (fleet.steps, fleet.count)
        stiff = np.array([device_id in self._stiff for device_id in fleet.device_ids]) if self._stiff else None
        self._blocks = pack(fleet, dt_s, soft, self._blocks, stiff)
        iterate = (
            memory.iterate if same and memory is not None and memory.iterate.blocks is self._blocks else Iterate(self._blocks)
        )
        most_kw = (fleet.charge_max_w + fleet.discharge_max_w).sum(axis=0) / 1000.0
        meter = Meter.of(grid, dt_h, soft, most_kw)
        tariff = 0.5 * (grid.buy_eur_per_kwh + grid.sell_eur_per_kwh)
        if source == "warm" and memory is not None:
            mu, steps = max(memory.iterate.kept_mu or settings.warm_mu, settings.warm_floor), 1
            carry(iterate, fleet.device_ids, memory, shift_steps, LIFT * mu)
            price = shifted(memory.price - memory.tariff, shift_steps) + tariff
        else:
            iterate.start_cold(settings.first_mu, pool, settings.threads)
            price, mu, steps = tariff, settings.first_mu, settings.first_steps
        self._memory = None  # its arrays are about to change
        outcome = coordinate(iterate, meter, price, settings, pool, mu=mu, steps=steps)
        unit_kw = float(self._blocks.weights_kw().sum())
        bound, value = fleet_bound(iterate, fleet, outcome.price_eur_per_kwh, dt_h, pool, settings.threads)
        bound += meter.lower_bound(outcome.price_eur_per_kwh, unit_kw)
        both = 0
        for _ in range(DIRECTION_ROUNDS):
            more = fix_directions(iterate, outcome.price_eur_per_kwh, pool, settings.threads)
            if more == 0:
                break
            both += more
            own = Memory(fleet.device_ids, iterate, outcome.price_eur_per_kwh, tariff)
            carry(iterate, fleet.device_ids, own, 0, settings.warm_mu)
            outcome = coordinate(iterate, meter, outcome.price_eur_per_kwh, settings, pool, mu=settings.warm_mu, steps=1)
        restricted = bound
        if both:
            restricted, _ = fleet_bound(iterate, fleet, outcome.price_eur_per_kwh, dt_h, pool, settings.threads)
            restricted += meter.lower_bound(outcome.price_eur_per_kwh, unit_kw)
        charge, discharge = iterate.powers_kw()
        candidate = self._accept(
            source, grid, fleet, dt_s, soft, 1000.0 * (discharge - charge), 1000.0 * outcome.curtail_kw,
            outcome.price_eur_per_kwh,
            value,
        )  # fmt: skip
        unkept = _unkept_eur(grid, candidate.run, dt_s, soft) if outcome.slack else 0.0
        candidate.bound_eur, candidate.restricted_eur = bound + unkept, max(bound, restricted) + unkept
        candidate.outcome, candidate.both_ways, candidate.stiff = outcome, both, frozenset(self._stiff)
        if not self._good_enough(candidate, fleet.count):
            raw = replay(
                grid, fleet, dt_s, soft, 1000.0 * (discharge - charge), 1000.0 * outcome.curtail_kw, pool, settings.threads
            )
            candidate.cut = np.flatnonzero(raw.broken).tolist()
        kept = outcome.price_eur_per_kwh if outcome.kept_price is None else outcome.kept_price
        self._memory = Memory(fleet.device_ids, iterate, kept, tariff)
        return candidate

    def _fall_back(self, source: str, grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts, shift_steps: int) -> _Found:
        power, curtail = np.zeros((fleet.count, fleet.steps)), np.zeros(fleet.steps)
        price = 0.5 * (grid.buy_eur_per_kwh + grid.sell_eur_per_kwh)
        if source == "re-projected" and self._last is not None:
            ids, last_w, curtail_w = self._last
            where = {device_id: i for i, device_id in enumerate(ids)}
            last = shifted(last_w, shift_steps)
            for i, device_id in enumerate(fleet.device_ids):
                if device_id in where:
                    power[i] = last[where[device_id]]
            curtail = shifted(curtail_w, shift_steps)
        return self._accept(source, grid, fleet, dt_s, soft, power, curtail, price, np.zeros_like(power))

    def _accept(
        self, source: str, grid: GridData, fleet: FleetData, dt_s: float, soft: SoftCosts, power_w: FloatArray,
        curtail_w: FloatArray, price: FloatArray, value: FloatArray,
    ) -> _Found:  # fmt: skip
        """Repair and replay; raises SolverError when a hard limit is broken all the same."""
        pool = self._pool
        assert pool is not None  # noqa: S101 - set by solve
        power, curtail, _ = repair(grid, fleet, dt_s, power_w, curtail_w, pool, self.settings.threads)
        run = replay(grid, fleet, dt_s, soft, power, curtail, pool, self.settings.threads)
        if run.hard_violations:
            power, curtail, _ = repair(grid, fleet, dt_s, power_w, curtail_w, pool, self.settings.threads, strict=True)
            run = replay(grid, fleet, dt_s, soft, power, curtail, pool, self.settings.threads)
        if run.hard_violations:
            raise SolverError("replay refused the plan: " + "; ".join(run.hard_violations[:3]))
        return _Found(source, power, curtail, run, [], price, value)

    def _failed(self, source: str, why: str, failures: list[str]) -> None:
        self.fallback_counts[source] += 1
        failures.append(f"{source}: {why}")
        log.warning("site_fleet_failed", source=source, why=why)

    def _finish(
        self,
        grid: GridData,
        fleet: FleetData,
        dt_s: float,
        soft: SoftCosts,
        found: _Found,
        bound: float,
        failures: list[str],
        began_s: float,
    ) -> SiteFleetPlan:
        run, outcome = found.run, found.outcome
        self._last = (fleet.device_ids, found.power_w, found.curtail_w)
        limits = {} if outcome is None else outcome.limits
        codes, bits = explain(grid, fleet, found.power_w, run, found.value, found.price, limits)
        gap = run.objective_eur - bound
        notes = list(failures)
        if found.source in FALLBACK_NOTES:
            notes.append(FALLBACK_NOTES[found.source])
        elif gap > REPORTED_GAP * max(1.0, abs(run.objective_eur)):
            notes.append(f"at most {gap:.3g} EUR from the best")
        if found.both_ways:
            notes.append(f"{found.both_ways} slots would gain from charging and discharging at once and may not")
        notes += [f"limit not kept: {text}" for text in run.soft_violations]
        return SiteFleetPlan(
            dt_s=dt_s,
            device_ids=fleet.device_ids,
            power_w=found.power_w,
            energy_wh=run.energy_wh,
            temperature_c=run.temperature_c,
            voltage_v=run.voltage_v,
            energy_value_eur_per_kwh=found.value,
            meter_price_eur_per_kwh=found.price,
            limit_price_eur_per_kw=limits,
            import_w=run.import_w,
            export_w=run.export_w,
            curtail_w=found.curtail_w,
            objective_eur=run.objective_eur,
            energy_cost_eur=run.energy_cost_eur,
            wear_eur=run.wear_eur,
            peak_w=run.peak_w,
            dual_bound_eur=bound,
            converged=outcome is not None and outcome.converged,
            source=found.source,
            status="; ".join(notes) or "optimal",
            violations=run.soft_violations,
            residual=np.inf if outcome is None else outcome.residual,
            both_ways=found.both_ways,
            sweeps=0 if outcome is None else outcome.sweeps,
            solve_s=time.perf_counter() - began_s,
            reason_codes=codes,
            limit_bits=bits,
        )


def _relative_gap(candidate: _Found) -> float:
    objective = candidate.run.objective_eur
    return (objective - candidate.restricted_eur) / max(1.0, abs(objective))


def _unkept_eur(grid: GridData, run: FleetReplay, dt_s: float, soft: SoftCosts) -> float:
    """What the meter's violations cost beyond the price that the solver bounds them with."""
    over = np.maximum(run.import_w - grid.import_limit_w, 0.0) + np.maximum(run.export_w - grid.export_limit_w, 0.0)
    meter = Meter.of(grid, dt_s / 3600.0, soft, np.zeros(len(over)))
    return (meter.penalty - meter.limit_price) * dt_s / 3600.0 * float(over.sum()) / 1000.0


def _check(grid: GridData, fleet: FleetData, dt_s: float) -> None:
    """Raise InputError naming the field when the meter's data are no problem's, or of another horizon than the fleet's."""
    SiteProblem(dt_s=dt_s, grid=grid, devices=_no_devices())
    if len(grid.buy_eur_per_kwh) != fleet.steps:
        raise InputError(
            source="site",
            field="horizon",
            value=f"meter {len(grid.buy_eur_per_kwh)} steps, fleet {fleet.steps}",
            expected="the same",
        )
    if len(set(fleet.device_ids)) != fleet.count:
        raise InputError(source="site", field="device_ids", value="an id twice", expected="each device once")


def _no_devices() -> tuple[DeviceData, ...]:
    return ()
