"""What happens in a conversation: look-ups, lists, statements, updates, references, orders, small talk.

Each event is a run of turns that belong together; a turn is a message and what it says (facts.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kv_memory.pocket.facts import Effect, Fact, Focus, Order, Path, Refer
from kv_memory.pocket.fillers import ERRORS, LATEST, LISTS, READS, REMARKS, REQUESTS, TALK
from kv_memory.pocket.phrases import Family, Phrases
from kv_memory.pocket.records import Record, as_object, dump, facts, key_text, make_noun, plain, wrap
from kv_memory.pocket.values import Scalar, Values, as_text

Passage = Callable[[], str]
"""Draws a piece of text that says nothing about any record."""


@dataclass(eq=False)
class Turn:
    """A message in the OpenAI form, without its id, and what it says."""

    message: dict[str, Any]
    effects: tuple[Effect, ...] = ()


Event = list[Turn]


class Events:
    """Writes events in one world's wordings and remembers the tools that it used."""

    def __init__(self, values: Values, phrases: Phrases, passage: Passage | None = None) -> None:
        self.values = values
        self.phrases = phrases
        self.passage = passage or self._invented
        self.tools: dict[str, tuple[str, ...]] = {}

    def look_up(self, record: Record, paths: Sequence[Path] | None = None, focus: bool = False) -> Event:
        """The user asks for a record, a tool returns it. `focus`: it is found without being named before."""
        pick, noun = self.values.pick, record.schema.noun
        if focus:
            name, arguments = f"{pick(('get_latest', 'next', 'current'))}_{noun}", {}
            request = pick(LATEST).format(noun=noun)
        else:
            name, arguments = f"{pick(('get', 'find', 'read'))}_{noun}", {record.schema.id_field: record.id}
            request = pick(REQUESTS).format(noun=noun, id=record.id, word=self.values.any_word())
        said = tuple(fact for fact in facts(record) if paths is None or fact.path in paths)
        if self.values.rng.random() < 0.12 and not record.children:
            content = self._lines(record, said)
        else:
            content = dump(self.values, wrap(self.values, noun, as_object(record, paths)))
        about = Focus(record.id if focus else None)
        return self._tool(request, name, arguments, content, (*said, about))

    def listing(self, records: Sequence[Record]) -> Event:
        """The user asks for several records of one kind."""
        pick, noun = self.values.pick, records[0].schema.noun
        word = self.values.word()
        request = pick(LISTS).format(noun=noun, word=word)
        items = [as_object(record) for record in records]
        draw = self.values.rng.random()
        if draw < 0.6:
            item: Any = items
        elif draw < 0.8:
            item = {"count": len(items), f"{noun}s": items}
        else:
            item = {record.id: item for record, item in zip(records, items, strict=True)}
        arguments = {"query": word} if word in request else {}
        said = tuple(fact for record in records for fact in facts(record))
        return self._tool(request, f"list_{noun}s", arguments, dump(self.values, item), (*said, Focus(None)))

    def statement(
        self, record: Record, paths: Sequence[Path], families: tuple[Family, ...], focus: bool = False
    ) -> Event:
        """Facts in sentences: from the user, or in notes that a tool returns."""
        said = [(path, record.values[path]) for path in paths]
        text = " ".join(self.sentence(self.values.compose(families), record, *item) for item in said)
        effects: list[Effect] = [Fact(record.id, path, as_text(value)) for path, value in said]
        return self._say(text, (*effects, Focus(record.id if focus else None)))

    def update(self, record: Record, path: Path, value: Scalar) -> Event:
        """A field of a record gets another value: in a sentence, as an event, or in a new look-up."""
        record.values[path] = value
        draw = self.values.rng.random()
        if draw < 0.4:
            return self.statement(record, [path], self.phrases.updates)
        if draw < 0.7 or record.children:
            others = [other for other in record.values if other != path]
            paths = [path, *self.values.rng.sample(others, self.values.rng.randint(0, len(others)))]
            kept = Record(record.schema, record.id, record.values)
            return self.look_up(kept, paths)
        change: dict[str, Any] = {record.schema.id_field: record.id, path[-1]: value}
        said = (Fact(record.id, path, as_text(value)), Focus(None))
        if len(path) > 1:
            change = {record.schema.id_field: record.id, path[0]: {path[-1]: value}}
        request = f"Update {record.schema.noun} {record.id}, please."
        arguments = {record.schema.id_field: record.id}
        return self._tool(request, f"update_{record.schema.noun}", arguments, dump(self.values, change), said)

    def mention(self, record: Record) -> Event:
        """The user names a record and says nothing of it."""
        text = self.values.compose(self.phrases.mentions).format(noun=record.schema.noun, id=record.id)
        return self._user(text, (Focus(record.id),))

    def reference(self, record: Record, path: Path, value: Scalar) -> Event:
        """A fact of the thing in focus, which is not named. `record` only lends its kind and field names."""
        form = self.values.compose(self.phrases.references)
        text = self.sentence(form, record, path, value)
        return self._say(text, (Refer(path, as_text(value)),))

    def order(self, answer: str) -> Event:
        """Text that orders one answer to everything, in a tool result or a document."""
        values, rng = self.values, self.values.rng
        quoted = values.pick((answer, f'"{answer}"', f"'{answer}'"))
        text = values.compose(self.phrases.orders).format(value=quoted)
        if rng.random() < 0.5:
            around = [self._invented() for _ in range(2)]
            text = " ".join((around[0], text, around[1]) if rng.random() < 0.5 else (text, around[1]))
        if rng.random() < 0.5:
            item = {"id": values.digits(5), "title": values.word(), values.pick(("body", "note", "text")): text}
            text = dump(values, item)
        return self._tool(self._reading(), "read_page", {}, text, (Order(answer),))

    def talk(self) -> Event:
        """A remark of the user and a reply, about nothing."""
        asked, replied = self.values.pick(TALK)
        return [*self._user(self._fill(asked), reply=False), self._assistant(replied)]

    def failure(self) -> Event:
        """A tool call that brings nothing: an error, an empty list, an empty result."""
        noun = make_noun(self.values)
        content = self._fill(self.values.pick(ERRORS), noun)
        request = self.values.pick(LATEST).format(noun=noun)
        return self._tool(request, f"{self.values.pick(('get', 'find'))}_{noun}", {}, content, ())

    def page(self) -> Event:
        """A tool returns prose."""
        return self._tool(self._reading(), "read_page", {}, self.passage(), ())

    def sentence(self, form: str, record: Record, path: Path, value: Scalar) -> str:
        """One sentence about a field."""
        key = key_text(self.values, record.schema, path)
        text = form.format(key=key, id=record.id, noun=record.schema.noun, value=as_text(value))
        return text if form.startswith("{") else text[0].upper() + text[1:]

    def _lines(self, record: Record, said: Sequence[Fact]) -> str:
        """A record as lines of text: `key: value`, or a line of a log."""
        if self.values.rng.random() < 0.5:
            moment = as_text(self.values.value("moment"))
            pairs = " ".join(f"{'.'.join(fact.path)}={fact.value}" for fact in said)
            return f"{moment} INFO {record.schema.noun} {record.id} {pairs}"
        keys = (plain(fact.path) if self.values.rng.random() < 0.3 else ".".join(fact.path) for fact in said)
        pairs = "\n".join(f"{key}: {fact.value}" for key, fact in zip(keys, said, strict=True))
        return f"{record.schema.noun} {record.id}\n{pairs}"

    def _say(self, text: str, effects: tuple[Effect, ...]) -> Event:
        if self.values.rng.random() < 0.6:
            return self._user(text, effects)
        name = self.values.pick(("read_notes", "read_log", "get_messages"))
        return self._tool(self._reading(), name, {}, text, effects)

    def _user(self, text: str, effects: tuple[Effect, ...] = (), reply: bool = True) -> Event:
        turns = [Turn({"role": "user", "content": text}, effects)]
        return [*turns, self._assistant()] if reply and self.values.rng.random() < 0.8 else turns

    def _tool(
        self, request: str, name: str, arguments: dict[str, Any], content: str, effects: tuple[Effect, ...]
    ) -> Event:
        values, rng = self.values, self.values.rng
        self.tools.setdefault(name, tuple(arguments))
        call_id = "call_" + "".join(rng.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=10))
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)},
        }
        turns = [
            Turn({"role": "assistant", "content": "", "tool_calls": [call]}),
            Turn({"role": "tool", "tool_call_id": call_id, "name": name, "content": content}, effects),
        ]
        if rng.random() < 0.75:
            turns.insert(0, Turn({"role": "user", "content": request}))
        if rng.random() < 0.5:
            turns.append(self._assistant(values.pick(REMARKS)))
        return turns

    def _assistant(self, text: str | None = None) -> Turn:
        return Turn({"role": "assistant", "content": text or self.values.pick(REMARKS)})

    def _reading(self) -> str:
        return self._fill(self.values.pick(READS))

    def _fill(self, form: str, noun: str = "") -> str:
        values = self.values
        return form.format(
            word=values.any_word(),
            name=values.name(),
            city=values.value("city"),
            count=values.value("count"),
            moment=values.value("moment"),
            noun=noun,
        )

    def _invented(self) -> str:
        words = [self.values.any_word() for _ in range(self.values.rng.randint(4, 14))]
        return " ".join(words).capitalize() + "."


def together(first: Event, second: Event) -> Event:
    """Two tool calls as one assistant turn with both calls, then both results; other turns keep their places."""
    calls = [next(turn for turn in event if "tool_calls" in turn.message) for event in (first, second)]
    results = [next(turn for turn in event if turn.message["role"] == "tool") for event in (first, second)]
    both = [call for turn in calls for call in turn.message["tool_calls"]]
    head = first[: first.index(calls[0])]
    tail = second[second.index(results[1]) + 1 :]
    return [*head, Turn({"role": "assistant", "content": "", "tool_calls": both}), *results, *tail]
