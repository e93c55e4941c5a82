"""Result files: what they say about where their figures come from, and how they are written.

What a run measured goes to runs/results/NAME.json, which git ignores; a run that goes on reads it from there. What the
tables and plots need of it goes to benchmarks/results/NAME.json, a row a line, rounded.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kv_memory.evaluation import machine

RESULTS = Path(__file__).parent / "results"
RAW = Path(__file__).parents[1] / "runs" / "results"
ROW = 320
"""Characters of a row, at most."""


def environment(seed: int) -> dict[str, Any]:
    """Return hardware, versions, commit and seed of this run."""
    return {
        "hardware": machine.hardware(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in ("torch", "transformers", "tokenizers")},
        "commit": commit(),
        "seed": seed,
    }


def save(name: str, result: dict[str, Any], shown: dict[str, Any] | None = None) -> None:
    """Write what was measured, and the summary that the tables and plots are made from; say where.

    `shown`: what the summary holds, where that is less than the whole result."""
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(row_a_line(rounded(result if shown is None else shown)) + "\n")
    print(f"wrote {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")


def earlier(name: str) -> dict[str, Any]:
    """Return what was measured before under this name; its summary where the rest is not here; empty if neither is."""
    paths = [path for path in (RAW / f"{name}.json", RESULTS / f"{name}.json") if path.is_file()]
    result: dict[str, Any] = json.loads(paths[0].read_text()) if paths else {}
    return result


def begun(name: str, settings: dict[str, Any], sources: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the result of this name, or an empty one if that has other settings, and which sources it lacks.

    Ends the program where it lacks none.
    """
    result = earlier(name)
    if {key: result.get(key) for key in settings} != settings:
        result = {**settings, "sources": {}}
    wanted = [source for source in sources if source not in result["sources"]]
    if not wanted:
        raise SystemExit(f"{name} has every source already: move it away to measure again, or give another --name.")
    return result, wanted


def rounded(value: Any) -> Any:
    """Return the same with eight significant digits in each number."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def row_a_line(value: Any, indent: str = "") -> str:
    """Return JSON in which everything that fits a line is on one."""
    line = json.dumps(value)
    if len(line) <= ROW or not isinstance(value, (dict, list)):
        return line
    inner = indent + " "
    if isinstance(value, list):
        return "[\n" + ",\n".join(inner + row_a_line(item, inner) for item in value) + f"\n{indent}]"
    rows = (f"{inner}{json.dumps(key)}: {row_a_line(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(rows) + f"\n{indent}}}"


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
    return machine.commit() or "unknown"
