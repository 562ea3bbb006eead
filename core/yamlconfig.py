"""YAML text into frozen pydantic models, with errors that name file, line, field, value and what was expected.

Here: `parse_model`, the base class of such models and the strict number types. Not here: reading files (serving),
what a site is (core.site).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.errors import InputError, nearest


class ConfigModel(BaseModel):
    """Base of all configuration: immutable, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite YAML number; neither text nor true/false (which YAML also spells yes/no/on/off)."""
Whole = Annotated[int, Field(strict=True)]
"""A YAML integer."""

Model = TypeVar("Model", bound=BaseModel)
_EXPECTED = {
    "missing": "a value: this key must be there",
    "float_type": "a number (YAML reads 1e3 as text; write 1000)",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "tuple_type": "a list",
    "list_type": "a list",
    "finite_number": "a finite number",
}


class _Loader(yaml.SafeLoader):
    """Safe loading without aliases: a configuration needs none, and nested ones can fill the memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not accepted", problem_mark=event.start_mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def parse_model(text: str, source: str, model: type[Model]) -> Model:
    """Parse `text` (named `source` in messages) into `model`.

    Raises InputError for the first fault, with its line and a count of the others; never another exception.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is not None:
                _refuse_duplicates(node, source, "")
            data = None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f":{mark.line + 1}"
        raise InputError(source=source + line, field="YAML", value=error.problem or "", expected="well-formed YAML") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise InputError(source=source, field="YAML", value=str(error), expected="well-formed YAML") from None
    except RecursionError:
        raise InputError(source=source, field="YAML", value="nesting", expected="fewer levels of nesting") from None
    if not isinstance(data, Mapping):
        raise InputError(source=source, field="document", value=data, expected="a mapping of keys to values")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _input_error(error, source, node, model) from None


def _refuse_duplicates(node: yaml.Node, source: str, path: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value)
            line = key.start_mark.line + 1
            if name in seen:
                raise InputError(
                    source=f"{source}:{line}",
                    field=path + name,
                    value=f"key repeated (first on line {seen[name]})",
                    expected="each key once",
                )
            seen[name] = line
            _refuse_duplicates(value, source, f"{path}{name}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _refuse_duplicates(item, source, f"{path}{index}.")


def _input_error(error: ValidationError, source: str, node: yaml.Node | None, model: type[BaseModel]) -> InputError:
    # A misspelt key is both unknown and missing: the unknown one says more.
    faults = sorted(error.errors(include_url=False), key=lambda fault: fault["type"] != "extra_forbidden")
    first = faults[0]
    location = first["loc"]
    kind = first["type"]
    value: object = first.get("input")
    if kind == "extra_forbidden":
        expected = "a known key" + nearest(str(location[-1]), _known_keys(model, location[:-1]))
    else:
        expected = _EXPECTED.get(kind) or _plain(first["msg"])
    if kind == "missing":
        value = None
    elif isinstance(value, BaseModel | Mapping):
        value = "this combination" if kind == "value_error" else value
    if len(faults) > 1:
        others = len(faults) - 1
        expected += f" (and {others} more {'fault' if others == 1 else 'faults'})"
    return InputError(
        source=f"{source}:{_line(node, location)}",
        field=".".join(str(part) for part in location) or "document",
        value=value,
        expected=expected,
    )


def _plain(message: str) -> str:
    for prefix in ("Value error, ", "Input should be ", "Assertion failed, "):
        message = message.removeprefix(prefix)
    return message


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> int:
    """Line of the deepest part of the path that exists."""
    line = 1 if node is None else node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            match = [(k, v) for k, v in node.value if str(k.value) == str(part)]
            if not match:
                break
            line, node = match[0][0].start_mark.line + 1, match[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the model that `location` leads to."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        info = current.model_fields.get(str(part))
        inner = None if info is None else _model_of(info.annotation)
        if inner is None:
            return []
        current = inner
    return list(current.model_fields)


def _model_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None
