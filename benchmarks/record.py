"""The record of where figures come from, as every result file has it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kv_memory.evaluation.machine import hardware

RESULTS = Path(__file__).parent / "results"


def environment(seed: int) -> dict[str, Any]:
    """Return hardware, versions, commit and seed of this run."""
    return {
        "hardware": hardware(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "tokenizers")},
        "commit": commit(),
        "seed": seed,
    }


def save(name: str, result: dict[str, Any]) -> None:
    """Write a result file and say where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def begun(name: str, settings: dict[str, Any], sources: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the result file of this name, or an empty one if that has other settings, and which sources it lacks.

    Ends the program where it lacks none.
    """
    path = RESULTS / f"{name}.json"
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if {key: result.get(key) for key in settings} != settings:
        result = {**settings, "sources": {}}
    wanted = [source for source in sources if source not in result["sources"]]
    if not wanted:
        raise SystemExit(f"{path} has every source already: move it away to measure again, or give another --name.")
    return result, wanted


def source(result: dict[str, Any]) -> str:
    """Return an environment in words."""
    versions = result["versions"]
    return (
        f"{result['hardware']}, torch {versions['torch']}, transformers {versions['transformers']}, "
        f"commit {result['commit'][:9]}, seed {result['seed']}"
    )


def table(columns: Iterable[str], rows: Mapping[str, Iterable[str]], corner: str = "") -> list[str]:
    """Return the lines of a Markdown table, by the rows' names."""
    names = list(columns)
    lines = ["| " + " | ".join([corner, *names]).lstrip() + " |", "| --- |" + " --- |" * len(names)]
    return lines + [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """Return the commit that is checked out, or what GIT_COMMIT says of a copy."""
    if "GIT_COMMIT" in os.environ:
        return os.environ["GIT_COMMIT"]
    done = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", "HEAD"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"
