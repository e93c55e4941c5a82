"""Warnings that point at the user's line, however many calls of libraries lie between."""

from __future__ import annotations

import sys
import warnings

_LIBRARIES = ("kv_memory", "langchain_kv_memory", "langchain_core", "langchain", "langgraph", "concurrent")


def warn(message: str) -> None:
    """Warn at the line of the innermost caller that is in none of these libraries."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
