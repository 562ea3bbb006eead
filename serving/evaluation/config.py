"""Configs of evaluations, frozen, unknown keys refused. Not here: reading series (serving.evaluation.world)."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from core.devices import Chemistry
from core.errors import InputError
from core.site import NOMINAL_CELL_V, SiteConfig
from core.yamlconfig import ConfigModel, Number, Whole, parse_model
from serving.site_loader import read_site_file

Information = Literal["published", "hourly_reveal", "five_minute"]
PlantModel = Literal["SPMe", "DFN", "ECM"]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
Name = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$")]


class Market(ConfigModel):
    """Where prices come from."""

    source: Literal["nl_day_ahead", "file"] = "nl_day_ahead"
    """nl_day_ahead: what `pulsebms data fetch` keeps."""
    path: str | None = None
    """Of a CSV (also .gz); relative to the config's folder."""
    column: str = ""
    scale: Annotated[Number, Field(gt=0.0)] = 0.001
    """From the file's unit to EUR/kWh; 0.001 for EUR/MWh."""
    zone: str | None = None
    """Whose clock stamps without an offset show."""
    forecast_columns: tuple[str, ...] = ()
    """Forecasts of each day, made before noon of the day before; their mean is expected."""
    noise_seed: Annotated[Whole, Field(ge=0)] = 0
    """Of the model that makes 5-minute prices of hourly ones."""

    @model_validator(mode="after")
    def _complete(self) -> Market:
        if (self.source == "file") != bool(self.path and self.column):
            raise ValueError("path and column with source: file, and only then")
        return self


