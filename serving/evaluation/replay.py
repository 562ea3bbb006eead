"""One week of one policy on a plant: observe, decide, gate, step, and what came of it.

Here: `replay`, and the Trace that it leaves. Not here: money (serving.evaluation.account), what is known when
(serving.evaluation.world).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from core.decisions import Decision
from core.devices import CYCLE_HOURS, PackState
from core.limits import PackLimits
from core.predictions import Prediction
from core.series import Series
from core.twin import predict_many
from policies.base import Observation, PlannedPower, Policy, PolicyUnableError
from policies.rules import Hold, ThresholdRule
from serving.dispatch.gate import gate
from serving.dispatch.inputs import planned_power
from serving.dispatch.meter import Meter
from serving.dispatch.runner import checked
from serving.evaluation.config import Faults
from serving.evaluation.meter import held_back_w
from serving.evaluation.plant import Flow, PlantPack
from serving.evaluation.world import World

FloatArray = NDArray[np.float64]
SOC_TOLERANCE_PCT = 1.0
TEMPERATURE_TOLERANCE_K = 1.0
VOLTAGE_TOLERANCE = 0.01
CURRENT_TOLERANCE = 0.02
POWER_TOLERANCE = 0.01
"""A limit counts as broken beyond these: what the sensors of a pack can tell apart."""
STALE = "its twin has stood still (a fault of the scenario)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A limit that the plant passed."""

    step: int
    device_id: str
    kind: str
    value: float
    limit: float


@dataclass(slots=True, kw_only=True)
class Trace:
    """What happened; arrays by step, packs as columns. States have one row more, the start."""

    power_w: FloatArray
    soc_pct: FloatArray
    temperature_c: FloatArray
    grid_w: FloatArray
    """At the meter, import positive."""
    held_back_w: FloatArray
    """PV that a curtailable inverter did not use."""
    decided: NDArray[np.bool_]
    """Whether the policy itself decided, not the rule after it."""
    latency_s: FloatArray
    cut_w: FloatArray
    """What the gate took away, all packs."""
    plant_cut_steps: int = 0
    """Steps of packs that the cell's own voltage window made smaller."""
    violations: list[Violation] = field(default_factory=list)
    unable: dict[str, int] = field(default_factory=dict)
    """Why the policy did not decide, and how often."""


def replay(
    policy: Policy, world: World, packs: list[PlantPack], faults: Faults, progress: Callable[[int], object] = lambda _: None
) -> Trace:
    """Run the week. Raises whatever the policy raises, but PolicyUnableError: the rule decides then."""
    count, width = world.steps, len(packs)
    trace = Trace(
        power_w=np.zeros((count, width)), soc_pct=np.zeros((count + 1, width)), temperature_c=np.zeros((count + 1, width)),
        grid_w=np.zeros(count), held_back_w=np.zeros(count),
        decided=np.ones(count, dtype=np.bool_), latency_s=np.zeros(count), cut_w=np.zeros(count),
    )  # fmt: skip
    last: dict[str, PlannedPower] = {}
    rule, hold = ThresholdRule(), Hold()
    peak_w, months = world.peak_incurred_w, world.months()
    buy, sell = world.site.tariff.buy_sell(world.week(world.price))
    _note(trace, 0, packs)
    progress(0)
    for k in range(count):
        row = world.first + k
        if k and months[k] != months[k - 1]:
            peak_w = 0.0
        observation = observe(world, row, packs, trace, faults, last, peak_w)
        begun = time.perf_counter()
        try:
            decision = checked(policy.decide(observation), observation)
        except PolicyUnableError as error:
            decision = _fallback(rule, hold, observation)
            trace.decided[k] = False
            trace.unable[str(error)[:160]] = trace.unable.get(str(error)[:160], 0) + 1
        trace.latency_s[k] = time.perf_counter() - begun
        gated = gate(decision, observation, _measured(world, row, trace.held_back_w[k - 1] if k else 0.0))
        last = planned_power(gated.decision)
        trace.cut_w[k] = gated.projected_w
        wanted = {point.device_id: point.power_w for point in gated.decision.set_points}
        for p, pack in enumerate(packs):
            flow = pack.step(wanted[pack.config.device_id], world.dt_s, float(world.ambient_c[row]))
            trace.power_w[k, p] = flow.power_w
            trace.plant_cut_steps += flow.share < 1.0
            _check_pack(trace, k, pack, world.limits[pack.config.device_id], flow, abs(faults.soc_offset_pct))
        _note(trace, k + 1, packs)
        net_w = float(world.load_w[row] - world.pv_w[row])
        grid_w, pv_w = np.array([net_w - float(trace.power_w[k].sum())]), world.pv_w[row : row + 1]
        trace.held_back_w[k] = held_back_w(world.site, grid_w, pv_w, buy[k : k + 1], sell[k : k + 1])[0]
        trace.grid_w[k] = grid_w[0] + trace.held_back_w[k]
        _check_meter(trace, k, world, net_w)
        peak_w = max(peak_w, trace.grid_w[k])
        progress(k + 1)
    return trace


