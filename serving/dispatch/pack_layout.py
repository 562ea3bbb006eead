"""What an actor that was trained in envs sees of a live site: the environment's own code on what the stores know.

An actor's artefact says `layout` LAYOUT, and in `parameters`: `environment` (an envs.config.EnvConfig), `dt_s`, `timezone`
(default as in envs.data), `squash` (see policies.learned.actor). One that was trained on one pack is shown each pack with its
share of the site, by rated power: load, PV, limits and peak of that share, so that a pack among others sees what it was trained
on alone. One that was trained on several is shown the site as a whole, where it has as many packs, of the chemistries trained on,
in that order. Not here: where each field lies (envs.layout), its value (envs.features, envs.kernel).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from core.artefact import ArtefactError
from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.series import Series
from core.site import Pack
from envs import kernel
from envs import variants as at
from envs.config import EnvConfig
from envs.data import HISTORY_DAYS, Exogenous
from envs.features import Features, features_at
from envs.layout import LAYOUT_NAME, Layout
from envs.residual_layout import BASE_LAYOUT_NAME
from optimizer.linearise import wear_cost
from policies.base import Observation, PolicyUnableError
from policies.learned.artefact import Artefact

FloatArray = NDArray[np.float64]
LAYOUT = LAYOUT_NAME
DAY_S = 86_400.0
AHEAD_S = 2 * DAY_S
"""Day-ahead prices reach no further."""


def layout_of(artefact: Artefact) -> PackLayout:
    """The layout that an actor was trained on.

    Raises ArtefactError naming what is missing, of another version, or cannot be had on a live site.
    """
    said = artefact.metadata
    where = f"artefact {artefact.sha256[:12]}"
    if said.layout not in (LAYOUT, BASE_LAYOUT_NAME):
        raise ArtefactError(f"{where}: layout: got {said.layout!r}, expected {LAYOUT!r}")
    given = said.parameters
    environment, dt_s = given.get("environment"), given.get("dt_s")
    if not isinstance(environment, dict):
        raise ArtefactError(f"{where}: parameters.environment: got {environment!r}, expected the config that it was trained in")
    if not isinstance(dt_s, int | float) or not 0 < dt_s <= 3600:
        raise ArtefactError(f"{where}: parameters.dt_s: got {dt_s!r}, expected seconds of a step")
    if given.get("price_forecast"):
        raise ArtefactError(f"{where}: parameters.price_forecast: a dispatcher has no price forecasts beside published prices")
    try:
        config = EnvConfig.of(environment, f"{where}: parameters.environment")
    except InputError as error:
        raise ArtefactError(str(error)) from None
    timezone = str(given.get("timezone", "Europe/Amsterdam"))
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ArtefactError(f"{where}: parameters.timezone: got {timezone!r}, expected an IANA time zone") from None
    return PackLayout(config, float(dt_s), timezone, shows_base=said.layout == BASE_LAYOUT_NAME)


@dataclass(frozen=True, slots=True)
class PackLayout:
    """See policies.learned.actor.ObservationLayout."""

    config: EnvConfig
    dt_s: float
    timezone: str
    shows_base: bool = False
    """Whether what the MPC decides is shown too (envs.residual.BASE_LAYOUT_NAME)."""

    @property
    def version(self) -> str:
        """LAYOUT, or BASE_LAYOUT_NAME."""
        return BASE_LAYOUT_NAME if self.shows_base else LAYOUT

    @property
    def packs(self) -> int:
        """How many one vector shows."""
        return len(self.config.packs)

    @property
    def size(self) -> int:
        """Numbers in a vector, the base's among them."""
        return Layout(self.packs, self.config.forecast_hours, 0, self.config.load_forecast_hours).size + self.base_columns

    @property
    def base_columns(self) -> int:
        """The last ones, which a residual's policy adds."""
        return self.packs if self.shows_base else 0

    def vectors(self, observation: Observation) -> FloatArray:
        """One row a device, (devices, size); of several packs one row, (1, size), packs in the observation's order. Without the
        base's columns.

        Raises PolicyUnableError when the interval is not the step of training, prices of the 8 days before are not there, or the
        packs are others than those of training in number or chemistry.
        """
        if observation.interval_s != self.dt_s:
            raise PolicyUnableError(f"the actor decides steps of {self.dt_s:g} s; the interval has {observation.interval_s} s")
        row = round(HISTORY_DAYS * DAY_S / self.dt_s)
        try:
            features = self._features(observation, row)
        except InputError as error:
            raise PolicyUnableError(
                f"the actor needs prices of {HISTORY_DAYS} days before and load, PV around now: {error}"
            ) from None
        together = self._together(observation.devices)
        whole_w = sum(_rated_w(device) for device in observation.devices)
        packs = observation.site.packs_of(device.device_id for device in observation.devices)
        found = np.empty((len(together), self.size - self.base_columns), dtype=np.float32)
        for k, devices in enumerate(together):
            self._observe(observation, devices, sum(_rated_w(device) for device in devices) / whole_w, features, packs, found[k])
        return found.astype(np.float64)

    def _together(self, devices: Sequence[DeviceConfig]) -> list[Sequence[DeviceConfig]]:
        """Which packs a vector shows. PolicyUnableError where the actor was trained on several, and these are others."""
        if self.packs == 1:
            return [(device,) for device in devices]
        trained = [pack.chemistry for pack in self.config.packs]
        if len(devices) != self.packs or any(d.chemistry not in known for d, known in zip(devices, trained, strict=True)):
            expected = ", ".join("/".join(chemistry.value for chemistry in known) for known in trained)
            got = ", ".join(f"{device.device_id} {device.chemistry.value}" for device in devices)
            raise PolicyUnableError(f"the actor decides packs of {expected}, in this order; the site has {got}")
        return [devices]

    def _features(self, observation: Observation, row: int) -> Features:
        """What the past and two days say of `row`, the interval that is decided: the second of two rows."""
        count = row + round(AHEAD_S / self.dt_s)
        begin = observation.starts_at - timedelta(seconds=row * self.dt_s)
        load_w, pv_w = (
            self._around(series, observation.starts_at, row, count) for series in (observation.load_w, observation.pv_w)
        )
        actual_load_w, actual_pv_w = load_w.copy(), pv_w.copy()
        actual_load_w[row - 1] += self._last_error(observation, "load_w")
        actual_pv_w[row - 1] += self._last_error(observation, "pv_w")
        data = Exogenous(
            start=begin,
            dt_s=self.dt_s,
            price_eur_per_kwh=observation.price_eur_per_kwh.window(begin, count, self.dt_s),
            load_w=actual_load_w,
            pv_w=actual_pv_w,
            ambient_c=self._around(observation.ambient_c, observation.starts_at, row, count),
            load_forecast_w=load_w,
            pv_forecast_w=pv_w,
            timezone=self.timezone,
        )
        return features_at(data, self.config.model_copy(update={"tariff": observation.site.tariff}), row)

    def _around(self, series: Series, starts_at: datetime, row: int, count: int) -> FloatArray:
        """A series from the step before the interval on, (count,): ends are held, what lies further back is not looked at."""
        known = int((series.end - starts_at).total_seconds() // self.dt_s)
        values = series.window(starts_at - timedelta(seconds=self.dt_s), min(known, count - row) + 1, self.dt_s)
        return np.concatenate([np.full(row - 1, values[0]), values, np.full(max(0, count - row - known), values[-1])])

    def _last_error(self, observation: Observation, name: str) -> float:
        """Actual less forecast of the step before; 0 where it was not recorded."""
        errors = observation.errors.get(name)
        return 0.0 if errors is None or not len(errors) else float(errors.values[-1])

    def _observe(
        self,
        observation: Observation,
        devices: Sequence[DeviceConfig],
        share: float,
        features: Features,
        packs: Mapping[str, Pack],
        out: NDArray[np.float32],
    ) -> None:
        """Packs that have this share of the site; out (size,)."""
        grid, count = observation.site.grid, len(devices)
        rated_w = sum(_rated_w(device) for device in devices)
        site, pack, shown = np.zeros((1, at.SITE_COLUMNS)), np.zeros((1, count, at.PACK_COLUMNS)), []
        site[0, at.IMPORT_LIMIT], site[0, at.EXPORT_LIMIT] = share * grid.import_limit_w, share * grid.export_limit_w
        site[0, at.RATED], site[0, at.LOAD_FACTOR], site[0, at.PV_FACTOR] = rated_w, share, share
        site[0, at.PEAK_PRICE] = grid.peak_price_eur_per_kw
        circuit = np.zeros((1, count, 4))
        for p, device in enumerate(devices):
            state = observation.states[device.device_id]
            pack[0, p, at.WEAR] = wear_cost(device.chemistry, state.soh_pct, packs[device.device_id].replacement_eur_per_kwh)
            circuit[0, p, 0], circuit[0, p, 3] = state.soc_pct / 100.0, state.temperature_c
            hours = device.nominal_energy_wh / device.max_discharge_power_w
            shown.append([
                (state.soh_pct - 80.0) / 20.0,
                *(float(device.chemistry is chemistry) for chemistry in Chemistry),
                min(hours / 4.0, 10.0),
                device.max_discharge_power_w / rated_w,
            ])  # fmt: skip
        clocks, accounts = np.zeros((1, 3), dtype=np.int64), np.zeros((1, 5))
        clocks[0, kernel.ROW], accounts[0, kernel.PEAK] = 1, share * observation.peak_incurred_w
        kernel.observe(
            0, clocks, accounts, circuit, site, pack, np.array([shown], dtype=np.float32), features.rows, features.economics,
            features.load_ahead_w, features.pv_ahead_w, features.marginal, features.marginal_soc, out,
        )  # fmt: skip


def _rated_w(device: DeviceConfig) -> float:
    return max(device.max_charge_power_w, device.max_discharge_power_w)
