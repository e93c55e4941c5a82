"""Rows made by hand."""

from __future__ import annotations

from typing import Any

from kv_memory.evaluation.baselines import CORRECTION, NEVER_SAW, NO_ERASE, OTHER_CHUNKS, REREAD
from kv_memory.evaluation.bench.rows import Row

FULL, HALF = "shift+influence", "shift"
"""Erasers of the rows: the first is the reference."""
TREATMENTS = (NEVER_SAW, OTHER_CHUNKS, NO_ERASE, CORRECTION, REREAD, FULL, HALF)


def row(case: str, treatment: str, kl: float, **given: Any) -> Row:
    """Make a row of a question of 100 tokens after a span of 20."""
    settings = {
        "suite": "documents",
        "conversation": case,
        "kind": "question",
        "groups": {},
        "tokens": 140,
        "erased": 20,
        "following": 100,
        "agrees": kl < 0.1,
        "seconds": 1.0,
        "recomputed": 0,
    }
    return Row(case=case, treatment=treatment, kl=kl, **(settings | given))


def case(name: str, full: float = 0.1, half: float = 0.5, nothing: float = 1.0, **given: Any) -> list[Row]:
    """Make the rows of a case, with the KL that the erasers and no erase leave."""
    noise, correction = given.pop("noise", 0.0), given.pop("correction", True)
    rows = [
        row(name, NEVER_SAW, 0.0, **given),
        row(name, OTHER_CHUNKS, noise, **given),
        row(name, NO_ERASE, nothing, **given),
        row(name, REREAD, 0.0, **given | {"recomputed": 120, "seconds": 2.0}),
        row(name, FULL, full, **given | {"recomputed": 25, "seconds": 0.5}),
        row(name, HALF, half, **given),
    ]
    return rows + [row(name, CORRECTION, 0.8, **given)] * correction


def told(rows: list[Row], **right: tuple[bool | None, bool | None]) -> list[Row]:
    """Return rows that say whether the answers are right and misled; of treatments that are not named, right."""
    names = {"never": NEVER_SAW, "nothing": NO_ERASE, "full": FULL, "half": HALF}
    known = {names[name]: found for name, found in right.items()}
    both = {row.treatment: known.get(row.treatment, (True, False)) for row in rows}
    return [r.model_copy(update=dict(zip(("right", "misled"), both[r.treatment], strict=True))) for r in rows]
