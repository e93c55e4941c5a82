"""Text that goes on has no space before it, and the space between two texts is where the template's text has it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kv_memory.conversation.chat_format import ChatFormat
from kv_memory.conversation.messages import Cuts, parse_messages
from kv_memory.engines.transformers.tokenizer import HFTokenizer

PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '<end>' }}{% endfor %}"
LINES = "{% for m in messages %}{{ '<start>' + m.role + '\n' + m.content + '<end>' }}{% endfor %}"
DIRECT = "{% for m in messages %}{{ '<start>' + m.content + '<end>' }}{% endfor %}"
WORDS = ["user", "hello", "so", "be"]


def sentencepiece(*, legacy: bool) -> Any:
    """A tokenizer of words and bytes that puts a space before a text: `legacy` after each special token too."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    letters = sorted({c for word in WORDS for c in word})
    merges, words = [], []
    for word in WORDS:
        for cut in range(1, len(word)):
            merges += [] if (word[:cut], word[cut]) in merges else [(word[:cut], word[cut])]
            words.append(word[: cut + 1])
        merges.append(("\u2581", word))
        words.append("\u2581" + word)
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *letters, *words]))}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spaces: list[Any] = [normalizers.Replace(" ", "\u2581")]
    if legacy:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), *spaces])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in ("<start>", "<end>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("template", [PLAIN, LINES, DIRECT])
def test_the_tokens_are_those_of_the_templates_own_text(template: str, legacy: bool) -> None:
    hf = sentencepiece(legacy=legacy)
    hf.chat_template = template
    talk = [{"role": "user", "content": text} for text in ("hello", "so be", " hello", "be\nso")]
    layout = ChatFormat(HFTokenizer(hf)).layout(parse_messages(talk))
    ids = [i for _, piece in layout.flow() for i in piece.ids]
    assert ids == hf(hf.apply_chat_template(talk, tokenize=False), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_space_that_is_one_token_with_the_word_goes_with_it(legacy: bool) -> None:
    hf = sentencepiece(legacy=legacy)
    hf.chat_template = PLAIN
    layout = ChatFormat(HFTokenizer(hf)).layout(parse_messages([{"role": "user", "content": "hello so"}]))
    (word, *_) = [piece for _, piece in layout.flow() if piece.kind == "content"]
    assert hf.convert_ids_to_tokens(word.ids) == ["\u2581hello", "\u2581so"]
    assert word.chars == ((0, 5), (5, 8))
    left = [i for _, piece in layout.flow(cuts={0: Cuts(((0, 5),))}) for i in piece.ids]
    assert hf.decode(left) == "user: so<end>"
    assert layout.scaffold(0) == [i for _, piece in layout.flow() if piece.kind == "scaffold" for i in piece.ids]
