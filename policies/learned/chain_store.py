"""A site's packs as one store, for a plan that looks at all of them together, and its power shared among them again.

The store has the energy between the packs' limits, the power that they have half charged, and their mean losses and wear. What
each pack does in the step is within what its limits and measured state allow then. Not here: the plan (chain_plan).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from core.battery import capacity_wh
from core.devices import DeviceConfig
from core.limits import power_bounds
from core.pack import Pack
from optimizer.linearise import wear_cost
from optimizer.peak_plan import PeakStore
from policies.base import Observation, PolicyUnableError
from policies.learned.chain_plan import SPACING

FloatArray = NDArray[np.float64]
NOMINAL_C, NOMINAL_DT_S = 25.0, 60.0
"""Power and losses that the plan reckons with are those of a pack half charged, at this temperature, for a moment."""
LEAST_ETA = 0.5


def store_of(
    observation: Observation, packs: Sequence[DeviceConfig], *, dt_s: float, highest_kw: float, wear_weight: float
) -> tuple[PeakStore, float]:
    """The packs as one store, and its level 0 to 1. Numbers are rounded so that the plans of a day are of the same store.

    `highest_kw`: the highest load that is planned for; `wear_weight`: share of the packs' wear that counts. Raises
    PolicyUnableError where no pack has energy or power between its limits.
    """
    span_wh, level, wear = np.zeros(len(packs)), np.zeros(len(packs)), np.zeros(len(packs))
    power_w, loss = np.zeros((len(packs), 2)), np.zeros((len(packs), 2))
    own = observation.site.packs_of(device.device_id for device in packs)
    for k, device in enumerate(packs):
        state, limits = observation.states[device.device_id], observation.limits[device.device_id]
        low, high = limits.soc_min_pct, limits.soc_max_pct
        span_wh[k] = capacity_wh(device, state.soh_pct) * max(high - low, 0.0) / 100.0
        level[k] = np.clip((state.soc_pct - low) / max(high - low, 1e-9), 0.0, 1.0)
        half = Pack(device, soc_pct=0.5 * (low + high), soh_pct=state.soh_pct, temperature_c=NOMINAL_C, ambient_c=NOMINAL_C)
        condition = half.condition(NOMINAL_DT_S)
        bounds = power_bounds(limits, condition, NOMINAL_DT_S)
        power_w[k] = bounds.charge_w[0], bounds.discharge_w[0]
        # At half power; I^2 R over P is P R over the voltage squared.
        loss[k] = 0.5 * power_w[k] * float(np.max(condition.resistance_ohm)) / float(np.max(condition.open_circuit_v)) ** 2
        loss[k, 0] += 1.0 - float(np.max(condition.coulomb_efficiency))
        wear[k] = wear_cost(device.chemistry, state.soh_pct, own[device.device_id].replacement_eur_per_kwh)
    total_wh, (charge_w, discharge_w) = float(span_wh.sum()), power_w.sum(axis=0).tolist()
    if not total_wh > 0 or not charge_w + discharge_w > 0:
        raise PolicyUnableError("the packs have no energy or power between their limits")
    eta_charge, eta_discharge = np.maximum(1.0 - (span_wh @ loss) / total_wh, LEAST_ETA).tolist()
    # Wear is paid in both directions; the plan pays all of it at discharge.
    wear_eur = wear_weight * float(span_wh @ wear) / total_wh * (1.0 + 1.0 / (eta_charge * eta_discharge))
    grid = observation.site.grid
    keep_kw = (1.0 - grid.reserve_share) / 1000.0
    store = PeakStore(
        charge_kw=rounded(max(charge_w, 1.0) / 1000.0), discharge_kw=rounded(max(discharge_w, 1.0) / 1000.0),
        capacity_kwh=rounded(total_wh / 1000.0), eta_charge=rounded(eta_charge), eta_discharge=rounded(eta_discharge),
        wear_eur_per_kwh=rounded(wear_eur), peak_eur_per_kw=grid.peak_price_eur_per_kw,
        top_kw=rounded(1.01 * (max(highest_kw, 0.0) + max(charge_w, 1.0) / 1000.0)), dt_h=dt_s / 3600.0, spacing=SPACING,
        import_kw=keep_kw * grid.import_limit_w, export_kw=keep_kw * grid.export_limit_w,
    )  # fmt: skip
    return store, float(span_wh @ level) / total_wh


def rounded(value: float) -> float:
    """Three digits."""
    return float(f"{value:.3g}")


def share_power(total_w: float, most_w: FloatArray, weight: FloatArray) -> FloatArray:
    """A power shared by weights, none above its most: what one cannot take, the others do. (packs,), all arguments >= 0.

    The sum is `total_w`, or the sum of `most_w` where that is less.
    """
    found = np.zeros(len(most_w))
    if total_w >= float(most_w.sum()):
        return most_w.copy()
    weight = np.maximum(weight, 1e-9 * max(1.0, float(weight.max(initial=0.0))))
    open_ = most_w > 0
    while open_.any():
        left = total_w - float(found.sum())
        part = np.where(open_, left * weight / float(weight[open_].sum()), 0.0)
        full = open_ & (found + part >= most_w)
        if not full.any():
            return found + part
        found[full] = most_w[full]
        open_ &= ~full
    return found


def shared(observation: Observation, packs: Sequence[DeviceConfig], power_w: float, bounds_w: FloatArray) -> FloatArray:
    """Power of each pack, W, discharge positive: by the energy that each may still give or take, within its bounds now.

    `bounds_w` (packs, 2): as `policies.learned.bounds.bounds_of` gives them.
    """
    room = np.zeros(len(packs))
    for k, device in enumerate(packs):
        state, limits = observation.states[device.device_id], observation.limits[device.device_id]
        left_pct = limits.soc_max_pct - state.soc_pct if power_w < 0 else state.soc_pct - limits.soc_min_pct
        room[k] = capacity_wh(device, state.soh_pct) * max(left_pct, 0.0) / 100.0
    side = bounds_w[:, 0] if power_w < 0 else bounds_w[:, 1]
    return np.asarray(np.sign(power_w) * share_power(abs(power_w), side, room))
