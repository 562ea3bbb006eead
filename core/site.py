"""A site as its file describes it: grid connection, tariff, load, PV, packs with their limits, policies.

Here: the frozen models and the checks that need several fields. Not here: reading a file (serving.site_loader),
YAML (core.yamlconfig), which limit holds at a moment (core.limits).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, field_validator, model_validator

from core.devices import Chemistry, DeviceConfig
from core.errors import InputError
from core.limits import ConstraintRow, tightest
from core.yamlconfig import ConfigModel, Number, Whole

FloatArray = NDArray[np.float64]

NOMINAL_CELL_V: dict[Chemistry, tuple[float, float]] = {
    Chemistry.LFP: (3.0, 3.4),
    Chemistry.NMC: (3.45, 3.9),
    Chemistry.LCO: (3.5, 3.95),
    Chemistry.NCA: (3.45, 3.8),
}
"""Plausible nominal cell voltage; data-sheet values are 3.2, 3.6-3.7, 3.7-3.8 and 3.6 V."""


def _percent(value: float) -> float:
    if 0 < value <= 1:
        raise ValueError(f"percent from 0 to 100, not a share of 1 (did you mean {value * 100:g}?)")
    return value


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as Europe/Amsterdam") from None
    return name


Identifier = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=200)]
"""Goes into Redis keys: no colons, no spaces."""
Percent = Annotated[Number, Field(ge=0.0, le=100.0), AfterValidator(_percent)]
Watt = Annotated[Number, Field(gt=0.0, lt=1e8)]
NotNegative = Annotated[Number, Field(ge=0.0)]


class Location(ConfigModel):
    """Where the site is; only PV needs it. Default: De Bilt."""

    latitude: Annotated[Number, Field(ge=-66.0, le=66.0)] = 52.1
    """Degrees north; beyond the polar circles the weather mapping has no meaning."""
    longitude: Annotated[Number, Field(ge=-180.0, le=180.0)] = 5.18
    """Degrees east."""


class Grid(ConfigModel):
    """The grid connection (one meter)."""

    import_limit_w: Annotated[Number, Field(ge=0.0)]
    export_limit_w: Annotated[Number, Field(ge=0.0)]
    reserve_share: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.05
    """Share of both limits that plans leave free for what forecasts miss."""
    peak_price_eur_per_kw: NotNegative = 0.0
    """Price of the billing period's (calendar month's) highest import."""


class Tariff(ConfigModel):
    """From the day-ahead price to what the site pays and earns."""

    network_fee_eur_per_kwh: NotNegative = 0.0
    tax_eur_per_kwh: NotNegative = 0.0
    """Energy tax on imports."""
    supplier_margin_eur_per_kwh: NotNegative = 0.0
    export_margin_eur_per_kwh: NotNegative = 0.0
    """What the buyer keeps of exports."""
    vat_share: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.0
    """Value-added tax on imports, 0.21 for 21 %; 0 for a business that deducts it."""

    def buy_sell(self, price_eur_per_kwh: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Import and export price, EUR/kWh, each of the shape of `price_eur_per_kwh`.

        VAT enlarges positive prices only, so that the import price is never below the export price and buying to
        sell at once never pays.
        """
        price = np.asarray(price_eur_per_kwh, dtype=np.float64)
        net = price + self.network_fee_eur_per_kwh + self.tax_eur_per_kwh + self.supplier_margin_eur_per_kwh
        buy: FloatArray = np.where(net > 0, net * (1.0 + self.vat_share), net)
        return buy, price - self.export_margin_eur_per_kwh


class Load(ConfigModel):
    """Consumption behind the meter, as a standard load profile."""

    annual_kwh: NotNegative = 0.0
    profile: Literal["H0", "G0", "G1", "G2", "G3", "G4", "G5", "G6", "L0", "L1", "L2"] = "G0"
    """BDEW standard load profile; G0 is general business."""
    variation: Annotated[Number, Field(ge=0.0, le=0.5)] = 0.08
    """Standard deviation of actual load around the profile, as a share (synthetic; see stores.datasets)."""


class Pv(ConfigModel):
    """Photovoltaics behind the meter; 0 kWp means none."""

    kwp: NotNegative = 0.0
    tilt_deg: Annotated[Number, Field(ge=0.0, le=90.0)] = 30.0
    """0 is flat."""
    azimuth_deg: Annotated[Number, Field(ge=0.0, lt=360.0)] = 180.0
    """180 is south, 90 east."""
    curtailable: bool = False
    """Whether a plan may leave PV energy unused."""


