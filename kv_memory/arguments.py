"""Checks of arguments, for errors that say which argument it is and what it has to be."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from types import NoneType

from kv_memory.errors import ArgumentError


def check(name: str, given: object, kinds: type | tuple[type, ...], wanted: str) -> None:
    """Raise ArgumentError unless an argument is of one of these kinds; a bool is no number. `wanted`: they in words."""
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(given, allowed) or (isinstance(given, bool) and bool not in allowed):
        raise ArgumentError(f"{name} is {wanted}; got {shown(given)}.")


def check_function(name: str, given: object, *, optional: bool = True) -> None:
    """Raise ArgumentError unless an argument can be called; with `optional` it may be None too."""
    if not callable(given) and not (optional and given is None):
        raise ArgumentError(f"{name} is a function{', or None' if optional else ''}; got {shown(given)}.")


def tools_as_json(given: object) -> str:
    """Return tools as JSON. Raises ArgumentError for what is no list of tools, or holds what is no JSON."""
    check("tools", given, (list, tuple, NoneType), "a list of tools in OpenAI's format, or None")
    try:
        return json.dumps(given, sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        raise ArgumentError(
            "tools holds what is no JSON: a set, an object, a key that is no text beside ones that are, or too many "
            "levels; give each tool as a JSON schema."
        ) from None


def check_names(given: Iterable[str], known: Collection[str], wanted: str) -> None:
    """Raise ArgumentError for a keyword argument that is not among the `known` ones; `wanted`: what they are."""
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise ArgumentError(f"There is no {wanted} {unknown}; known are {', '.join(known)}.")


def check_flag(name: str, given: bool) -> bool:
    """Return an argument. Raises ArgumentError unless it is True or False: a text such as "no" would count as true."""
    check(name, given, bool, "True or False")
    return given


def check_session_id(given: object) -> None:
    """Raise ArgumentError unless an argument can be the id of a session."""
    check("A session id", given, str, "a text, such as 'thread-1'")


def shown(given: object) -> str:
    """Return a wrong argument for an error: a number, True, False or None, else its type; no text of a message."""
    plain = given is None or isinstance(given, (bool, int, float))
    return repr(given) if plain else f"a value of type {type(given).__name__}"
