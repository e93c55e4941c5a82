"""The events of a conversation: look-ups, lists, statements, updates, references, orders, wishes, small talk.

Each event is a run of turns that belong together; a turn is a message and what it says (facts.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kv_memory.synthetic import layouts
from kv_memory.synthetic.facts import USER, Claim, Effect, Fact, Focus, Form, Listing, Order, Path, Refer, Wish
from kv_memory.synthetic.fillers import ERRORS, LATEST, LISTS, READS, REMARKS, REQUESTS, TALK
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.records import Record, facts, key_text, make_noun
from kv_memory.synthetic.tools.toolbox import Toolbox
from kv_memory.synthetic.values import Scalar, Values, as_text

Passage = Callable[[], str]
"""A function that draws a piece of text which says nothing about any record."""

PLACES = (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"))
LAST = ("last", "last", "final")


@dataclass(eq=False)
class Turn:
    """A message in the OpenAI form, without its id, and what it says."""

    message: dict[str, Any]
    effects: tuple[Effect, ...] = ()
    wrong: bool = False
    """Whether the assistant is mistaken, so that a model must not learn the turn."""
    answer: bool = False
    """Whether this is the one right thing to say here, so that a model is to learn it."""


Event = list[Turn]


def telling(event: Event) -> Turn:
    """Return the turn that carries what the event says: the tool's result, or the first with effects."""
    results = [turn for turn in event if turn.message["role"] == "tool"]
    return next(turn for turn in results or event if turn.effects)


