"""Write the README's figures from the result files.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

README = Path(__file__).parents[1] / "README.md"
SHAPES = {"pocket": "the pocket model", "qwen3-8b": "random weights of Qwen3-8B's shape"}
START, END = "<!-- figures: benchmarks/tables.py -->\n", "<!-- end of figures -->"


def main() -> None:
    parts = [quality(_load("quality"))]
    latency = [_load(path.stem) for path in sorted(RESULTS.glob("latency*.json"))]
    parts += [latency_table(result) for result in latency]
    text = README.read_text()
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    README.write_text(before + START + "\n" + "\n".join(parts) + "\n" + END + after)


def _load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def quality(result: dict[str, Any]) -> str:
    """Exact match by class and eraser, one table a length."""
    lines = [
        f"**Answers.** Exact match on questions whose right answer is that of a reader who never saw the span; pocket "
        f"model, unseen conversations ({_source(result)}; `benchmarks/results/quality.json`).",
        "",
    ]
    for tokens, table in result["lengths"].items():
        names = list(next(iter(table["exact_match"].values())))
        probes = sorted(set(table["probes"].values()))
        lines += [
            f"About {int(tokens):,} tokens, {'-'.join(map(str, probes))} questions a class:",
            "",
            "| class | " + " | ".join(names) + " |",
            "| --- |" + " --- |" * len(names),
        ]
        for kind, row in table["exact_match"].items():
            lines.append(f"| {kind} | " + " | ".join(f"{row[name]:.3f}" for name in names) + " |")
        times = table["erase_time_over_recompute_median"]
        lines += [
            "| *erase time / recompute* | - | " + " | ".join(f"{times[name]:.2f}" for name in names[1:-1]) + " | - |",
            "",
        ]
    lines.append(
        "*restore*: the span superseded an older value. *unknown*: the value stood only in the span. *binding*: later "
        "text refers back to it. *injection*: the span orders one answer to everything. *keep*: a fact that the span "
        "does not touch. The number after an eraser is how many tokens it recomputes, where it is not the default.\n"
    )
    return "\n".join(lines)


def latency_table(result: dict[str, Any]) -> str:
    """Erase time by context length."""
    contexts = result["contexts"]
    names = list(next(iter(contexts.values()))["erase_milliseconds_median"])
    lines = [
        f"**Time.** Median milliseconds to erase a span of {result['span']} tokens at 10 % of the context; "
        f"{SHAPES[result['shape']]}, {result['dtype']} ({_source(result)}).",
        "",
        "| context | " + " | ".join(names) + " |",
        "| --- |" + " --- |" * len(names),
    ]
    for context, row in contexts.items():
        cells = (
            f"{row['erase_milliseconds_median'][name]:,.1f} ({row['recompute_over_eraser'][name]:,.1f}x)"
            if name != "recompute"
            else f"{row['erase_milliseconds_median'][name]:,.1f}"
            for name in names
        )
        lines.append(f"| {int(context):,} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "In brackets: how many times faster than `recompute`.", ""])


def _source(result: dict[str, Any]) -> str:
    versions = result["versions"]
    return (
        f"{result['hardware']}, torch {versions['torch']}, transformers {versions['transformers']}, "
        f"commit {result['commit'][:9]}, seed {result['seed']}"
    )


if __name__ == "__main__":
    main()
