from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kv_memory.audit import AuditLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def log(path: Path) -> Iterator[AuditLog]:
    opened = AuditLog(path)
    yield opened
    opened.close()
