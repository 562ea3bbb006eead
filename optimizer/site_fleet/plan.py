"""A large site's plan as arrays, and the same as the optimizer's Plan. Not here: how it is found (solver)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.decisions import Reason
from optimizer.plan import DevicePlan, Plan
from optimizer.problem import SiteProblem
from optimizer.reasons import PRICE_FLOOR, Binding
from optimizer.site_fleet.reasons import LIMITS, REASONS

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFleetPlan:
    """A plan that has passed the independent replay; device arrays (B, N), states at the END of each step, meter arrays (N,)."""

    dt_s: float
    device_ids: tuple[str, ...]
    power_w: FloatArray
    """Net, discharge positive; no device charges and discharges at once."""
    energy_wh: FloatArray
    temperature_c: FloatArray
    voltage_v: FloatArray
    energy_value_eur_per_kwh: FloatArray
    """What one more stored kWh would be worth at the end of the step; zero where no price was found."""
    meter_price_eur_per_kwh: FloatArray
    limit_price_eur_per_kw: Mapping[str, FloatArray]
    """Shadow prices of the limits that couple the devices (`grid_import`, `grid_export`, `peak`): what one more kW during a step
    would save, (N,) each; empty where no price was found."""
    import_w: FloatArray
    export_w: FloatArray
    curtail_w: FloatArray
    objective_eur: float
    energy_cost_eur: float
    wear_eur: float
    peak_w: float
    dual_bound_eur: float
    """No plan costs less (the relaxation in which devices may charge and discharge at once); -inf when none was computed. Where
    the meter's limits cannot be kept, no plan with the same violation."""
    converged: bool
    source: str
    """`warm`, `cold`, `stiff` (cold, with dearer limits), `joint` (the joint QP), `re-projected` (the last plan) or `hold`."""
    status: str
    """`optimal`, or everything that was wrong on the way."""
    violations: tuple[str, ...]
    """Limits that the state or the load has already broken, each by the most it is exceeded; no plan breaks another."""
    residual: float
    """Largest difference between the fleet's net power and the meter's, as a share of the fleet's power, before repair."""
    both_ways: int
    """Slots whose direction had to be fixed because doing both at once would have paid."""
    sweeps: int
    solve_s: float
    reason_codes: NDArray[np.int8]
    """Index into REASONS."""
    limit_bits: NDArray[np.uint16]
    """Bit j is set where LIMITS[j] is touched."""

    @property
    def gap_eur(self) -> float:
        """How much better the best plan might at most be."""
        return self.objective_eur - self.dual_bound_eur

    @property
    def relative_gap(self) -> float:
        """gap_eur over the objective's size, at least one euro."""
        return self.gap_eur / max(1.0, abs(self.objective_eur))

    def reason(self, i: int, k: int) -> Reason:
        """Why device i does what it does in step k."""
        return REASONS[int(self.reason_codes[i, k])]

    def limits(self, i: int, k: int) -> tuple[str, ...]:
        """Names of the limits that device i touches in step k."""
        bits = int(self.limit_bits[i, k])
        return tuple(name for j, name in enumerate(LIMITS) if bits >> j & 1)


def as_plan(plan: SiteFleetPlan, problem: SiteProblem) -> Plan:
    """The optimizer's Plan. The meter's limits carry their shadow price; a device's are told by nearness, and carry none."""
    slots: dict[tuple[int, int], tuple[Binding, ...]] = {}

    def bindings(bits: int, k: int) -> tuple[Binding, ...]:
        if (bits, k) not in slots:
            names = [name for j, name in enumerate(LIMITS) if bits >> j & 1]
            prices = {name: float(price[k]) for name, price in plan.limit_price_eur_per_kw.items()}
            found = [Binding(name, _floored(prices[name]) if name in prices else None) for name in names]
            slots[bits, k] = tuple(sorted(found, key=lambda binding: -(binding.price_eur or 0.0)))
        return slots[bits, k]

    devices = tuple(
        DevicePlan(
            device_id=device.device_id,
            power_w=plan.power_w[i],
            energy_wh=plan.energy_wh[i],
            soc_pct=device.soc_pct(plan.energy_wh[i]),
            temperature_c=plan.temperature_c[i],
            voltage_v=plan.voltage_v[i],
            energy_value_eur_per_kwh=plan.energy_value_eur_per_kwh[i],
            reasons=tuple(REASONS[code] for code in plan.reason_codes[i].tolist()),
            limits=tuple(bindings(bits, k) for k, bits in enumerate(plan.limit_bits[i].tolist())),
        )
        for i, device in enumerate(problem.devices)
    )
    weights = problem.grid.tracking_weights()
    off: tuple[float | None, ...] = ()
    if problem.grid.target_w is not None and weights.any():
        net = plan.import_w - plan.export_w - problem.grid.target_w
        off = tuple(float(value) if weight > 0 else None for value, weight in zip(net, weights, strict=True))
    return Plan(
        dt_s=plan.dt_s,
        devices=devices,
        grid_import_w=plan.import_w,
        grid_export_w=plan.export_w,
        curtail_w=plan.curtail_w,
        meter_price_eur_per_kwh=plan.meter_price_eur_per_kwh,
        objective_eur=plan.objective_eur,
        energy_cost_eur=plan.energy_cost_eur,
        wear_eur=plan.wear_eur,
        peak_w=plan.peak_w,
        solver="site_fleet",
        status=plan.status,
        iterations=plan.sweeps,
        solve_s=plan.solve_s,
        price_source="site_fleet: the meter's limits, those of devices by nearness" if plan.limit_price_eur_per_kw else "",
        deviation_w=off,
    )


def _floored(price: float) -> float:
    return price if price > PRICE_FLOOR else 0.0
