"""Tokenizer of engines whose model comes with a Hugging Face tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerBase

from kv_memory.errors import ConversationError, ModelError


class HFTokenizer:
    """A `PreTrainedTokenizerFast`, with a second copy that knows no added tokens, for text that is not trusted."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, eos_ids: Sequence[int] = ()) -> None:
        """Take a fast tokenizer. Raises ModelError for another.

        `eos_ids`: further ids that end a turn (a generation config's), beside the tokenizer's own.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer {type(tokenizer).__name__} has no character offsets; load the model with its fast "
                "tokenizer (tokenizer.json)."
            )
        self.hf = tokenizer
        self._trusted: FastTokenizer = tokenizer.backend_tokenizer
        self._plain = without_structure(self._trusted)
        self._marks = tuple(t.content for t in self._trusted.get_added_tokens_decoder().values() if t.special)
        self._begins_with_space, self._space_after_marks = self._space_probed()
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.eos_ids: frozenset[int] = frozenset([*own, *eos_ids])

    def encode(self, text: str, *, special: bool, after: str = "\n") -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the character interval of each. With `special` false, none of the ids carries structure.

        `after`: the text before it; see `Tokenizer.encode`.
        """
        sound = text.encode("utf-8", "replace").decode()  # json.loads makes lone surrogates of broken escapes
        encode = (self._trusted if special else self._plain).encode
        if not self._begins_with_space or not after or (self._space_after_marks and after.endswith(self._marks)):
            encoding = encode(sound, add_special_tokens=False)
            return list(encoding.ids), list(encoding.offsets)
        # a line break before it takes the space
        encoding = encode("\n" + sound, add_special_tokens=False)
        kept = [i for i, (_, end) in enumerate(encoding.offsets) if end > 1]
        offsets = [(max(0, start - 1), end - 1) for start, end in encoding.offsets]
        return [encoding.ids[i] for i in kept], [offsets[i] for i in kept]

    def _space_probed(self) -> tuple[bool, bool]:
        """Return whether a space is written before a text, and before what follows a special token."""

        def ids(text: str) -> list[int]:
            return list(self._trusted.encode(text, add_special_tokens=False).ids)

        alone, continued = ids("kvm"), ids("\nkvm")
        begins = continued[-len(alone) :] != alone
        return begins, begins and bool(self._marks) and ids(f"{self._marks[0]}kvm")[1:] == alone

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids without special tokens."""
        return str(self.hf.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """Format messages with the model's own chat template.

        Raises ConversationError where the template refuses them, ModelError where there is no template.
        """
        if not self.hf.chat_template:
            raise ModelError("The model's tokenizer has no chat template; use an instruction-tuned model.")
        try:
            return self._rendered(messages, tools or None, generate)
        except ConversationError:
            if tools:
                raise
        try:
            return self._rendered(messages, [], generate)  # some templates go through the tools without asking
        except ConversationError:
            return self._rendered(messages, None, generate)

    def _rendered(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        try:
            text = self.hf.apply_chat_template(
                messages,
                tools=tools,
                chat_template=template_for(self.hf.chat_template, tools),
                add_generation_prompt=generate,
                tokenize=False,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ConversationError(f"The model's chat template cannot say this conversation: {error}") from error
        return str(text)


def template_for(templates: str | Mapping[str, str], tools: Sequence[Any] | None) -> str:
    """Return the template for a conversation with these tools: of several by their names `tool_use` where there are
    tools, else `default`, and a single one for both."""
    if isinstance(templates, str):
        return templates
    names = ("tool_use", "default") if tools else ("default", "tool_use")
    return next((templates[name] for name in names if name in templates), next(iter(templates.values())))


def without_structure(tokenizer: FastTokenizer) -> FastTokenizer:
    """Copy a tokenizer without its added tokens, but for runs of white space, which carry no structure."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not t["special"] and not t["content"].strip()]
    state["post_processor"] = None
    state["truncation"] = state["padding"] = None
    return FastTokenizer.from_str(json.dumps(state))