def observe(
    world: World, row: int, packs: list[PlantPack], trace: Trace, faults: Faults, last: dict[str, PlannedPower], peak_w: float
) -> Observation:
    """What the dispatcher would have gathered at the beginning of a row."""
    at = world.at(row)
    states = {pack.config.device_id: _seen(pack, p, row - world.first, world, trace, faults) for p, pack in enumerate(packs)}
    ids = list(states)
    horizon = min(len(world.price) - row, round(2 * 86_400 / world.dt_s))
    predictions: dict[str, Prediction] = {}
    hours = faults.stale_twin_hours
    stale = hours is not None and hours[0] <= at.hour < hours[1]
    if not stale:
        profile = np.array(
            [last[key].window(at, horizon, world.dt_s) if key in last else np.zeros(horizon) for key in ids], dtype=np.float64
        )
        made = predict_many(
            world.devices, [states[key] for key in ids], profile, dt_s=world.dt_s, start=at,
            ambient_c=world.ambient_c[row : row + horizon],
        )  # fmt: skip
        predictions = dict(zip(ids, made, strict=True))
    prices, errors = world.prices_seen(row)
    day = len(prices) and round(86_400 / world.dt_s)

    def ahead(name: str, values: FloatArray) -> Series:
        return Series(name, world.at(row - day), world.dt_s, values[row - day :])

    def past(name: str, actual: FloatArray, forecast: FloatArray) -> Series:
        return Series(name, world.at(0), world.dt_s, (actual - forecast)[:row])

    record = {"price_eur_per_kwh": Series("price_eur_per_kwh", world.at(day), world.dt_s, errors)}
    if world.load_w.any() or world.pv_w.any():
        record["load_w"] = past("load_w", world.load_w, world.load_forecast_w)
        record["pv_w"] = past("pv_w", world.pv_w, world.pv_forecast_w)
    return Observation(
        site=world.site, starts_at=at, interval_s=int(world.dt_s), devices=world.devices, limits=world.limits, states=states,
        predictions=predictions, missing_predictions=dict.fromkeys(ids, STALE) if stale else {},
        price_eur_per_kwh=Series("price_eur_per_kwh", world.at(0), world.dt_s, prices),
        load_w=ahead("load_w", world.load_forecast_w), pv_w=ahead("pv_w", world.pv_forecast_w),
        ambient_c=ahead("ambient_c", world.ambient_c), peak_incurred_w=peak_w, errors=record,
        price_known_until=world.at(int(world.price_known_until[row])), last_plan=last,
    )  # fmt: skip


def _measured(world: World, row: int, held_back_w: float) -> Meter:
    """What the site's meters have shown of the interval before, as the dispatcher's gate is told."""
    return Meter(load_w=float(world.load_w[row - 1]), pv_w=float(world.pv_w[row - 1] - held_back_w), ended_at=world.at(row))


