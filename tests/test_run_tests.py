"""scripts/run_tests.sh: both suites run and close the output, and it fails if either does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Stands in for an environment's Python, with which each suite would take minutes.
PYTHON = """#!/usr/bin/env bash
case "$PWD" in
    *langchain) echo "2 in the second suite"; exit "$SECOND" ;;
    *) echo "1 in the first suite"; exit "$FIRST" ;;
esac
"""


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (0, 1), (2, 5)])
def test_both_run_and_either_fails(tmp_path: Path, first: int, second: int) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "run_tests.sh", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FIRST": str(first), "SECOND": str(second)},
    )
    closing = ["tests: 1 in the first suite", "integrations/langchain/tests: 2 in the second suite"]
    assert done.stdout.splitlines()[-2:] == closing
    assert bool(done.returncode) == bool(first or second)
