"""Wear that rises with the depth of a cycle, as layers of energy with a price each: the choice for large assets.

A cycle of depth delta costs Phi(delta) = delta^beta of the pack's value, shared out over the cycles that it lasts; beta > 1. Cut
into layers of energy, the cheapest used first, linear costs give Phi at the layers' edges for every cycle that the rainflow
count finds, those inside others too (Xu, Zhao, Zheng, Litvinov, Kirschen, IEEE Trans. Power Syst. 33 (2018) 2248). That cost is
convex in the power (Shi, Xu, Tan, Kirschen, Zhang, arXiv:1703.07968), so that the QP stays one. Here both half cycles pay, as
they do where wear is by throughput. Not here: the rows (optimizer.assembly).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from core.errors import InputError
from optimizer.problem import SegmentCost

DEPTH_EXPONENT = 2.03
"""beta of lithium NMC cells (Xu et al. 2018, after Laresgoiti et al., J. Power Sources 300 (2015) 112)."""


def depth_costs(full_cycle_eur_per_kwh: float, edges: Sequence[float], exponent: float = DEPTH_EXPONENT) -> list[float]:
    """EUR per kWh of throughput in each layer between 0, the edges (shares of the capacity, rising, below 1) and 1.

    `full_cycle_eur_per_kwh` is the throughput cost of a cycle through the whole capacity (optimizer.linearise.wear_cost): that
    costs the same by layers, a shallower one less. Raises InputError for edges out of order or an exponent < 1.
    """
    bounds = [0.0, *edges, 1.0]
    if any(b <= a for a, b in pairwise(bounds)):
        raise InputError(source="wear segments", field="edges", value=tuple(edges), expected="rising shares between 0 and 1")
    if not exponent >= 1.0:
        raise InputError(source="wear segments", field="exponent", value=exponent, expected="a number >= 1: a convex cost")
    return [full_cycle_eur_per_kwh * (b**exponent - a**exponent) / (b - a) for a, b in pairwise(bounds)]


def wear_segments(
    capacity_wh: float, stored_wh: float, full_cycle_eur_per_kwh: float, edges: Sequence[float], exponent: float = DEPTH_EXPONENT
) -> tuple[tuple[SegmentCost, ...], float]:
    """(layers, price of the deepest): `wear_segments` and `wear_eur_per_kwh` of DeviceData.

    Energy at the start is in the cheap layers first: what has been charged last is discharged at the lowest depth.
    """
    *costs, deepest = depth_costs(full_cycle_eur_per_kwh, edges, exponent)
    layers, left = [], max(stored_wh, 0.0)
    for a, b, cost in zip([0.0, *edges], edges, costs, strict=False):
        width = (b - a) * capacity_wh
        layers.append(SegmentCost(width_wh=width, stored_wh=min(left, width), wear_eur_per_kwh=cost))
        left = max(0.0, left - width)
    return tuple(layers), deepest
