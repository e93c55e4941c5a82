"""What the rows of benchmarks.choice say: what each order leaves, over the cases that the span changes.

What is left is the ratio of mean divergences from never-saw, after a repair and without any.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.record import save
from kv_memory.calibration.estimates import Estimate, ratio

NOTHING = "no erase"
MASS = "mass"
LAYER = "layer "
BLOCKS = "blocks, each tried alone"
RANKS = "rank correlation with the gain of blocks"
CHANGED = 0.01
"""Divergence without an eraser, in nats, from which the span counts as changing a case."""
COLUMNS = ("left", "low", "high", "equal")

Key = tuple[str, str]
"""A case: its suite and its name."""
Found = Mapping[Key, Mapping[str, Any]]
"""The row of each case, of one order and share."""


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return where the rows of a file come from, and the rows."""
    origin, *rows = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return origin, rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what each order leaves, by suite and in the mean of the suites, beside the order by attention mass.

    "of_mass" is what is left as a multiple of what mass leaves with as many tokens; "where_tried" is what is left over
    the cases in which blocks were tried, to be compared with what their order leaves. Intervals are 95 % bootstrap
    intervals over cases.
    """
    nothing = {_key(row): row["kl"] for row in rows if row["order"] == NOTHING and row["kl"] >= CHANGED}
    found: dict[tuple[float, str], dict[Key, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if _key(row) in nothing and row["order"] != RANKS:
            found[row["share"], row["order"]][_key(row)] = row
    tried = {key for (_, order), of in found.items() if order == BLOCKS for key in of}
    ranks = [row["ranks"] for row in rows if row["order"] == RANKS and _key(row) in nothing]
    names = sorted({suite for suite, _ in nothing})
    orders = [
        {"order": order, "share": share, **_left(of, nothing), **_beside(of, found.get((share, MASS)), nothing)}
        | ({} if order.startswith(LAYER) or not tried <= set(of) else {"where_tried": _tried(of, nothing, tried)})
        for (share, order), of in sorted(found.items(), key=lambda item: item[0])
        if order != NOTHING
    ]
    return {
        "cases": {suite: sum(key[0] == suite for key in nothing) for suite in names},
        "cases_tried": {suite: sum(key[0] == suite for key in tried) for suite in names},
        "equal_without_eraser": {suite: _equal(found[0.0, NOTHING], suite) for suite in names},
        "rank_correlations": {name: round(sum(r[name] for r in ranks) / len(ranks), 3) for name in ranks[0]}
        if ranks
        else {},
        "orders": orders,
    }


def _key(row: Mapping[str, Any]) -> Key:
    return row["suite"], row["case"]


def _left(of: Found, nothing: Mapping[Key, float]) -> dict[str, list[float]]:
    """Return by suite what is left, its interval, and the share of answers equal to never-saw's."""
    return {
        suite: [*_numbers(_of_suite(of, nothing, suite)), _equal(of, suite)]
        for suite in sorted({suite for suite, _ in of})
    }


def _beside(of: Found, mass: Found | None, nothing: Mapping[Key, float]) -> dict[str, list[float]]:
    """Return what is left in the mean of the suites, and as a multiple of what the order by mass leaves."""
    found = {"mean": _numbers(_mean(_divergences(of), nothing, nothing))}
    if mass is not None:
        found["of_mass"] = _numbers(_mean(_divergences(of), _divergences(mass), nothing))
    return found


def _tried(of: Found, nothing: Mapping[Key, float], tried: set[Key]) -> float:
    left = {key: row["kl"] for key, row in of.items() if key in tried}
    return _short(_mean(left, nothing, {key: nothing[key] for key in tried}).value)


def _divergences(of: Found) -> dict[Key, float]:
    return {key: row["kl"] for key, row in of.items()}


def _of_suite(of: Found, nothing: Mapping[Key, float], suite: str) -> Estimate:
    keys = sorted(key for key in of if key[0] == suite)
    return ratio([of[key]["kl"] for key in keys], [nothing[key] for key in keys])


def _mean(left: Mapping[Key, float], right: Mapping[Key, float], nothing: Mapping[Key, float]) -> Estimate:
    """Return the ratio of two divergences over the same cases, each suite with the same weight."""
    keys = sorted(left.keys() & right.keys())
    sums: dict[str, float] = defaultdict(float)
    for key in keys:
        sums[key[0]] += nothing[key]
    weights = [1 / sums[key[0]] for key in keys]
    return ratio(
        [left[key] * weight for key, weight in zip(keys, weights, strict=True)],
        [right[key] * weight for key, weight in zip(keys, weights, strict=True)],
    )


def _equal(of: Found, suite: str) -> float:
    equal: list[bool] = [row["agrees"] for key, row in of.items() if key[0] == suite]
    return round(sum(equal) / len(equal), 2)


def _numbers(found: Estimate) -> list[float]:
    return [_short(found.value), _short(found.low), _short(found.high)]


def _short(value: float) -> float:
    """Round to four significant digits."""
    return float(f"{value:.4g}")


def show(path: Path) -> None:
    """Print a table for each share, what leaves least first, and the rank correlations."""
    origin, rows = read(path)
    found = summary(rows)
    suites = list(found["cases"])
    print(origin["model"], found["cases"], "blocks tried in", found["cases_tried"])
    for share in sorted({row["share"] for row in found["orders"]}):
        print(f"--- share {share}: mean | " + " | ".join(f"{suite}, equal" for suite in suites))
        for row in sorted((row for row in found["orders"] if row["share"] == share), key=lambda row: row["mean"][0]):
            cells = [f"{row[suite][0]:.3f} {row[suite][3]:.2f}" if suite in row else "" for suite in suites]
            print(f"{row['order']:44} {row['mean'][0]:.3f} | " + " | ".join(cells))
    print("rank correlation", found["rank_correlations"])


def write(name: str, paths: list[Path]) -> None:
    """Write the summary of files of rows, one a model, to a result file. Ends the program where their runs differ."""
    files = {path: read(path) for path in paths}
    runs = [{key: value for key, value in origin.items() if key != "model"} for origin, _ in files.values()]
    if any(run != runs[0] for run in runs):
        raise SystemExit("These files are of runs on different machines, versions or settings: save each alone.")
    models = {origin["model"]: summary(rows) for origin, rows in files.values()}
    save(name, {**runs[0], "suite_columns": list(COLUMNS), "changed": CHANGED, "models": models})
