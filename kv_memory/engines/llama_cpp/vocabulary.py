"""Tokenizer of a GGUF file: its Hugging Face tokenizer where the file holds one, else llama.cpp's."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from kv_memory.engines.base import Tokenizer
from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.llama_cpp.model import Model
from kv_memory.engines.transformers.tokenizer import HFTokenizer
from kv_memory.errors import ConversationError, ModelError

HUGGING_FACE = "tokenizer.huggingface.json"
_TEMPLATE = "tokenizer.chat_template"


def tokenizer_of(model: Model) -> Tokenizer:
    """Return the tokenizer of a model. Raises ModelError where it has none, or one that cannot be read."""
    ends = _ends(model)
    described = model.metadata(HUGGING_FACE)
    if not described:
        return Vocabulary(model, ends)
    try:
        backend = FastTokenizer.from_str(described)
    except Exception as error:  # tokenizers raises nothing more special
        raise ModelError(f"The tokenizer in {model.path} cannot be read ({error}); convert the model again.") from error
    eos = model.metadata("tokenizer.ggml.eos_token_id")
    special = {"eos_token": eos, "bos_token": model.metadata("tokenizer.ggml.bos_token_id")}
    texts = {name: backend.id_to_token(int(id_)) for name, id_ in special.items() if id_ is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **texts)
    tokenizer.chat_template = model.metadata(_TEMPLATE) or None
    named = [model.metadata(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return HFTokenizer(tokenizer, [int(id_) for id_ in named if id_ is not None])


class Vocabulary:
    """llama.cpp's own tokenizer.

    NOTE: even without special tokens it takes what models define beside them, such as <tool_call>, for one token. For
    text that is not trusted such a token is taken apart: its first character and the rest are tokenized by themselves.
    """

    def __init__(self, model: Model, ends: frozenset[int]) -> None:
        lib = library()
        if lib.llama_vocab_type(model.vocabulary) == lib.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"{model.path} has no tokenizer; convert the model together with its tokenizer.")
        self.eos_ids = ends
        self._model = model
        self._template = model.metadata(_TEMPLATE)

    def encode(self, text: str, *, special: bool, after: str = "\n") -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the character interval of each. With `special` false, none of the ids carries structure.

        `after`: the text before it; see `Tokenizer.encode`.
        """
        sound = text.encode("utf-8", "replace").decode()
        guard = "\n" if self._begins_with_space and after and not after.endswith(self._marks) else ""
        ids = self._tokenize(guard + sound, special)
        if not special:
            ids = list(self._apart(guard + sound, ids))
        found = self._intervals(guard + sound, ids)
        if not guard:
            return ids, found
        # a line break before it takes the space
        kept = [i for i, (_, end) in enumerate(found) if end > 1]
        return [ids[i] for i in kept], [(max(0, found[i][0] - 1), found[i][1] - 1) for i in kept]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids without special tokens."""
        return self._bytes(ids).decode("utf-8", "replace")

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """Format messages with the file's own chat template.

        Raises ConversationError where the template refuses them, ModelError where there is no template.
        """
        if not self._template:
            raise ModelError(f"{self._model.path} has no chat template; use an instruction-tuned model.")
        try:
            texts, _ = render_jinja_template(
                [messages],
                tools=tools or None,
                chat_template=self._template,
                add_generation_prompt=generate,
                **self._special,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise ConversationError(f"The model's chat template cannot say this conversation: {error}") from error
        return str(texts[0])

    @cached_property
    def _special(self) -> dict[str, str]:
        """Return the texts of the beginning-of-text and end-of-text tokens, which templates write."""
        lib, vocabulary = library(), self._model.vocabulary
        found = {"bos_token": lib.llama_vocab_bos(vocabulary), "eos_token": lib.llama_vocab_eos(vocabulary)}
        texts = {name: lib.llama_vocab_get_text(vocabulary, id_) for name, id_ in found.items() if id_ >= 0}
        return {name: text.decode("utf-8", "replace") for name, text in texts.items()}

    @cached_property
    def _begins_with_space(self) -> bool:
        """Whether a space is written before a text and, which llama.cpp does then too, after a special token."""
        alone = self._tokenize("kvm", False)
        return self._tokenize("\nkvm", False)[-len(alone) :] != alone

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """The texts of the special tokens."""
        lib, vocabulary = library(), self._model.vocabulary
        marks = (
            lib.llama_vocab_get_text(vocabulary, id_)
            for id_ in range(self._model.vocabulary_size)
            if lib.llama_vocab_get_attr(vocabulary, id_) & lib.LLAMA_TOKEN_ATTR_CONTROL
        )
        return tuple(mark.decode("utf-8", "replace") for mark in marks)

    def _tokenize(self, text: str, special: bool) -> list[int]:
        data, lib = text.encode(), library()
        room = len(data) + 8
        ids = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._model.vocabulary, data, len(data), ids, room, False, special)
        if count < 0:
            raise ConversationError("llama.cpp cannot turn this text into tokens; it is too long.")
        return list(ids[:count])

    def _apart(self, text: str, ids: list[int]) -> Iterator[int]:
        """Tokenize the same text without tokens that carry structure."""
        intervals = self._intervals(text, ids)
        for id_, (start, end) in zip(ids, intervals, strict=True):
            part = text[start:end]
            if end - start < 2 or not part.strip() or not self._is_structure(id_):
                yield id_
                continue
            for piece in (part[0], part[1:]):
                yield from self._apart(piece, self._tokenize(piece, False))

    def _is_structure(self, id_: int) -> bool:
        lib = library()
        kind: int = lib.llama_vocab_get_attr(self._model.vocabulary, id_)
        return bool(kind & (lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED))

    def _bytes(self, ids: Sequence[int]) -> bytes:
        lib = library()
        given = (lib.llama_token * len(ids))(*ids)
        room = 16 * len(ids) + 64
        while True:
            text = ctypes.create_string_buffer(room)
            count = lib.llama_detokenize(self._model.vocabulary, given, len(ids), text, room, False, False)
            if count >= 0:
                return text.raw[:count]
            room = -count

    def _piece(self, id_: int) -> bytes:
        lib = library()
        text = ctypes.create_string_buffer(256)
        count = lib.llama_token_to_piece(self._model.vocabulary, id_, text, 256, 0, True)
        return text.raw[: max(count, 0)]

    def _intervals(self, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return the interval of characters in `text` of each id, found by the bytes that it writes."""
        starts = [0]  # the byte at which each character starts
        for character in text:
            starts.append(starts[-1] + len(character.encode()))
        character_at = {byte: i for i, byte in enumerate(starts)}
        pieces = [self._piece(id_) for id_ in ids]
        at, found = 0, []
        if pieces and not text.startswith(" ") and pieces[0].startswith(b" "):
            at = -1  # NOTE: SentencePiece writes a space before a text
        for piece in pieces:
            before, at = at, min(at + len(piece), starts[-1])
            found.append((_floor(character_at, max(before, 0)), _ceil(character_at, max(at, 0))))
        return found


def _floor(character_at: dict[int, int], byte: int) -> int:
    while byte not in character_at:
        byte -= 1
    return character_at[byte]


def _ceil(character_at: dict[int, int], byte: int) -> int:
    while byte not in character_at:
        byte += 1
    return character_at[byte]


def _ends(model: Model) -> frozenset[int]:
    """Return all ids that end a turn."""
    ends = library().llama_vocab_is_eog
    return frozenset(id_ for id_ in range(model.vocabulary_size) if ends(model.vocabulary, id_))
