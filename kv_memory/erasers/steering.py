"""Settings of trained erasers: which one `steer` uses in an engine, and how it uses the adapter."""

from __future__ import annotations

from dataclasses import dataclass

from kv_memory.engines.base import Engine
from kv_memory.engines.parts import AdapterPass
from kv_memory.positions import Interval


@dataclass(frozen=True)
class Steering:
    """A trained eraser that is loaded: its adapter and the cells that this writes (KVEraser, arXiv 2606.17034)."""

    adapter: str
    """Name of the loaded LoRA, for `reencode`."""
    slots: int | None = None
    """Number of cells of a span that are steered; the others are removed. None: all are steered."""
    spread: bool = False
    """Whether the slots are spread evenly over the span; else they are its first cells."""
    sees_suffix: bool = False
    """Whether the slots attend to what is kept after the spans too, not only to what is before them."""
    token: int | None = None
    """Id of the token that every slot reads in place of its own, so that it cannot pass on what the span said."""
    closes: bool = False
    """Whether the gap that removed cells leave is closed: what follows a span moves up to its slots, which are its
    first cells."""

    def cells(self, start: int, end: int) -> list[Interval]:
        """Return the cells of a span that are steered, as intervals of positions, ascending and disjoint."""
        length = end - start
        count = length if self.slots is None else min(self.slots, length)
        if not self.spread or count == length:
            return [(start, start + count)]
        # each in the middle of its share of the span
        places = (start + (2 * slot + 1) * length // (2 * count) for slot in range(count))
        return [(place, place + 1) for place in places]


def steering_of(engine: Engine) -> Steering | None:
    """Return the trained eraser that `steer` uses, the one that `steer_with` was given last; None where there is
    none."""
    settings = reversed(engine.adapter_settings.values()) if isinstance(engine, AdapterPass) else ()
    return next((known for known in settings if isinstance(known, Steering)), None)


def steer_with(engine: AdapterPass, steering: Steering) -> None:
    """Let `steer` use this eraser from now on. Its adapter must be loaded already."""
    engine.adapter_settings.pop(steering.adapter, None)
    engine.adapter_settings[steering.adapter] = steering
