"""A state machine of histories of sessions, which checks everything after each step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from kv_memory import RetractionStatus
from kv_memory.errors import ContextLengthError, TargetError
from tests.histories.callers import ERASERS
from tests.histories.checks import check_cells, check_influence, free, messages_of
from tests.histories.choices import CHOICES, Choices
from tests.histories.oracle import Record, Version
from tests.histories.retracting import Retracting
from tests.histories.world import Known, Stream, World, letters


class Histories(Retracting):
    """What callers do, in any order."""

    @initialize(
        heal=st.sampled_from(["never", "never", "now", "idle"]),
        cache_tokens=st.sampled_from([None, None, 1200, 700]),
        audited=st.sampled_from([False, False, True]),
        choose=CHOICES,
    )
    def start(self, heal: str, cache_tokens: int | None, audited: bool, choose: Choices) -> None:
        self.world = World(heal, cache_tokens, audited)
        known = self.world.known["a"] = Known("a", [[]])
        for _ in range(choose.number(2, 5)):
            self.add(known.talks[0], choose)
        self.read(known, known.talks[0])

    # What callers do to their histories

    @rule(choose=CHOICES)
    def say(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        if len(talk) < 12:
            for _ in range(choose.number(1, 2)):
                self.add(talk, choose)
        self.read_perhaps(known, talk, choose)

    @rule(choose=CHOICES)
    def diverge(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        if len(known.talks) < 4:
            known.talks.append(talk[: choose.number(0, len(talk))])
            self.add(known.talks[-1], choose)
            self.read_perhaps(known, known.talks[-1], choose)

    @rule(choose=CHOICES, how=st.sampled_from(["vanish", "empty", "placeholder", "correct", "back", "back"]))
    def edit(self, choose: Choices, how: str) -> None:
        known, talk = self.a_conversation(choose)
        if len(talk) < 2:
            return
        number = choose.number(0, len(talk) - 1)
        said = talk[number].said
        if how == "back":
            talk[:] = [Version(version.said) for version in talk]
        elif how == "vanish":
            beside = [version.said.role == "tool" for version in talk[max(number - 1, 0) : number + 2]]
            if said.role != "tool" or sum(beside) != 2:  # NOTE: the template's frame around a group is not mended yet
                del talk[number]
        elif said.calls or not (said.id or said.call_id):
            return
        elif how == "correct":
            talk[number] = self.world.new(said.role, [(self.world.word(), None)], id=said.id, call_id=said.call_id)
        else:
            talk[number] = replace(talk[number], edit="" if how == "empty" else "[cleared]")
        self.read_perhaps(known, talk, choose)

    # Reading and answering

    @rule(choose=CHOICES)
    def prefill(self, choose: Choices) -> None:
        self.read(*self.a_conversation(choose))

    @rule(choose=CHOICES)
    def prefill_without(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        named = self.a_target(known, choose, talk)
        if named is None:
            return
        target, said, parts, _ = named
        record = Record(said.text, said.ids, parts)
        if said.ids == (None, None) or any(map(self.world.said.mistakable, talk)):
            return

        def prefill(messages: Any) -> Any:
            done = self.world.session(known).prefill(messages, without=[target])
            return done

        self.world.enforce(known, f"without {self.world.number()}", [record])
        self.read(known, talk, prefill)

    @rule(choose=CHOICES)
    def chat(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        options: dict[str, Any] = {"max_tokens": choose.number(1, 3), "temperature": 1.0, "seed": choose.number(0, 3)}
        reply = self.read(known, talk, self.world.session(known).chat, mask=letters, **options)
        if reply is not None:
            talk.append(self.answer(reply.text, choose))
            known.latest = list(talk)

    @rule(choose=CHOICES)
    def begin(self, choose: Choices) -> None:
        self.begin_one(choose)

    def begin_one(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        if not talk or len(known.streams) > 1:
            return
        stream = self.world.session(known).stream(
            messages_of(talk), max_tokens=6, temperature=1.0, seed=choose.number(0, 3), mask=letters
        )
        self.world.streams.append(stream)
        items = iter(stream)
        try:
            next(items, None)
        except ContextLengthError:
            known.latest = []
        else:
            known.latest = list(talk)
            known.streams.append(Stream(stream, items, talk))
        known.catch_up()

    @rule(choose=CHOICES, how=st.sampled_from(["take", "finish", "close", "abandon"]))
    def go_on(self, choose: Choices, how: str) -> None:
        begun = [known for known in self.world.known.values() if known.streams]
        if not begun:
            return self.begin_one(choose)
        known = choose.of(begun)
        stream = choose.of(known.streams)
        if how == "take":
            if next(stream.items, None) is None and stream.stream.reply is not None:
                self.answer(stream.stream.reply.text, choose)  # in the cache, in no history
            return
        known.streams.remove(stream)
        known.catch_up()
        if how == "close":
            stream.stream.close()
        elif how == "abandon":
            self.world.streams.remove(stream.stream)
            stream.stream = stream.items = None
        elif how == "finish":
            for _ in stream.items:
                pass
            reply = stream.stream.reply
            answer = self.answer(reply.text, choose)
            if reply.finish_reason == "length" and choose.yes():
                stream.talk.append(answer)

    @rule(choose=CHOICES)
    def score(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        if talk:
            try:
                self.world.session(known).score(messages_of(talk), "yes")
                known.latest = list(talk)
            except ContextLengthError:
                known.latest = []
            known.catch_up()

    # Copies, room, ends

    @rule(choose=CHOICES)
    def fork(self, choose: Choices) -> None:
        known = self.a_session(choose)
        if len(self.world.known) < 4:
            name = f"{known.name}/{self.world.number()}"
            try:
                other = self.world.session(known).fork(name)
            except ContextLengthError:
                known.catch_up()
                return
            known.catch_up()
            self.world.known[name] = self.world.copy(known, other.id)

    @rule(choose=CHOICES)
    def without(self, choose: Choices) -> None:
        known = self.a_session(choose)
        named = self.a_target(known, choose)
        if named is None:
            return
        try:
            other = self.world.session(known).without(named[0], eraser=choose.of(ERASERS))
        except (ContextLengthError, TargetError):
            known.catch_up()
            return
        known.catch_up()
        with other:
            copy = self.world.copy(known, other.id)
            report = other.reports[-1]
            self.world.enforce(copy, report.id, self.world.records_of(report, named[1], named[3]))
            check_cells(other, self.world.forbidden(copy))
            self.read(copy, choose.of(known.talks))

    @rule(choose=CHOICES)
    def another(self, choose: Choices) -> None:
        """Another session, whose conversation takes the room of others."""
        known = self.world.known.setdefault("b", Known("b", [[]]))
        for _ in range(choose.number(1, 3)):
            if len(known.talks[0]) < 12:
                self.add(known.talks[0], choose)
        self.read(known, known.talks[0])

    @rule(choose=CHOICES, how=st.sampled_from(["evict", "heal", "delete", "restart"]))
    def change(self, choose: Choices, how: str) -> None:
        known = self.a_session(choose)
        session = self.world.session(known)
        if how == "evict":
            session.evict()
        elif how == "heal":
            session.heal()
            assert not any(branch.ledger.approximate_from is not None for branch in free(session))
        elif how == "delete":
            self.world.memory.delete_session(known.name)
            known.latest, known.streams = [], []
            if not self.world.audited:
                self.world.forget(known)
        elif self.world.audited:
            self.world.restart()

    # What is so after each step

    @invariant()
    def nothing_in_force_is_visible(self) -> None:
        if not hasattr(self, "world"):
            return
        for known in self.world.known.values():
            known.catch_up()
        self.world.memory.heal_in_idle_time()
        with self.world.memory.engine.lock:
            for known in self.world.known.values():
                session = self.world.session(known)
                check_cells(session, self.world.forbidden(known))
                for branch in free(session):
                    check_influence(branch)
                queued = [r for r in session.reports if r.status is RetractionStatus.QUEUED]
                assert not queued or any(branch.busy for branch in session.branches)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.end()
