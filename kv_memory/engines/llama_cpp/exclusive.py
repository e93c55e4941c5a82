"""Mutual exclusion of an engine's calls: a llama.cpp context is not safe for threads and would end the process."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def exclusive(method: F) -> F:
    """Hold the engine's lock for a call of this method, which costs nothing where the caller holds it already."""

    @wraps(method)
    def locked(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(F, locked)
