"""Break one line of the library at a time, in a copy, and check that a test notices: `make mutants`.

Each mutant is a line that a guarantee rests on, a change that takes the guarantee away, and the tests that must fail
then. A mutant that survives, or whose line is no longer there, makes the command fail. Generic mutation testers change
every line in every way; these lines and changes are chosen, and the list is what a reviewer has to keep up to date.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutant_list import LANGCHAIN, MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Try the mutants, and return 1 if one survives."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="try only those whose description has one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    wanted = [m for m in MUTANTS if not given.words or any(word in m.what for word in given.words)]
    with ThreadPoolExecutor(given.jobs) as pool:
        survived = [mutant for mutant, died in zip(wanted, pool.map(_tried, wanted), strict=True) if not died]
    for mutant in survived:
        print(f"SURVIVED: {mutant.what} ({mutant.file})")
    print(f"{len(wanted) - len(survived)} of {len(wanted)} mutants were noticed.")
    return int(bool(survived))


def _tried(mutant: Mutant) -> bool:
    """Return whether a test fails on a copy with this change; print what happened."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv*", "results", "*.egg-info", ".*_cache")
        )
        file = copy / mutant.file
        text = file.read_text(encoding="utf-8")
        if text.count(mutant.line) != 1:
            print(f"{mutant.what}: the line is there {text.count(mutant.line)} times, update the list", flush=True)
            return False
        file.write_text(text.replace(mutant.line, mutant.change), encoding="utf-8")
        noticed = any(_fails(copy, test) for test in mutant.tests)
    print(f"{'noticed ' if noticed else 'SURVIVED'} {time.monotonic() - started:5.0f} s  {mutant.what}", flush=True)
    return noticed


def _fails(copy: Path, test: str) -> bool:
    inside = copy / LANGCHAIN if test.startswith(LANGCHAIN) else copy
    path = os.pathsep.join(map(str, (copy, copy / LANGCHAIN)))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", str((copy / test).relative_to(inside))]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=inside, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{test} did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


if __name__ == "__main__":
    sys.exit(main())
