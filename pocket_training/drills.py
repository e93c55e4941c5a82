"""Training conversations of one skill alone, which conversations of all kinds exercise too seldom.

Answers in capitals have to be spelled, for a letter in capitals is a token of its own and a word is not; and calls have
many places to go wrong. Without drills these two were most of what a trained model still got wrong. How a token is
spelled can only be known from having seen it spelled, so the drills cover the whole vocabulary, including words that
otherwise occur in tests alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from kv_memory.synthetic.drafter import Drafter
from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN, TOKENS_PER_MESSAGE
from kv_memory.synthetic.events import Event, Events, Turn
from kv_memory.synthetic.facts import Form, Wish, in_form
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.values import KINDS, Values, as_text
from pocket_training.samples import Sample, interview

_FORMS: tuple[Form, ...] = ("capitals", "small")
_WORDS = 0.6
"""Share of the requests that are for words of the vocabulary."""
_ASKS = ("Repeat: {}", "Say {}", "Write: {}", "Read this back: {}", "Copy {}", "{}", "{}?", "Once more: {}", "And {}")


def spelled_words(tokenizer: Any) -> list[str]:
    """Return the vocabulary's words and parts of words, in small letters."""
    texts = (tokenizer.decode([token]) for token in range(len(tokenizer)))
    return sorted({text.lower() for text in texts if len(text) > 1 and text.isalpha()})


def spelling_sample(rng: Random, tokens: int, words: Sequence[str] = ()) -> Sample:
    """Make a sample in which values and some of these words are repeated, all in capitals or all in small letters."""
    values = Values(rng, "train")
    events = Events(values, Phrases("train"))
    turns: list[Turn] = []
    answers = set()
    wish = Wish(rng.choice(_FORMS))
    left = float(tokens)
    while left > 0:
        event: Event
        if not turns or rng.random() < 0.1:
            event = events.wish(rng.choice(_FORMS))
            wish = next(effect for turn in event for effect in turn.effects if isinstance(effect, Wish))
        else:
            said = values.pick((" ", ", ")).join(_items(values, words))
            asked = values.pick(_ASKS).format(said)
            event = [Turn({"role": "user", "content": asked}), _answer(in_form(said, wish))]
        for turn in event:
            if turn.answer:
                answers.add(len(turns))
            turns.append(turn)
            # what is said in capitals has a token for each letter
            left -= len(turn.message["content"]) / (1.4 if turn.answer else CHARACTERS_PER_TOKEN) + TOKENS_PER_MESSAGE
    return Sample([turn.message for turn in turns], None, frozenset(answers))


def call_sample(rng: Random, tokens: int) -> Sample:
    """Make a sample of requests for some tools, one after the other."""
    return interview(Drafter(Values(rng, "train"), Phrases("train"), tokens).write_calls(), 2)


def _answer(text: str) -> Turn:
    return Turn({"role": "assistant", "content": text}, answer=True)


def _items(values: Values, words: Sequence[str]) -> list[str]:
    rng = values.rng
    count = rng.choice((1, 1, 2, 3, 5))
    if words and rng.random() < _WORDS:
        write = values.pick((str.lower, str.lower, str.lower, str.capitalize, str.upper))
        return [write(values.pick(words)) for _ in range(count)]
    if rng.random() < 0.5:
        return [values.any_word() for _ in range(count)]
    if rng.random() < 0.3:
        return [values.ident(values.ident_style(), values.any_word()) for _ in range(count)]
    return [as_text(values.value(values.pick(KINDS))) for _ in range(count)]
