"""The name of the argument in which a model of transformers takes its cache.

`past_key_values` for most of version 5, `cache` in its newer releases, which warn at the old name and will refuse it.
The model is asked, not the version: one whose code comes with its weights keeps the name that it was written with.
"""

from __future__ import annotations

import inspect
from collections.abc import Container
from typing import Any


def cache_argument(model: Any) -> str:
    """Return the name of the cache's argument in calls of this model, which may be wrapped by PEFT."""
    called = model.get_base_model() if hasattr(model, "get_base_model") else model
    return cache_name(inspect.signature(called.forward).parameters)


def cache_name(names: Container[str]) -> str:
    """Return which of the two names is among these: a function's parameters, or the keywords it was given."""
    return "cache" if "cache" in names else "past_key_values"
