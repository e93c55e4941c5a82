"""The tables of docs/hybrids.md: time by distance from the checkpoint, and memory by budget."""

from __future__ import annotations

from typing import Any

from benchmarks.record import source, table


def checkpoints(result: dict[str, Any]) -> str:
    """Return both tables, with where their figures come from."""
    time, memory = result["time"], result["memory"]
    times = {
        _distance(name): (
            f"{row['tokens_run']:,}",
            f"{row['milliseconds_median']:,.0f}",
            f"{100 * row['share_of_prefill']:.0f} %",
        )
        for name, row in time.items()
    }
    sizes = {
        f"{int(budget):,}": (
            str(row["checkpoints"]),
            f"{row['megabytes']:,.0f}",
            *(f"{tokens:,}" for tokens in row["tokens_run_by_distance_from_end"].values()),
            f"{row['times_what_follows_median']:.2f}",
            f"{row['times_what_follows_highest']:.1f}",
        )
        for budget, row in memory["budgets"].items()
    }
    before = [f"{int(tokens):,} before the end" for tokens in memory["budgets"]["0"]["tokens_run_by_distance_from_end"]]
    columns = ("checkpoints", "MB", *before, "times what follows, median", "highest")
    said = (
        f"An exact retraction of {result['span']} tokens at three quarters of {result['context']:,}, by where the last "
        "checkpoint is (Qwen3.5's layers, 4 of them, 512 wide, float32):",
        "A session of 32,768 tokens of Qwen3.5-9B's shape in bfloat16, a message every 256. K and V of its attention "
        f"layers take {memory['kv_megabytes']:,.0f} MB whatever the budget, and a checkpoint "
        f"{memory['checkpoint_megabytes']:.0f} MB. Tokens that run for a retraction of the message at some distance "
        "before the end, and over all messages as a multiple of what follows them:",
        "Sizes are those of the tensors of one block of four layers, times eight; which checkpoints are kept is the "
        f"engine's own bookkeeping ({source(result)}; `python -m benchmarks.checkpoints`).",
    )
    tables = (
        table(("tokens run", "ms", "of a prefill"), times, "checkpoint"),
        table(columns, sizes, "`checkpoint_mb`"),
    )
    return "\n".join([said[0], "", *tables[0], "", said[1], "", *tables[1], "", said[2], ""])


def _distance(name: str) -> str:
    if name == "prefill":
        return "a prefill of all that is kept"
    tokens = int(name)
    return "where the text begins" if tokens == 0 else "none" if tokens >= 3072 else f"{tokens:,} tokens before"
