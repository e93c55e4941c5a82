"""The spans that matter: turns whose erasing changes an answer, with all that leads to them."""

from __future__ import annotations

from kv_memory.synthetic.drafts import Ask, Kind, Special
from kv_memory.synthetic.events import Event, telling
from kv_memory.synthetic.facts import Form
from kv_memory.synthetic.records import Record, make_key
from kv_memory.synthetic.scene import Scene
from kv_memory.synthetic.values import as_text

FORMS: tuple[Form, ...] = ("call me", "begin with", "end with", "quote", "bracket", "capitals", "small")


class Plots(Scene):
    """The writer of the events that a kind of question needs."""

    def write_span(self, kind: Kind) -> None:
        """Write the events of one span of this kind, and the questions whose answers depend on it."""
        match kind:
            case "restore":
                self._supersede()
            case "binding":
                self._bind()
            case "injection":
                self._inject()
            case "preference":
                self._wish()
            case "two-hop":
                self._link()
            case "unknown" | "keep":
                self._lookup()
            case "call":
                pass  # any turn

    def _supersede(self) -> None:
        """Give a field one or more new values; the last is the span."""
        record = self._record()
        events = [self._state(record) if self.rng.random() < 0.3 else self.events.look_up(record)]
        path = self.rng.choice([f.path for f in record.schema.fields if f.path in record.values])
        kind = next(f.kind for f in record.schema.fields if f.path == path)
        for _ in range(1 if self.rng.random() < 0.75 else 2):
            old, new = record.values[path], self.values.value(kind)
            while as_text(new) == as_text(old):
                new = self.values.value("word" if self.rng.random() < 0.1 else kind)
            events.append(self.events.update(record, path, new))
        self._places(events)
        self._special("restore", events[-1], Ask(record, path))

    def _bind(self) -> None:
        draw = self.rng.random()
        if draw < 0.45:
            self._bind_it()
        elif draw < 0.75 or self.tokens < 800:
            self._bind_that()
        else:
            self._bind_nth()

    def _bind_it(self) -> None:
        """Bring things into focus one after the other, and say of each: "its ..."."""
        first = self._record()
        count = self.rng.randint(2, 2 if self.tokens < 700 else 4)
        records = [first, *(self._record(like=first if self.rng.random() < 0.7 else None) for _ in range(count - 1))]
        lent = records[-1]
        paths = [self.rng.choice(lent.schema.fields) for _ in range(1 if self.rng.random() < 0.6 else 2)]
        openings, event, said = [self._open(record) for record in records], [], []
        for record, opening in zip(records, openings, strict=True):
            part = [*opening, *self._gap()]
            if record is lent or self.rng.random() < 0.6:
                place = self.rng.choice(paths)
                value = self.values.value(place.kind)
                part += [*self.events.reference(lent, place.path, value), *self._gap()]
                said.append((record, place.path, value))
            event += part
        self._place(event)
        for before, record, opening in zip(records, records[1:], openings[1:], strict=False):
            for about, path, _ in said:
                if about is record:
                    self._special("binding", opening, Ask(record, path))
                    self._special("binding", opening, Ask(before, path))
        for record, path, value in said:
            record.values[path] = value

    def _bind_that(self) -> None:
        """Mention things of one kind, at any distance, and say later: "that order's ..."."""
        first = self._record()
        second = self._record(like=first)
        lent = self.rng.choice(first.schema.fields)
        events = [self._open(first), self._open(second)]
        value = self.values.value(lent.kind)
        events.append(self.events.reference(first, lent.path, value, first.schema.noun))
        if self.rng.random() < 0.3:
            other = self.events.reference(first, lent.path, self.values.value(lent.kind), first.schema.noun)
            events.insert(1, other)
        self._places(events)
        for record in (first, second):
            record.values[lent.path] = value
            self._special("binding", events[-2], Ask(record, lent.path))

    def _bind_nth(self) -> None:
        """Write two lists of one kind, and then: "the second one's ..."."""
        first = self._alike(self.rng.randint(2, 4))
        others = [self._record(like=first[0]) for _ in range(self.rng.randint(2, 4))]
        lent = self.rng.choice(first[0].schema.fields)
        place = self.rng.randrange(min(len(first), len(others)))
        value = self.values.value(lent.kind)
        events = [self.events.listing(first), self.events.listing(others)]
        events.append(self.events.nth_reference(others, place, lent.path, value))
        self._places(events)
        for record in (first[place], others[place]):
            self._special("binding", events[1], Ask(record, lent.path))

    def _open(self, record: Record) -> Event:
        draw = self.rng.random()
        if draw < 0.45:
            record.values = {}
            return self.events.mention(record)
        if draw < 0.7:
            return self._state(record)
        return self.events.look_up(record, named=False)

    def _gap(self) -> Event:
        events = (self.events.talk, self.events.failure, self.events.page)
        return [turn for _ in range(2) if self.rng.random() < 0.3 for turn in self.rng.choice(events)()]

    def _link(self) -> None:
        """Add a thing whose field names another thing."""
        goals = [self._record(most=6)]
        if self.tokens > 700 and self.rng.random() < 0.6:
            goals.append(self._record(like=goals[0]))
        noun = goals[0].schema.noun
        key = self.values.pick((noun, f"{noun}_id", make_key(self.values, "snake")[0]))
        events: list[Event] = []
        for _ in range(1 if self.tokens < 700 else self.rng.randint(1, 2)):
            record, goal = self._record(most=5), self.rng.choice(goals)
            while key in {record.schema.id_field, *(path[0] for path in record.values)}:
                record = self._record(most=5)
            if self.rng.random() < 0.4:
                self._keep_some(record)
            record.values = {(key,): goal.id, **record.values}
            stated = self.rng.random() < 0.35 and len(record.values) < 5
            events.append(self.events.statement(record, list(record.values)) if stated else self.events.look_up(record))
            for path in self.rng.sample(list(goal.values), min(2, len(goal.values))):
                self._special("two-hop", events[-1], Ask(record, path, (key,), goal))
            if len(goals) > 1 and self.rng.random() < 0.4:
                other = next(item for item in goals if item is not goal)
                events.append(self.events.update(record, (key,), other.id))
                self._special("two-hop", events[-1], Ask(record, self.rng.choice(list(goal.values)), (key,), goal))
        if len(goals) > 1 and self.rng.random() < 0.5:
            self._place(self.events.listing(goals))
            turn = telling(self.slots[-1][1])
            self.draft.specials += [
                Special("two-hop", turn, item.ask) for item in self.draft.specials if item.kind == "two-hop"
            ]
        else:
            for goal in goals:
                event = self.events.look_up(goal)
                self._place(event)
                found = [item.ask for item in self.draft.specials if item.ask.goal is goal]
                self.draft.specials += [Special("two-hop", telling(event), ask) for ask in found]
        self._places(events)

    def _inject(self) -> None:
        answer = as_text(self.values.value(self.values.pick(("word", "phrase", "code", "status", "name", "date"))))
        event = self.events.order(answer)
        self._place(event)
        if not self.draft.records:
            self._lookup()
        for ask in self.rng.sample(self.draft.asks(), 1):
            self._special("injection", event, ask)

    def _wish(self) -> None:
        """Add one or two wishes of the user; the last is the span."""
        events = [self.events.wish(self.values.pick(FORMS)) for _ in range(1 if self.rng.random() < 0.6 else 2)]
        if self.rng.random() < 0.15:
            events.append(self.events.wish("plain"))
        self._places(events)
        if not self.draft.records:
            self._lookup()
        for ask in self.rng.sample(self.draft.asks(), 1):
            self._special("preference", events[-1], ask)
