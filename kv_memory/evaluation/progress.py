"""How long measurements say how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done and how much there is; 0 in all: nobody knows."""
