"""What a loaded `llama_cpp.Llama` was made with: what the engine takes over, and what it refuses by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.llama_cpp.options import ROPE
from kv_memory.errors import UnsupportedModelError

_DTYPES = {0: "float32", 1: "float16"}
_NAMED = "chat_template."
_A_FUNCTION = (
    "whose messages cannot be told apart in the cache; make it without that, so that the file's chat template is used, "
    "or give one: LlamaCppEngine.over(llama, chat_template=...)"
)


def settings_of(llama: Any, chat_template: str | None) -> dict[str, Any]:
    """Return the settings of an engine that answers as this object does: its context, K and V, RoPE and template.

    `chat_template`: a template to use whatever the object's chat format is. Raises UnsupportedModelError for what
    cannot be taken over: the sentence names it and what to do.
    """
    for name, why in _refused(llama, chat_template):
        raise UnsupportedModelError(f"This Llama was made with {name}, {why}.")
    given = llama.context_params
    _warn_of_other_rope(llama)
    return {
        "context_length": llama.n_ctx(),
        "dtype": _DTYPES[given.type_k],
        "flash_attention": given.flash_attn_type == library().LLAMA_FLASH_ATTN_TYPE_ENABLED,
        "rope": {name: getattr(given, name) for name in ROPE},
        "chat_template": chat_template or _named_template(llama),
    }


def _refused(llama: Any, chat_template: str | None) -> Iterator[tuple[str, str]]:
    """Yield what cannot be taken over: its name and value, and why, with what to do instead."""
    from llama_cpp.llama_tokenizer import LlamaTokenizer

    given = llama.context_params
    if llama.model_params.vocab_only:
        yield "vocab_only=True", "and has no weights; make it without that"
    if llama.lora_path:
        yield "lora_path", "whose adapter is not part of the model; merge it into the model"
    if type(llama.tokenizer_) is not LlamaTokenizer:
        yield "a tokenizer", "and only the file's own is used here; make it without that"
    if given.type_k != given.type_v or given.type_k not in _DTYPES:
        types = f"type_k={given.type_k} and type_v={given.type_v}"
        yield types, "whose rows could not be put back as they were; use 1 (float16) or 0 (float32) for both"
    if chat_template:
        return
    if llama.chat_handler is not None:
        yield "a chat_handler", _A_FUNCTION
    elif _named_template(llama) is None and llama.chat_format not in _guessed(llama):
        yield f"chat_format={llama.chat_format!r}", _A_FUNCTION


def _named_template(llama: Any) -> str | None:
    """Return the template that the format names, where it is one of the file's others; None for the file's own."""
    name = str(llama.chat_format or "")
    found = llama.metadata.get(f"tokenizer.{name}") if name.startswith(_NAMED) else None
    return None if found is None else str(found)


def _guessed(llama: Any) -> set[str]:
    """Return the formats that llama-cpp-python may have taken by itself for this file."""
    from llama_cpp.llama_chat_format import guess_chat_format_from_gguf_metadata

    if "tokenizer.chat_template" not in llama.metadata:
        return {"llama-2"}  # there is no template at all, which is said once one is needed
    return {f"{_NAMED}default", str(guess_chat_format_from_gguf_metadata(llama.metadata))}


def _warn_of_other_rope(llama: Any) -> None:
    """Warn where RoPE is set otherwise than the file says, as LangChain's LlamaCpp does it for every model."""
    architecture, said = llama.metadata.get("general.architecture"), llama.metadata
    base, factor = (said.get(f"{architecture}.rope.{key}") for key in ("freq_base", "scaling.factor"))
    for name, own in (
        ("rope_freq_base", float(base) if base else None),
        ("rope_freq_scale", 1 / float(factor) if factor else None),
    ):
        set_to = getattr(llama.context_params, name)
        if own and set_to and abs(set_to - own) > 1e-4 * own:
            warnings.warn(
                f"This Llama was made with {name}={set_to:g}, where its file says {own:g}; that is taken over. "
                f"LangChain's LlamaCpp and ChatLlamaCpp set it for every model unless they are given {name}=0.",
                stacklevel=4,
            )
