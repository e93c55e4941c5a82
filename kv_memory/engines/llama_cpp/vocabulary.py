"""Tokenizer of a GGUF file: its Hugging Face tokenizer where the file holds one, else llama.cpp's."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from kv_memory.engines.base import Tokenizer, TokenTable
from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.llama_cpp.model import Model
from kv_memory.engines.markers import kept_ids
from kv_memory.engines.transformers.tokenizer import HFTokenizer, chosen_template, rendered
from kv_memory.errors import ConversationError, ModelError

HUGGING_FACE = "tokenizer.huggingface.json"
_TEMPLATE = "tokenizer.chat_template"
_BEFORE = "\x02"
"""Text before text that goes on: SentencePiece has a token of its own for it, and merges it with nothing."""


def tokenizer_of(model: Model, chat_template: str | None = None) -> Tokenizer:
    """Return the tokenizer of a model. Raises ModelError where it has none, or one that cannot be read.

    `chat_template`: one to use instead of the file's.
    """
    ends, templates = _ends(model), _templates(model, chat_template)
    described = model.metadata(HUGGING_FACE)
    if not described:
        return Vocabulary(model, ends, templates)
    try:
        backend = FastTokenizer.from_str(described)
    except Exception as error:  # tokenizers raises nothing more special
        raise ModelError(f"The tokenizer in {model.path} cannot be read ({error}); convert the model again.") from error
    eos = model.metadata("tokenizer.ggml.eos_token_id")
    special = {"eos_token": eos, "bos_token": model.metadata("tokenizer.ggml.bos_token_id")}
    texts = {name: backend.id_to_token(int(id_)) for name, id_ in special.items() if id_ is not None}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **texts)
    tokenizer.chat_template = templates if "tool_use" in templates else templates.get("default")
    named = [model.metadata(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    return HFTokenizer(tokenizer, [*ends, *(int(id_) for id_ in named if id_ is not None)])


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a GGUF file, whose weights are not loaded. Raises ModelError."""
    return tokenizer_of(Model.load(path, vocabulary_only=True))