class Faults(ConfigModel):
    """What is wrong with the inputs."""

    stale_twin_hours: tuple[Annotated[Whole, Field(ge=0, le=24)], Annotated[Whole, Field(ge=0, le=24)]] | None = None
    """From and to (exclusive) hour of each UTC day without a usable prediction."""
    soc_offset_pct: Annotated[Number, Field(ge=-20.0, le=20.0)] = 0.0
    """Measured less true state of charge."""
    unpublished_every_days: Annotated[Whole, Field(ge=1, le=30)] | None = None
    """Every so many days the day's prices are never published: a price is known when its hour begins."""

    @field_validator("stale_twin_hours", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class SinglePack(ConfigModel):
    """A site of one pack behind a meter that does not bind."""

    chemistry: Chemistry
    energy_kwh: Annotated[Number, Field(gt=0.0, le=1e6)] = 100.0
    power_kw: Annotated[Number, Field(gt=0.0, le=1e6)] = 40.0
    soc_min_pct: Annotated[Number, Field(ge=0.0, lt=100.0)] = 10.0
    soc_max_pct: Annotated[Number, Field(gt=0.0, le=100.0)] = 90.0
    max_temperature_c: Number = 45.0
    replacement_eur_per_kwh: Annotated[Number, Field(ge=0.0)] = 80.0

    def site(self) -> SiteConfig:
        """As a site; every limit that is not named here is the contract's default."""
        cell_v = sum(NOMINAL_CELL_V[self.chemistry]) / 2.0
        power_w, series = 1000.0 * self.power_kw, 100
        amps = 2.0 * power_w / (cell_v * series)
        limits = {
            "max_charge_current": amps, "max_discharge_current": amps, "max_soc": self.soc_max_pct, "min_soc": self.soc_min_pct,
            "max_cycle_depth": self.soc_max_pct - self.soc_min_pct, "max_cell_temperature": self.max_temperature_c,
            "max_cell_voltage": 3.65 if self.chemistry is Chemistry.LFP else 4.2, "min_cell_voltage": 2.5,
        }  # fmt: skip
        pack = {
            "device_id": "pack", "name": f"{self.chemistry.value} pack", "chemistry": self.chemistry,
            "nominal_capacity_ah": 1000.0 * self.energy_kwh / (cell_v * series), "nominal_voltage_v": cell_v * series,
            "max_charge_power_w": power_w, "max_discharge_power_w": power_w, "series_cells": series,
            "replacement_eur_per_kwh": self.replacement_eur_per_kwh, "constraints": [limits],
        }  # fmt: skip
        return SiteConfig.model_validate(
            {
                "site_id": "evaluation",
                "name": "evaluation",
                "timezone": "Europe/Amsterdam",
                "ambient_c": 20.0,
                "grid": {"import_limit_w": 10.0 * power_w, "export_limit_w": 10.0 * power_w},
                "packs": [pack],
            }
        )


class ScenarioConfig(ConfigModel):
    """One scenario."""

    name: Name
    information: Information = "published"
    market: Market = Market()
    site: str | None = None
    """A site file, relative to the config's folder; one of site and pack."""
    pack: SinglePack | None = None
    soh_pct: Annotated[Number, Field(ge=50.0, le=100.0)] | None = None
    """Of all packs; none takes the site's."""
    start_soc_pct: Annotated[Number, Field(ge=0.0, le=100.0)] | None = None
    peak_incurred_kw: Annotated[Number, Field(ge=0.0, le=1e6)] | None = None
    """Highest import of the billing month before the replay begins; none: that of load and PV alone since the month's first day.
    Matters only where the site pays for its peak."""
    weeks: tuple[date, ...] = ()
    """Mondays, or any first days; those of the evaluation when left out."""
    forecast_error_scale: Annotated[Number, Field(ge=0.0, le=10.0)] = 1.0
    """Errors of load and PV forecasts times this; 0 is perfect."""
    faults: Faults = Faults()
    plant: PlantModel | None = None
    """Another than the evaluation's."""

    @model_validator(mode="after")
    def _one_site(self) -> ScenarioConfig:
        if (self.site is None) == (self.pack is None):
            raise ValueError("one of site and pack")
        return self


class PolicyConfig(ConfigModel):
    """A policy that is evaluated, as a row would describe it."""

    name: Name
    policy_type: Literal["MPC", "RL", "HYBRID"] = "MPC"
    horizon_hours: Annotated[Whole, Field(gt=0, le=168)] | None = 24
    config: dict[str, Any] = Field(default_factory=dict)
    artefact: str | None = None
    """Directory of a learned policy's artefact, relative to the config's folder."""


class EvaluationConfig(ConfigModel):
    """The whole file."""

    name: Name
    weeks: Annotated[tuple[date, ...], Field(min_length=1, max_length=520)]
    """First days of the weeks that are replayed."""
    scenarios: Annotated[tuple[ScenarioConfig, ...], Field(min_length=1)]
    policies: tuple[PolicyConfig, ...] = ()
    """Beside the baselines and, with --site, the rows of that site."""
    plant: PlantModel = "SPMe"
    seeds: Annotated[tuple[Annotated[Whole, Field(ge=0)], ...], Field(min_length=1, max_length=20)] = (0,)
    """Each draws a starting SoC (within 10 %) and, where there is load, its deviations from the profile."""
    days: Annotated[Whole, Field(ge=1, le=31)] = 7
    """Replayed from each first day on: a week, fewer for a quick look, up to a month where the site pays for its month's peak."""
    interval_s: Literal[300, 900, 1800, 3600] = 900
    """Of scenarios other than five_minute, which have 300."""
    mpc_horizon_hours: Annotated[Whole, Field(ge=1, le=72)] = 24
    correction_phi: Annotated[Number, Field(ge=0.0, lt=1.0)] = 0.9
    """Of the corrected MPC: the share of the latest price error that is left after an hour."""
    decision_deadline_s: Annotated[Number, Field(gt=0.0, le=3600.0)] = 60.0
    """A policy that takes longer for one decision is ended and marked."""
    level: Annotated[Number, Field(ge=0.5, lt=1.0)] = 0.95
    resamples: Annotated[Whole, Field(ge=100, le=100_000)] = 4000
    naive: Name = "one_cycle"
    """The schedule that life is compared with: a policy or baseline of this evaluation."""
    life_years: tuple[Annotated[Whole, Field(ge=1, le=30)], ...] = (1, 5, 10)

    @model_validator(mode="after")
    def _names_once(self) -> EvaluationConfig:
        for kind, names in (("scenario", [s.name for s in self.scenarios]), ("policy", [p.name for p in self.policies])):
            if len(set(names)) != len(names):
                raise ValueError(f"each {kind} name once")
        if self.naive not in {*BASELINES, *(p.name for p in self.policies)}:
            raise ValueError(f"naive ({self.naive}) is neither a policy of the file nor a baseline")
        taken = sorted({p.name for p in self.policies} & set(BASELINES))
        if taken:
            raise ValueError(f"{taken[0]} is the name of a baseline")
        return self


BASELINES = ("idle", "threshold", "one_cycle", "mpc", "mpc_corrected", "perfect_foresight")


def read_evaluation(path: Path) -> EvaluationConfig:
    """Parse a file; InputError names file, line, field, value and what was expected."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(source=str(path), field="file", value=str(error), expected="a readable YAML file") from None
    return parse_model(text, str(path), EvaluationConfig)


def site_of(scenario: ScenarioConfig, folder: Path) -> SiteConfig:
    """The scenario's site with its changes. Raises InputError for a file that is not there or not valid."""
    site = scenario.pack.site() if scenario.pack is not None else read_site_file(folder / str(scenario.site))
    changes: dict[str, float] = {}
    if scenario.soh_pct is not None:
        changes["soh_pct"] = scenario.soh_pct
    if scenario.start_soc_pct is not None:
        changes["initial_soc_pct"] = scenario.start_soc_pct
    return site.model_copy(update={"packs": tuple(pack.model_copy(update=changes) for pack in site.packs), "policies": ()})
