"""What a model can do, in LangChain's words."""

from __future__ import annotations

from pathlib import Path

from langchain_core.language_models import ModelProfile

from kv_memory import Memory, UnsupportedOperationError, context_length


def unread_profile(model: str | Path | None, longest: int | None) -> ModelProfile:
    """Return what is known of a model before it is loaded; whether it was made to call tools is known of the embedded
    one alone.

    `longest`: the context length that it is to have, if one was given.
    """
    profile = ModelProfile(
        text_inputs=True, text_outputs=True, image_inputs=False, tool_choice=True, structured_output=True
    )
    if model is None:
        profile["tool_calling"] = True
    size = longest or context_length(model)
    if size is not None:
        profile["max_input_tokens"] = size
    return profile


def profile_of(memory: Memory) -> ModelProfile:
    """Return what a loaded model can do.

    `tool_calling`: its chat template lists tools and writes calls, so that it was made for them. Forced calls and
    answers of a schema are made by constrained decoding, which needs no template, but tokens that write bytes.
    """
    try:
        memory.engine.tokenizer.token_table()
        constrained = True
    except UnsupportedOperationError:
        constrained = False
    return ModelProfile(
        text_inputs=True,
        text_outputs=True,
        image_inputs=False,
        max_input_tokens=memory.engine.max_positions,
        tool_calling=memory.format.calls_tools,
        tool_choice=constrained,
        structured_output=constrained,
    )
