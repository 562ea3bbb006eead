"""What the site's net load may be in the interval: by forecast, by the forecast that the plan used, by the last measurement.

The gate checks set points against each of them, since a plan that corrected its forecast is no witness for itself. Not here: the
check (serving.dispatch.gate).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from core.decisions import Decision
from policies.base import Observation
from serving.dispatch.inputs import LOAD_ACTUAL, PV_ACTUAL
from stores.connections import Stores
from stores.postgres.series_rows import SeriesRow, series_rows

MEASURED_INTERVALS = 2
"""A measured mean that ended this many intervals before the decision says nothing of the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meter:
    """The latest measured means; None where there is none that is fresh."""

    load_w: float | None
    pv_w: float | None
    ended_at: datetime | None
    """End of the older of the two."""


def latest_meter(stores: Stores, site_id: str, starts_at: datetime, interval_s: int) -> Meter:
    """What was measured last, no longer ago than MEASURED_INTERVALS."""
    since = starts_at - timedelta(seconds=MEASURED_INTERVALS * interval_s)
    found: dict[str, SeriesRow] = {}
    for name in (LOAD_ACTUAL, PV_ACTUAL):
        rows = series_rows(stores.pg, site_id, name, since - timedelta(hours=1), starts_at, known_at=starts_at)
        if rows and rows[-1].starts_at + timedelta(seconds=rows[-1].dt_s) >= since:
            found[name] = rows[-1]
    ends = [row.starts_at + timedelta(seconds=row.dt_s) for row in found.values()]
    return Meter(
        load_w=found[LOAD_ACTUAL].value if LOAD_ACTUAL in found else None,
        pv_w=found[PV_ACTUAL].value if PV_ACTUAL in found else None,
        ended_at=min(ends, default=None),
    )


def net_loads(decision: Decision, observation: Observation, meter: Meter | None) -> dict[str, float]:
    """Load minus PV of the interval, W, by what it rests on: `forecast`, `plan`, `measured`; the last two where they exist."""
    load_w = float(observation.load_w.window(observation.starts_at, 1, observation.interval_s)[0])
    pv_w = float(observation.pv_w.window(observation.starts_at, 1, observation.interval_s)[0])
    found = {"forecast": load_w - pv_w}
    used = _of_plan(decision.plan)
    if used is not None:
        found["plan"] = used
    if meter is not None and meter.load_w is not None:
        found["measured"] = meter.load_w - (pv_w if meter.pv_w is None else meter.pv_w)
    return found


def _of_plan(plan: Mapping[str, Any]) -> float | None:
    """Net load of the plan's first step, from its own balance: import + packs - curtailed PV; None where it has none."""
    try:
        packs_w = sum(float(part["power_w"][0]) for part in plan["devices"])
        return float(plan["grid_import_w"][0]) + packs_w - float(plan["curtail_w"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
