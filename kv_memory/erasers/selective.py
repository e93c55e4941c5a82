"""Erasing by dropping the spans, then recomputing the tokens whose cells differ most without them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from kv_memory.engines.base import Engine, SequenceId
from kv_memory.engines.parts import CellEdit, Deviation
from kv_memory.erasers.base import Eraser, Erasure, drop_all, kept_after
from kv_memory.positions import Interval


class Selective(Eraser):
    """An eraser that drops the spans, then recomputes those of the kept tokens after them that deviate most in layer 1.

    `ratio`: the share of these tokens that is recomputed. The choice of tokens is CacheBlend's (arXiv 2405.16444,
    section 4.3: high KV deviation tokens, found in the first layers); there it blends chunks that were cached apart.
    Cost: a forward pass of all tokens after the first span through two layers, and of the chosen ones through all.
    """

    name: ClassVar[str] = "selective"
    needs: ClassVar[frozenset[str]] = frozenset({"deviation", "edit"})

    def __init__(self, ratio: float = 0.15) -> None:
        self.ratio = ratio

    def erase(
        self, engine: Engine, seq: SequenceId, spans: Sequence[Interval], approximate_from: int | None = None
    ) -> Erasure:
        """See Eraser.erase."""
        self.check(engine)
        assert isinstance(engine, CellEdit) and isinstance(engine, Deviation), "checked"
        suffix = kept_after(engine, seq, spans) if spans else []
        drop_all(engine, seq, spans)
        if not suffix:
            return Erasure(recomputed=0)
        best = engine.deviation(seq, suffix).topk(math.ceil(self.ratio * len(suffix))).indices.tolist()
        engine.reencode(seq, sorted(suffix[i] for i in best))
        return Erasure(recomputed=len(suffix))
