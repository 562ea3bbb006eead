"""What a site knows beforehand, written into its series: prices, load and PV forecasts, ambient temperature.

Here: a scenario's known part into the store, and real prices replayed at the present. Not here: where the numbers come from
(stores.datasets), what a policy reads (serving.dispatch.inputs).
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from core.series import Series
from core.site import SiteConfig
from serving.dispatch.inputs import AMBIENT, LOAD_FORECAST, PRICE, PV_FORECAST
from stores import datasets
from stores.connections import Stores
from stores.datasets import Scenario
from stores.postgres.series import write_series

HISTORY_DAYS = 1
"""Known days before the first one: where a horizon outlasts the known prices, those of a day before continue them."""


def write_known_beforehand(stores: Stores, site_id: str, scenario: Scenario, known_at: datetime) -> int:
    """Write a scenario's forecasts, each with the moment from which it is known (load and ambient: `known_at`); returns values.

    The same scenario again replaces the same rows.
    """
    count = 0
    for published, moment in scenario.day_ahead:
        count += write_series(stores.pg, site_id, _renamed(published, PRICE), moment)
    # Each day's PV forecast uses the day before: it is known only then.
    for forecast, moment in scenario.pv_ahead:
        count += write_series(stores.pg, site_id, _renamed(forecast, PV_FORECAST), moment)
    for name, series in ((LOAD_FORECAST, scenario.load_forecast_w), (AMBIENT, scenario.ambient_c)):
        count += write_series(stores.pg, site_id, _renamed(series, name), known_at)
    return count


def replay_inputs(stores: Stores, site: SiteConfig, prices: Series, now: datetime, days: int) -> tuple[Scenario, int]:
    """Real prices of the same season of a past year, standard load and PV, from yesterday to `days` days ahead.

    For trying a site out at present time without a price feed of its own. Returns the scenario and the values written. Raises
    InputError when the prices do not cover the replayed dates.
    """
    zone = ZoneInfo(site.timezone)
    start = datetime.combine(now.astimezone(zone).date(), time(0), tzinfo=zone).astimezone(UTC)
    scenario = datasets.build_scenario(site, prices, start, days, history_days=HISTORY_DAYS)
    return scenario, write_known_beforehand(stores, site.site_id, scenario, start - timedelta(days=HISTORY_DAYS + 1))


def _renamed(series: Series, name: str) -> Series:
    return Series(name, series.start, series.dt_s, series.values)
