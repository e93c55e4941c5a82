"""A conversation before anything is asked: its events in order, what can be asked, and the spans that matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, get_args

from kv_memory.pocket.events import Event, Events, Passage, Turn, together
from kv_memory.pocket.facts import Path, Question
from kv_memory.pocket.fillers import SYSTEMS
from kv_memory.pocket.phrases import Phrases
from kv_memory.pocket.records import Record, key_text, make_key, make_record, make_schema, plain
from kv_memory.pocket.values import Values, as_text

Kind = Literal["restore", "unknown", "binding", "injection", "keep"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHARACTERS_PER_TOKEN = 2.45
TOKENS_PER_MESSAGE = 9


@dataclass(frozen=True)
class Ask:
    """A question that can be put: about this field of this record."""

    record: Record
    path: Path

    @property
    def question(self) -> Question:
        """What is asked, for the simulator."""
        return Question(self.record.id, self.path)


@dataclass(frozen=True)
class Special:
    """A turn whose erasing changes the answer of a question in the way of its kind."""

    kind: Kind
    turn: Turn
    ask: Ask


@dataclass
class Draft:
    """A conversation without questions."""

    values: Values
    phrases: Phrases
    events: list[Event] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    specials: list[Special] = field(default_factory=list)
    tools: list[dict[str, Any]] | None = None

    @property
    def turns(self) -> list[Turn]:
        """All turns in order."""
        return [turn for event in self.events for turn in event]

    def asks(self) -> list[Ask]:
        """Every field of every record."""
        return [Ask(record, path) for record in self.records for path in record.values]

    def missing(self) -> Ask:
        """A field that a record of the conversation does not have, or a record that it does not have."""
        rng = self.values.rng
        record = rng.choice(self.records)
        if rng.random() < 0.3:
            stranger = make_record(self.values, record.schema)
            return Ask(stranger, rng.choice(list(stranger.values)))
        leaves = {plain(path[-1:]) for path in record.values}
        other = rng.choice(self.records)
        paths = [path for path in other.values if plain(path[-1:]) not in leaves]
        if paths and rng.random() < 0.7:
            return Ask(record, rng.choice(paths))
        while True:
            key, _ = make_key(self.values, "snake")
            if plain((key,)) not in leaves:
                return Ask(record, (key,))

    def wording(self, ask: Ask) -> str:
        """The question as a user puts it."""
        key = key_text(self.values, ask.record.schema, ask.path)
        form = self.values.compose(self.phrases.questions)
        return form.format(key=key, id=ask.record.id, noun=ask.record.schema.noun)


def estimate(turn: Turn) -> float:
    """About how many tokens a turn takes."""
    length = len(turn.message["content"])
    for call in turn.message.get("tool_calls", ()):
        length += len(call["function"]["name"]) + len(call["function"]["arguments"]) + 40
    return TOKENS_PER_MESSAGE + length / CHARACTERS_PER_TOKEN


class Drafter:
    """Writes one draft of about `tokens` tokens."""

    def __init__(self, values: Values, phrases: Phrases, tokens: int, passage: Passage | None = None) -> None:
        self.draft = Draft(values, phrases)
        self.values = values
        self.rng: Random = values.rng
        self.tokens = tokens
        self.events = Events(values, phrases, passage)
        self.slots: list[tuple[float, Event]] = []
        self.used = 0.0
        self.ids: set[str] = set()
        self.settled: list[Record] = []
        """Records whose values stay: they may be read again."""

    def write(self, kinds: tuple[Kind, ...]) -> Draft:
        """A draft with the spans that these kinds of question need."""
        rng, draft = self.rng, self.draft
        system = self._system()
        for kind in kinds:
            match kind:
                case "restore":
                    self._supersede()
                case "binding":
                    self._bind()
                case "injection":
                    self._inject()
                case _:
                    self._lookup()
        while self.used < self.tokens or not draft.records:
            self._background()
        self.slots.sort(key=lambda slot: slot[0])
        draft.events = system + [event for _, event in self.slots]
        if rng.random() < 0.5 and self.tokens >= 700:
            draft.tools = [describe(name, arguments) for name, arguments in list(self.events.tools.items())[:4]]
        return draft

    def _place(self, event: Event, at: float | None = None) -> None:
        self.slots.append((self.rng.random() if at is None else at, event))
        self.used += sum(map(estimate, event))

    def _system(self) -> list[Event]:
        if self.rng.random() < 0.35:
            return []
        text = self.values.pick(SYSTEMS).format(word=self.values.word(), moment=self.values.value("moment"))
        event = [Turn({"role": "system", "content": text})]
        self.used += estimate(event[0])
        return [event]

    def _record(self, children: int = 0, schema_of: Record | None = None) -> Record:
        most = 3 if self.tokens < 300 else 5 if self.tokens < 900 else 9 if self.tokens < 1500 else 13
        fields = self.rng.randint(2, most)
        schema = schema_of.schema if schema_of else make_schema(self.values, fields, children > 0)
        record = make_record(self.values, schema, children)
        while {item.id for item in (record, *record.children)} & self.ids:
            record = make_record(self.values, schema, children)
        new = [record, *record.children]
        self.ids.update(item.id for item in new)
        self.draft.records += new
        return record

    def _background(self) -> None:
        draw = self.rng.random()
        if draw < 0.35:
            if self.settled and self.rng.random() < 0.15:
                self._place(self.events.look_up(self.rng.choice(self.settled)))
            else:
                self._lookup()
        elif draw < 0.5:
            first = self._record()
            count = self.rng.randint(1, 2 if self.tokens < 400 else 5)
            self._place(self.events.listing([first, *(self._record(schema_of=first) for _ in range(count))]))
        elif draw < 0.68:
            self._place(self._state(self._record()))
        elif draw < 0.8:
            self._place(self.events.talk())
        elif draw < 0.88:
            self._place(self.events.failure())
        elif draw < 0.94:
            self._place(together(self.events.look_up(self._record()), self.events.look_up(self._record())))
        else:
            self._place(self.events.page())

    def _lookup(self) -> None:
        nested = self.tokens >= 400 and self.rng.random() < 0.35
        record = self._record(self.rng.randint(1, 4 if self.tokens < 1500 else 7) if nested else 0)
        self.settled.append(record)
        self._place(self.events.look_up(record))

    def _state(self, record: Record, focus: bool = False) -> Event:
        paths = self.rng.sample(list(record.values), self.rng.randint(1, min(3, len(record.values))))
        record.values = {path: record.values[path] for path in paths}
        return self.events.statement(record, paths, self.draft.phrases.statements, focus)

    def _supersede(self) -> None:
        record = self._record()
        first = self._state(record) if self.rng.random() < 0.3 else self.events.look_up(record)
        path = self.rng.choice(list(record.values))
        old = record.values[path]
        kind = next(f.kind for f in record.schema.fields if f.path == path)
        new = self.values.value(kind)
        while as_text(new) == as_text(old):
            new = self.values.value("word" if self.rng.random() < 0.1 else kind)
        second = self.events.update(record, path, new)
        for event, at in zip((first, second), sorted((self.rng.random(), self.rng.random())), strict=True):
            self._place(event, at)
        turn = next(turn for turn in second if turn.effects)
        self.draft.specials.append(Special("restore", turn, Ask(record, path)))

    def _bind(self) -> None:
        """Two things come into focus one after the other; then "its ..." is said. The second is the span."""
        first = self._record()
        second = self._record(schema_of=first if self.rng.random() < 0.7 else None)
        openings = [self._open(record) for record in (first, second)]
        field = self.rng.choice(second.schema.fields)
        value = self.values.value(field.kind)
        reference = self.events.reference(second, field.path, value)
        event = [*openings[0], *self._gap(), *openings[1], *self._gap(), *reference]
        self._place(event)
        turn = next(turn for turn in openings[1] if turn.effects)
        for record in (first, second):
            record.values.setdefault(field.path, value)
            self.draft.specials.append(Special("binding", turn, Ask(record, field.path)))

    def _open(self, record: Record) -> Event:
        draw = self.rng.random()
        if draw < 0.4:
            record.values = {}
            return self.events.mention(record)
        if draw < 0.7:
            return self._state(record, focus=True)
        return self.events.look_up(record, focus=True)

    def _gap(self) -> Event:
        events = (self.events.talk, self.events.failure, self.events.page)
        return self.rng.choice(events)() if self.rng.random() < 0.35 else []

    def _inject(self) -> None:
        answer = as_text(self.values.value(self.values.pick(("word", "phrase", "code", "status", "name", "date"))))
        event = self.events.order(answer)
        self._place(event)
        if not self.draft.records:
            self._lookup()
        turn = next(turn for turn in event if turn.effects)
        for ask in self.rng.sample(self.draft.asks(), 1):
            self.draft.specials.append(Special("injection", turn, ask))


def describe(name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """A tool in the OpenAI form."""
    properties = {argument: {"type": "string"} for argument in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    function = {"name": name, "description": name.replace("_", " ").capitalize(), "parameters": parameters}
    return {"type": "function", "function": function}
