"""A text classifier as a detector."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from kv_memory.errors import PolicyError


class Classifier:
    """A transformers text-classification pipeline as a detector for `FlaggedContent`.

    ```python
    FlaggedContent(Classifier(transformers.pipeline("text-classification", model=PATH), ["INJECTION"]))
    ```

    `labels`: the labels that flag a text. A text longer than `window` characters is classified in windows that overlap
    by half, since a classifier cuts off text that is too long for it; its score is the highest of its windows' scores.
    """

    def __init__(self, pipeline: Callable[..., Any], labels: Collection[str], *, window: int = 1000) -> None:
        self._pipeline = pipeline
        self._labels = frozenset(labels)
        self._window = window

    def __call__(self, text: str) -> float:
        """Return the highest score of these labels, 0 to 1. Raises PolicyError if the classifier has none of them."""
        step = max(1, self._window // 2)
        starts = range(0, max(1, len(text) - self._window + step), step)
        windows = [text[start : start + self._window] for start in starts]
        scored = [score for scores in self._pipeline(windows, top_k=None, truncation=True) for score in scores]
        known = {score["label"] for score in scored}
        if not known & self._labels:
            raise PolicyError(
                f"The classifier has none of the labels {', '.join(sorted(self._labels))}; it has "
                f"{', '.join(sorted(known))}."
            )
        return max(float(score["score"]) for score in scored if score["label"] in self._labels)
