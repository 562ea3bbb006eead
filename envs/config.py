"""What an environment is made of: packs, grid connection, tariff, episode, information. Frozen; unknown keys are refused.

Here: the models, their defaults and checks. Not here: drawing packs from the ranges (envs.variants), data (envs.data).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field, ValidationError, field_validator, model_validator

from core.devices import Chemistry
from core.errors import InputError, nearest
from core.site import Tariff
from core.yamlconfig import ConfigModel, Number, Whole

MOST_VARIANTS = 4096
DEVICE_SUBSTEP_S, LONGEST_SUBSTEP_S, QUARTER_S = 60.0, 300.0, 900.0
ONLY_SUBSTEP_S, FEW = 180.0, 3
"""A step has this many substeps, or none longer than that: with fewer, heat passes a limit (docs/environment.md)."""
Range = Annotated[tuple[Number, Number], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
"""Lowest and highest value of a uniform draw; equal ends fix it."""


def _ordered(model: ConfigModel, name: str, low: float, high: float) -> None:
    first, second = getattr(model, name)
    if not low <= first <= second <= high:
        raise ValueError(f"{name}: two rising numbers from {low:g} to {high:g} (they are {first:g} and {second:g})")


class PackRange(ConfigModel):
    """What one pack of the environment is drawn from."""

    chemistry: tuple[Chemistry, ...] = tuple(Chemistry)
    """One of these, each as likely."""
    soh_pct: Range = (65.0, 100.0)
    """State of health; constant within an episode."""
    energy_kwh: Range = (50.0, 500.0)
    """Nameplate energy of the new pack, drawn uniformly in its logarithm."""
    power_per_energy: Range = (0.25, 0.6)
    """Rated power over nameplate energy, 1/h; the same for charge and discharge."""
    soc_min_pct: Annotated[Number, Field(ge=0.0, le=100.0)] = 10.0
    soc_max_pct: Annotated[Number, Field(ge=0.0, le=100.0)] = 90.0
    temperature_max_c: Annotated[Number, Field(ge=20.0, le=80.0)] = 45.0
    temperature_min_c: Annotated[Number, Field(ge=-40.0, le=20.0)] = -10.0
    temperature_delta_k: Annotated[Number, Field(gt=0.0, le=100.0)] = 10.0
    """Hottest minus coldest cell."""
    max_c_rate_per_h: Annotated[Number, Field(gt=0.0, le=100.0)] = 1.0
    initial_soc_pct: Range = (15.0, 85.0)
    """At the start of an episode."""
    initial_warmth_k: Range = (0.0, 5.0)
    """Temperature over ambient at the start of an episode."""
    replacement_eur_per_kwh: Annotated[Number, Field(ge=0.0)] = 80.0
    """Price of a kWh of replacement: the base of the wear cost (optimizer.linearise.wear_cost)."""
    series_cells: Annotated[Whole, Field(gt=0, le=10_000)] = 100

    @model_validator(mode="after")
    def _plausible(self) -> PackRange:
        _ordered(self, "soh_pct", 30.0, 100.0)
        _ordered(self, "energy_kwh", 0.1, 1e6)
        _ordered(self, "power_per_energy", 0.01, 10.0)
        _ordered(self, "initial_warmth_k", 0.0, 30.0)
        _ordered(self, "initial_soc_pct", self.soc_min_pct, self.soc_max_pct)
        if not self.chemistry:
            raise ValueError("at least one chemistry")
        if not self.soc_min_pct < self.soc_max_pct:
            raise ValueError(f"soc_min_pct ({self.soc_min_pct:g}) below soc_max_pct ({self.soc_max_pct:g})")
        return self


class GridRange(ConfigModel):
    """The meter: limits as multiples of the packs' rated power."""

    import_per_rated: Range = (2.0, 4.0)
    export_per_rated: Range = (2.0, 4.0)
    peak_price_eur_per_kw: Annotated[Number, Field(ge=0.0)] = 0.0
    """Price of the calendar month's highest mean import of a step."""
    initial_peak_per_rated: Range = (0.0, 0.5)
    """Peak of the running month at the start of an episode, with packs and without; counts where a peak has a price."""

    @model_validator(mode="after")
    def _plausible(self) -> GridRange:
        for name in ("import_per_rated", "export_per_rated", "initial_peak_per_rated"):
            _ordered(self, name, 0.0, 1e6)
        return self


