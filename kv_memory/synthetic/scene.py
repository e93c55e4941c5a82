"""A conversation in the making: things, and events at places that are sorted at the end."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from kv_memory.synthetic.drafts import Ask, Draft, Kind, Special, estimate
from kv_memory.synthetic.events import Event, Events, Passage, telling
from kv_memory.synthetic.facts import USER
from kv_memory.synthetic.phrases import Phrases
from kv_memory.synthetic.records import Record, make_record, make_schema
from kv_memory.synthetic.values import Values

_FIELDS = {300: 3, 600: 4, 1100: 6, 2100: 9, 1 << 20: 13}
"""Largest number of fields of a record, by the largest number of tokens of the conversation."""


class Scene:
    """The things and events from which a draft of about `tokens` tokens is made."""

    def __init__(self, values: Values, phrases: Phrases, tokens: int, passage: Passage | None = None) -> None:
        self.draft = Draft(values, phrases)
        self.values = values
        self.rng: Random = values.rng
        self.tokens = tokens
        self.events = Events(values, phrases, passage)
        self.slots: list[tuple[float, Event]] = []
        self.used = 0.0
        self.ids: set[str] = {USER}
        self.settled: list[Record] = []
        """Records whose values stay: they may be looked up once more."""
        self.prose = self.rng.uniform(0.05, 0.3 if tokens < 1500 else 0.6)
        """Share of the events that say nothing."""

    def _place(self, event: Event, at: float | None = None) -> None:
        self.slots.append((self.rng.random() if at is None else at, event))
        self.used += sum(map(estimate, event))

    def _places(self, events: Sequence[Event]) -> None:
        """Place these events in this order, at random places."""
        for event, at in zip(events, sorted(self.rng.random() for _ in events), strict=True):
            self._place(event, at)

    def _special(self, kind: Kind, event: Event, ask: Ask) -> None:
        self.draft.specials.append(Special(kind, telling(event), ask))

    def _record(self, children: int = 0, like: Record | None = None, most: int = 13) -> Record:
        most = min(most, next(fields for tokens, fields in _FIELDS.items() if self.tokens < tokens))
        schema = like.schema if like else make_schema(self.values, self.rng.randint(2, most), children > 0)
        record = make_record(self.values, schema, children)
        while {item.id for item in (record, *record.children)} & self.ids:
            record = make_record(self.values, schema, children)
        new = [record, *record.children]
        self.ids.update(item.id for item in new)
        self.draft.records += new
        return record

    def _alike(self, count: int) -> list[Record]:
        """Draw records of one kind, some of whose fields have the same value in all."""
        first = self._record()
        records = [first, *(self._record(like=first) for _ in range(count - 1))]
        for path in first.values:
            if self.rng.random() < 0.12:
                for record in records:
                    record.values[path] = first.values[path]
        return records

    def _keep_some(self, record: Record, most: int = 3) -> None:
        paths = self.rng.sample(list(record.values), self.rng.randint(1, min(most, len(record.values))))
        record.values = {path: record.values[path] for path in paths}

    def _state(self, record: Record) -> Event:
        self._keep_some(record)
        return self.events.statement(record, list(record.values))

    def _lookup(self) -> None:
        nested = self.tokens >= 400 and self.rng.random() < 0.35
        record = self._record(self.rng.randint(1, 4 if self.tokens < 1500 else 7) if nested else 0)
        self.settled.append(record)
        self._place(self.events.look_up(record))
