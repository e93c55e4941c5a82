"""The words of a request from the call that is right for it: every value stands in them as the call has it."""

from __future__ import annotations

from collections.abc import Sequence

from kv_memory.pocket.tool_phrases import Style, ToolPhrases
from kv_memory.pocket.tool_schemas import Leaf, Tool, article
from kv_memory.pocket.values import Scalar, Values, as_text

Argument = Scalar | list[str]
Given = tuple[Leaf, Argument]
_LONG = frozenset(("text", "phrase"))
"""Kinds whose values are several plain words: in a sentence they need quotes, or nobody could say where they end."""
_TAKEN = " and with without as to is for on set use using where yes no true false from in at of be now please me "
"""Words of the wordings: as values they need quotes too."""
_WITH = ((" with {}", " without {}"), (", with {}", ", without {}"), (" with {}", " with no {}"))
_YES = (("true", "false"), ("yes", "no"), ("on", "off"))


class Wording:
    """Words one request."""

    def __init__(self, values: Values, phrases: ToolPhrases) -> None:
        self.values = values
        self.phrases = phrases
        rng = values.rng
        draw = rng.random()
        self._quote = '"' if draw < 0.9 else "'"
        self._quotes_all = rng.random() < 0.12
        self._yes = values.pick(_YES)
        self._verbatim = rng.random()
        """How often an argument's name is written as in the schema."""

    def say(self, tool: Tool, given: Sequence[Given], wanted: str | None = None) -> str:
        """A request for this call. `wanted`: the name of a field of the result that the user wants to hear."""
        values, rng, pick = self.values, self.values.rng, self.values.pick
        core, rest = self._core(tool, given)
        if len(rest) > 1 and rng.random() < 0.4:
            rest = rng.sample(rest, len(rest))
        style = pick(self.phrases.styles)
        before, after, end = pick(self.phrases.frames)
        opener = pick(self.phrases.openers)
        listed = self._list(style, rest) if rest else ""
        place = style.place if rest else "inside"
        match place:
            case "inside":
                text = f"{before}{core}{listed}{after}{end}"
            case "after":
                text = f"{before}{core}{after}{end or '.'}{listed}"
            case "first":
                text = f"{before}{core}{after}{end}"
                text = listed + (_lowered(text) if style.tail == ", " else text[0].upper() + text[1:])
            case _:
                text = f"{before}{core}{after}:{listed}"
        if opener.endswith((". ", "! ", ": ")) or (not opener and rng.random() < 0.85):
            text = text[0].upper() + text[1:]
        elif opener:
            text = _lowered(text)
        text = opener + text
        if wanted is not None:
            text = self._wish(text, place, wanted)
        elif place != "lines":
            closer = pick(self.phrases.closers)
            text += ("." if closer and not text.endswith((".", "?", "!")) else "") + closer
        while "{w}" in text:
            text = text.replace("{w}", values.any_word(), 1)
        return text

    def _core(self, tool: Tool, given: Sequence[Given]) -> tuple[str, list[Given]]:
        """What to do, and the arguments that it does not say yet."""
        pick, random = self.values.pick, self.values.rng.random
        if random() < 0.08:
            return pick(self.phrases.calls).format(tool.name), list(given)
        verb = (tool.verb if random() < 0.7 else pick(tool.group)).replace("_", " ")
        noun, rest, said, name = tool.noun, [], "", ""
        natural = random() < 0.75
        for leaf, value in given:
            part = leaf.parameter
            if natural and part.natural:
                said += " " + part.natural.format(self._value(part.kind, value))
            elif part.kind == "id" and not (name or tool.plural or part.natural) and random() < 0.85:
                name = f"{noun} {pick(('', '', '', 'number '))}{self._value('id', value)}"
            elif isinstance(value, bool) and random() < 0.6:
                said += pick(_WITH)[not value].format(leaf.names[random() > self._verbatim])
            else:
                rest.append((leaf, value))
        if name:
            return f"{verb} {pick(('', '', 'the ', 'my ', 'our '))}{name}{said}", rest
        if tool.plural:
            return f"{verb} {pick(('', 'the ', 'all ', 'my '))}{noun}s{said}", rest
        return f"{verb} {pick((article(noun), article(noun), 'the', 'this', 'my'))} {noun}{said}", rest

    def _list(self, style: Style, given: Sequence[Given]) -> str:
        pick = self.values.pick
        item, between = pick(style.items), pick(style.between)
        in_lines = style.place == "lines"
        texts = []
        for leaf, value in given:
            name = leaf.names[self.values.rng.random() > self._verbatim]
            text = self._value(leaf.parameter.kind, value, in_lines)
            texts.append(item.replace("{k}", name).replace("{v}", text))
        text = texts[0] if len(texts) == 1 else between.join(texts[:-1]) + pick(style.last) + texts[-1]
        return pick(style.heads) + text + style.tail

    def _value(self, kind: str, value: Argument, in_line: bool = False) -> str:
        if value is True or value is False:
            return self._yes[not value]
        quote = self._quote
        if isinstance(value, list):
            if in_line:
                return ", ".join(value)
            quoted = [f"{quote}{item}{quote}" for item in value]
            return ", ".join(quoted[:-1]) + (" and " if len(quoted) > 1 else "") + quoted[-1]
        if not isinstance(value, str):
            return as_text(value)
        if self._quotes_all or f" {value} " in _TAKEN or (kind in _LONG and not in_line):
            return f"{quote}{value}{quote}"
        return value

    def _wish(self, text: str, place: str, wanted: str) -> str:
        wish = self.values.pick(self.phrases.wants).replace("{key}", wanted)
        if place == "inside" and text.endswith(".") and wish.startswith("And "):
            return f"{text[:-1]} {_lowered(wish)}"
        gap = "\n" if place == "lines" else " " if text.endswith((".", "?", "!")) else ". "
        return text + gap + wish


def _lowered(text: str) -> str:
    return text if text.startswith(("I ", "I'")) else text[0].lower() + text[1:]
