"""One step of a site as a small market: each pack offers power at a price, the optimum is found by merit order.

A pack discharges when the price at the meter, less wear and losses, is above what its energy will be worth, and charges when it
is below. The price at the meter is the import price while the site imports, the export price while it exports, and in between
what balances the site: the optimum of the step, as all values are concave. Packs are rows of arrays: a site of thousands is one
pass over them. Not here: what energy is worth (policies.learned.value).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.battery import capacity_wh
from optimizer.linearise import wear_cost
from policies.base import Observation
from policies.learned.bounds import bounds_of

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Offers:
    """What P packs would do at any price at the meter: power (discharge positive) rises with the price."""

    device_ids: tuple[str, ...]
    threshold_eur_per_kwh: FloatArray
    """At a price above threshold k a pack's power has risen by width k. Shape (P, m), in any order."""
    width_w: FloatArray
    """Shape (P, m), >= 0."""
    lowest_w: FloatArray
    """At a price below all thresholds: charging as hard as they may, (P,)."""

    def power_w(self, price_eur_per_kwh: float, *, inclusive: bool) -> FloatArray:
        """Net power of each pack at a price, (P,); at a threshold itself the whole width (inclusive) or none of it."""
        threshold = self.threshold_eur_per_kwh
        reached = threshold <= price_eur_per_kwh if inclusive else threshold < price_eur_per_kwh
        return np.asarray(self.lowest_w + np.where(reached, self.width_w, 0.0).sum(axis=1))


def merit_order(offers: Offers, net_load_w: float, buy: float, sell: float) -> FloatArray:
    """Net power of each pack so that the step earns most, (P,); `sell` <= `buy`, EUR/kWh. Packs that tie share the balance."""
    importing = offers.power_w(buy, inclusive=False)
    if importing.sum() <= net_load_w:
        return importing
    exporting = offers.power_w(sell, inclusive=False)
    if exporting.sum() >= net_load_w:
        return exporting
    # In between the packs carry the load: up to the threshold at which their sum passes it.
    threshold = offers.threshold_eur_per_kwh.ravel()
    order = np.argsort(threshold, kind="stable")
    risen_w = offers.lowest_w.sum() + np.cumsum(offers.width_w.ravel()[order])
    balance = float(threshold[order[min(int(np.searchsorted(risen_w, net_load_w)), len(order) - 1)]])
    least, most = offers.power_w(balance, inclusive=False), offers.power_w(balance, inclusive=True)
    below_w, above_w = float(least.sum()) - net_load_w, float(most.sum()) - net_load_w
    part = float(np.clip(-below_w / (above_w - below_w), 0.0, 1.0)) if above_w > below_w else 0.0
    return np.asarray(least + part * (most - least))


def offers_of(observation: Observation, marginals: FloatArray, eta: float) -> Offers:
    """The packs' offers for the step, within what limits and measured state allow them now.

    `marginals` (n,): EUR per stored kWh after the step, empty to full; `eta`: efficiency one way. PolicyUnableError where bounds
    cannot be computed.
    """
    hours, n = observation.interval_s / 3600.0, len(marginals)
    rows, packs = [], observation.site.packs_of(device.device_id for device in observation.devices)
    for device, (charge_w, discharge_w) in zip(observation.devices, bounds_of(observation, observation.devices), strict=True):
        state, limits = observation.states[device.device_id], observation.limits[device.device_id]
        span_pct = max(limits.soc_max_pct - limits.soc_min_pct, 1e-9)
        piece_wh = max(capacity_wh(device, state.soh_pct) * span_pct / 100.0, 1e-6) / n
        level = min(max((state.soc_pct - limits.soc_min_pct) / span_pct, 0.0), 1.0) * n
        wear = wear_cost(device.chemistry, state.soh_pct, packs[device.device_id].replacement_eur_per_kwh)
        rows.append((level, piece_wh, charge_w * hours * eta, discharge_w * hours / eta, wear))
    level, piece_wh, charge_wh, discharge_wh, wear = np.array(rows, dtype=np.float64).reshape(-1, 5).T[:, :, None]
    filled = np.clip(level - np.arange(n), 0.0, 1.0)
    """Share of each piece, empty to full, that the pack holds."""
    held_wh, free_wh = piece_wh * filled, piece_wh * (1.0 - filled)
    # Discharge takes the held pieces from the top down, charge fills the free ones from the bottom up.
    down_wh = np.clip(discharge_wh - (np.cumsum(held_wh[:, ::-1], axis=1)[:, ::-1] - held_wh), 0.0, held_wh)
    up_wh = np.clip(charge_wh - (np.cumsum(free_wh, axis=1) - free_wh), 0.0, free_wh)
    # Discharging sells eta per stored kWh, charging buys 1/eta of it.
    return Offers(
        device_ids=tuple(device.device_id for device in observation.devices),
        threshold_eur_per_kwh=np.concatenate([marginals * eta - wear, marginals / eta + wear], axis=1),
        width_w=np.concatenate([up_wh / eta, down_wh * eta], axis=1) / hours,
        lowest_w=-up_wh.sum(axis=1) / eta / hours,
    )