class ConstraintSpec(ConfigModel):
    """One row of `safety_constraints`, columns by their names; the defaults are the contract's."""

    max_cell_voltage: Annotated[Number, Field(gt=0.0, lt=6.0)] | None = 4.2
    min_cell_voltage: Annotated[Number, Field(gt=0.0, lt=6.0)] | None = 2.5
    max_pack_voltage: Annotated[Number, Field(gt=0.0, lt=1e5)] | None = None
    min_pack_voltage: Annotated[Number, Field(gt=0.0, lt=1e5)] | None = None
    max_charge_current: Annotated[Number, Field(ge=0.0, lt=1e5)] | None = 50.0
    max_discharge_current: Annotated[Number, Field(ge=0.0, lt=1e5)] | None = 100.0
    max_cell_temperature: Annotated[Number, Field(ge=-50.0, le=100.0)] | None = 60.0
    min_cell_temperature: Annotated[Number, Field(ge=-50.0, le=100.0)] | None = -20.0
    max_temperature_delta: Annotated[Number, Field(gt=0.0, le=100.0)] | None = 10.0
    max_soc: Percent | None = 95.0
    min_soc: Percent | None = 5.0
    max_charge_power: Annotated[Number, Field(ge=0.0, lt=1e8)] | None = None
    max_discharge_power: Annotated[Number, Field(ge=0.0, lt=1e8)] | None = None
    max_cycle_depth: Percent | None = 80.0
    max_c_rate: Annotated[Number, Field(gt=0.0, le=100.0)] | None = 1.0
    active: bool = True
    effective_from: datetime | None = None
    """Aware; none means at once."""
    effective_until: datetime | None = None

    @field_validator("effective_from", "effective_until")
    @classmethod
    def _aware(cls, value: datetime | None) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError("a time with its UTC offset")
        return value

    @model_validator(mode="after")
    def _ranges(self) -> ConstraintSpec:
        for low, high in (
            ("min_cell_voltage", "max_cell_voltage"),
            ("min_pack_voltage", "max_pack_voltage"),
            ("min_cell_temperature", "max_cell_temperature"),
            ("min_soc", "max_soc"),
            ("effective_from", "effective_until"),
        ):
            a, b = getattr(self, low), getattr(self, high)
            if a is not None and b is not None and not a < b:
                raise ValueError(f"{low} ({a}) below {high} ({b})")
        return self

    def row(self, device_id: str, row_id: str) -> ConstraintRow:
        """The same as a row; units go into the names."""
        return ConstraintRow(
            row_id=row_id,
            device_id=device_id,
            max_cell_voltage_v=self.max_cell_voltage,
            min_cell_voltage_v=self.min_cell_voltage,
            max_pack_voltage_v=self.max_pack_voltage,
            min_pack_voltage_v=self.min_pack_voltage,
            max_charge_current_a=self.max_charge_current,
            max_discharge_current_a=self.max_discharge_current,
            max_cell_temperature_c=self.max_cell_temperature,
            min_cell_temperature_c=self.min_cell_temperature,
            max_temperature_delta_k=self.max_temperature_delta,
            max_soc_pct=self.max_soc,
            min_soc_pct=self.min_soc,
            max_charge_power_w=self.max_charge_power,
            max_discharge_power_w=self.max_discharge_power,
            max_cycle_depth_pct=self.max_cycle_depth,
            max_c_rate_per_h=self.max_c_rate,
            active=self.active,
            effective_from=self.effective_from,
            effective_until=self.effective_until,
        )


