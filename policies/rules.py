"""Policies that need no solver: a price threshold rule, hold, and stop.

They are what remains when everything better is unable to decide. Not here: the MPC (policies.mpc).
"""

from __future__ import annotations

from datetime import timedelta

import numpy as np

from core.battery import capacity_wh
from core.decisions import Decision, Reason, SetPoint
from policies.base import Observation, PolicyUnableError

LOW_QUANTILE = 0.25
HIGH_QUANTILE = 0.75
LOOK_AHEAD_H = 24
RULE_C_RATE_PER_H = 0.25
"""The rule works packs at a quarter of their energy per hour: gentle, since it plans nothing."""


class ThresholdRule:
    """Charge in the cheapest quarter of the known day, discharge in the dearest, else idle.

    Never exports stored energy: discharge is shared out so that it stays within load minus PV; charge stays within the
    meter's import limit less its reserve.
    """

    name = "rule"

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; needs prices for the interval."""
        prices = observation.price_eur_per_kwh
        end = min(prices.end, observation.starts_at + timedelta(hours=LOOK_AHEAD_H))
        dt_s = float(observation.interval_s)
        steps = int((end - observation.starts_at).total_seconds() // dt_s)
        if steps < 1:
            raise PolicyUnableError("no price is known for the interval")
        ahead = prices.window(observation.starts_at, steps, dt_s)
        now, low, high = ahead[0], np.quantile(ahead, LOW_QUANTILE), np.quantile(ahead, HIGH_QUANTILE)
        grid = observation.site.grid
        net_load_w = float(
            observation.load_w.window(observation.starts_at, 1, observation.interval_s)[0]
            - observation.pv_w.window(observation.starts_at, 1, observation.interval_s)[0]
        )
        if now <= low:
            room_w, sign = grid.import_limit_w * (1 - grid.reserve_share) - net_load_w, -1.0
        elif now >= high and now > low:
            room_w, sign = net_load_w, 1.0
        else:
            room_w, sign = 0.0, 0.0
        wish_w = {
            d.device_id: RULE_C_RATE_PER_H * capacity_wh(d, observation.states[d.device_id].soh_pct) for d in observation.devices
        }
        share = min(1.0, max(0.0, room_w) / max(sum(wish_w.values()), 1e-9))
        detail = f"price {now:.4f}, cheapest quarter <= {low:.4f}, dearest >= {high:.4f} EUR/kWh"
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(
                SetPoint(device_id=key, power_w=sign * share * watt, reason=Reason.RULE, detail=detail)
                for key, watt in wish_w.items()
            ),
        )


class Hold:
    """Go on with the last plan, while it is no older than one interval; the gate still clips it."""

    name = "hold"

    def decide(self, observation: Observation) -> Decision:
        """See Policy.decide; needs a last plan that covers the interval and started at most two intervals ago."""
        set_points = []
        for device in observation.devices:
            planned = observation.last_plan.get(device.device_id)
            if planned is None:
                raise PolicyUnableError(f"no last plan for {device.device_id}")
            age_s = (observation.starts_at - planned.starts_at).total_seconds()
            if not 0 <= age_s <= 2 * observation.interval_s:
                raise PolicyUnableError(f"the last plan of {device.device_id} is {age_s:.0f} s old")
            power_w = float(planned.window(observation.starts_at, 1, observation.interval_s)[0])
            set_points.append(SetPoint(device_id=device.device_id, power_w=power_w, reason=Reason.HOLD))
        return Decision(
            site_id=observation.site.site_id,
            starts_at=observation.starts_at,
            interval_s=observation.interval_s,
            source=self.name,
            set_points=tuple(set_points),
        )
