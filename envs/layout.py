"""Where each field of an observation lies: the contract between an environment, a trained network and the policy that serves it.

Here: version, names, places. Not here: how values are made (envs.features, envs.kernel). A change of any field's place, meaning
or scale is a new LAYOUT_VERSION.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from core.devices import Chemistry

LAYOUT_VERSION = 1
LAYOUT_NAME = f"environment/{LAYOUT_VERSION}"
"""As artefacts name it."""
OBSERVATION_BOUND = 10.0
"""Every field is clipped to +- this."""
CALENDAR = ("sin_day", "cos_day", "sin_half_day", "cos_half_day", "sin_week", "cos_week", "sin_year", "cos_year")
ERROR_HOURS = (0, 3, 12, 24)
"""Latest forecast error, and its means over the last hours."""
PRICE = ("price", "price_spread_log", "price_mean", *(f"price_error_{hours}h" for hours in ERROR_HOURS), "forecast_spread")
SITE = (
    "load", "pv", "net_load_error", "import_limit", "export_limit", "peak", "peak_price", "trade_fee",
)  # fmt: skip
PACK = (
    "soc", "temperature", "ambient", "soh", *(f"is_{chemistry.value.lower()}" for chemistry in Chemistry),
    "hours_at_rated", "share_of_site", "wear",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """The order: calendar, price, price forecast, MPC's marginal values, net load forecast, site, then each pack."""

    packs: int
    forecast_hours: int
    marginal_points: int = 0
    load_forecast_hours: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """One name a field; length `size`."""
        fields = [*CALENDAR, *PRICE, *(f"price_ahead_{k + 1}h" for k in range(self.forecast_hours))]
        fields += [f"marginal_{k}" for k in range(self.marginal_points)]
        fields += [f"net_load_ahead_{k + 1}h" for k in range(self.load_forecast_hours)]
        fields += SITE
        own = (*PACK, "marginal_here") if self.marginal_points else PACK
        fields += [f"pack{p}_{name}" for p in range(self.packs) for name in own]
        return tuple(fields)

    @property
    def index(self) -> Mapping[str, int]:
        """Name of a field to its column."""
        return MappingProxyType({name: k for k, name in enumerate(self.names)})

    @property
    def row_width(self) -> int:
        """Columns that depend on time alone: the leading ones, copied from a table."""
        return len(CALENDAR) + len(PRICE) + self.forecast_hours + self.marginal_points

    @property
    def size(self) -> int:
        """Columns of an observation."""
        own = len(PACK) + (1 if self.marginal_points else 0)
        return self.row_width + self.load_forecast_hours + len(SITE) + self.packs * own

    def describe(self) -> dict[str, object]:
        """JSON-ready: what an artefact records and what loading compares."""
        return {"layout_version": LAYOUT_VERSION, "names": list(self.names)}
