"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Model = Annotated[
    str | None, typer.Option(help="Path or hub id of a Hugging Face causal LM; default: the pocket model.")
]
RunnableModel = Annotated[
    str | None,
    typer.Option("--model", help="Path or hub id of a causal LM, or a .gguf file; default: the pocket model."),
]
Erasers = Annotated[
    list[str] | None,
    typer.Option(
        "--eraser",
        help="How to erase: a name, or the directory or hub id of a trained eraser; or one of each. Default: as the "
        "model was calibrated.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
