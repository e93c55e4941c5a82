"""The memory over a model that a developer has loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kv_memory import Memory, engine_over

_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")
_WITHOUT: dict[str, tuple[Any, ...]] = {
    "top_k": (0, -1),
    "repeat_penalty": (1, 1.0),
    "grammar": (),
    "grammar_path": (),
    "suffix": (),
    "logprobs": (0,),
    "echo": (False,),
}
"""Settings of LangChain's LlamaCpp that there are not here, each with the values that switch it off."""


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


def sampling_of(llm: Any) -> dict[str, Any]:
    """Return the sampling settings that LangChain's LlamaCpp or ChatLlamaCpp was given, by their names here.

    What it has by default is not taken over. Raises ValueError for what was given and cannot be done here.
    """
    client = getattr(llm, "client", None)
    if type(client).__module__.partition(".")[0] != "llama_cpp":
        return {}
    given = {name: getattr(llm, name) for name in llm.model_fields_set if getattr(llm, name, None) is not None}
    for name, off in _WITHOUT.items():
        if name in given and given[name] not in off:
            raise ValueError(
                f"wrap() cannot take over {name}={given[name]!r} of {type(llm).__name__}; make it without that, and "
                "say here how to sample: temperature, top_p, max_tokens, stop, seed."
            )
    return {name: given[name] for name in _SAMPLING if name in given and given[name] not in ([], -1)}


def _inside(llm: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the object and what it holds, each with the tokenizer that comes with it."""
    yield llm, None
    yield getattr(llm, "client", None), None  # LangChain's LlamaCpp and ChatLlamaCpp
    inner = getattr(llm, "llm", llm)  # ChatHuggingFace
    inner = getattr(inner, "pipeline", inner)  # HuggingFacePipeline
    yield getattr(inner, "model", None), getattr(inner, "tokenizer", None)
