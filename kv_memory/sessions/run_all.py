"""Doing several things of which one may fail without costing the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def run_all(actions: Iterable[Callable[[], object]]) -> None:
    """Run every action, also after an error; raise the first error at the end."""
    errors: list[BaseException] = []
    for action in actions:
        try:
            action()
        except BaseException as error:  # raised below
            errors.append(error)
    if errors:
        raise errors[0]
