"""Names of the two baselines that every eraser is measured between."""

from __future__ import annotations

NO_ERASE = "no erase"
"""The cache with the span in it."""
NEVER_SAW = "never-saw"
"""A cache of the conversation without the span, read from the start."""
