"""The nightly command: `python -m tests.reading FOLDER`.

Reads every chat template (`*.jinja`) of a folder in every shape, and writes a row for each template to
benchmarks/results/templates.json. With `--vocabularies FOLDER` whole conversations are also read with real
vocabularies: GGUF files, or folders of a tokenizer.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, see tests/conftest.py

from benchmarks import record
from tests.reading.check import MAPPED, REFUSED, RIGHT
from tests.reading.running import WRONG, read
from tests.reading.shapes import SHAPES


def main() -> None:
    """Read the templates and write the result; exits with 1 where a text is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.reading", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabularies", type=Path)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    paths = sorted(given.folder.glob("*.jinja"))
    vocabularies = sorted(given.vocabularies.iterdir()) if given.vocabularies else []
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        rows = list(pool.map(read, paths))
        real = [
            {
                "vocabulary": vocabulary.stem,
                "templates": len(paths),
                **_sum(pool.map(read, paths, [vocabulary] * len(paths))),
            }
            for vocabulary in vocabularies
        ]
    right = sum(not row.get(WRONG) and not row.get("tokens") for row in rows)
    whole = {
        **record.environment(0),
        "shapes": list(SHAPES),
        "templates": len(paths),
        "templates_right": right,
        "total": _sum(rows),
        "rows": rows,
        "vocabularies": real,
    }
    record.save("templates", whole)
    print(f"{right} of {len(paths)} templates are right: {whole['total']}")
    sys.exit(right < len(paths))


def _sum(rows: Any) -> dict[str, int]:
    total = Counter[str]()
    for row in rows:
        total.update({kind: row.get(kind, 0) for kind in (RIGHT, MAPPED, REFUSED, "tokens", WRONG)})
    return dict(total)


if __name__ == "__main__":
    main()
