"""A site that pays for its peak, seen at quarter hours, and small artefacts of a load chain."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from learned_cases import CHEMISTRIES, NOW
from learned_cases import observation as hourly
from learned_cases import record as hourly_record

from core.series import Series
from policies.learned.load_chain import CHAIN_LAYOUT, count_chain, edges_of, local_clock
from training.artefacts import artefact_of_tensors

DT_S = 900.0
ZONE = ZoneInfo("Europe/Amsterdam")
START = datetime(2024, 12, 31, 23, tzinfo=UTC)


def load_of(count, dt_s=DT_S, seed=0, start=START):
    """(kind, hour, kW): about 20 kW, more by day, now and then 20 more for an hour and a half."""
    g = np.random.default_rng(seed)
    kind, hour, _ = local_clock(start, count, dt_s, ZONE)
    load, more = 18.0 + 8.0 * kind * np.exp(-(((hour - 13) / 4.0) ** 2)) + g.normal(0, 0.8, count), np.zeros(count)
    for at in np.flatnonzero(g.random(count) < 0.012 * dt_s / DT_S).tolist():
        more[at : at + 1] = np.maximum(more[at : at + 1], 10.0)
        more[at + 1 : at + 1 + max(1, round(5400 / dt_s))] = 20.0
    return kind, hour, load + more


def chain(seed=0):
    kind, hour, load = load_of(96 * 200, seed=seed)
    return count_chain(load, kind, hour, edges_of(load, kind, hour))


CHAIN = chain()


def artefact(share=1.0, tensors=None, **changes):
    said = {
        "kind": "load_chain", "layout": CHAIN_LAYOUT, "chemistries": CHEMISTRIES,
        "parameters": {"share": share, "dt_s": DT_S, "net_of_pv": True} | changes.pop("parameters", {}),
    } | changes  # fmt: skip
    return artefact_of_tensors(tensors or CHAIN.tensors(), **said)


def record(made, **config):
    return replace(hourly_record(made, **config), update_interval_seconds=int(DT_S))


def observation(load_kw=20.0, peak_kw=30.0, peak_price=80.0, lag_steps=0, **changes):
    """At quarter hours, with the load that was measured last; prices published to the end of the day."""
    seen = hourly()
    grid = seen.site.grid.model_copy(update={"peak_price_eur_per_kw": peak_price})
    ahead = 4 * 72
    back = NOW - timedelta(days=1)

    def forecast(name, value):
        return Series(name, back, DT_S, np.full(96 + ahead, float(value)))

    end = NOW - timedelta(seconds=lag_steps * DT_S)
    errors = {
        name: Series(name, end - timedelta(hours=24), DT_S, np.full(96, float(value)))
        for name, value in (("load_w", 1000.0 * load_kw - 20e3), ("pv_w", 0.0))
    }
    given = {
        "site": seen.site.model_copy(update={"grid": grid}), "interval_s": 900, "load_w": forecast("load_w", 20e3),
        "pv_w": forecast("pv_w", 0.0), "errors": errors, "peak_incurred_w": 1000.0 * peak_kw,
        "price_known_until": NOW.replace(hour=23),
    }  # fmt: skip
    return replace(seen, **(given | changes))
