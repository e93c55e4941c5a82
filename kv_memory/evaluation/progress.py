"""The callback by which measurements report progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""A function that is called with what is being done, how much of it is done, and the total; 0 for an unknown total."""
