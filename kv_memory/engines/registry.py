"""The table of engines: which one runs a model, with an entry for each.

Importing this module loads no library that runs models; an entry does when it is used.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kv_memory.engines.base import ConfigCheck, Engine, Tokenizer
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.gguf_header import trained_context
from kv_memory.engines.parts import ProbeLayers
from kv_memory.engines.threads import wait_passively
from kv_memory.pocket import model_path


@dataclass(frozen=True)
class Entry:
    """One engine in the table: which models it runs, and the functions that make it."""

    runs: Callable[[str | Path], bool]
    """Whether a path or hub id names a model for it. The first entry that says so is taken."""
    load: Callable[..., Engine]
    """Makes an engine of a path or hub id, with the keywords that `open_engine` passes on."""
    holds: Callable[[Any], bool]
    """Whether an object is a loaded model for it."""
    over: Callable[[Any, Any], Engine]
    """Makes an engine over a loaded model and its tokenizer, which may be None."""
    tokenizer: Callable[[str | Path], Tokenizer]
    """Loads the tokenizer of a path or hub id, without the weights."""


def open_engine(
    model: str | Path,
    *,
    name: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    context_length: int | None = None,
    check: ConfigCheck = lambda config: None,
    probe_layers: ProbeLayers = None,
    checkpoint_mb: float | None = None,
    checkpoint_device: str | None = None,
    editable_tokens: int | None = None,
) -> Engine:
    """Load a model directory, hub id or .gguf file into the engine that runs it.

    `name`: what the engine calls the model, by default as `model` says. `dtype`: of the weights, or of K and V alone
    where the file says what the weights are. `context_length`: longest sequence in tokens, by default what the model
    says. `check` is given the model's configuration. `probe_layers`: whose queries are kept for `influence`, or "all";
    by default the engine's choice. `checkpoint_mb` and `checkpoint_device`: for a model with recurrent layers, the
    memory in megabytes for copies of their states, from which it goes back in a conversation, by default 512, and where
    they are, by default where the model is. `editable_tokens`: for a model with sliding windows, the number of last
    tokens that can be edited in place, see TransformersEngine.

    Raises ModelError, UnsupportedModelError, what `check` raises, and ArgumentError for a wrong `checkpoint_mb`.
    """
    checkpoints = CheckpointSettings.of(checkpoint_mb, checkpoint_device)
    wait_passively()  # the engine imports torch
    load = next(entry.load for entry in ENGINES.values() if entry.runs(model))
    settings = {"device": device, "dtype": dtype, "context_length": context_length, "check": check}
    settings |= {} if editable_tokens is None else {"editable_tokens": editable_tokens}
    return load(model, **settings, probe_layers=probe_layers, name=name, checkpoints=checkpoints)


def open_tokenizer(model: str | Path | None) -> Tokenizer:
    """Load the tokenizer of a model directory, hub id or .gguf file, without its weights.

    Without a `model` it is that of the embedded one. Raises ModelError.
    """
    wait_passively()  # the tokenizer imports torch
    path = model_path() if model is None else model
    return next(entry.tokenizer for entry in ENGINES.values() if entry.runs(path))(path)


def engine_over(loaded: Any, tokenizer: Any = None) -> Engine | None:
    """Return the engine over a model that is loaded already; None where no engine runs such an object.

    An engine is returned as it is. Raises TypeError where the model needs its tokenizer, and as the engine does.
    """
    if isinstance(loaded, Engine):
        return loaded
    return next((entry.over(loaded, tokenizer) for entry in ENGINES.values() if entry.holds(loaded)), None)


def context_length(model: str | Path | None) -> int | None:
    """Return the longest context of a model directory or .gguf file in tokens, without loading it.

    Without a `model` it is that of the embedded one. None for a hub id, and where it is not said.
    """
    if model is not None and is_gguf(model):
        return trained_context(Path(model).expanduser())
    file = (model_path() if model is None else Path(model).expanduser()) / "config.json"
    if not file.is_file():
        return None
    config = json.loads(file.read_text())
    size = config.get("max_position_embeddings", config.get("text_config", {}).get("max_position_embeddings"))
    return size if isinstance(size, int) else None


def is_gguf(name: str | Path) -> bool:
    """Return whether this names a GGUF file: by its ending, or by how an existing file begins."""
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        return True
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _is_a(loaded: Any, module: str, kind: str) -> bool:
    """Return whether it is of a class of this library; whoever has made one has imported the library."""
    known = sys.modules.get(module)
    return known is not None and isinstance(loaded, getattr(known, kind))


def _load_llama_cpp(model: str | Path, **settings: Any) -> Engine:
    from kv_memory.engines.llama_cpp import load_engine

    return load_engine(model, **settings)


def _llama_cpp_tokenizer(model: str | Path) -> Tokenizer:
    from kv_memory.engines.llama_cpp.vocabulary import load_tokenizer

    return load_tokenizer(Path(model).expanduser())


def _over_llama(loaded: Any, tokenizer: Any) -> Engine:
    from kv_memory.engines.llama_cpp import engine_of

    return engine_of(loaded)


def _load_transformers(model: str | Path, **settings: Any) -> Engine:
    from kv_memory.engines.transformers import load_engine

    return load_engine(model, **settings)


def _transformers_tokenizer(model: str | Path) -> Tokenizer:
    from kv_memory.engines.transformers.loading import tokenizer_of

    return tokenizer_of(str(model))


def _over_transformers(loaded: Any, tokenizer: Any) -> Engine:
    from kv_memory.engines.transformers import engine_of

    if tokenizer is None:
        raise TypeError(f"{type(loaded).__name__} is given without a tokenizer; give its tokenizer too.")
    return engine_of(loaded, tokenizer)


ENGINES: dict[str, Entry] = {
    "llama.cpp": Entry(
        is_gguf,
        _load_llama_cpp,
        lambda loaded: _is_a(loaded, "llama_cpp", "Llama"),
        _over_llama,
        _llama_cpp_tokenizer,
    ),
    "transformers": Entry(
        lambda model: True,
        _load_transformers,
        lambda loaded: _is_a(loaded, "transformers", "PreTrainedModel") or _is_a(loaded, "peft", "PeftModel"),
        _over_transformers,
        _transformers_tokenizer,
    ),
}
"""All engines, by name, in the order in which they are asked; the last one takes every path."""
