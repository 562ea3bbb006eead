"""Plans over the chain of load states to the month's end: what energy and the month's peak are worth where published prices end.

Two parts: step by step to the published end; from there to the month's end, and two days of the next, on the prices of the week
before. The second is the same for all steps of a day, so that callers keep it. Not here: counting (load_chain), the dynamic
programming itself (optimizer.peak_plan), an observation (chain_policy).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from optimizer.peak_plan import LEFT_OVER, PeakStore, Plant, chained, expected_eur, final, level_of
from policies.learned.load_chain import BoolArray, Chain, FloatArray, IntArray

LATER_S = 2 * 86_400.0
"""Beyond a month's end that its worth is counted to."""
WEEK_S, MONTH_S = 7 * 86_400.0, 33 * 86_400.0
"""The second is a month and what is counted beyond it."""
SPACING, TAIL_LEVELS = 2.0, 4
"""Of power: small ones lie close together; beyond the published end there are fewer, half the work, and what that leaves open is
far off."""
TIE_EUR = 1e-9
POWERS = 16
"""That are tried each way in the step that is decided, beside those at which a peak or the meter's sign would change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Steps one after another with what they cost and when they are; (K,) each."""

    buy_eur_per_kwh: FloatArray
    sell_eur_per_kwh: FloatArray
    kind: IntArray
    hour: IntArray
    month_ends: BoolArray

    def until(self, count: int) -> Steps:
        """The first ones."""
        return Steps(**{name: getattr(self, name)[:count] for name in Steps.__slots__})


def tail_steps(month_ends: BoolArray, dt_s: float) -> int:
    """Of steps from the published end on, how many the second part has: to the first month's end, and LATER_S."""
    ends = np.flatnonzero(month_ends)
    return int(min((ends[0] + 1 if len(ends) else 0) + round(LATER_S / dt_s), len(month_ends)))


def rest_of_month(store: PeakStore, chain: Chain, steps: Steps) -> FloatArray:
    """Mean cost to go at the published end, by the state before it, (B, socs, peaks); `steps` begin there.

    Prices are those of weeks before, the first WEEK_S of them the last week that is known.
    """
    plant = replace(store, levels=TAIL_LEVELS).plant()
    week = round(WEEK_S / 3600.0 / store.dt_h)
    worth = LEFT_OVER * float(steps.buy_eur_per_kwh[:week].mean())
    last = np.repeat(np.asarray(final(plant, worth, 0.0))[None], chain.states, axis=0)
    return np.asarray(_tables(plant, chain, steps, last, len(steps.kind))[0])


def to_published_end(plant: Plant, chain: Chain, steps: Steps, rest: FloatArray) -> FloatArray:
    """Mean cost to go before each step by the state of the step before, and at the end, (K + 1, B, socs, peaks)."""
    return _tables(plant, chain, steps, rest, 1)


def _tables(plant: Plant, chain: Chain, steps: Steps, last: FloatArray, every: int) -> FloatArray:
    kind, hour = steps.kind, steps.hour
    found = chained(
        plant, steps.buy_eur_per_kwh, steps.sell_eur_per_kwh, chain.loads(kind, hour), chain.moves[kind, hour],
        steps.month_ends, last, every, False,
    )  # fmt: skip
    return np.asarray(found)


def powers_to_try(
    plant: Plant, load_kw: FloatArray, peak_kw: float, charge_kw: float, discharge_kw: float
) -> NDArray[np.float64]:
    """Powers within bounds, charge positive, the gentlest first: even ones, and those that bring a load to the peak or to 0."""
    even = [0.0]
    for k in range(1, 2 * POWERS + 1):
        level = level_of(k)
        even.append(level / POWERS * (charge_kw if level > 0 else discharge_kw))
    kinks = np.concatenate([peak_kw - load_kw, -load_kw])
    inside = kinks[(kinks >= -discharge_kw) & (kinks <= charge_kw)]
    powers = np.concatenate([even, inside])
    return np.asarray(powers[np.argsort(np.abs(powers), kind="stable")])


def best_power(
    plant: Plant, chain: Chain, steps: Steps, tables: FloatArray, chance: FloatArray, soc: float, peak_kw: float,
    charge_kw: float, discharge_kw: float,
) -> tuple[float, float]:  # fmt: skip
    """(power in kW, charge positive; EUR that it is better than rest) for the first of `steps`, whose load is not seen yet.

    `chance` (B,): of the states of that step; `tables` (B, socs, peaks): cost to go after it, not yet closed.
    """
    load = chain.loads(steps.kind[:1], steps.hour[:1])[0]
    powers = powers_to_try(plant, load, peak_kw, charge_kw, discharge_kw)
    cost = np.asarray(
        expected_eur(
            plant, powers, soc, peak_kw, float(steps.buy_eur_per_kwh[0]), float(steps.sell_eur_per_kwh[0]), load, chance, tables,
            bool(steps.month_ends[0]),
        )
    )  # fmt: skip
    first = int(np.argmax(cost <= cost.min() + TIE_EUR))
    return float(powers[first]), float(cost[0] - cost[first])
