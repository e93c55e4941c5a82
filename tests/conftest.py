from __future__ import annotations

import os

# before torch is imported: threads that wait by spinning slow each other down when test workers share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data() -> Callable[[str], Path]:
    """Finds a file of the project's data; skips, saying which is missing."""
    folder = Path(os.environ.get("KV_MEMORY_DATA") or Path(__file__).parents[2] / "shared" / "data")

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"needs {name} in ../shared/data or $KV_MEMORY_DATA")
        return folder / name

    return find
