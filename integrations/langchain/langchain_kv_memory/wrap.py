"""The memory over a model that a developer has loaded."""

from __future__ import annotations

import sys
from typing import Any

from kv_memory import Engine, Memory


def memory_over(llm: Any, tokenizer: Any = None, **options: Any) -> Memory:
    """Make a memory over a loaded model, without loading it again.

    `llm`: a transformers model (with its `tokenizer`), a transformers text-generation pipeline, LangChain's
    HuggingFacePipeline or ChatHuggingFace over one, a llama_cpp.Llama, LangChain's LlamaCpp or ChatLlamaCpp over one,
    an engine, or a memory. `options` are Memory's. Raises TypeError for anything else, UnsupportedModelError for a
    model whose cache cannot be edited.
    """
    if isinstance(llm, Memory):
        return llm
    if isinstance(llm, Engine):
        return Memory(llm, **options)
    llama = _llama(llm)
    if llama is not None:
        from kv_memory.engines.llama_cpp import LlamaCppEngine

        return Memory(LlamaCppEngine.over(llama), **options)
    model, found = _transformers_parts(llm)
    tokenizer = tokenizer or found
    if model is None or tokenizer is None:
        wanted = "a transformers model with tokenizer=..., a text-generation pipeline, a HuggingFacePipeline, a "
        wanted += "ChatHuggingFace over one, a llama_cpp.Llama, an Engine or a Memory"
        given = f"{type(llm).__name__} without a tokenizer" if model is not None else type(llm).__name__
        raise TypeError(f"wrap() takes {wanted}; got {given}.")
    from kv_memory.engines.transformers import TransformersEngine

    return Memory(TransformersEngine(model, tokenizer), **options)


def _llama(llm: Any) -> Any:
    """Return the llama_cpp.Llama that it is or holds; None where there is none."""
    inner = getattr(llm, "client", llm)  # LangChain's LlamaCpp and ChatLlamaCpp
    module = sys.modules.get("llama_cpp")  # who has made one has imported it
    return inner if module is not None and isinstance(inner, module.Llama) else None


def _transformers_parts(llm: Any) -> tuple[Any, Any]:
    """Return the model and tokenizer inside; None for what is not there."""
    from transformers import PreTrainedModel

    inner = getattr(llm, "llm", llm)  # ChatHuggingFace
    inner = getattr(inner, "pipeline", inner)  # HuggingFacePipeline
    if isinstance(inner, PreTrainedModel) or hasattr(inner, "get_base_model"):
        return inner, None
    model = getattr(inner, "model", None)
    return (model, getattr(inner, "tokenizer", None)) if isinstance(model, PreTrainedModel) else (None, None)
