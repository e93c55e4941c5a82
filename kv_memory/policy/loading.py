"""Policy files: TOML and YAML as plain values, and what is wrong with the values in one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from kv_memory.errors import PolicyError

Location = tuple[int | str, ...]


def read_values(path: Path) -> dict[str, Any]:
    """Read the table of a policy file. Raises PolicyError where it cannot be read or holds no table."""
    if path.suffix not in (".toml", ".yaml", ".yml"):
        raise PolicyError(f"{path} is not a policy file by its name; it has to end in .toml, .yaml or .yml.")
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise PolicyError(f"{path} is not UTF-8 (byte {error.start}).") from error
    values = _toml(path, text) if path.suffix == ".toml" else _yaml(path, text)
    if not isinstance(values, dict):
        raise PolicyError(
            f"{path} holds no fields but a {type(values).__name__}; write them as name: value, one a line."
        )
    return values


def sentence(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """Describe the first field that is wrong: its name, its value, and what is allowed."""
    first, *more = error.errors(include_url=False, include_input=True)
    others = f" (and {len(more)} more)" if more else ""
    kind, where = first["type"], _path(first["loc"])
    if kind == "extra_forbidden":
        return f"{source}: {where} is not a field{others}; allowed there are {', '.join(_fields(model, first['loc']))}."
    if kind == "missing":
        return f"{source}: {where} is missing{others}."
    if kind == "union_tag_not_found":
        return f"{source}: {where}.rule is missing{others}; name one of {', '.join(_tags(model, first['loc']))}."
    if kind == "union_tag_invalid":
        given = first["ctx"]["tag"]
        return f"{source}: {where}.rule is {given!r}{others}; it has to be one of {first['ctx']['expected_tags']}."
    allowed = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "value_error":
        return f"{source}: {where or 'a value'} is wrong{others}: {allowed}"
    return f"{source}: {where or 'it'} is {_shown(first['input'])}{others}; it has to be {allowed}."


def _toml(path: Path, text: str) -> Any:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"{path} is not TOML: {error}.") from error


def _yaml(path: Path, text: str) -> Any:
    try:
        import yaml
    except ImportError as error:
        raise PolicyError(
            f"{path} needs PyYAML; install kv-memory[yaml], or write the policy as a .toml file."
        ) from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        place = " ".join(str(error).split())
        raise PolicyError(f"{path} is not YAML: {place}.") from error
    return {} if values is None else values


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path(location: Location) -> str:
    """Return a location as text: `retract[0].seconds` for ("retract", 0, "time_to_live", "seconds")."""
    path, tag = "", False
    for key in location:
        if isinstance(key, int):
            path, tag = f"{path}[{key}]", True
        elif key == "[key]":
            continue
        elif tag:
            tag = False
        else:
            path = f"{path}.{key}" if path else key
    return path


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]


def _tag(model: type[BaseModel]) -> str | None:
    """Return the name of the rule that a model holds the settings of, if any."""
    field = model.model_fields.get("rule")
    return get_args(field.annotation)[0] if field else None


def _at(model: type[BaseModel], location: Location) -> list[type[BaseModel]]:
    """Return the models that are allowed at a location."""
    models = [model]
    for key in location:
        tagged = [m for m in models if _tag(m) == key]
        holders = [m for m in models if key in m.model_fields]
        if tagged:
            models = tagged
        elif holders:
            models = _models(holders[0].model_fields[str(key)].annotation)
    return models


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    return list(_at(model, location[:-1])[0].model_fields)


def _tags(model: type[BaseModel], location: Location) -> list[str]:
    return [tag for tag in map(_tag, _at(model, location)) if tag]
