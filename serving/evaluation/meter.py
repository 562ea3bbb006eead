"""The site's meter in a replay: what a curtailable inverter holds back, the bill for energy, the charge for the month's peak.

The inverter acts by itself, whoever decides over the packs and also where nobody does: it exports nothing while export costs
money, uses no PV while import is paid for, and never passes the export limit. So a policy's money is what its packs add.
Not here: the account of a week (serving.evaluation.account).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from core.site import SiteConfig
from serving.evaluation.world import World

FloatArray = NDArray[np.float64]


def held_back_w(site: SiteConfig, grid_w: FloatArray, pv_w: FloatArray, buy: FloatArray, sell: FloatArray) -> FloatArray:
    """PV that is not used, W; grid_w is the import with all of it used. All broadcast against each other.

    For given packs this is the cheapest for the step, but that no peak is risked for import that is paid for.
    """
    if not site.pv.curtailable:
        return np.zeros(np.broadcast_shapes(np.shape(grid_w), np.shape(pv_w)))
    grid = site.grid
    most_import_w = 0.0 if grid.peak_price_eur_per_kw > 0 else grid.import_limit_w
    until_w = np.where(buy < 0, most_import_w, np.where(sell < 0, 0.0, -grid.export_limit_w))
    return np.clip(until_w - grid_w, 0.0, pv_w)


def metered_w(world: World, packs_w: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(import, PV held back) of the replayed steps, W, from what all packs give together, (steps,)."""
    buy, sell = world.site.tariff.buy_sell(world.week(world.price))
    pv_w = world.week(world.pv_w)
    grid_w = world.week(world.load_w) - pv_w - packs_w
    held_w = held_back_w(world.site, grid_w, pv_w, buy, sell)
    return grid_w + held_w, held_w


def energy_bill_eur(world: World, grid_w: FloatArray) -> float:
    """Energy imported less energy exported, EUR; grid_w (steps,)."""
    buy, sell = world.site.tariff.buy_sell(world.week(world.price))
    kwh = grid_w * world.dt_s / 3.6e6
    return float(np.sum(np.where(kwh > 0, kwh * buy, kwh * sell)))


def peak_charge_eur(world: World, grid_w: FloatArray) -> float:
    """What the highest imports of the billing months cost beyond what had been incurred before the replay, EUR."""
    price = world.site.grid.peak_price_eur_per_kw
    if price == 0.0:
        return 0.0
    total, months = 0.0, world.months()
    for k, month in enumerate(sorted(set(months.tolist()))):
        incurred_w = world.peak_incurred_w if k == 0 else 0.0
        total += max(0.0, float(grid_w[months == month].max()) - incurred_w)
    return price * total / 1000.0
