"""The MPC policy: problem data from an observation, a plan, the first step as the decision.

Here: its configuration (the `config` of a policy row) and the way from Observation to SiteProblem and from Plan to
Decision. Not here: matrices and solvers (optimizer).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic import ValidationError as PydanticError

from core.decisions import Decision, Reason, SetPoint
from core.errors import InputError, SolverError, nearest
from core.policy_record import PolicyRecord
from optimizer.linearise import Economics, device_data, wear_cost
from optimizer.mpc import LARGE_SITE, MpcSolver
from optimizer.paths import TooShortError
from optimizer.plan import Plan
from optimizer.problem import DeviceData, GridData, SiteProblem, SoftCosts
from optimizer.scenarios import ScenarioSolver, commit
from policies.base import Observation, PolicyUnableError
from policies.uncertainty import Outlook

FloatArray = NDArray[np.float64]
NEVER = 10**9
"""Steps after which no plan is remembered."""
MARGIN = 1.5
"""Of a penalty over what breaking the limit could earn."""
MOST_EUR = 1e4
"""Of a kelvin or a volt; beyond, solvers lose digits."""


class MpcConfig(BaseModel):
    """The `config` column of an MPC row. Every key may be left out; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    solver: Literal["auto", "structured", "site_fleet", "piqp", "osqp", "cvxpy"] = "auto"
    """First solver of the chain; auto: the structured one for one pack, PIQP for a few, the fleet's above 32."""
    terminal_value_share: float = Field(default=0.9, ge=0.0, le=1.5)
    """Energy left at the end is worth this share of the horizon's mean import price."""
    wear: bool = True
    """Price throughput by chemistry, SoH and replacement cost."""
    wear_weight: float = Field(default=1.0, ge=0.0, le=10.0)
    """Share of that price that a plan counts: below 1 it earns more cash and wears more (docs/evaluation.md has the front)."""
    wear_depth_edges: tuple[float, ...] = ()
    """Depths of discharge (shares of 1, rising) at which throughput gets dearer, such as [0.25, 0.5, 0.75]: deep cycles wear more
    than shallow ones (a choice for large assets; each layer costs solve time). Empty: all throughput costs the same."""
    soc_stress_eur_per_h: float = Field(default=0.01, ge=0.0)
    """Cost of holding a pack far from half full; per hour at a distance of 100 %."""
    move_weight: float = Field(default=1e-4, ge=0.0)
    """EUR per kW^2 and hour of deviation from the last plan: equal-cost plans do not flutter."""
    tracking_weight: float = Field(default=1.0, ge=0.0, le=1e4)
    """EUR per kW^2 and hour of deviation from the site's dispatch signal: its priority against cost. Cost makes the plan leave
    the signal by D kW where that gains 2 * tracking_weight * D EUR/kWh: 1 follows it to within a tenth of a kW at usual prices,
    0.001 lets a spread of 0.1 EUR/kWh move it by 50 kW, 0 ignores it. Steps without a signal are never tracked."""
    correct_forecasts: bool = True
    """Load and PV forecasts are corrected by their own latest errors (optimizer.forecast)."""
    uncertainty: Literal["deterministic", "scenarios"] = "deterministic"
    """`scenarios`: the next step is the best one for several futures, drawn from past forecast errors (optimizer.scenarios)."""
    scenario_count: int = Field(default=8, ge=2, le=50)
    """At most; there are no more than past days on record."""
    peak_chance: float = Field(default=0.001, ge=0.0, le=1.0)
    """Where the month's peak has a price: imports are planned to stay so far below the peak already paid for that the next step's
    passes it with this chance, by what forecasts have missed. 1: as if they were right. Scenarios need none."""
    cvar_weight: float = Field(default=0.0, ge=0.0, le=0.95)
    """0: the mean cost counts; towards 1 that of the dearest futures does."""
    cvar_level: float = Field(default=0.8, ge=0.0, le=0.99)
    """The dearest 1 - cvar_level of the futures are the tail."""
    curtail_pv: bool = True
    """PV may be curtailed where export costs money, if the site's PV can be."""

    @field_validator("wear_depth_edges")
    @classmethod
    def _rising_shares(cls, edges: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < edge < 1 for edge in edges) or any(b <= a for a, b in itertools.pairwise(edges)):
            raise ValueError("shares between 0 and 1, each above the one before")
        return edges