class Pack(ConfigModel):
    """One battery pack with the state in which its simulation starts."""

    device_id: Identifier
    name: Annotated[str, Field(min_length=1, max_length=255)]
    chemistry: Chemistry
    nominal_capacity_ah: Annotated[Number, Field(gt=0.0, lt=1e8)]
    """Of the new pack."""
    nominal_voltage_v: Annotated[Number, Field(gt=0.0, lt=1e8)]
    max_charge_power_w: Watt
    max_discharge_power_w: Watt
    series_cells: Annotated[Whole, Field(gt=0, le=10_000)]
    parallel_cells: Annotated[Whole, Field(gt=0, le=10_000)] = 1
    soh_pct: Annotated[Percent, Field(gt=0.0)] = 80.0
    """State of health in percent; a second-life pack typically starts at 80."""
    initial_soc_pct: Percent = 50.0
    initial_temperature_c: Annotated[Number, Field(ge=-40.0, le=80.0)] = 20.0
    replacement_eur_per_kwh: Annotated[Number, Field(ge=0.0)] = 80.0
    """What replacing the usable energy costs: the base of the wear cost. 80 EUR/kWh is a second-life pack."""
    constraints: Annotated[tuple[ConstraintSpec, ...], Field(min_length=1)]
    """At least one: a pack without limits is never commanded. The tightest of all counts."""

    @model_validator(mode="after")
    def _plausible(self) -> Pack:
        low, high = NOMINAL_CELL_V[self.chemistry]
        cell_v = self.nominal_voltage_v / self.series_cells
        if not low <= cell_v <= high:
            raise ValueError(
                f"nominal_voltage_v / series_cells from {low:g} to {high:g} V for {self.chemistry.value} "
                f"(it is {self.nominal_voltage_v:g} V / {self.series_cells} = {cell_v:.3g} V)"
            )
        undated = [
            spec.row(self.device_id, f"row {k}")
            for k, spec in enumerate(self.constraints)
            if spec.active and spec.effective_from is None and spec.effective_until is None
        ]
        if undated:
            try:
                tightest(self.device_config(""), undated, datetime.now(UTC))
            except InputError as error:
                raise ValueError(f"constraints that agree: {error.field} is {error.value}") from None
        return self

    def device_config(self, site_id: str) -> DeviceConfig:
        """The row of device_configurations."""
        return DeviceConfig(
            device_id=self.device_id,
            site_id=site_id,
            name=self.name,
            chemistry=self.chemistry,
            nominal_capacity_ah=self.nominal_capacity_ah,
            nominal_voltage_v=self.nominal_voltage_v,
            max_charge_power_w=self.max_charge_power_w,
            max_discharge_power_w=self.max_discharge_power_w,
            series_cells=self.series_cells,
            parallel_cells=self.parallel_cells,
        )


class PolicySpec(ConfigModel):
    """One row of `optimization_policies`."""

    name: Annotated[str, Field(min_length=1, max_length=255)]
    policy_type: Literal["MPC", "RL", "HYBRID"] = "MPC"
    horizon_hours: Annotated[Whole, Field(gt=0, le=168)] | None = 24
    update_interval_seconds: Annotated[Whole, Field(gt=0, le=86_400)] | None = 900
    status: Literal["active", "inactive", "testing", "deprecated"] = "inactive"
    performance_score: Annotated[Number, Field(ge=0.0, le=1.0)] | None = None
    """Higher decides first; none ranks last."""
    model_version: Annotated[str, Field(max_length=50)] | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    """The policy's own settings, checked by the policy."""


class SiteConfig(ConfigModel):
    """The whole file."""

    site_id: Identifier
    name: Annotated[str, Field(min_length=1, max_length=255)]
    timezone: Annotated[str, AfterValidator(_zone)]
    """IANA name: days, day-ahead publication and load profiles follow it."""
    location: Location = Location()
    grid: Grid
    tariff: Tariff = Tariff()
    load: Load = Load()
    pv: Pv = Pv()
    ambient_c: Annotated[Number, Field(ge=-40.0, le=60.0)] | None = None
    """Constant temperature of the room; none takes the weather station's year."""
    packs: Annotated[tuple[Pack, ...], Field(min_length=1)]
    policies: tuple[PolicySpec, ...] = ()

    @field_validator("packs")
    @classmethod
    def _unique_packs(cls, packs: tuple[Pack, ...]) -> tuple[Pack, ...]:
        _refuse_repeated([pack.device_id for pack in packs], "device_id")
        return packs

    @field_validator("policies")
    @classmethod
    def _unique_policies(cls, policies: tuple[PolicySpec, ...]) -> tuple[PolicySpec, ...]:
        _refuse_repeated([policy.name for policy in policies], "name")
        return policies

    def packs_of(self, device_ids: Iterable[str]) -> dict[str, Pack]:
        """The packs of these ids, in one pass: a site has up to thousands. InputError when one is none of the site's."""
        by_id = {pack.device_id: pack for pack in self.packs}
        return {device_id: by_id.get(device_id) or self.pack(device_id) for device_id in device_ids}

    def pack(self, device_id: str) -> Pack:
        """The pack of that id; InputError when the site has none."""
        for pack in self.packs:
            if pack.device_id == device_id:
                return pack
        known = ", ".join(pack.device_id for pack in self.packs)
        raise InputError(source=f"site {self.site_id}", field="device_id", value=device_id, expected=f"one of {known}")


def _refuse_repeated(names: list[str], field: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"each {field} once ({name!r} is repeated)")
        seen.add(name)
