"""A conversation before anything is asked: its events in order, what can be asked, and the spans that matter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from kv_memory.synthetic.events import Event, Turn
from kv_memory.synthetic.facts import UNKNOWN, USER, Claim, Focus, Path, Question
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.records import Record, key_text, make_key, make_record, plain
from kv_memory.synthetic.tools.toolbox import Toolbox
from kv_memory.synthetic.values import Values

Kind = Literal["restore", "unknown", "binding", "injection", "keep", "preference", "two-hop", "call"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHARACTERS_PER_TOKEN = 2.8
TOKENS_PER_MESSAGE = 9
TOKENS_WITH_TOOLS = 400
"""Shortest length, in tokens, of a conversation that has room for tools."""


@dataclass(frozen=True)
class Ask:
    """A question that can be asked: about this field of this record, or of the record that one of its fields names."""

    record: Record
    path: Path
    link: Path | None = None
    goal: Record | None = None
    """Record of the kind that the link leads to, if there is a link; it lends its field names."""

    @property
    def question(self) -> Question:
        """Return the question for the simulator."""
        return Question(self.record.id, self.path, self.link)


@dataclass(frozen=True)
class Special:
    """A turn whose erasing changes the answer of a question, in the way of the question's kind."""

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
    toolbox: Toolbox | None = None
    tools: list[dict[str, Any]] | None = None

    @property
    def turns(self) -> list[Turn]:
        """Return all turns in order."""
        return [turn for event in self.events for turn in event]

    def asks(self) -> list[Ask]:
        """Return a question for every field of every record."""
        return [Ask(record, path) for record in self.records for path in record.values]

    def missing(self) -> Ask:
        """Return a question about a field that a record does not have, or about a record that does not exist."""
        rng = self.values.rng
        record = rng.choice(self.records)
        if rng.random() < 0.3 and record.id != USER:
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
        """Return the question in a user's words."""
        record = ask.record
        section = "my question" if record.id == USER else "question" if ask.goal is None else "hop question"
        form = self.values.fill(self.phrases.draw(self.values.rng, section))
        goal = ask.goal or record
        key = key_text(self.values, goal.schema, ask.path)
        link = key_text(self.values, record.schema, ask.link) if ask.link else ""
        return form.format(key=key, link=link, id=record.id, noun=record.schema.noun)


def estimate(turn: Turn) -> float:
    """Return about how many tokens a turn takes."""
    length = len(turn.message["content"])
    for call in turn.message.get("tool_calls", ()):
        length += len(call["function"]["name"]) + len(call["function"]["arguments"]) + 40
    return TOKENS_PER_MESSAGE + length / CHARACTERS_PER_TOKEN


def answered(draft: Draft, ask: Ask, answer: str, wrong: bool = False) -> Event:
    """Return the question and the assistant's answer to it, as messages."""
    about = () if ask.record.id == USER else (Focus(ask.record.id if ask.goal is None else None),)
    claim = () if answer == UNKNOWN or ask.goal else (Claim(ask.record.id, ask.path, answer),)
    asked = Turn({"role": "user", "content": draft.wording(ask)}, about)
    return [asked, Turn({"role": "assistant", "content": answer}, claim, wrong)]


def describe(name: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Return a tool's schema in the OpenAI form."""
    properties = {argument: {"type": "string"} for argument in arguments}
    parameters = {"type": "object", "properties": properties, "required": list(arguments)}
    function = {"name": name, "description": name.replace("_", " ").capitalize(), "parameters": parameters}
    return {"type": "function", "function": function}
