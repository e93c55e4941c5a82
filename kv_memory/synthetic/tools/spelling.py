"""The writing of a request's arguments: their names and values, and a list of them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from kv_memory.synthetic.tools.phrases import Style, ToolPhrases, glue_words, slip
from kv_memory.synthetic.tools.schemas import Leaf
from kv_memory.synthetic.values import Scalar, Values, as_text

Argument = Scalar | list[str]
Given = tuple[Leaf, Argument]
_LONG = frozenset(("text", "phrase"))
"""Kinds whose values are several plain words: in a sentence they need quotes, or nobody could say where they end."""
_LOOSE = 0.25
"""Share of training requests in which random words may touch values."""
_CLEAR = re.compile(r"([\"'`])[^\"'`]*\{v\}\1")
"""An item that puts the value in quotes itself."""
_QUOTES = (*[('"', '"')] * 16, ("'", "'"), ("'", "'"), ("`", "`"), ("“", "”"))


class Spelling:
    """The writer of the arguments of one request."""

    def __init__(self, values: Values, phrases: ToolPhrases) -> None:
        self.values = values
        self.phrases = phrases
        rng = values.rng
        self._open, self._close = values.pick(_QUOTES)
        self._quotes_all = rng.random() < 0.12
        self._yes = values.pick(phrases.yes)
        self._verbatim = rng.random()
        """Share of argument names that are written as in the schema."""
        self._natural = rng.random() < 0.8
        self._slips = rng.random() < phrases.slips
        self._loose = bool(phrases.loose) and rng.random() < _LOOSE
        if self._loose:
            self._open, self._close = values.pick((('"', '"'), ("`", "`"), ("'", "'"), ("“", "”")))

    def part(self, section: str) -> str:
        """Draw a wording of this section, with slips if this request has any."""
        pick = self.values.pick
        text = pick(pick(self.phrases.parts[section]))
        return slip(self.values.rng, text) if self._slips and text else text

    def said(self, kind: str, natural: str) -> str:
        """Draw a way to say an argument without its name."""
        others = self.phrases.naturals.get(f"{kind}: {natural}")
        return self.values.pick(self.values.pick(others)) if others and self.values.rng.random() < 0.6 else natural

    def name(self, leaf: Leaf) -> str:
        """Write an argument's name."""
        return leaf.names[self.values.rng.random() > self._verbatim]

    def style(self) -> Style:
        """Draw a way to say the arguments."""
        return self.values.pick(self.phrases.loose if self._loose else self.phrases.styles)

    def list(self, style: Style, given: Sequence[Given]) -> str:
        """Write these arguments in this style."""
        pick = self.values.pick
        head = pick(style.heads).lstrip(" ")
        if style.place == "json":
            return head.replace("{args}", json.dumps(_nested(given), ensure_ascii=False))
        item, between = pick(style.items), pick(style.between)
        last = between if style.place == "lines" else pick(style.last)
        if between == "=":
            between = last = head.removesuffix("{args}")
        texts = []
        for leaf, value in given:
            if self._loose:
                text = self._quoted(value)
            elif _CLEAR.search(item):
                text = self._bare(value)
            else:
                text = self.value(leaf.parameter.kind, value, style.place == "lines")
            texts.append(item.replace("{k}", self.name(leaf)).replace("{v}", text))
        text = texts[0] if len(texts) == 1 else between.join(texts[:-1]) + last + texts[-1]
        if self._slips:  # there may be a value before it
            head = slip(self.values.rng, "{} " + head).removeprefix("{} ")
        return head.replace("{args}", text)

    def value(self, kind: str, value: Argument, in_line: bool = False) -> str:
        """Write a value; `in_line` if it is at the end of a line of its own."""
        if isinstance(value, list):
            return self._bare(value) if in_line else self._quoted(value)
        if not isinstance(value, str):
            return self._bare(value)
        if self._quotes_all or value.lower() in glue_words() or (kind in _LONG and not in_line):
            return self._quoted(value)
        return value

    def _bare(self, value: Argument) -> str:
        if value is True or value is False:
            return self._yes[not value]
        return ", ".join(value) if isinstance(value, list) else as_text(value)

    def _quoted(self, value: Argument) -> str:
        texts = value if isinstance(value, list) else [self._bare(value)]
        quoted = [f"{self._open}{text}{self._close}" for text in texts]
        return ", ".join(quoted[:-1]) + (" and " if len(quoted) > 1 else "") + quoted[-1]


def _nested(given: Sequence[Given]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for leaf, value in given:
        target = result.setdefault(leaf.path[0], {}) if len(leaf.path) > 1 else result
        target[leaf.path[-1]] = value
    return result