def _seen(pack: PlantPack, p: int, k: int, world: World, trace: Trace, faults: Faults) -> PackState:
    """The measured state with the day's extremes and the scenario's error of the SoC."""
    state = pack.state(world.start + timedelta(seconds=k * world.dt_s))
    day = trace.soc_pct[max(0, k - round(CYCLE_HOURS * 3600 / world.dt_s)) : k + 1, p]
    low, high, soc = float(day.min()), float(day.max()), state.soc_pct
    if faults.soc_offset_pct:
        low, high, soc = (float(np.clip(value + faults.soc_offset_pct, 0.0, 100.0)) for value in (low, high, soc))
    return replace(state, soc_pct=soc, cycle_low_pct=low, cycle_high_pct=high)


def _fallback(rule: Policy, hold: Policy, observation: Observation) -> Decision:
    try:
        return rule.decide(observation)
    except PolicyUnableError:
        return hold.decide(observation)


def _note(trace: Trace, k: int, packs: list[PlantPack]) -> None:
    trace.soc_pct[k] = [pack.soc_pct for pack in packs]
    trace.temperature_c[k] = [pack.temperature_c for pack in packs]


def _check_pack(trace: Trace, k: int, pack: PlantPack, limits: PackLimits, flow: Flow, offset_pct: float) -> None:
    """Compare the plant's end of step with the limits. A SoC that was measured wrong by x may end x beyond."""
    slack = SOC_TOLERANCE_PCT + offset_pct
    moved = abs(flow.power_w) > 1.0
    low_a, high_a = limits.charge_current_a, limits.discharge_current_a
    config = pack.config
    for kind, value, limit, broken in (
        ("soc_max", pack.soc_pct, limits.soc_max_pct, flow.power_w < 0 and pack.soc_pct > limits.soc_max_pct + slack),
        ("soc_min", pack.soc_pct, limits.soc_min_pct, flow.power_w > 0 and pack.soc_pct < limits.soc_min_pct - slack),
        ("temperature_max", pack.temperature_c, limits.temperature_max_c,
         moved and pack.temperature_c > limits.temperature_max_c + TEMPERATURE_TOLERANCE_K),
        ("voltage_max", flow.voltage_v, limits.voltage_max_v, flow.voltage_v > limits.voltage_max_v * (1 + VOLTAGE_TOLERANCE)),
        ("voltage_min", flow.voltage_v, limits.voltage_min_v, flow.voltage_v < limits.voltage_min_v * (1 - VOLTAGE_TOLERANCE)),
        ("charge_current", -flow.current_a, low_a, -flow.current_a > low_a * (1 + CURRENT_TOLERANCE)),
        ("discharge_current", flow.current_a, high_a, flow.current_a > high_a * (1 + CURRENT_TOLERANCE)),
        ("charge_power", -flow.power_w, config.max_charge_power_w,
         -flow.power_w > config.max_charge_power_w * (1 + POWER_TOLERANCE)),
        ("discharge_power", flow.power_w, config.max_discharge_power_w,
         flow.power_w > config.max_discharge_power_w * (1 + POWER_TOLERANCE)),
    ):  # fmt: skip
        if broken:
            trace.violations.append(
                Violation(step=k, device_id=config.device_id, kind=kind, value=float(value), limit=float(limit))
            )


def _check_meter(trace: Trace, k: int, world: World, net_w: float) -> None:
    """Beyond the meter's limit by what packs add; what load or PV do alone is not theirs."""
    grid, packs_w = world.site.grid, float(trace.power_w[k].sum())
    for kind, value, limit, adds, alone in (
        ("import_limit", trace.grid_w[k], grid.import_limit_w, packs_w < 0, net_w),
        ("export_limit", -trace.grid_w[k], grid.export_limit_w, packs_w > 0, -net_w),
    ):
        if adds and value > limit * (1 + POWER_TOLERANCE) and value > alone:
            trace.violations.append(Violation(step=k, device_id="meter", kind=kind, value=float(value), limit=float(limit)))