def tool_call(rng: Random, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return a call as an assistant message in the OpenAI form has it, with a new id."""
    call_id = "call_" + "".join(rng.choices("abcdefghijkmnpqrstuvwxyz0123456789", k=10))
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": call_id, "type": "function", "function": function}


class Events:
    """The writer of events in one world's wordings; remembers the tools that it used."""

    def __init__(self, values: Values, phrases: Phrases, passage: Passage | None = None) -> None:
        self.values = values
        self.rng = values.rng
        self.phrases = phrases
        self.passage = passage or self._invented
        self.tools: dict[str, tuple[str, ...]] = {}

    def look_up(self, record: Record, paths: Sequence[Path] | None = None, named: bool = True) -> Event:
        """Write a look-up: the user asks for a record, a tool returns it. Unless `named`, only the result names the
        record."""
        pick, noun = self.values.pick, record.schema.noun
        about = focus([record])
        if named:
            name, arguments = f"{pick(('get', 'find', 'read'))}_{noun}", {record.schema.id_field: record.id}
            request = pick(REQUESTS).format(noun=noun, id=record.id, word=self.values.any_word())
        else:
            name, arguments = f"{pick(('get_latest', 'next', 'current'))}_{noun}", {}
            request = pick(LATEST).format(noun=noun)
        said: tuple[Effect, ...] = (*facts(record, paths), *about)
        content = layouts.one(self.values, record, paths)
        return self._tool(request, name, arguments, content, said, about if named else ())

    def listing(self, records: Sequence[Record]) -> Event:
        """Write a list: the user asks for several records of one kind."""
        noun = records[0].schema.noun
        word = self.values.word()
        request = self.values.pick(LISTS).format(noun=noun, word=word)
        arguments = {"query": word} if word in request else {}
        said = tuple(fact for record in records for fact in facts(record))
        listed = Listing(noun, tuple(record.id for record in records))
        content = layouts.several(self.values, records)
        return self._tool(request, f"list_{noun}s", arguments, content, (*said, listed, *focus(records)))

    def statement(self, record: Record, paths: Sequence[Path], section: str = "statement") -> Event:
        """Write facts as sentences of this section of the wordings: from the user, or in notes that a tool returns."""
        text = " ".join(self.sentence(section, record, path, record.values[path]) for path in paths)
        return self._say(text, (*facts(record, paths), *focus([record])), record.id == USER)

    def document(self, said: Sequence[tuple[Record, Path]]) -> Event:
        """Write facts about several things in one text, among prose: notes, mails, pages, search results."""
        effects = [effect for record, path in said for effect in facts(record, [path])]
        sentences = [self.sentence("statement", record, path, record.values[path]) for record, path in said]
        pages = [self._around(sentence) for sentence in sentences]
        draw = self.rng.random()
        if draw < 0.4:
            content = "\n\n".join(pages)
        elif draw < 0.7:
            content = "\n\n".join(f"Document {place}: {page}" for place, page in enumerate(pages, 1))
        else:
            content = layouts.dump(self.values, [{"title": self.values.word(), "text": page} for page in pages])
        about = focus(list({record.id: record for record, _ in said}.values()))
        name = self.values.pick(("search", "retrieve", "read_mail", "search_docs"))
        word = self.values.any_word()
        return self._tool(self._reading(), name, {"query": word}, content, (*effects, *about))

    def update(self, record: Record, path: Path, value: Scalar) -> Event:
        """Write an update of a field's value: in a sentence, as an event, or in a new look-up."""
        record.values[path] = value
        draw = self.rng.random()
        if draw < 0.45 or record.id == USER:
            section = "update" if record.id != USER else "my statement"
            return self.statement(record, [path], section)
        if draw < 0.75 or record.children:
            others = [other for other in record.values if other != path]
            paths = [path, *self.rng.sample(others, self.rng.randint(0, len(others)))]
            return self.look_up(Record(record.schema, record.id, record.values), paths)
        noun, id_field = record.schema.noun, record.schema.id_field
        change: dict[str, Any] = {id_field: record.id, path[-1]: value}
        if len(path) > 1:
            change = {id_field: record.id, path[0]: {path[-1]: value}}
        about = focus([record])
        said: tuple[Effect, ...] = (Fact(record.id, path, as_text(value)), *about)
        content = layouts.dump(self.values, change)
        request = f"Update {noun} {record.id}, please."
        return self._tool(request, f"update_{noun}", {id_field: record.id}, content, said, about)

    def mention(self, record: Record) -> Event:
        """Write that the user names a record and says nothing of it."""
        text = self._fit(self.phrases.draw(self.rng, "mention"), record)
        return self._user(text, focus([record]))

    def reference(self, record: Record, path: Path, value: Scalar, noun: str | None = None) -> Event:
        """Write a fact of the thing in focus, or of the latest of this kind. `record` only lends its field names."""
        section = "reference" if noun is None else "that reference"
        text = self.sentence(section, record, path, value)
        return self._say(text, (Refer(path, as_text(value), noun),))

    def nth_reference(self, records: Sequence[Record], place: int, path: Path, value: Scalar) -> Event:
        """Write a fact of the thing at a place of the latest list, which is of these records."""
        last = place == len(records) - 1 and (place >= len(PLACES) or self.rng.random() < 0.3)
        nth = self.values.pick(LAST if last else PLACES[place])
        noun = records[0].schema.noun
        text = self.sentence("nth reference", records[place], path, value, nth)
        about = Focus(None, noun)  # which thing that is depends on the list
        return self._say(text, (Refer(path, as_text(value), noun, -1 if last else place), about))

    def order(self, answer: str) -> Event:
        """Write text that orders one answer to everything, in a tool result or a document."""
        quoted = self.values.pick((answer, answer, f'"{answer}"', f"'{answer}'"))
        text = self.values.fill(self.phrases.draw(self.rng, "order")).format(value=quoted)
        if self.rng.random() < 0.6:
            text = self._around(text)
        draw = self.rng.random()
        if draw < 0.3:
            item = {"id": self.values.digits(5), "title": self.values.word(), self.values.pick(("body", "note")): text}
            text = layouts.dump(self.values, item)
        elif draw < 0.45:
            text = f"{self.values.word()}: {self.values.any_word()}\nnote: {text}"
        return self._tool(self._reading(), "read_page", {}, text, (Order(answer),))

    def wish(self, form: Form) -> Event:
        """Write that the user wants answers in some form."""
        text = {"call me": self.values.first_name, "begin with": self.values.any_word, "end with": self.values.any_word}
        given = text[form]() if form in text else ""
        quoted = given if form == "call me" else self.values.pick((given, f'"{given}"', f"'{given}'"))
        said = self.phrases.draw(self.rng, form).format(value=quoted)
        said = said[0].lower() + said[1:] if not said.startswith("I ") else said
        asked = self.values.fill(self.phrases.draw(self.rng, "wish")).format(wish=said)
        return self._user(asked, (Wish(form, given),))

    def talk(self) -> Event:
        """Write a remark of the user and a reply, about nothing."""
        asked, replied = self.values.pick(TALK)
        return [*self._user(self._fill(asked), reply=False), self._assistant(replied)]

    def failure(self) -> Event:
        """Write a tool call that brings nothing: an error, an empty list, an empty result."""
        noun = make_noun(self.values)
        content = self._fill(self.values.pick(ERRORS), noun)
        request = self.values.pick(LATEST).format(noun=noun)
        return self._tool(request, f"{self.values.pick(('get', 'find'))}_{noun}", {}, content, ())

    def act(self, toolbox: Toolbox) -> Event:
        """Write a request for something that a listed tool does, and perhaps for a value of its result; or small
        talk."""
        if self.rng.random() < 0.2:
            asked, reply = toolbox.chat()
            return [
                Turn({"role": "user", "content": asked}, (Focus(None),)),
                Turn({"role": "assistant", "content": reply}, answer=True),
            ]
        request = toolbox.request()
        result = toolbox.result(request.name, request.arguments)
        record = result.record
        said: tuple[Effect, ...] = (*facts(record), *focus([record]))
        event = self._tool(
            request.text, request.name, request.arguments, result.content, said, (Focus(None),), listed=True
        )
        if request.asked is not None:
            answer = result.answer(request.asked)
            claim = (Claim(record.id, request.asked, answer),)
            event.append(Turn({"role": "assistant", "content": answer}, claim, answer=True))
        return event

    def page(self) -> Event:
        """Write a tool's result that is prose."""
        return self._tool(self._reading(), "read_page", {}, self.passage(), ())

    def sentence(self, section: str, record: Record, path: Path, value: Scalar, nth: str = "") -> str:
        """Write one sentence about a field."""
        if record.id == USER and section in ("statement", "update"):
            section = "my statement"
        return self._fit(self.phrases.draw(self.rng, section), record, path, as_text(value), nth)

    def _fit(self, form: str, record: Record, path: Path = (), value: str = "", nth: str = "") -> str:
        key = key_text(self.values, record.schema, path) if path else ""
        filled = self.values.fill(form)
        return filled.format(key=key, id=record.id, noun=record.schema.noun, value=value, nth=nth)

    def _say(self, text: str, effects: tuple[Effect, ...], own: bool = False) -> Event:
        """Write facts in sentences; `own`: only the user can say them."""
        if own or self.rng.random() < 0.6:
            return self._user(text, effects)
        if self.rng.random() < 0.3:
            text = self._around(text)
        name = self.values.pick(("read_notes", "read_log", "get_messages"))
        return self._tool(self._reading(), name, {}, text, effects)

    def _user(self, text: str, effects: tuple[Effect, ...] = (), reply: bool = True) -> Event:
        turns = [Turn({"role": "user", "content": text}, effects)]
        return [*turns, self._assistant()] if reply and self.rng.random() < 0.8 else turns

    def _tool(  # noqa: PLR0917  # the parts of a call in their order
        self,
        request: str,
        name: str,
        arguments: dict[str, Any],
        content: str,
        effects: tuple[Effect, ...],
        asked: tuple[Effect, ...] = (),
        *,
        listed: bool = False,
    ) -> Event:
        """Write a request, the call and its result with these effects.

        `asked`: effects of the call itself. `listed`: the request says which call is right.
        """
        if not listed:
            self.tools.setdefault(name, tuple(arguments))
        call = tool_call(self.rng, name, arguments)
        turns = [
            Turn({"role": "assistant", "content": "", "tool_calls": [call]}, asked, answer=listed),
            Turn({"role": "tool", "tool_call_id": call["id"], "name": name, "content": content}, effects),
        ]
        if listed or self.rng.random() < 0.75:
            turns.insert(0, Turn({"role": "user", "content": request}, asked))
        if not listed and self.rng.random() < 0.5:
            turns.append(self._assistant())
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

    def _around(self, text: str) -> str:
        """Return the text with some prose before or after it."""
        prose = self._invented() if self.rng.random() < 0.7 else self.passage()
        draw = self.rng.random()
        if draw < 0.4:
            return f"{prose} {text}"
        return f"{text} {prose}" if draw < 0.7 else f"{prose} {text} {self._invented()}"

    def _invented(self) -> str:
        sentences = []
        for _ in range(1 if self.rng.random() < 0.7 else self.rng.randint(2, 6)):
            words = [self.values.any_word() for _ in range(self.rng.randint(4, 14))]
            sentences.append(" ".join(words).capitalize() + ".")
        return " ".join(sentences)


def focus(records: Sequence[Record]) -> tuple[Focus, ...]:
    """Return what a text about these records brings into focus.

    A single record can be meant by "it", a single one of a kind by "that ...". The user is not a thing.
    """
    records = [record for record in records if record.id != USER]
    if not records:
        return ()
    kinds = Counter(record.schema.noun for record in records)
    things = [child for record in records for child in record.children]
    kinds.update(child.schema.noun for child in things)
    known = {record.schema.noun: record.id for record in (*things, *records)}
    latest = [Focus(known[noun] if count == 1 else None, noun) for noun, count in kinds.items()]
    return (*latest, Focus(records[0].id if len(records) == 1 else None))


def together(first: Event, second: Event) -> Event:
    """Merge two tool calls into one assistant turn with both calls, then both results; other turns keep their
    places."""
    calls = [next(turn for turn in event if "tool_calls" in turn.message) for event in (first, second)]
    results = [next(turn for turn in event if turn.message["role"] == "tool") for event in (first, second)]
    both = [call for turn in calls for call in turn.message["tool_calls"]]
    head = first[: first.index(calls[0])]
    tail = second[second.index(results[1]) + 1 :]
    unclear = (Focus(None),)
    asking = Turn({"role": "assistant", "content": "", "tool_calls": both}, (*calls[0].effects, *calls[1].effects))
    return [*head, asking, *results, Turn(tail[0].message, unclear) if tail else _closing(), *tail[1:]]


def _closing() -> Turn:
    return Turn({"role": "assistant", "content": "Done."}, (Focus(None),))
