"""Real chat templates, where they are at hand: all of them in the shapes that are read fastest.

`python -m tests.reading` reads them in all shapes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.data import TEMPLATES
from tests.reading.check import REFUSED, Check, engine_with, tokenizer_with
from tests.reading.shapes import SHAPES

GIVEN = sorted(TEMPLATES.glob("*.jinja"))
pytestmark = pytest.mark.skipif(not GIVEN, reason="needs templates/*.jinja in ../shared/data or $KV_MEMORY_DATA")
FIRST = ("system first", "one call")
"""Shapes that every test run reads; `KV_MEMORY_SHAPES=all` reads all of them."""
NAMES = list(SHAPES) if os.environ.get("KV_MEMORY_SHAPES") == "all" else FIRST


@pytest.mark.parametrize("path", GIVEN, ids=lambda path: path.stem)
def test_the_cells_are_what_the_template_writes(path: Path) -> None:
    check = Check(engine_with(tokenizer_with(path.read_text(encoding="utf-8"))))
    for name in NAMES:
        if check.whole(SHAPES[name]) != REFUSED:
            check.growing(SHAPES[name])
