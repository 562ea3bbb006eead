"""One cycle a day by sorting known prices: the rule that many stores are run by, and a floor for anything that learns.

Here: charge in the cheapest steps before the dearest ones, discharge in those, when that pays wear and losses. Not here: the
threshold rule, hold (policies.rules).
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from core.battery import capacity_wh
from core.decisions import Decision, Reason, SetPoint
from core.devices import DeviceConfig
from optimizer.linearise import wear_cost
from policies.base import Observation, PolicyUnableError

LOOK_AHEAD_H = 24
ROUND_TRIP = 0.85
"""Of pack and converter; the rule does not know better."""


class OneCycleRule:
    """At each step: the split of the next 24 h that earns most, its cheapest steps before it and its dearest ones after it."""

    name = "one_cycle"

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; needs prices for the interval."""
        dt_s = float(observation.interval_s)
        prices = observation.price_eur_per_kwh
        end = min(prices.end, observation.starts_at + timedelta(hours=LOOK_AHEAD_H))
        steps = int((end - observation.starts_at).total_seconds() // dt_s)
        if steps < 1:
            raise PolicyUnableError("no price is known for the interval")
        buy, sell = observation.site.tariff.buy_sell(prices.window(observation.starts_at, steps, dt_s))
        points = tuple(self._set_point(device, observation, buy, sell) for device in observation.devices)
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=points,
        )

    def _set_point(
        self, device: DeviceConfig, observation: Observation, buy: NDArray[np.float64], sell: NDArray[np.float64]
    ) -> SetPoint:
        state, limits = observation.states[device.device_id], observation.limits[device.device_id]
        hours = observation.interval_s / 3600.0
        full_wh = capacity_wh(device, state.soh_pct)
        room_wh = max(0.0, limits.soc_max_pct - state.soc_pct) / 100.0 * full_wh
        held_wh = max(0.0, state.soc_pct - limits.soc_min_pct) / 100.0 * full_wh
        wear = wear_cost(device.chemistry, state.soh_pct, observation.site.pack(device.device_id).replacement_eur_per_kwh)
        charge_w, discharge_w = limits.charge_power_w, limits.discharge_power_w
        fill = min(len(buy), int(np.ceil(room_wh / max(charge_w * hours, 1e-9) - 1e-9)))
        power_w, reason, detail = 0.0, Reason.IDLE, "no split of the day pays"
        gain, split = 0.0, -1
        for middle in range(len(buy)):
            cheap = np.sort(buy[:middle])[:fill]
            stored_wh = held_wh + min(room_wh, len(cheap) * charge_w * hours)
            empty = int(np.ceil(stored_wh / max(discharge_w * hours, 1e-9) - 1e-9))
            dear = np.sort(sell[middle:])[::-1][:empty]
            earned = float((dear - wear).sum()) * discharge_w * np.sqrt(ROUND_TRIP)
            earned -= float((cheap + wear).sum()) * charge_w / np.sqrt(ROUND_TRIP)
            if earned > gain + 1e-9:
                gain, split = earned, middle
        if split >= 0:
            if split > 0 and fill and buy[0] <= np.sort(buy[:split])[:fill][-1]:
                power_w, reason = -charge_w, Reason.PRICE_LOW
                detail = f"among the {fill} cheapest steps before the dearest ones"
            elif split == 0 and held_wh > 0:
                empty = min(len(sell), int(np.ceil(held_wh / max(discharge_w * hours, 1e-9) - 1e-9)))
                if sell[0] >= np.sort(sell)[::-1][:empty][-1]:
                    power_w, reason = discharge_w, Reason.PRICE_HIGH
                    detail = f"among the {empty} dearest steps"
        return SetPoint(device_id=device.device_id, power_w=power_w, reason=reason, detail=detail)
