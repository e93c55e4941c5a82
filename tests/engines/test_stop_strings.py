"""Stop strings and held-back text, over tokens that the test chooses."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory.engines.base import Sampling, Token
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.models import CONFIGS, tokenizer

PROMPT = list(range(40, 60))
SNOWMAN = "\N{SNOWMAN}"


class Forced:
    """An engine that draws the tokens of a given text, and the sequence that it continues."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        torch.manual_seed(0)
        self.engine = TransformersEngine(AutoModelForCausalLM.from_config(CONFIGS["qwen3"]()), tokenizer())
        self.seq = self.engine.create()
        self.engine.prefill(self.seq, PROMPT)
        self.drawn = self.engine.tokenizer.encode(text, special=False)[0]
        rest = iter(self.drawn)
        monkeypatch.setattr("kv_memory.engines.generation.Sampler.__call__", lambda self, logits: next(rest))

    def run(self, stop: tuple[str, ...] = (), max_tokens: int | None = None) -> list[Token]:
        sampling = Sampling(max_tokens=max_tokens or len(self.drawn), stop=stop)
        return list(self.engine.generate(self.seq, sampling))

    def written(self) -> list[int]:
        return self.engine.tokens(self.seq)[len(PROMPT) :]


STOPS = {
    "between tokens": ("abcdefgh", ("ef",), "abcd"),
    "inside a token": ("abcdefgh", ("de",), "abc"),
    "at the start": ("abcdefgh", ("a",), ""),
    "over four tokens": ("abcdefgh", ("bcdefg",), "a"),
    "the earlier of two": ("abcdefgh", ("gh", "cd"), "ab"),
    "the one that is completed": ("abcdefgh", ("defgh!", "ef"), "abcd"),
    "after a character of several bytes": (f"ab{SNOWMAN}cdef", ("de",), f"ab{SNOWMAN}c"),
    "a character of several bytes": (f"abcd{SNOWMAN}ef", (SNOWMAN,), "abcd"),
    "at the very end": ("abcdefgh", ("gh",), "abcdef"),
}


@pytest.mark.parametrize(("text", "stop", "expected"), STOPS.values(), ids=STOPS)
def test_a_stop_string_is_cut_from_text_and_cells(
    monkeypatch: pytest.MonkeyPatch, text: str, stop: tuple[str, ...], expected: str
) -> None:
    forced = Forced(monkeypatch, text)
    tokens = forced.run(stop)
    assert ("".join(token.text for token in tokens), tokens[-1].finish) == (expected, "stop")
    assert forced.written() == forced.engine.tokenizer.encode(expected, special=False)[0]


def test_text_that_could_become_a_stop_string_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Forced(monkeypatch, "abcdefgh").run(stop=("cdefX",))
    assert [token.text for token in tokens] == ["ab", "", "", "cdefgh"]


def test_held_back_text_comes_with_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = Forced(monkeypatch, "abcd")
    forced.engine.tokenizer.eos_ids = frozenset(forced.drawn[-1:])
    tokens = forced.run(stop=("bX",))
    assert tokens == [Token(forced.drawn[0], "a"), Token(-1, "b", "stop")]
    assert forced.written() == forced.drawn[:1]


def test_a_cut_character_is_neither_given_out_nor_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = Forced(monkeypatch, f"ab{SNOWMAN}cd{SNOWMAN}")
    tokens = forced.run(max_tokens=len(forced.drawn) - 1)
    assert [token.text for token in tokens] == ["ab", "", "", SNOWMAN, "cd", "", ""]
    assert forced.written() == forced.drawn[:-3]
