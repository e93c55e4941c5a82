"""The settings that a chat model takes: one that would be ignored in silence is an error."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from kv_memory import is_trained_eraser

_OF_THE_MEMORY = (
    "model",
    "device",
    "dtype",
    "context_length",
    "checkpoint_mb",
    "checkpoint_device",
    "editable_tokens",
    "cache_tokens",
    "calibration",
    "policy",
    "audit",
    "heal",
)
"""Settings that a memory is made with: a ready one has its own."""
_IGNORED = frozenset(("api_key", "max_retries", "streaming", "timeout"))
"""Settings of remote models, which mean nothing here."""


def check_settings(owner: str, known: Collection[str], given: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting that is not known, or that a ready memory has already."""
    for name in sorted(set(given) - set(known) - _IGNORED):
        near = difflib.get_close_matches(name, known, 1)
        meant = f"did you mean {near[0]!r}?" if near else "help(ErasableChatModel) lists those that there are."
        raise ValueError(f"{owner} has no setting {name!r}; {meant}")
    if given.get("memory") is None:
        return
    eraser = given.get("eraser")
    trained = ["eraser"] if eraser is not None and is_trained_eraser(eraser) else []
    for name in [*(name for name in _OF_THE_MEMORY if given.get(name) is not None), *trained]:
        raise ValueError(f"A ready memory has its own {name}: leave {name}= away here, or give it to Memory().")
