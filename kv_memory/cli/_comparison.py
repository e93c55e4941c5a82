"""The comparison that `demo` and `replay` run: retract, ask before and after, and ask a model that never saw it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kv_memory.cli._progress import progress_bar
from kv_memory.errors import KVMemoryError


def run_comparison(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None,
    targets: Sequence[str],
    *,
    question: str | None,
    erasers: Sequence[str],
    model: str | None,
    as_json: bool,
    context_length: int | None = None,
    checkpoint_mb: float | None = None,
) -> None:
    """Run a comparison and print the result."""
    from rich.console import Console

    name, trained = _choice(erasers, model)  # raises for a wrong one before a model is loaded
    with progress_bar() as progress:
        from kv_memory.cli._comparison_tables import show
        from kv_memory.evaluation.compare import compare
        from kv_memory.sessions.memory import Memory

        sizes: dict[str, Any] = {"context_length": context_length, "checkpoint_mb": checkpoint_mb}
        memory = Memory(model, eraser=trained or name, heal="never", **sizes)
        memory.cache_tokens = 16 * memory.engine.max_positions  # room for several copies of the conversation
        if name is not None:
            memory.load_eraser(name)
        result = compare(memory, messages, targets, tools=tools, question=question, eraser=name, progress=progress)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        show(result, Console())


def _choice(erasers: Sequence[str], model: str | None) -> tuple[str | None, str | None]:
    """Return the name of an eraser, and the directory or hub id of a trained one; either may be None."""
    from kv_memory.erasers import get_eraser
    from kv_memory.pocket import model_path
    from kv_memory.trained.files import BESIDE, is_trained_eraser

    trained = [given for given in erasers if is_trained_eraser(given)]
    named = [get_eraser(given) for given in erasers if not is_trained_eraser(given)]
    if max(len(trained), len(named)) > 1:
        raise KVMemoryError("Give --eraser at most one name and one trained eraser.")
    folder = model_path() if model is None else Path(model).expanduser()
    if named and "steering" in named[0].needs and not trained and not (folder / BESIDE).is_dir():
        raise KVMemoryError(
            f"The eraser {named[0].name!r} needs a trained one, and no trained eraser of {model} is known; give its "
            "path with a second --eraser, or another name."
        )
    return next((eraser.name for eraser in named), None), next(iter(trained), None)
