"""The tokenizer: byte-level BPE with 8,192 entries, and the rule that contents carry no structure.

A name must be cut into the same tokens everywhere, after a space, a quote or a dash: only then can a small model match
it by copying. So spaces and punctuation are never merged with words, and each digit, and each letter of a word in
capitals, is a token of its own; to save tokens, common function words take their leading space along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from kv_memory.engines.transformers.tokenizer import without_structure
from pocket_training.pieces import Piece

VOCABULARY = 8192
END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
STRUCTURE = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
_COMMON = (
    "the of is a an to and in for on at it its was be has have with that this what which i you my me your are as not "
    "from by or if do does can please we he she they his her him said had but so all were there when would could one no"
)
_PATTERN = rf" (?:{'|'.join(_COMMON.split())})(?![\p{{L}}\p{{M}}])"
_PATTERN += r"|\p{Lu}?[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[\p{Lu}\p{Lt}]"
# A line break starts a piece, so that scaffolding around an empty content cuts as it does around a full one.
_PATTERN += r"|\p{N}|\n[^\p{L}\p{M}\p{N}\n]*|[^\p{L}\p{M}\p{N}\n]+"


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a tokenizer on these texts; it has the chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    added = [AddedToken(text, normalized=False, special=True) for text in (END, START, STOP)]
    added += [AddedToken(text, normalized=False, special=False) for text in STRUCTURE]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(added),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_special_tokens(added[:3])
    bpe.add_tokens(added[3:])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=STOP,
        pad_token=END,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
        chat_template=(Path(__file__).parent / "template.jinja").read_text(),
    )


class PieceEncoder:
    """The encoder from pieces to ids. Scaffolding repeats, so its ids are cached."""

    def __init__(self, tokenizer: Any) -> None:
        self._whole: Tokenizer = tokenizer.backend_tokenizer
        self._plain = without_structure(self._whole)
        self._scaffold = lru_cache(4096)(self._encode_scaffold)
        self.call_start: int = self._whole.token_to_id(STRUCTURE[0])
        """Id of the token that a call begins with."""

    def encode(self, items: Sequence[Piece]) -> list[list[int]]:
        """Encode each piece alone."""
        contents = iter(self._plain.encode_batch_fast([item.text for item in items if item.content]))
        return [next(contents).ids if item.content else self._scaffold(item.text) for item in items]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of these ids."""
        return str(self._whole.decode(list(ids), skip_special_tokens=False))

    def _encode_scaffold(self, text: str) -> list[int]:
        ids: list[int] = self._whole.encode(text).ids
        return ids
