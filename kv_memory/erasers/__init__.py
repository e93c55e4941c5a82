"""Erasers: ways to take spans out of a cache, one a file, each with a name."""

from __future__ import annotations

from kv_memory.arguments import check
from kv_memory.erasers.base import Eraser, PartialRecompute
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.repair import Repair, ShiftRepair
from kv_memory.erasers.selective import Selective, ShiftSelective
from kv_memory.erasers.shift import Shift
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steer_influence import SteerInfluence
from kv_memory.erasers.steer_repair import SteerRepair
from kv_memory.errors import ArgumentError, KVMemoryError

ERASERS: dict[str, type[Eraser]] = {
    eraser.name: eraser
    for eraser in (
        Recompute,
        Drop,
        Shift,
        Repair,
        ShiftRepair,
        Selective,
        ShiftSelective,
        Influence,
        ShiftInfluence,
        Steer,
        SteerRepair,
        SteerInfluence,
    )
}
"""All erasers, by the names that method.md and the command line use."""


def get_eraser(eraser: str | Eraser) -> Eraser:
    """Return the eraser of this name with its default settings; an Eraser is returned as it is.

    A budget may follow the name: "shift+influence 10%", "repair 64" (see budget.py). Raises KVMemoryError for an
    unknown name, ArgumentError for a budget of no known form or after a name that takes none.
    """
    if isinstance(eraser, Eraser):
        return eraser
    check("eraser", eraser, str, f"the name of an eraser ({', '.join(ERASERS)}), or an Eraser")
    name, _, budget = eraser.strip().partition(" ")
    if name not in ERASERS:
        raise KVMemoryError(
            f"There is no eraser {eraser!r}; choose one of {', '.join(ERASERS)}, or the directory or hub id of a "
            "trained one."
        )
    kind = ERASERS[name]
    if not budget:
        return kind()
    if not issubclass(kind, PartialRecompute):
        raise ArgumentError(f"The eraser {name!r} takes no budget, since it chooses no tokens (given: {budget}).")
    return kind(budget)
