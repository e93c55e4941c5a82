"""Tokenizer of engines whose model comes with a Hugging Face tokenizer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from kv_memory.engines.base import TokenTable
from kv_memory.engines.markers import kept_ids
from kv_memory.errors import ConversationError, ModelError, UnsupportedOperationError

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_SPACE = "\u2581"
"""Character that SentencePiece vocabularies write for a space."""


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
        self.adds_space, self._space_after_marks = self._space_probed()
        own = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
        self.eos_ids: frozenset[int] = frozenset([*own, *eos_ids])
        kept = kept_ids(self._trusted.token_to_id)
        added = self._trusted.get_added_tokens_decoder()
        self._hidden = {id_ for id_, token in added.items() if token.special and id_ not in kept}

    def token_table(self) -> TokenTable:
        """Return what each token writes. Raises UnsupportedOperationError for tokens that are not pieces of bytes."""
        return self._table

    @cached_property
    def _table(self) -> TokenTable:
        state = json.loads(self._trusted.to_str())
        write = _writer(state["decoder"])
        added = {token["id"]: token for token in state["added_tokens"]}
        known = self._trusted.get_vocab(with_added_tokens=True)
        written = [b""] * (max(known.values(), default=-1) + 1)
        for text, id_ in known.items():
            written[id_] = text.encode() if id_ in added else write(text)
        return TokenTable(written, frozenset(id_ for id_, token in added.items() if _is_structure(token)))

    def encode(self, text: str, *, special: bool, after: str = "\n") -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the character interval of each. With `special` false, none of the ids carries structure.

        `after`: the text before it; see `Tokenizer.encode`.
        """
        sound = text.encode("utf-8", "replace").decode()  # json.loads makes lone surrogates of broken escapes
        encode = (self._trusted if special else self._plain).encode
        if not self.adds_space or not after or (self._space_after_marks and after.endswith(self._marks)):
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
        """Return the text of these ids without special tokens, but for those that mark calls, channels and thoughts."""
        shown = [id_ for id_ in ids if id_ not in self._hidden]
        return str(self.hf.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """Format messages with the model's own chat template.

        Raises ConversationError where the template refuses them, ModelError where there is no template.
        """
        if not self.hf.chat_template:
            raise ModelError("The model's tokenizer has no chat template; use an instruction-tuned model.")
        return rendered(partial(self._write, messages, generate), tools)

    def _write(self, messages: list[dict[str, Any]], generate: bool, tools: list[dict[str, Any]] | None) -> str:
        templates = self.hf.chat_template
        text = self.hf.apply_chat_template(
            messages,
            tools=tools,
            chat_template=chosen_template(templates, tools) if isinstance(templates, dict) else None,
            add_generation_prompt=generate,
            tokenize=False,
        )
        return str(text)


def rendered(write: Callable[[list[dict[str, Any]] | None], str], tools: list[dict[str, Any]] | None) -> str:
    """Return what `write` writes with these tools; without tools also what it writes only with an empty list of them,
    since some templates go through the tools without asking. Raises ConversationError where the template refuses."""
    refusals: list[Exception] = []
    for given in (tools,) if tools else (None, []):
        try:
            return write(given)
        except (TemplateError, TypeError, KeyError, ValueError, RecursionError) as error:
            refusals.append(error)
    raise ConversationError(f"The model's chat template cannot say this conversation: {refusals[0]}") from refusals[0]


def without_structure(tokenizer: FastTokenizer) -> FastTokenizer:
    """Copy a tokenizer without its added tokens, but for runs of white space, which carry no structure."""
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not _is_structure(token)]
    state["post_processor"] = None
    state["truncation"] = state["padding"] = None
    return FastTokenizer.from_str(json.dumps(state))


def chosen_template(templates: Mapping[str, str], tools: Sequence[Any] | None) -> str:
    """Return the chat template that is meant: with tools the one named tool_use, without it is the default one.

    A template that is the only one is meant always.
    """
    names = ["tool_use", "default"] if tools else ["default", "tool_use"]
    return templates[next((name for name in names if name in templates), next(iter(templates)))]


def _is_structure(token: Mapping[str, Any]) -> bool:
    """Return whether an added token, as tokenizer.json describes it, carries structure."""
    return bool(token["special"] or token["content"].strip())


def _writer(decoder: Mapping[str, Any] | None) -> Callable[[str], bytes]:
    """Return the function from a token, as the vocabulary spells it, to the bytes that it writes."""
    parts = (decoder or {}).get("decoders", [decoder or {}])
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        byte_of = {character: byte for byte, character in bytes_to_unicode().items()}
        return lambda token: b"".join(
            bytes([byte_of[character]]) if character in byte_of else character.encode() for character in token
        )
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and "ByteFallback" in kinds:
        return lambda token: (
            bytes([int(token[3:5], 16)]) if _BYTE.fullmatch(token) else token.replace(_SPACE, " ").encode()
        )
    raise UnsupportedOperationError(
        "The tokens of this model's tokenizer do not write bytes of their own, so that no grammar can constrain what "
        "it says; leave tool_choice and structured output away."
    )
