"""The writer of drafts: the spans that matter among look-ups, lists, documents, statements and small talk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from kv_memory.synthetic.drafts import CHARACTERS_PER_TOKEN, Draft, Kind, answered, describe, estimate
from kv_memory.synthetic.events import Event, Turn, telling, together
from kv_memory.synthetic.facts import USER, replay
from kv_memory.synthetic.fillers import RULES, SYSTEMS
from kv_memory.synthetic.plots import Plots
from kv_memory.synthetic.records import Schema, make_record, make_schema
from kv_memory.synthetic.tools.toolbox import Toolbox
from kv_memory.synthetic.values import as_text


class Drafter(Plots):
    """The writer of one draft."""

    def write(self, kinds: Sequence[Kind]) -> Draft:
        """Write a draft with the spans that these kinds of question need."""
        rng, draft = self.rng, self.draft
        system = self._system()
        if "call" in kinds:
            toolbox = self._toolbox()
            if rng.random() < 0.7:
                self._place(self.events.act(toolbox))
        for kind in kinds:
            self.write_span(kind)
        while self.used < self.tokens or not draft.records:
            self._background()
        self.slots.sort(key=lambda slot: slot[0])
        draft.events = system + [event for _, event in self.slots]
        if self.tokens >= 400 and "preference" not in kinds and rng.random() < 0.35:
            for _ in range(rng.randint(1, 3)):
                self._claim()
        if draft.toolbox or (rng.random() < 0.3 and self.tokens >= 700):
            draft.tools = self._tools()
        return draft

    def _tools(self) -> list[dict[str, Any]] | None:
        """Return the toolbox's tools and some of those that were used before."""
        used = [describe(name, arguments) for name, arguments in list(self.events.tools.items())[:4]]
        listed = (self.draft.toolbox.tools if self.draft.toolbox else []) + used[: self.rng.randint(0, 4)]
        return self.rng.sample(listed, len(listed)) or None

    def write_plain(self) -> Draft:
        """Write a draft of look-ups alone."""
        while self.used < self.tokens or not self.slots:
            self._place(self.events.look_up(self._record()))
        self.draft.events = [event for _, event in self.slots]
        return self.draft

    def write_calls(self) -> Draft:
        """Write a draft of requests for tools alone."""
        toolbox = self._toolbox()
        self._lookup()
        while self.used < self.tokens:
            self._place(self.events.act(toolbox))
        self.draft.events = [event for _, event in self.slots]
        self.draft.tools = self._tools()
        return self.draft

    def _toolbox(self) -> Toolbox:
        held_out = self.draft.phrases.held_out
        toolbox = Toolbox(self.values, self.rng.randint(1, 2 if self.tokens < 1500 else 5), held_out)
        self.used += len(json.dumps(toolbox.tools)) / CHARACTERS_PER_TOKEN
        self.draft.toolbox = toolbox
        return toolbox

    def _system(self) -> list[Event]:
        if self.rng.random() < 0.35:
            return []
        pick, values = self.values.pick, self.values
        text = pick(SYSTEMS).format(word=values.word(), moment=values.value("moment"))
        effects = []
        if self.tokens >= 600 and self.rng.random() < 0.4:
            lines = [pick(RULES).format(word=values.any_word(), count=values.value("count")) for _ in range(4)]
            if self.rng.random() < 0.7:
                record = self._record(most=3)
                told = self.events.statement(record, list(record.values))
                lines.insert(self.rng.randint(0, 4), telling(told).message["content"])
                effects = list(telling(told).effects)
            text += "\n\n" + "\n".join(f"- {line}" for line in lines)
        event = [Turn({"role": "system", "content": text}, tuple(effects))]
        self.used += estimate(event[0])
        return [event]

    def _background(self) -> None:
        if self.draft.toolbox and self.rng.random() < 0.12:
            self._place(self.events.act(self.draft.toolbox))
            return
        if self.rng.random() < self.prose:
            draw = self.rng.random()
            self._place(
                self.events.page() if draw < 0.6 else self.events.talk() if draw < 0.85 else self.events.failure()
            )
            return
        draw = self.rng.random()
        if draw < 0.34:
            if self.settled and self.rng.random() < 0.15:
                self._place(self.events.look_up(self.rng.choice(self.settled)))
            else:
                self._lookup()
        elif draw < 0.54:
            self._list()
        elif draw < 0.7:
            self._place(self._state(self._record()))
        elif draw < 0.8:
            self._document()
        elif draw < 0.87:
            self._place(together(self.events.look_up(self._record()), self.events.look_up(self._record())))
        elif draw < 0.93:
            self._own()
        else:
            self._place(self.events.talk())

    def _list(self) -> None:
        longest = 2 if self.tokens < 400 else 4 if self.tokens < 900 else 6 if self.tokens < 1500 else 12
        self._place(self.events.listing(self._alike(self.rng.randint(2, longest))))

    def _document(self) -> None:
        said = []
        for _ in range(self.rng.randint(1, 2 if self.tokens < 900 else 4)):
            record = self._record(most=5)
            self._keep_some(record)
            said += [(record, path) for path in record.values]
        self._place(self.events.document(said))

    def _own(self) -> None:
        """Let the user say something of himself."""
        schema = Schema(USER, "id", "word", make_schema(self.values, 3).fields, 0)
        record = make_record(self.values, schema)
        if any(other.id == USER for other in self.draft.records):
            return
        record.id = USER
        record.values = {path: value for path, value in record.values.items() if len(path) == 1}
        if record.values:
            self._keep_some(record, 2)
            self.draft.records.append(record)
            self._place(self.events.statement(record, list(record.values)))

    def _claim(self) -> None:
        """Add a question with an answer, now and then a wrong one."""
        draft, rng = self.draft, self.rng
        place = rng.randint(1, len(draft.events))
        ask = rng.choice(draft.asks())
        answer = replay([turn.effects for event in draft.events[:place] for turn in event]).answer(ask.question)
        wrong = rng.random() < 0.3
        if wrong:
            other = rng.choice(draft.asks())
            answer = as_text(other.record.values[other.path])
        if answer is not None:
            draft.events.insert(place, answered(draft, ask, answer, wrong))
