"""`kv-memory export-gguf`: models and erasers for llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kv_memory.cli._progress import progress_bar
from kv_memory.errors import KVMemoryError


def export_gguf(
    eraser: Annotated[
        str | None, typer.Argument(help="Directory or hub id of a trained eraser. Without it a model is written.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="The GGUF file.")],
    base: Annotated[
        Path | None, typer.Option(help="The eraser's model: its directory, or .gguf file; default: the pocket model.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(help="Directory of a Qwen3, Qwen2 or Llama model to write; default: the pocket model."),
    ] = None,
    dtype: Annotated[
        Literal["f32", "f16", "q8_0"] | None, typer.Option(help="Type of a model's matrices; default: f16.")
    ] = None,
) -> None:
    """Write a trained eraser, or a model, as a GGUF file for llama.cpp."""
    if eraser is None and base is not None:
        raise KVMemoryError("--base goes with an eraser; write a model with --model.")
    if eraser is not None and (model is not None or dtype is not None):
        raise KVMemoryError(
            "--model and --dtype are for writing a model; say with --base which model the eraser is for."
        )
    with progress_bar("tensors") as progress:
        from kv_memory.gguf import export_model
        from kv_memory.pocket import model_path
        from kv_memory.trained.export import export_adapter

        if eraser is None:
            export_model(
                model or model_path(), out, dtype or "f16", lambda done, total: progress("Writing", done, total)
            )
        else:
            progress("Reading the eraser and its model", 0, 0)
            export_adapter(eraser, base or model_path(), out)
    typer.echo(f"wrote {out}")
