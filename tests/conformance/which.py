"""Which models a suite runs on: a representative of each kind in the tests, all in `make nightly`."""

from __future__ import annotations

import os
from collections.abc import Iterable


def models(every: Iterable[str], *representative: str) -> tuple[str, ...]:
    """Return the models to run on, the representative ones first: tests of what is the same for all take the first."""
    others = [name for name in every if name not in representative]
    return (*representative, *others) if os.environ.get("KV_MEMORY_ALL_MODELS") else representative
