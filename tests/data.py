"""Where the data lies that tests read if it is at hand; it is no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(os.environ.get("KV_MEMORY_DATA") or Path(__file__).parents[2] / "shared" / "data")
TEMPLATES = FOLDER / "templates"
