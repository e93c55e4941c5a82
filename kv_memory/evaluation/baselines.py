"""What every eraser is measured between, by the names that all results give them."""

from __future__ import annotations

NO_ERASE = "no erase"
"""The cache with the span in it."""
NEVER_SAW = "never-saw"
"""A cache of the conversation without the span, read from the start."""
