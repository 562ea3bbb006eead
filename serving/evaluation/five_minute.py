"""Five-minute prices made of hourly day-ahead ones by a stochastic model, for markets whose own are not at hand.

    p(t) = P(h(t)) + x(t) + j(t)                                                               EUR/kWh
    x: Ornstein-Uhlenbeck, stationary deviation 0.35 D, time constant 45 min; D = standard deviation of P over the last 7 days
    j: scarcity (up) or surplus (down), a Markov chain. Scarcity begins with probability 1/300 a step from 6 to 9 and 16 to 20 h
       UTC, 1/1500 at other times, and ends with 1/6 (30 min in the mean); its height is D times a lognormal of median 3 and
       sigma 0.7. Surplus begins with 1/1200 at any time, ends with 1/6, half as high.
Mean-reverting noise around the day-ahead price and short spikes, likelier at the ramps (Weron, Int. J. Forecasting 30 (2014)
1030, section 3.8). The model of benchmarks/policies_series.py, with a stream for each day, so that any stretch can be made.
Not here: real 5-minute prices (a file).
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import numpy as np

from core.series import Series

NOISE_SHARE, NOISE_STEPS = 0.35, 9.0
RAMP_START, OTHER_START, SURPLUS_START, END = 1 / 300, 1 / 1500, 1 / 1200, 1 / 6
STEPS_A_DAY = 288
FLOOR_EUR_PER_KWH = 0.003


def five_minute_prices(hourly: Series, begin: datetime, end: datetime, seed: int) -> Series:
    """Prices of 300 s over whole UTC days around [begin, end), as far as the hourly ones go with a week before them."""
    first = max(begin.astimezone(UTC), hourly.start + timedelta(days=8)).date()
    last = min(end.astimezone(UTC), hourly.end - timedelta(days=1)).date()
    x, j, out = 0.0, 0.0, []
    left = np.exp(-1.0 / NOISE_STEPS)
    for k in range((last - first).days + 1):
        day = first + timedelta(days=k)
        midnight = datetime.combine(day, time(0), tzinfo=UTC)
        g = np.random.default_rng([seed, day.toordinal()])
        noise, chance, tall = g.normal(size=STEPS_A_DAY), g.random(STEPS_A_DAY), g.normal(size=STEPS_A_DAY)
        price = hourly.window(midnight, 24, 3600.0)
        spread = float(hourly.window(midnight - timedelta(days=7), 168, 3600.0).std()) + FLOOR_EUR_PER_KWH
        for t in range(STEPS_A_DAY):
            hour = t // 12
            x = left * x + NOISE_SHARE * spread * np.sqrt(1 - left * left) * noise[t]
            if j != 0.0:
                j = 0.0 if chance[t] < END else j
            else:
                height = spread * 3.0 * np.exp(0.7 * tall[t])
                start = RAMP_START if 6 <= hour < 9 or 16 <= hour < 20 else OTHER_START
                j = height if chance[t] < start else -0.5 * height if chance[t] > 1.0 - SURPLUS_START else 0.0
            out.append(price[hour] + x + j)
    return Series("price_eur_per_kwh", datetime.combine(first, time(0), tzinfo=UTC), 300.0, np.array(out))
