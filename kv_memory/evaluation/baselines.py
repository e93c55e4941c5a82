"""Names of what every eraser is measured beside."""

from __future__ import annotations

NO_ERASE = "no erase"
"""The cache with the span in it."""
NEVER_SAW = "never-saw"
"""A cache of the conversation without the span, read from the start."""
CORRECTION = "correction in text"
"""The cache with the span in it, and a sentence before the question that says that the span is wrong."""
REREAD = "re-prefill"
"""The conversation without the span, read from the start once more: what deleting the text costs today."""
OTHER_CHUNKS = "never-saw, other chunks"
"""Never-saw read in passes of another size: what rounding alone changes."""
OTHER_DTYPE = "never-saw, other dtype"
"""Never-saw read by the same model in another dtype."""
