"""Real chat templates, where they are at hand: all of them in the shapes that are read fastest.

`python -m tests.reading` reads them in all shapes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.reading.check import REFUSED, Check, engine_with, tokenizer_with
from tests.reading.shapes import SHAPES

FOLDER = Path(os.environ.get("KV_MEMORY_DATA", Path(__file__).parents[3] / "shared" / "data")) / "templates"
TEMPLATES = sorted(FOLDER.glob("*.jinja"))
pytestmark = pytest.mark.skipif(not TEMPLATES, reason="needs templates/*.jinja in ../shared/data or $KV_MEMORY_DATA")
FIRST = ("system first", "one call")
"""Shapes that every test run reads; `KV_MEMORY_SHAPES=all` reads all of them."""
NAMES = list(SHAPES) if os.environ.get("KV_MEMORY_SHAPES") == "all" else FIRST


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_cells_are_what_the_template_writes(path: Path) -> None:
    check = Check(engine_with(tokenizer_with(path.read_text(encoding="utf-8"))))
    for name in NAMES:
        if check.whole(SHAPES[name]) != REFUSED:
            check.growing(SHAPES[name])
