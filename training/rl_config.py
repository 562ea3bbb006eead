"""Configs of reinforcement learning, frozen, unknown keys refused: algorithm, environment, data, split, schedules, network.

Here: the models and the checks that need nothing else. Not here: reading a file, overrides and lines (training.config_file), data
(training.rl_data). Every field's default is a sensible one; configs/rl holds examples.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from core.yamlconfig import ConfigModel, Number, Whole
from envs.config import EnvConfig
from envs.data import Period, Split
from training.schedule import Scheduled, parse_schedule

SHORTEST_BASE_S = 900.0
"""Step of an environment with a base: a quarter hour of seven years is some 400 MB, its work grows with the square."""
Activation = Literal["relu", "tanh", "silu"]


def _years(value: object) -> object:
    """2022, [2015, 2016] or "2015-2021"."""
    if isinstance(value, str):
        first, dash, last = value.partition("-")
        if dash and first.strip().isdigit() and last.strip().isdigit() and int(first) <= int(last) <= int(first) + 200:
            return tuple(range(int(first), int(last) + 1))
        raise ValueError("a year, a list of years, or the first and the last one as 2015-2021")
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Years = Annotated[tuple[Annotated[Whole, Field(ge=1900, le=2200)], ...], BeforeValidator(_years), Field(min_length=1)]
Positive = Annotated[Number, Field(gt=0.0)]
Share = Annotated[Number, Field(ge=0.0, le=1.0)]
Count = Annotated[Whole, Field(ge=1)]


class SeriesFile(ConfigModel):
    """One column of a CSV file (also .gz): see envs.read.read_series."""

    path: Path
    """Absolute, or looked for in the working directory and then among the data sets of the data directory."""
    column: str
    scale: Positive = 1.0
    """From the file's unit to EUR/kWh, W or deg C; 0.001 for EUR/MWh."""
    time: str = ""
    """Column of the stamps; the first one when left out."""
    zone: str | None = None
    """Whose clock stamps without an offset show."""
    most_missing: Annotated[Whole, Field(ge=0, le=12)] = 2
    """Missing steps in a row that are filled linearly."""

    @field_serializer("path")
    def _text(self, path: Path) -> str:
        return str(path)


class DataConfig(ConfigModel):
    """Series of the environment. What is absent is none: no load, no PV, 15 deg C."""

    price: SeriesFile
    price_forecast: SeriesFile | None = None
    load: SeriesFile | None = None
    pv: SeriesFile | None = None
    ambient: SeriesFile | None = None
    dt_s: Annotated[Number, Field(ge=60.0, le=3600.0)] = 900.0
    timezone: str = "Europe/Amsterdam"

    def files(self) -> dict[str, SeriesFile]:
        """Those that are there, by name."""
        given = {name: getattr(self, name) for name in ("price", "price_forecast", "load", "pv", "ambient")}
        return {name: file for name, file in given.items() if file is not None}


class SplitYears(ConfigModel):
    """Calendar years of the data's zone. Test years are not looked at: they are named so that nothing else may hold them."""

    train: Years
    validation: Years
    test: Years

    def periods(self, timezone: str) -> Split:
        """Raises InputError when a year is in two parts or a part has a gap."""
        parts = (Period.of_years(years, timezone) for years in (self.train, self.validation, self.test))
        train, validation, test = parts
        return Split(train=train, validation=validation, test=test)


class EnvSection(ConfigModel):
    """The environment: which, how many side by side, and what it is made of."""

    kind: Literal["pack", "site"] = "pack"
    num_envs: Annotated[Whole, Field(ge=1, le=65_536)] = 1024
    threads: Annotated[Whole, Field(ge=1, le=64)] = 1
    config: EnvConfig = EnvConfig()

    @model_validator(mode="after")
    def _one_pack(self) -> EnvSection:
        if self.kind == "pack" and len(self.config.packs) != 1:
            raise ValueError(f"one pack, or kind: site (there are {len(self.config.packs)} packs)")
        return self


