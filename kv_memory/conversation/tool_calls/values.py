"""JSON of tool calls, and values that other formats write as text. Whatever a model writes, nothing but ValueError is
raised."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

DEEPEST = 64
"""Most levels of lists and objects in the JSON of a call: templates and serializers recurse over them."""
MEMBERS = ("name", "arguments", "parameters", "function", "type", "id")
"""Members that the JSON of a call may have."""
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


class UnendedError(ValueError):
    """A text that is the beginning of a call, inside of one of its values."""


def decode(text: str, at: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at `at`, and where it ends.

    Strings may hold line breaks as they are. Raises ValueError for what is no JSON, a key that comes twice, and
    numbers that are none; UnendedError where the text ends within a string.
    """
    try:
        value, end = _DECODER.raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except json.JSONDecodeError as error:
        if in_string(text, at):
            raise UnendedError("its JSON has no end") from error
        ends = error.pos >= len(text.rstrip())
        raise ValueError("its JSON has no end" if ends else "it is not JSON") from error
    if _depth(value) > DEEPEST:
        raise ValueError("it is nested too deeply")
    return value, end


def in_string(text: str, at: int = 0) -> bool:
    """Return whether the JSON that begins at `at` ends within a string."""
    return '"' in _STRINGS.sub("", text[at:])


def call_of(value: Any) -> tuple[str, dict[str, Any]]:
    """Return name and arguments of the JSON of a call. Raises ValueError for a value that is none, or holds more.

    `parameters` may stand for `arguments`, which may be left out, null, or a string with their JSON. OpenAI's form,
    with both within `function`, is one too.
    """
    if not isinstance(value, Mapping):
        raise ValueError("it is not an object")
    unknown = [key for key in value if key not in MEMBERS]
    if unknown:
        raise ValueError(f"it has a member {unknown[0][:40]!r}, which calls have not")
    if "function" in value:
        outer = [key for key in value if key not in ("function", "type", "id")]
        if outer or not isinstance(value["function"], Mapping) or "function" in value["function"]:
            raise ValueError("its function is not an object with a name")
        return call_of(value["function"])
    if "arguments" in value and "parameters" in value:
        raise ValueError("it has both arguments and parameters")
    return name_of(value.get("name")), arguments_of(value.get("arguments", value.get("parameters")))


def name_of(value: Any) -> str:
    """Return the name of a tool; ValueError for what cannot be one."""
    if not isinstance(value, str) or not value.strip() or not _sound(value):
        raise ValueError("it has no name")
    return value


def arguments_of(value: Any) -> dict[str, Any]:
    """Return the arguments of a call: an object, null for none, or a string with the JSON of either."""
    if isinstance(value, str):
        text = value.strip()
        value, end = decode(text) if text else (None, 0)
        if end < len(text):
            raise ValueError("its arguments are a text that is not JSON")
    if value is not None and not isinstance(value, dict):
        raise ValueError("its arguments are not an object")
    return value or {}


def dumps(arguments: Mapping[str, Any]) -> str:
    """Return arguments as JSON that can be encoded as UTF-8."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text if _sound(text) else json.dumps(arguments)  # halves of surrogate pairs stay escaped


def typed(text: str, schema: Any) -> Any:
    """Return the value that a text stands for by the JSON schema of its parameter; the text where it fits no type."""
    written = text.strip()
    try:
        value, end = decode(_PYTHON_NAMES.get(written, written))
    except ValueError:
        return text
    whole = end == len(_PYTHON_NAMES.get(written, written))
    return value if whole and any(_fits(value, kind) for kind in _types(schema)) else text


def _fits(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return kind in _PYTHON_TYPES and isinstance(value, _PYTHON_TYPES[kind])


def _types(schema: Any) -> Sequence[str]:
    """Return the types that a schema allows."""
    if not isinstance(schema, Mapping):
        return ()
    given = schema.get("type")
    found = [given] if isinstance(given, str) else list(given) if isinstance(given, list) else []
    for key in ("anyOf", "oneOf"):
        choices = schema.get(key)
        found += [kind for choice in (choices if isinstance(choices, list) else ()) for kind in _types(choice)]
    return [kind for kind in found if isinstance(kind, str)]


_PYTHON_NAMES = {"True": "true", "False": "false", "None": "null"}
_PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "integer": int,
    "number": (int, float),
    "null": type(None),
    "object": dict,
    "array": list,
}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("one of its keys comes twice")
    return made


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("one of its numbers is too large")
    return value


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)


def _depth(value: Any) -> int:
    deepest, left = 0, [(value, 1)]
    while left:
        item, depth = left.pop()
        if isinstance(item, (dict, list)):
            deepest = max(deepest, depth)
            left += [(inner, depth + 1) for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _sound(text: str) -> bool:
    """Return whether a text can be encoded: it holds no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