class EnvConfig(ConfigModel):
    """The whole of it. Defaults: one pack of any chemistry, health and size, a week of quarter hours, published prices."""

    packs: Annotated[tuple[PackRange, ...], Field(min_length=1, max_length=64)] = (PackRange(),)
    grid: GridRange = GridRange()
    tariff: Tariff = Tariff()
    substep_s: Annotated[Number, Field(gt=0.0, le=LONGEST_SUBSTEP_S)] = DEVICE_SUBSTEP_S
    """Longest substep of the circuit. 60 s is what device and twin use; 300 s is faster and less true (docs/environment.md).
    Longer ones would let heat pass a limit within a substep; so would many long ones, or a single one: in steps of more than
    900 s they are shorter in proportion, in shorter steps there are three, or none is longer than 180 s (`substeps_of`)."""
    episode_steps: Annotated[Whole, Field(gt=0)] | None = 672
    """Steps until truncation; none runs to the end of the data."""
    information: Literal["published", "revealed"] = "published"
    """published: day-ahead prices are known to the end of the local day, from 13:00 to that of the next. revealed: the price of a
    step is known when it begins, nothing of a later one."""
    forecast_hours: Annotated[Whole, Field(ge=1, le=48)] = 24
    load_forecast_hours: Annotated[Whole, Field(ge=0, le=48)] = 0
    load_per_rated: Range | None = None
    """The load's highest value in the data as a multiple of the packs' rated power; none takes watts as they are."""
    pv_per_rated: Range | None = None
    """The same for PV."""
    ambient_offset_k: Range = (-5.0, 5.0)
    """Added to the data's temperature, drawn each episode."""
    projection_cost: Annotated[Number, Field(ge=0.0)] = 0.0
    """Reward lost per share of rated power that the safety projection cut from an action."""
    potential: bool = True
    """Whether the reward holds the change of stored energy at the trailing mean price."""
    variants: Annotated[Whole, Field(ge=1, le=MOST_VARIANTS)] = 256
    """How many sites are drawn from the ranges when the environment is made; each episode takes one of them."""
    variants_seed: Annotated[Whole, Field(ge=0)] = 0

    @field_validator("packs", mode="before")
    @classmethod
    def _one_pack(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _plausible(self) -> EnvConfig:
        for name in ("load_per_rated", "pv_per_rated"):
            if getattr(self, name) is not None:
                _ordered(self, name, 0.0, 1e6)
        _ordered(self, "ambient_offset_k", -40.0, 40.0)
        return self

    def substeps_of(self, dt_s: float) -> int:
        """Substeps of a step of dt_s: none longer than substep_s, 300 s x 900 s / dt_s (or 60 s) and dt_s / 3 (or 180 s)."""
        together_s, few_s = max(DEVICE_SUBSTEP_S, LONGEST_SUBSTEP_S * QUARTER_S / dt_s), max(ONLY_SUBSTEP_S, dt_s / FEW)
        longest_s = min(self.substep_s, together_s, few_s)
        return max(1, int(np.ceil(dt_s / longest_s - 1e-9)))

    @classmethod
    def of(cls, given: EnvConfig | Mapping[str, Any] | None, source: str = "environment") -> EnvConfig:
        """A config from a mapping. InputError names the first fault and, for an unknown key, the nearest known one."""
        if isinstance(given, EnvConfig):
            return given
        try:
            return cls.model_validate(dict(given or {}))
        except ValidationError as error:
            faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
            first = faults[0]
            location = first["loc"]
            expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
            if first["type"] == "extra_forbidden":
                expected = "a known key" + nearest(str(location[-1]), list(_model_at(location)))
            value = "this combination" if isinstance(first.get("input"), ConfigModel) else first.get("input")
            raise InputError(
                source=source, field=".".join(map(str, location)) or "config", value=value, expected=expected
            ) from None


def _model_at(location: tuple[int | str, ...]) -> Mapping[str, object]:
    """Fields of the model in which an unknown key was found."""
    inner: dict[str, type[ConfigModel]] = {"packs": PackRange, "grid": GridRange, "tariff": Tariff}
    parents = [inner[part] for part in location[:-1] if isinstance(part, str) and part in inner]
    return (parents[-1] if parents else EnvConfig).model_fields