class NetworkConfig(ConfigModel):
    """Actor and critic: perceptrons of the same widths, apart."""

    hidden: Annotated[tuple[Annotated[Whole, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=8)] = (64, 64)
    activation: Activation = "relu"

    @field_validator("hidden", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


class ValidationConfig(ConfigModel):
    """How checkpoints are judged: by money on the validation years, without exploration."""

    every_steps: Count = 1_000_000
    patience: Count = 8
    """Validations without a better one that end the training."""
    envs: Annotated[Whole, Field(ge=1, le=4096)] = 104
    """Stretches, evenly over the validation years, each at one of the sites."""
    days: Annotated[Whole, Field(ge=1, le=370)] = 28
    sites: Annotated[Whole, Field(ge=1, le=1024)] = 26
    """Drawn from the environment's ranges, by another seed than those of the training."""


class CheckpointConfig(ConfigModel):
    """A kill loses at most this many steps."""

    every_steps: Count = 1_000_000


class BaseConfig(ConfigModel):
    """What an actor is added to (a residual, docs/hybrid.md); an environment without it takes the actor's action as it is."""

    policy: Literal["mpc"] = "mpc"
    """The MPC with a linear plant, as a table over time and state of charge (training.rl_base)."""
    share: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.3
    """Of rated power by which the actor may shift what the MPC decides."""
    horizon_hours: Annotated[Whole, Field(ge=2, le=48)] = 24
    """Of the plan, as a policy row's."""
    terminal_value_share: Annotated[Number, Field(ge=0.0, le=1.5)] = 0.9
    """Energy left at its end is worth this share of the horizon's mean price, as in policies.mpc.MpcConfig."""


class Tuned(ConfigModel):
    """What a key is drawn from: `choices`, or a range."""

    low: Number | Whole | None = None
    high: Number | Whole | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    text: str = "{}"
    """How the number is written into the key: lin_{} makes a schedule of it."""

    @field_validator("choices", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _either(self) -> Tuned:
        ranged = self.low is not None and self.high is not None
        if ranged == bool(self.choices):
            raise ValueError("either choices, or low and high")
        if ranged and not (self.low or 0) < (self.high or 0):
            raise ValueError(f"low below high (they are {self.low} and {self.high})")
        if ranged and self.log and not (self.low or 0) > 0:
            raise ValueError("low above 0 where log is true")
        if "{}" not in self.text:
            raise ValueError("text with {} where the number goes")
        return self


class TuningConfig(ConfigModel):
    """`pulsebms tune`: what is searched and how."""

    pruner: Literal["median", "hyperband"] = "median"
    warmup_validations: Annotated[Whole, Field(ge=0)] = 2
    """Before which no trial is ended (median)."""
    space: Annotated[dict[str, Tuned], Field(min_length=1)]
    """By dotted key of the config, as in --set."""


class RlConfig(ConfigModel):
    """What both algorithms share."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    env: EnvSection = EnvSection()
    data: DataConfig
    split: SplitYears
    steps: Count
    """Of all environments together."""
    network: NetworkConfig = NetworkConfig()
    base: BaseConfig | None = None
    """With it the actor is a residual on the MPC, and the artefact is of kind `residual` (HYBRID)."""
    seeds: Annotated[tuple[Annotated[Whole, Field(ge=0, lt=2**31)], ...], Field(min_length=1, max_length=64)] = (0,)
    validation: ValidationConfig = ValidationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    device: Literal["cpu"] = "cpu"
    """The networks are small: a GPU would wait for the environments."""
    tuning: TuningConfig | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _distinct(self) -> RlConfig:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds: each once (they are {list(self.seeds)})")
        return self

    @model_validator(mode="after")
    def _base_fits(self) -> RlConfig:
        if self.base is None:
            return self
        fees = [name for name, value in self.env.config.tariff.model_dump().items() if value != 0.0]
        if fees or self.env.config.grid.peak_price_eur_per_kw:
            what = f"env.config.tariff.{fees[0]}" if fees else "env.config.grid.peak_price_eur_per_kw"
            raise ValueError(
                f"base: an environment where the price is all that counts: its table knows no fee and no peak ({what})"
            )
        if self.data.price_forecast is not None:
            raise ValueError("base: no data.price_forecast: a dispatcher has no forecasts beside published prices")
        if self.data.dt_s < SHORTEST_BASE_S:
            raise ValueError(f"base: data.dt_s of {SHORTEST_BASE_S:g} s or more: the table of shorter steps takes gigabytes")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A config without a base is written, and hashed, as before there was one."""
        said: dict[str, Any] = handler(self)
        return said if said.get("base") is not None else {key: value for key, value in said.items() if key != "base"}


class PpoSettings(ConfigModel):
    """Schulman et al., arXiv 1707.06347."""

    learning_rate: Scheduled = parse_schedule("lin_7e-4")
    n_steps: Annotated[Whole, Field(ge=2, le=65_536)] = 64
    """Steps of each environment between updates."""
    batch_size: Annotated[Whole, Field(ge=2)] = 4096
    n_epochs: Annotated[Whole, Field(ge=1, le=100)] = 2
    gamma: Share = 0.99
    gae_lambda: Share = 0.95
    clip_range: Scheduled = parse_schedule(0.2)
    ent_coef: Annotated[Number, Field(ge=0.0)] = 0.0
    vf_coef: Annotated[Number, Field(ge=0.0)] = 0.5
    max_grad_norm: Positive = 0.5
    target_kl: Positive | None = None
    log_std_init: Annotated[Number, Field(ge=-10.0, le=2.0)] = 0.0


class SacSettings(ConfigModel):
    """Haarnoja et al., arXiv 1801.01290, with a learned temperature."""

    learning_rate: Scheduled = parse_schedule(1e-3)
    buffer_size: Annotated[Whole, Field(ge=1000, le=20_000_000)] = 300_000
    learning_starts: Annotated[Whole, Field(ge=1)] = 10_000
    """Steps of random actions."""
    batch_size: Annotated[Whole, Field(ge=2)] = 512
    tau: Annotated[Number, Field(gt=0.0, le=1.0)] = 0.005
    gamma: Share = 0.99
    train_freq: Count = 1
    """Steps of each environment between updates."""
    gradient_steps: Count = 2
    """Updates then. One an environment step would be exact and slow: some 100 a second on a core."""
    ent_coef: Positive | Literal["auto"] = "auto"


class PpoConfig(RlConfig):
    """`algorithm: ppo`."""

    algorithm: Literal["ppo"]
    ppo: PpoSettings = PpoSettings()

    @model_validator(mode="after")
    def _whole_batches(self) -> PpoConfig:
        rollout = self.ppo.n_steps * self.env.num_envs
        if rollout % self.ppo.batch_size:
            raise ValueError(f"ppo.batch_size: a divisor of ppo.n_steps x env.num_envs = {rollout} (it is {self.ppo.batch_size})")
        return self


class SacConfig(RlConfig):
    """`algorithm: sac`."""

    algorithm: Literal["sac"]
    sac: SacSettings = SacSettings()

    @model_validator(mode="after")
    def _consistent(self) -> SacConfig:
        least = 2 * self.env.num_envs
        if self.sac.buffer_size < least:
            raise ValueError(f"sac.buffer_size: two steps of all environments ({least}) or more (it is {self.sac.buffer_size})")
        if self.sac.learning_starts >= self.steps:
            raise ValueError(f"sac.learning_starts: below steps ({self.steps}; it is {self.sac.learning_starts})")
        return self


AnyRlConfig = PpoConfig | SacConfig
