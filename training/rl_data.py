"""The data set that a reinforcement-learning config names: files found, read, put on one grid, split by year.

Here: finding and reading, with errors at the config's line. Not here: obtaining data (`pulsebms data fetch`), stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError
from core.series import Series
from envs.data import DataSet, Exogenous, PartName
from envs.read import read_series
from training.config_file import Origin
from training.rl_config import AnyRlConfig


def find_file(path: Path, folders: Sequence[Path], origin: Origin, key: str) -> Path:
    """Where a config's file lies. InputError at the config's line when it is nowhere."""
    tried = [path] if path.is_absolute() else [folder / path for folder in folders]
    for candidate in tried:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(candidate.parent) for candidate in tried)
    raise InputError(
        source=origin.of(key), field=key, value=str(path),
        expected=f"a file; it is not in {places} (`pulsebms data fetch` obtains nl_day_ahead.csv)",
    )  # fmt: skip


def with_files(config: AnyRlConfig, folders: Sequence[Path], origin: Origin) -> AnyRlConfig:
    """The config with every file's absolute path. InputError when one is not there."""
    data = config.data
    found = {
        name: file.model_copy(update={"path": find_file(file.path, folders, origin, f"data.{name}.path").resolve()})
        for name, file in data.files().items()
    }
    return config.model_copy(update={"data": data.model_copy(update=found)})


def read_data(config: AnyRlConfig, origin: Origin) -> DataSet:
    """All of the data with its split. InputError for a file that cannot be read, or a part of which it holds nothing."""
    data = config.data
    read: dict[str, Series] = {
        name: read_series(
            file.path, file.column, name, time=file.time, scale=file.scale, zone=file.zone, most_missing=file.most_missing
        )
        for name, file in data.files().items()
    }
    given = {name: read[name] for name in ("load", "pv", "price_forecast") if name in read}
    exogenous = Exogenous.from_series(
        read["price"], dt_s=data.dt_s, timezone=data.timezone, ambient=read.get("ambient", 15.0), **given
    )
    made = DataSet(exogenous=exogenous, split=config.split.periods(data.timezone))
    used: tuple[PartName, ...] = ("train", "validation")
    for name in used:
        try:
            made.part(name)
        except InputError as error:
            key = f"split.{name}"
            raise InputError(source=origin.of(key), field=key, value=error.value, expected=error.expected) from None
    return made