def parse_config(record: PolicyRecord) -> MpcConfig:
    """Validate a policy row's config; raises InputError naming row, field, value and what was expected."""
    source = f"optimization_policies {record.name!r} ({record.site_id})"
    try:
        config = MpcConfig.model_validate(dict(record.config))
    except PydanticError as error:
        first = error.errors()[0]
        field = "config." + ".".join(str(part) for part in first["loc"])
        hint = nearest(str(first["loc"][-1]), list(MpcConfig.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise InputError(source=source, field=field, value=first.get("input"), expected=first["msg"] + hint) from None
    if record.horizon_hours is None or record.update_interval_seconds is None:
        missing = "horizon_hours" if record.horizon_hours is None else "update_interval_seconds"
        raise InputError(source=source, field=missing, value=None, expected="a number > 0 for an MPC policy")
    if (record.horizon_hours * 3600) % record.update_interval_seconds:
        raise InputError(
            source=source,
            field="update_interval_seconds",
            value=record.update_interval_seconds,
            expected=f"a divisor of the horizon ({record.horizon_hours} h)",
        )
    return config


class MpcPolicy:
    """Solves the site's QP over the row's horizon at each interval.

    Raises InputError when made from a row whose config is not valid.
    """

    def __init__(self, record: PolicyRecord) -> None:
        self.record = record
        self.config = parse_config(record)
        self._solver = MpcSolver(solver=self.config.solver)
        self._planned_at: datetime | None = None
        self._scenarios = ScenarioSolver(cvar_weight=self.config.cvar_weight, cvar_level=self.config.cvar_level)

    @property
    def name(self) -> str:
        """Name of the row."""
        return self.record.name

    def plan(self, observation: Observation) -> Plan:
        """The plan over the horizon; raises PolicyUnableError with the reason when there can be none."""
        outlook = self._outlook(observation)
        problem = self._problem(observation, outlook)
        uncertainty: dict[str, Any] = {"mode": "deterministic", "corrected": outlook.notes}
        first_w, why_not = None, ""
        try:
            if self.config.uncertainty == "scenarios":
                try:
                    if len(problem.devices) > LARGE_SITE:
                        raise TooShortError(f"scenarios are for at most {LARGE_SITE} packs behind one meter")
                    first_w = self._first_step(problem, outlook, uncertainty)
                except TooShortError as error:
                    why_not = f"deterministic: {error}"
                except SolverError as error:
                    why_not = f"deterministic: no plan on scenarios: {error}"
            if why_not:
                problem = replace(problem, grid=replace(problem.grid, peak_incurred_w=self._safe_peak_w(observation, outlook)))
            plan = self._solver.plan(problem, first_w, shift_steps=self._moved_on(observation, problem.dt_s))
        except SolverError as error:
            raise PolicyUnableError(f"no solver found an executable plan: {error}") from error
        self._planned_at = observation.starts_at
        if why_not:
            plan = replace(plan, status=why_not if plan.status == "optimal" else f"{plan.status}; {why_not}")
        return replace(plan, uncertainty=uncertainty)

    def _moved_on(self, observation: Observation, dt_s: float) -> int:
        """Whole steps since the last plan; beyond any horizon when the clock has gone back, so that it is used for nothing."""
        if self._planned_at is None:
            return 1
        steps = (observation.starts_at - self._planned_at).total_seconds() / dt_s
        return round(steps) if steps >= 0 and abs(steps - round(steps)) < 1e-6 else NEVER

    def _first_step(self, problem: SiteProblem, outlook: Outlook, uncertainty: dict[str, Any]) -> FloatArray:
        """What the scenarios decide for the next step, W (devices, 1); the forecast itself must be able to execute it too."""
        cases, drawn = outlook.scenarios(problem, self.config.scenario_count)
        found = self._scenarios.solve(cases)
        alone = np.hstack([found.first_w, np.zeros((len(problem.devices), problem.steps - 1))])
        first_w = commit([problem, *cases], [alone] * (len(cases) + 1), [np.zeros(problem.steps)] * (len(cases) + 1), 1)
        uncertainty |= {
            "mode": "scenarios",
            "count": len(cases),
            "cvar_weight": self.config.cvar_weight,
            "cvar_level": self.config.cvar_level,
            "expected_eur": round(found.expected_eur, 4),
            "tail_eur": round(found.tail_eur, 4),
            "bills_eur": np.round(found.bills_eur, 4).tolist(),
            **drawn,
        }
        return first_w

    def _outlook(self, observation: Observation) -> Outlook:
        dt_s = float(self.record.update_interval_seconds or 0)  # parse_config has refused a row without
        steps = round((self.record.horizon_hours or 0) * 3600 / dt_s)
        return Outlook(observation, steps, dt_s, self.config.correct_forecasts)

    def problem(self, observation: Observation) -> SiteProblem:
        """SiteProblem of the observation; raises PolicyUnableError naming the input that is missing or wrong."""
        return self._problem(observation, self._outlook(observation))

    def _problem(self, observation: Observation, outlook: Outlook) -> SiteProblem:
        steps, dt_s = outlook.steps, outlook.dt_s
        if not observation.devices:
            raise PolicyUnableError("no device of the site may be commanded")
        planned = [device for device in observation.devices if device.device_id not in observation.missing_predictions]
        if not planned:
            first, why = next(iter(observation.missing_predictions.items()))
            raise PolicyUnableError(f"prediction of {first}: {why}")
        site, start = observation.site, observation.starts_at
        try:
            price = observation.price_eur_per_kwh.window(start, steps, dt_s)
            buy, sell = site.tariff.buy_sell(price)
            keep = 1.0 - site.grid.reserve_share
            target, tracked = (None, None)
            if observation.signal is not None and self.config.tracking_weight > 0:
                target, tracked = observation.signal.window(start, steps, dt_s)
            grid = GridData(
                buy_eur_per_kwh=buy,
                sell_eur_per_kwh=sell,
                load_w=outlook.series("load_w", observation.load_w.window(start, steps, dt_s)),
                pv_w=outlook.series("pv_w", observation.pv_w.window(start, steps, dt_s)),
                import_limit_w=np.full(steps, site.grid.import_limit_w * keep),
                export_limit_w=np.full(steps, site.grid.export_limit_w * keep),
                peak_price_eur_per_kw=site.grid.peak_price_eur_per_kw,
                peak_incurred_w=observation.peak_incurred_w
                if self.config.uncertainty == "scenarios"
                else self._safe_peak_w(observation, outlook),
                curtailable=self.config.curtail_pv and site.pv.curtailable,
                target_w=target,
                tracked=tracked,
                tracking_weight=0.0 if target is None else self.config.tracking_weight,
                import_reserve_w=site.grid.import_limit_w * site.grid.reserve_share,
                export_reserve_w=site.grid.export_limit_w * site.grid.reserve_share,
            )
            ambient_c = observation.ambient_c.window(start, steps, dt_s)
            terminal = self.config.terminal_value_share * float(np.mean(buy))
            devices, packs = [], site.packs_of(device.device_id for device in planned)
            for device in planned:
                state = observation.states[device.device_id]
                last = observation.last_plan.get(device.device_id)
                pack = packs[device.device_id]
                economics = Economics(
                    wear_eur_per_kwh=self.config.wear_weight
                    * wear_cost(device.chemistry, state.soh_pct, pack.replacement_eur_per_kwh)
                    if self.config.wear
                    else 0.0,
                    wear_edges=self.config.wear_depth_edges if self.config.wear else (),
                    soc_stress_eur_per_h=self.config.soc_stress_eur_per_h,
                    terminal_value_eur_per_kwh=terminal,
                    move_weight=self.config.move_weight if last is not None else 0.0,
                )
                devices.append(
                    device_data(
                        device,
                        observation.limits[device.device_id],
                        state,
                        observation.predictions[device.device_id],
                        start=start,
                        steps=steps,
                        dt_s=dt_s,
                        ambient_c=ambient_c,
                        economics=economics,
                        reference_w=None if last is None else last.window(start, steps, dt_s),
                    )
                )
            return SiteProblem(dt_s=dt_s, grid=grid, devices=tuple(devices), soft=_soft_costs(grid, devices, dt_s))
        except InputError as error:
            raise PolicyUnableError(str(error)) from error

    def _safe_peak_w(self, observation: Observation, outlook: Outlook) -> float:
        """The import up to which the plan takes the peak as paid for. Forecasts miss; a plan that rides on the peak raises it."""
        if observation.site.grid.peak_price_eur_per_kw <= 0:
            return observation.peak_incurred_w
        risk_w = outlook.import_risk_w(1.0 - self.config.peak_chance) if self.config.peak_chance < 1.0 else 0.0
        if risk_w > 0:
            outlook.notes["peak_margin_w"] = round(risk_w, 1)
        return max(0.0, observation.peak_incurred_w - risk_w)

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide: the first step of the plan, the whole plan kept with it."""
        return decision_of(self.record, observation, self.plan(observation))


def _soft_costs(grid: GridData, devices: Sequence[DeviceData], dt_s: float) -> SoftCosts:
    """Penalties above what breaking a limit could earn: a kW for one step earns at most its energy's price and the peak's.

    A kW more changes temperature and voltage by a device's sensitivities; the least of them sets the price of a kelvin or volt.
    """
    dt_h = dt_s / 3600.0
    of_a_kw = grid.peak_price_eur_per_kw + dt_h * float(np.abs(grid.buy_eur_per_kwh).max(initial=0.0))
    of_a_kwh = MARGIN * of_a_kw / dt_h
    kelvin = [min(float(d.temperature_charge_k_per_w.mean()), float(d.temperature_discharge_k_per_w.mean())) for d in devices]
    volt = [float(d.voltage_v_per_w.mean()) for d in devices]
    default = SoftCosts()

    def above(least: float, per_w: list[float]) -> float:
        small = min((1000.0 * value for value in per_w if value > 0), default=math.inf)
        return min(max(least, MARGIN * of_a_kw / small), MOST_EUR)

    return replace(
        default,
        energy_eur_per_kwh=max(default.energy_eur_per_kwh, of_a_kwh),
        depth_eur_per_kwh=max(default.depth_eur_per_kwh, of_a_kwh),
        temperature_eur_per_k=above(default.temperature_eur_per_k, kelvin),
        voltage_eur_per_v=above(default.voltage_eur_per_v, volt),
        grid_eur_per_kw=max(default.grid_eur_per_kw, 2.0 * grid.peak_price_eur_per_kw),
    )


def decision_of(record: PolicyRecord, observation: Observation, plan: Plan) -> Decision:
    """The first step of a plan as a Decision; reasons come from the plan's slot 0."""
    set_points = tuple(
        SetPoint(device_id=part.device_id, power_w=float(part.power_w[0]), reason=part.reasons[0], detail=plan.detail(part, 0))
        for part in plan.devices
    ) + tuple(
        # It cannot be planned for, so it rests; that costs the site its share and no more.
        SetPoint(device_id=key, power_w=0.0, reason=Reason.STOP, detail=f"prediction: {why}")
        for key, why in observation.missing_predictions.items()
    )
    stored: Mapping[str, Any] = {"starts_at": observation.starts_at.isoformat(), **plan.as_json()}
    return Decision(
        site_id=observation.site.site_id,
        starts_at=observation.starts_at,
        interval_s=observation.interval_s,
        set_points=set_points,
        source=record.name,
        policy_id=record.policy_id,
        solver=plan.solver,
        objective_eur=plan.objective_eur,
        plan=stored,
        inputs=dict(observation.inputs),
    )
