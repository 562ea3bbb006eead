"""Config of the energy-value network's training; every key is checked, unknown ones are refused.

Here: the models, without torch. Not here: the training (training.value_network), reading files and lines (training.config_file).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic import ValidationError as PydanticError

from core.devices import Chemistry
from core.errors import InputError, nearest
from policies.learned.network import Activation
from training.value_market import Information


class FitSettings(BaseModel):
    """How a network is fitted; the defaults take a few CPU seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hidden: tuple[int, ...] = (128, 128)
    activation: Activation = "silu"
    iterations: int = Field(default=4000, ge=1, le=1_000_000)
    batch: int = Field(default=256, ge=1, le=65536)
    learning_rate: float = Field(default=3e-3, gt=0, le=1.0)
    """At the start; falls to zero along a cosine."""
    weight_decay: float = Field(default=1e-3, ge=0, le=1.0)
    input_noise: float = Field(default=0.02, ge=0, le=1.0)
    """Standard deviation of the noise added to inputs, which are of the order of 1."""
    dropout: float = Field(default=0.0, ge=0, lt=1.0)
    huber_delta: float = Field(default=0.3, gt=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    """Share of the running mean of the weights that stays at each iteration; the mean acts. 0: the weights themselves act."""
    checkpoint_every: int = Field(default=250, ge=1)
    patience: int = Field(default=8, ge=1)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Strict):
    """The price file."""

    path: Path
    price_column: str
    forecast_columns: tuple[str, ...] = ()
    """Forecasts whose mean is planned on; only with hourly_reveal."""
    opinion_columns: tuple[str, ...] = ()
    """Forecasts whose disagreement is a feature; the ones above when left out."""
    eur_per_kwh: float = Field(default=1e-3, gt=0)
    """EUR/kWh of the file's unit; 0.001 for EUR/MWh."""


class SplitConfig(_Strict):
    """By dates, or the first half and the last days of it."""

    train_from: date | None = None
    validate_from: date | None = None
    validate_until: date | None = None
    """What comes after is the test, and is not looked at."""
    half: bool = False
    validation_days: int = Field(default=60, ge=7)

    @model_validator(mode="after")
    def _one_way(self) -> SplitConfig:
        dates = [self.train_from, self.validate_from, self.validate_until]
        if self.half == any(item is not None for item in dates) or (not self.half and None in dates):
            raise ValueError("either half: true, or train_from, validate_from and validate_until")
        known = [item for item in dates if item is not None]
        if any(b <= a for a, b in pairwise(known)):
            raise ValueError("train_from, validate_from, validate_until must rise: periods must not overlap")
        return self


class PlantConfig(_Strict):
    """The store. The defaults are 1 MW, 2 MWh, 5 EUR per MWh delivered."""

    capacity_wh: float = Field(default=2e6, gt=0)
    power_w: float = Field(default=1e6, gt=0)
    round_trip: float = Field(default=0.9025, gt=0, le=1)
    wear_eur_per_kwh: float = Field(default=0.005, ge=0)
    charge_steps: int = Field(default=19, ge=1, le=1000)


class ValueConfig(_Strict):
    """A training of the energy-value network. Unknown keys are refused."""

    algorithm: str = Field(default="energy_value", pattern="^energy_value$")
    name: str
    information: Information
    data: DataConfig
    split: SplitConfig
    plant: PlantConfig = PlantConfig()
    fit: FitSettings = FitSettings()
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, max_length=20)
    """One network each; their mean is what acts."""
    stride: int = Field(default=1, ge=1)
    """Every so many steps are learned from; neighbours of short steps are alike."""
    rounds: int = Field(default=0, ge=0, le=20)
    """Policy improvements after learning from hindsight: each learns what energy was worth to one who acted by the networks."""
    memory_years: float | None = Field(default=None, gt=0)
    """Training steps are drawn by exp(-age / memory_years): recent ones count more; all alike when left out."""
    clock_hours: bool = False
    """Features by clock hours (policies.learned.layout, `energy-value-unforecast/2`); only with no_forecast."""
    chemistries: tuple[Chemistry, ...] = tuple(Chemistry)

    @model_validator(mode="after")
    def _clock_hours_without_forecast(self) -> ValueConfig:
        if self.clock_hours and self.information != "no_forecast":
            raise ValueError("clock_hours: only with information: no_forecast")
        return self


def parse_value_config(values: Mapping[str, Any], source: str) -> ValueConfig:
    """Raises InputError naming the key, its value and what was expected."""
    try:
        return ValueConfig.model_validate(dict(values))
    except PydanticError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        known: dict[str, type[BaseModel]] = {"data": DataConfig, "split": SplitConfig, "plant": PlantConfig, "fit": FitSettings}
        model = known.get(str(first["loc"][0]), ValueConfig) if len(first["loc"]) > 1 else ValueConfig
        hint = nearest(str(first["loc"][-1]), list(model.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise InputError(source=source, field=field, value=first.get("input"), expected=first["msg"] + hint) from None