class Vocabulary:
    """llama.cpp's own tokenizer.

    NOTE: even without special tokens it takes what models define beside them, such as <tool_call>, for one token. For
    text that is not trusted such a token is taken apart: its first character and the rest are tokenized by themselves.
    """

    def __init__(self, model: Model, ends: frozenset[int], templates: Mapping[str, str]) -> None:
        lib = library()
        if lib.llama_vocab_type(model.vocabulary) == lib.LLAMA_VOCAB_TYPE_NONE:
            raise ModelError(f"{model.path} has no tokenizer; convert the model together with its tokenizer.")
        self.eos_ids = ends
        self._model = model
        self._templates = templates

    def token_table(self) -> TokenTable:
        """Return what each token writes."""
        return self._table

    @cached_property
    def _table(self) -> TokenTable:
        ids = range(self._model.vocabulary_size)
        return TokenTable([self._piece(id_) for id_ in ids], frozenset(filter(self._is_structure, ids)))

    def encode(self, text: str, *, special: bool, after: str = "\n") -> tuple[list[int], list[tuple[int, int]]]:
        """Return ids and the character interval of each. With `special` false, none of the ids carries structure.

        `after`: the text before it; see `Tokenizer.encode`.
        """
        sound = text.encode("utf-8", "replace").decode()
        inside = self.adds_space and bool(after) and not after.endswith(self._marks)
        if not special:
            ids = self._without_structure(sound, inside=inside)
        elif inside:
            ids = self._tokenize(_BEFORE + sound, True)[self._before :]
        else:
            ids = self._tokenize(sound, True)
        return ids, self._intervals(sound, ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids without special tokens, but for those that mark calls, channels and thoughts."""
        marked = any(id_ in self._kept for id_ in ids)
        shown = [id_ for id_ in ids if id_ in self._kept or not self._is_control(id_)] if marked else ids
        return self._bytes(shown, special=marked).decode("utf-8", "replace")

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generate: bool) -> str:
        """Format messages with the chat template; with tools, by the one named tool_use where there is one.

        Raises ConversationError where the template refuses them, ModelError where there is no template.
        """
        if not self._templates:
            raise ModelError(f"{self._model.path} has no chat template; use an instruction-tuned model.")
        return rendered(partial(self._write, messages, generate), tools)

    def _write(self, messages: list[dict[str, Any]], generate: bool, tools: list[dict[str, Any]] | None) -> str:
        texts, _ = render_jinja_template(
            [messages],
            tools=tools,
            chat_template=chosen_template(self._templates, tools),
            add_generation_prompt=generate,
            **self._special,
        )
        return str(texts[0])

    @cached_property
    def _special(self) -> dict[str, str]:
        """Return the texts of the beginning-of-text and end-of-text tokens, which templates write."""
        lib, vocabulary = library(), self._model.vocabulary
        found = {"bos_token": lib.llama_vocab_bos(vocabulary), "eos_token": lib.llama_vocab_eos(vocabulary)}
        texts = {name: lib.llama_vocab_get_text(vocabulary, id_) for name, id_ in found.items() if id_ >= 0}
        return {name: text.decode("utf-8", "replace") for name, text in texts.items()}

    @cached_property
    def _marks(self) -> tuple[str, ...]:
        """Return the texts of the special tokens: after one of them, too, a space is put before a text."""
        lib, vocabulary = library(), self._model.vocabulary
        marks = (
            lib.llama_vocab_get_text(vocabulary, id_)
            for id_ in range(self._model.vocabulary_size)
            if lib.llama_vocab_get_attr(vocabulary, id_) & lib.LLAMA_TOKEN_ATTR_CONTROL
        )
        return tuple(mark.decode("utf-8", "replace") for mark in marks)

    @cached_property
    def _kept(self) -> dict[int, str]:
        """Return the special tokens that stay in text."""

        def id_of(text: str) -> int | None:
            ids = self._tokenize(text, True)
            return ids[0] if len(ids) == 1 and self._is_control(ids[0]) else None

        return kept_ids(id_of)

    def _tokenize(self, text: str, special: bool) -> list[int]:
        data, lib = text.encode(), library()
        room = len(data) + 8
        ids = (lib.llama_token * room)()
        count = lib.llama_tokenize(self._model.vocabulary, data, len(data), ids, room, False, special)
        if count < 0:
            raise ConversationError("llama.cpp cannot turn this text into tokens; it is too long.")
        return list(ids[:count])

    def _without_structure(self, text: str, *, inside: bool = False) -> list[int]:
        """Tokenize text so that none of the ids carries structure. `inside`: other text comes before it."""
        ids = self._tokenize_inside(text) if inside else self._tokenize(text, False)
        written = [self._piece(id_).decode("utf-8", "replace") for id_ in ids if self._is_structure(id_)]
        marks = [mark for mark in written if len(mark) > 1 and mark.strip()]
        if not marks:
            return ids
        parts, at = [], 0
        for mark in marks:
            start = text.index(mark, at)
            parts += [text[at:start], mark[0], mark[1:]]
            at = start + len(mark)
        ids = []
        for part in filter(None, [*parts, text[at:]]):
            ids += self._without_structure(part, inside=inside or bool(ids))
        return ids

    def _tokenize_inside(self, text: str) -> list[int]:
        """Tokenize text that goes on, without the space that SentencePiece puts before a text."""
        if not self.adds_space:
            return self._tokenize(text, False)
        return self._tokenize(_BEFORE + text, False)[self._before :]

    @cached_property
    def adds_space(self) -> bool:
        """Return whether a space is put before a text."""
        return self._piece(self._tokenize("a", False)[0]).startswith(b" ")

    @cached_property
    def _before(self) -> int:
        """Return how many tokens _BEFORE is."""
        return len(self._tokenize(_BEFORE, False))

    def _is_structure(self, id_: int) -> bool:
        lib = library()
        return self._is_control(id_) or self._has(id_, lib.LLAMA_TOKEN_ATTR_USER_DEFINED)

    def _is_control(self, id_: int) -> bool:
        return self._has(id_, library().LLAMA_TOKEN_ATTR_CONTROL)

    def _has(self, id_: int, attribute: int) -> bool:
        kind: int = library().llama_vocab_get_attr(self._model.vocabulary, id_)
        return bool(kind & attribute)

    def _bytes(self, ids: Sequence[int], special: bool = False) -> bytes:
        lib = library()
        given = (lib.llama_token * len(ids))(*ids)
        room = 16 * len(ids) + 64
        while True:
            text = ctypes.create_string_buffer(room)
            count = lib.llama_detokenize(self._model.vocabulary, given, len(ids), text, room, False, special)
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
        # NOTE: SentencePiece writes a space before a text.
        at, found = -1 if sum(map(len, pieces)) > starts[-1] and pieces[0].startswith(b" ") else 0, []
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


def _templates(model: Model, given: str | None) -> dict[str, str]:
    """Return the chat templates by name, as transformers names them: default and tool_use."""
    if given:
        return {"default": given}
    found = {"default": model.metadata(_TEMPLATE), "tool_use": model.metadata(f"{_TEMPLATE}.tool_use")}
    return {name: text for name, text in found.items() if text}


def _ends(model: Model) -> frozenset[int]:
    """Return all ids that end a turn."""
    ends = library().llama_vocab_is_eog
    return frozenset(id_ for id_ in range(model.vocabulary_size) if ends(model.vocabulary, id_))
