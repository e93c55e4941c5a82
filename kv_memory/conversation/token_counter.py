"""Token counts of conversations for a model whose weights need not be loaded."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

from kv_memory.arguments import check, check_flag
from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import parse_messages
from kv_memory.engines.base import Engine
from kv_memory.engines.registry import open_tokenizer


class TokenCounter:
    """The tokenizer and the chat template of a model: counts tokens as the model reads them, without its weights.

    ```python
    counter = TokenCounter("path/or/hub-id")  # or a .gguf file; by default the embedded pocket model
    counter.count_tokens(messages, tools)
    ```
    """

    def __init__(self, model: str | Path | Engine | None = None) -> None:
        """Load the tokenizer and chat template of a model, or take those of a ready engine.

        A directory needs to hold no weights, and those of a .gguf file are not read. Raises ModelError.
        """
        check(
            "model", model, (str, Path, Engine, NoneType), "a model directory, a hub id, a .gguf file or a ready engine"
        )
        self.tokenizer = model.tokenizer if isinstance(model, Engine) else open_tokenizer(model)
        self.format = ChatFormat(self.tokenizer)

    def count_tokens(self, messages: Any, tools: list[dict[str, Any]] | None = None, *, answer: bool = True) -> int:
        """Return the number of tokens that are read of a conversation; see `Memory.count_tokens`."""
        return self.format.count(parse_messages(messages), tools, answer=check_flag("answer", answer))

    def token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, none of which carries structure: a marker in it is text."""
        check("text", text, str, "a text")
        return self.tokenizer.encode(text, special=False)[0]
