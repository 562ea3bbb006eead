"""Real input data: prices, standard load profiles, sun and weather, and scenarios made of them.

Here: what a demo or a benchmark feeds on. Not here: telemetry and other stored data (stores.postgres, stores.mongo).
"""

from stores.datasets.load import load_profile
from stores.datasets.prices import DatasetInfo, fetch, install_from_wheel, load_prices
from stores.datasets.scenario import Scenario, build_scenario, replay_shift
from stores.datasets.solar import pv_profile

__all__ = [
    "DatasetInfo",
    "Scenario",
    "build_scenario",
    "fetch",
    "install_from_wheel",
    "load_prices",
    "load_profile",
    "pv_profile",
    "replay_shift",
]
