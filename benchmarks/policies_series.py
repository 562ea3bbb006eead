"""Made-up series for benchmarks/policies.py, by stochastic models that are written down here: 5-minute prices, a site's load.

Five-minute prices, from hourly day-ahead ones P(h). They are seen when their interval begins and nobody forecasts them:
    p(t) = P(h(t)) + x(t) + j(t)                                                               EUR/kWh
    x: Ornstein-Uhlenbeck, stationary deviation 0.35 D, time constant 45 min; D = standard deviation of P over the last 7 days
    j: scarcity (up) or surplus (down), a Markov chain. Scarcity begins with probability 1/300 a step from 6 to 9 and 16 to 20 h
       UTC, 1/1500 at other times, and ends with 1/6 (30 min in the mean); its height, drawn at its beginning, is D times a
       lognormal of median 3 and sigma 0.7. Surplus begins with 1/1200 at any time, ends with 1/6, half as high.
That is the shape of balancing and real-time prices: mean-reverting noise around the day-ahead price and short, tall spikes,
likelier at the ramps (Weron, Int. J. Forecasting 30 (2014) 1030, section 3.8: regime switching).

`python -m benchmarks.policies_series HOURLY OUT` writes such a file. Not here: reading real series (training.value_market).
"""

from __future__ import annotations

import argparse
import gzip
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np

from core.compiled import kept_on_disk
from core.errors import InputError
from optimizer.dynamic import FloatArray, IntArray
from policies.learned.artefact import sha256_of
from training.value_market import Market, read_market, trailing

NOISE_SHARE, NOISE_STEPS = 0.35, 9.0
RAMP_START, OTHER_START, SURPLUS_START, END = 1 / 300, 1 / 1500, 1 / 1200, 1 / 6


@kept_on_disk()
def _five_minute(
    hourly: FloatArray, spread: FloatArray, step_of_day: IntArray, noise: FloatArray, chance: FloatArray, tall: FloatArray
) -> FloatArray:
    out = np.empty(len(hourly) * 12)
    left = np.exp(-1.0 / NOISE_STEPS)
    x, j = 0.0, 0.0
    for t in range(len(out)):
        h = t // 12
        x = left * x + NOISE_SHARE * spread[h] * np.sqrt(1 - left * left) * noise[t]
        if j != 0.0:
            if chance[t] < END:
                j = 0.0
        else:
            hour = step_of_day[h]
            start = RAMP_START if 6 <= hour < 9 or 16 <= hour < 20 else OTHER_START
            height = spread[h] * 3.0 * np.exp(0.7 * tall[t])
            if chance[t] < start:
                j = height
            elif chance[t] > 1.0 - SURPLUS_START:
                j = -0.5 * height
        out[t] = hourly[h] + x + j
    return out


def five_minute_prices(market: Market, seed: int = 0) -> Market:
    """The model above on an hourly market."""
    g = np.random.default_rng(seed)
    spread = trailing(market.price_eur_per_kwh, 168)[1] + 0.003
    total = 12 * len(market.price_eur_per_kwh)
    made = _five_minute(
        market.price_eur_per_kwh, spread, market.step_of_day(), g.normal(size=total), g.random(total), g.normal(size=total)
    )
    return replace(
        market,
        name=f"{market.name} 5 min (model, seed {seed})",
        dt_s=300.0,
        price_eur_per_kwh=made,
        forecasts_eur_per_kwh=np.zeros((total, 0)),
        sha256=sha256_of(made.tobytes()),
    )


def main() -> None:
    """Write a file of 5-minute prices made by the model."""
    arguments = argparse.ArgumentParser(description="5-minute prices by the model, from a file of hourly ones")
    arguments.add_argument("hourly", type=Path, help="CSV of hourly prices, as `pulsebms data fetch` keeps them")
    arguments.add_argument("out", type=Path, help="CSV to write (.gz is compressed): utc, eur_per_kwh")
    arguments.add_argument("--price-column", default="eur_per_kwh")
    arguments.add_argument("--eur-per-kwh", type=float, default=1.0, help="of the file's unit; EUR/MWh: 0.001")
    arguments.add_argument("--seed", type=int, default=0)
    given = arguments.parse_args()
    try:
        market = five_minute_prices(read_market(given.hourly, given.price_column, (), given.eur_per_kwh), given.seed)
    except InputError as error:
        sys.exit(str(error))
    rows = (
        f"{market.start + timedelta(seconds=market.dt_s * k):%Y-%m-%dT%H:%M:%SZ},{price:.6f}"
        for k, price in enumerate(market.price_eur_per_kwh.tolist())
    )
    text = "utc,eur_per_kwh\n" + "\n".join(rows) + "\n"
    given.out.write_bytes(gzip.compress(text.encode(), 1) if given.out.suffix == ".gz" else text.encode())
    print(f"{given.out}: {len(market.price_eur_per_kwh):,} prices of 300 s from {market.start:%Y-%m-%d} on, seed {given.seed}")


if __name__ == "__main__":
    main()
