"""The memory over a model that a developer has loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kv_memory import Memory, engine_over


def memory_over(llm: Any, tokenizer: Any = None, **options: Any) -> Memory:
    """Make a memory over a loaded model, without loading it again.

    `llm`: a transformers model (with its `tokenizer`), a transformers text-generation pipeline, LangChain's
    HuggingFacePipeline or ChatHuggingFace over one, a llama_cpp.Llama, LangChain's LlamaCpp or ChatLlamaCpp over one,
    an engine, or a memory. `options` are Memory's. Raises TypeError for anything else, UnsupportedModelError for a
    model whose cache cannot be edited.
    """
    if isinstance(llm, Memory):
        return llm
    for model, found in _inside(llm):
        engine = engine_over(model, tokenizer or found)
        if engine is not None:
            return Memory(engine, **options)
    wanted = "a transformers model with tokenizer=..., a text-generation pipeline, a HuggingFacePipeline, a "
    wanted += "ChatHuggingFace over one, a llama_cpp.Llama, an Engine or a Memory"
    raise TypeError(f"wrap() takes {wanted}; got {type(llm).__name__}.")


def _inside(llm: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the object and what it holds, each with the tokenizer that comes with it."""
    yield llm, None
    yield getattr(llm, "client", None), None  # LangChain's LlamaCpp and ChatLlamaCpp
    inner = getattr(llm, "llm", llm)  # ChatHuggingFace
    inner = getattr(inner, "pipeline", inner)  # HuggingFacePipeline
    yield getattr(inner, "model", None), getattr(inner, "tokenizer", None)
