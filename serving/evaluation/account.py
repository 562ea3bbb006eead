"""What a week was worth: cash, wear, energy left, cycles, peak, life; from a trace and its world.

J = (bill without packs - bill with them) - wear + (stored energy at the end - at the start) x mean price of the week, EUR. A bill
is energy and, where the site pays for it, the month's peak beyond what had been incurred before (serving.evaluation.meter). Wear
is throughput at the pack's wear price (optimizer.linearise.wear_cost), the same for all policies. Not here: scores
(serving.evaluation.score).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core import ageing
from core.battery.ageing_models import MODELS
from core.telemetry_cycles import cycle_data
from optimizer.linearise import wear_cost
from serving.evaluation.meter import energy_bill_eur, metered_w, peak_charge_eur
from serving.evaluation.plant import stored_kwh
from serving.evaluation.replay import Trace
from serving.evaluation.world import World

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """One week of one policy; EUR, kWh, W, percent."""

    j_eur: float
    cash_eur: float
    """What the bill became cheaper by, the peak's charge included."""
    peak_eur: float
    """That part of it which the peak's charge became cheaper by; negative where packs made it dearer."""
    billing_months: int
    """That the replay touches."""
    wear_eur: float
    energy_eur: float
    throughput_kwh: float
    full_cycles: float
    """Equivalent full cycles by rainflow, mean of the packs."""
    soh_loss_pct: float
    """Of capacity in this week by rainflow and the chemistry's ageing model, mean of the packs."""
    peak_w: float
    curtailed_kwh: float
    """PV that a curtailable inverter did not use."""
    cut_kwh: float
    """What the gate took away."""
    decided_share: float
    plant_cut_steps: int
    violations: int

    def document(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def account(trace: Trace, world: World) -> Account:
    """The account of a trace."""
    hours = world.dt_s / 3600.0
    alone_w, _ = metered_w(world, np.zeros(world.steps))
    mean_price = float(world.week(world.price).mean())
    wear = energy = throughput = cycles = lost = 0.0
    for p, device in enumerate(world.devices):
        pack = world.site.pack(device.device_id)
        through = float(np.abs(trace.power_w[:, p]).sum()) * hours / 1000.0
        throughput += through
        wear += through * wear_cost(device.chemistry, pack.soh_pct, pack.replacement_eur_per_kwh)
        gained = stored_kwh(device, pack.soh_pct, trace.soc_pct[-1, p]) - stored_kwh(device, pack.soh_pct, trace.soc_pct[0, p])
        energy += gained * mean_price
        cycles += cycle_data(trace.soc_pct[:, p].tolist())["equivalent_full_cycles"] / len(world.devices)
        lost += _soh_loss_pct(trace, world, p) / len(world.devices)
    peak = peak_charge_eur(world, alone_w) - peak_charge_eur(world, trace.grid_w)
    cash = energy_bill_eur(world, alone_w) - energy_bill_eur(world, trace.grid_w) + peak
    return Account(
        j_eur=cash - wear + energy,
        cash_eur=cash,
        peak_eur=peak,
        billing_months=len(set(world.months().tolist())),
        wear_eur=wear,
        energy_eur=energy,
        throughput_kwh=throughput,
        full_cycles=cycles,
        soh_loss_pct=lost,
        peak_w=float(max(0.0, trace.grid_w.max())),
        curtailed_kwh=float(trace.held_back_w.sum()) * hours / 1000.0,
        cut_kwh=float(trace.cut_w.sum()) * hours / 1000.0,
        decided_share=float(trace.decided.mean()),
        plant_cut_steps=int(trace.plant_cut_steps),
        violations=len(trace.violations),
    )


def _soh_loss_pct(trace: Trace, world: World, p: int) -> float:
    """Capacity lost in the week, percent of new, day by day."""
    device = world.devices[p]
    state = ageing.state_at(device.chemistry, np.array([world.site.pack(device.device_id).soh_pct]))
    before = float(MODELS[device.chemistry].health(state).capacity[0])
    for soc, temperature in days_of(trace.soc_pct[:, p], trace.temperature_c[:, p], world.dt_s):
        state = ageing.advance(device.chemistry, state, soc[None, :] / 100.0, temperature[None, :], world.dt_s)
    return 100.0 * (before - float(MODELS[device.chemistry].health(state).capacity[0]))


def days_of(soc_pct: FloatArray, temperature_c: FloatArray, dt_s: float) -> list[tuple[FloatArray, FloatArray]]:
    """A week's states cut into days, each with its last value shared with the next."""
    per_day = round(86_400 / dt_s)
    return [
        (soc_pct[k : k + per_day + 1], temperature_c[k : k + per_day + 1])
        for k in range(0, len(soc_pct) - 1, per_day)
        if k + per_day < len(soc_pct)
    ]
