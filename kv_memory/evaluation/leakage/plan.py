"""The amount of measurement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Plan:
    """Sizes and seed of one run."""

    probes: int = 40
    """Canaries, orders, and conversations of each collection."""
    seed: int = 0
    data: Path | None = None
    """Folder with the collections of injections; without it they are left out."""

    @property
    def sessions(self) -> int:
        """Return the number of sessions with many erasures: each costs as much as ten canaries."""
        return -(-self.probes // 8)

    @property
    def echoes(self) -> int:
        """Return the number of echoes of each kind."""
        return -(-self.probes // 8)
