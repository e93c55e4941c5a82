"""Special tokens that carry meaning in an answer: they mark tool calls, channels and thoughts, and decoding keeps them.

All others are left out of decoded text. Tokens such as <tool_call> that are no special tokens are always kept.
"""

from __future__ import annotations

from collections.abc import Callable

CHANNEL = "<|channel|>"
"""Token that tells a vocabulary of channels (gpt-oss) from others that also have an <|end|>."""
CHANNELS = (CHANNEL, "<|start|>", "<|message|>", "<|constrain|>", "<|call|>", "<|end|>", "<|return|>")
MARKERS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_calls>",
    "</tool_calls>",
    "<think>",
    "</think>",
    "[THINK]",
    "[/THINK]",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[CALL_ID]",
    "[ARGS]",
    "<|tool_call|>",
    "<seed:tool_call>",
    "</seed:tool_call>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
    "<|tool_calls_section_begin|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tool_calls_section_end|>",
)


def kept_ids(id_of: Callable[[str], int | None]) -> dict[int, str]:
    """Return the ids of a vocabulary's tokens that decoding keeps, each with its text.

    `id_of` returns the id of the one token that is a text, or None.
    """
    texts = (*MARKERS, *(CHANNELS if id_of(CHANNEL) is not None else ()))
    found = ((id_of(text), text) for text in texts)
    return {id_: text for id_, text in found if id_ is not None}
