"""A training config from a YAML file and `--set key=value`, with errors that name file and line, or the override.

Here: which model a file is (by `algorithm`), overrides, lines, the checks across keys that a line can be named for. Not here: the
models (training.rl_config, training.value_config, training.chain_config).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from core.errors import InputError, nearest
from core.yamlconfig import parse_model
from training.chain_config import ChainConfig
from training.rl_config import AnyRlConfig, PpoConfig, SacConfig
from training.value_config import ValueConfig

MODELS: dict[str, type[BaseModel]] = {"ppo": PpoConfig, "sac": SacConfig, "energy_value": ValueConfig, "load_chain": ChainConfig}
AnyConfig = AnyRlConfig | ValueConfig | ChainConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a config's values were written."""

    file: str
    text: str
    overridden: tuple[str, ...] = ()
    """Keys that an override set."""

    def of(self, key: str) -> str:
        """`file:line` of a dotted key, or of the deepest part of it that is written; or the override that set it."""
        for given in self.overridden:
            if key == given or key.startswith(f"{given}.") or given.startswith(f"{key}."):
                return f"--set {given}"
        node = yaml.compose(self.text, Loader=yaml.SafeLoader)
        line, parts = 1, key.split(".")
        while parts:
            # A key may hold dots itself: the longest that is written counts.
            written = {str(pair[0].value): pair for pair in getattr(node, "value", []) if isinstance(pair, tuple)}
            taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in written), 0)
            if not taken:
                break
            name, node = written[".".join(parts[:taken])]
            line, parts = name.start_mark.line + 1, parts[taken:]
        return f"{self.file}:{line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A config, where it was written, and its values as they stand (with overrides), to be written beside a run."""

    config: AnyConfig
    origin: Origin
    values: Mapping[str, Any]
    overrides: tuple[str, ...] = ()
    """As they were given."""


def read_config(path: Path, overrides: Iterable[str] = ()) -> Read:
    """Raises InputError naming file, line, key, value and what was expected; for an override, the override."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(source=str(path), field="config", value=why, expected="a readable YAML file") from None
    return parse_config(text, str(path), overrides)


def parse_config(text: str, source: str, overrides: Iterable[str] = ()) -> Read:
    """As `read_config`, from the file's text."""
    origin = Origin(file=source, text=text)
    config = _of_file(text, source)
    values: dict[str, Any] = yaml.safe_load(text)
    texts = tuple(overrides)
    given = [_override(one) for one in texts]
    if given:
        for key, value in given:
            _put(values, key, value)
        origin = Origin(file=source, text=text, overridden=tuple(key for key, _ in given))
        config = _of_values(values, origin)
    check_split(config, origin)
    return Read(config=config, origin=origin, values=values, overrides=texts)


def check_split(config: AnyConfig, origin: Origin) -> None:
    """Raise InputError at the line of the part of the split that leaks into another."""
    if isinstance(config, ValueConfig):
        return  # by rising dates, which its own model checks
    try:
        config.split.periods(config.data.timezone)
    except InputError as error:
        name = error.field if error.field in ("train", "validation", "test") else "train"
        raise InputError(
            source=origin.of(f"split.{name}"), field=f"split.{name}", value=error.value, expected=error.expected
        ) from None


def _of_file(text: str, source: str) -> AnyConfig:
    found = parse_model(text, source, _Any)
    name = found.algorithm
    model = MODELS.get(str(name))
    if model is None:
        line = Origin(file=source, text=text).of("algorithm")
        near = nearest(str(name), list(MODELS)).replace("known keys", "known are")
        raise InputError(source=line, field="algorithm", value=name, expected="an algorithm" + near)
    try:
        config: AnyConfig = parse_model(text, source, model)  # type: ignore[assignment]
    except InputError as error:
        if error.field != "document":
            raise
        # A check across keys has no place of its own: its text begins with the key that it is about.
        about, _, expected = error.expected.partition(": ")
        where = Origin(file=source, text=text).of(about)
        raise InputError(source=where, field=about, value=error.value, expected=expected or error.expected) from None
    return config


class _Any(BaseModel):
    """A first look, for the algorithm alone."""

    algorithm: Any = None


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip() or "" in key.strip().split("."):
        raise InputError(source="command line", field="--set", value=text, expected="KEY=VALUE, as ppo.gamma=0.98")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(source=f"--set {key}", field=key, value=value, expected="a value as YAML has it") from None


def _put(values: dict[str, Any], key: str, value: Any) -> None:  # noqa: ANN401 - whatever YAML holds
    *parents, last = key.split(".")
    inner: Any = values
    for part in parents:
        inner = _child(inner, part, key, make=True)
    if isinstance(inner, list):
        inner[_place(inner, last, key)] = value
    else:
        inner[last] = _number(value)


def _child(inner: Any, part: str, key: str, *, make: bool) -> Any:  # noqa: ANN401
    if isinstance(inner, list):
        return inner[_place(inner, part, key)]
    found = inner.get(part)
    if found is None and make:
        found = inner[part] = {}
    if not isinstance(found, dict | list):
        raise InputError(source=f"--set {key}", field=part, value=found, expected="a key that holds others")
    return found


def _place(inner: list[Any], part: str, key: str) -> int:
    if not part.isdigit() or int(part) >= len(inner):
        raise InputError(source=f"--set {key}", field=part, value=part, expected=f"a place from 0 to {len(inner) - 1}")
    return int(part)


def _number(value: Any) -> Any:  # noqa: ANN401
    """1e-3 is a number on a command line, though YAML calls it text."""
    if isinstance(value, str) and value[:1].isdigit():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _of_values(values: Mapping[str, Any], origin: Origin) -> AnyConfig:
    name = values.get("algorithm")
    model = MODELS.get(str(name))
    if model is None:
        near = nearest(str(name), list(MODELS)).replace("known keys", "known are")
        raise InputError(source=origin.of("algorithm"), field="algorithm", value=name, expected="an algorithm" + near)
    try:
        config: AnyConfig = model.model_validate(values)  # type: ignore[assignment]
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
        first = faults[0]
        field = ".".join(str(part) for part in first["loc"])
        expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        if first["type"] == "extra_forbidden":
            expected = "a known key" + nearest(str(first["loc"][-1]), _known(model, first["loc"][:-1]))
        value = "this combination" if isinstance(first.get("input"), Mapping | BaseModel) else first.get("input")
        about = field
        if not field and ": " in expected:  # a check across keys: its text begins with the key that it is about
            about, _, expected = expected.partition(": ")
        raise InputError(source=origin.of(about), field=about or "config", value=value, expected=expected) from None
    return config


def _known(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: type[BaseModel] = model
    for part in location:
        info = current.model_fields.get(str(part))
        if info is None:
            continue
        for candidate in (info.annotation, *getattr(info.annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                current = candidate
                break
    return list(current.model_fields)
