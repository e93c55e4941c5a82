"""A state machine of histories of sessions, which checks everything after each step."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from kv_memory import RetractionReport, RetractionStatus, UndoStatus
from kv_memory.errors import ContextLengthError, TargetError
from kv_memory.sessions import memory as memories
from tests.histories.callers import ERASERS, REASONS, Callers, Data
from tests.histories.checks import check_cells, check_influence, free, messages_of
from tests.histories.oracle import Record, Version
from tests.histories.world import Known, Stream, World, letters, tombstoned

memories.ABANDONED = float("inf")  # so that it does not depend on the time when a branch is healed

DATA = st.data()


class Histories(Callers):
    """What callers do, in any order."""

    @initialize(
        heal=st.sampled_from(["never", "never", "now", "idle"]),
        cache_tokens=st.sampled_from([None, None, 1200, 700]),
        audited=st.sampled_from([False, False, True]),
        data=DATA,
    )
    def start(self, heal: str, cache_tokens: int | None, audited: bool, data: Data) -> None:
        self.world = World(heal, cache_tokens, audited)
        known = self.world.known["a"] = Known("a", [[]])
        for _ in range(data.draw(st.integers(2, 4))):
            self.add(known.talks[0], data)
        self.read(known, known.talks[0])

    # What callers do to their histories

    @rule(data=DATA)
    def say(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        if len(talk) < 12:
            for _ in range(data.draw(st.integers(1, 2))):
                self.add(talk, data)
        self.read_perhaps(known, talk, data)

    @rule(data=DATA)
    def diverge(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        if len(known.talks) < 4:
            known.talks.append(talk[: data.draw(st.integers(0, len(talk)))])
            self.add(known.talks[-1], data)
            self.read_perhaps(known, known.talks[-1], data)

    @rule(data=DATA, how=st.sampled_from(["vanish", "empty", "placeholder", "correct", "back", "back"]))
    def edit(self, data: Data, how: str) -> None:
        known, talk = self.a_conversation(data)
        if len(talk) < 2:
            return
        number = data.draw(st.integers(0, len(talk) - 1))
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
        self.read_perhaps(known, talk, data)

    @precondition(lambda self: any(known.reports for known in self.world.known.values()))
    @rule(data=DATA)
    def tombstone(self, data: Data) -> None:
        known = data.draw(st.sampled_from([known for known in self.world.known.values() if known.reports]))
        talk = data.draw(st.sampled_from(known.talks))
        for number in data.draw(st.lists(st.integers(0, len(known.reports) - 1), min_size=1, max_size=3)):
            report = known.reports[number]
            left = tombstoned(talk, self.world.records_of(report, None, talk), self.world.said)
            if left is None:
                return
            stored = RetractionReport.model_validate_json(report.model_dump_json())
            found = (stored if data.draw(st.booleans()) else report).tombstones(messages_of(talk))
            if not any(map(self.world.said.mistakable, talk)):
                assert found == messages_of(left), "the tombstones are not what is left"
                talk[:] = left
        self.read_perhaps(known, talk, data)

    # Reading and answering

    @rule(data=DATA)
    def prefill(self, data: Data) -> None:
        self.read(*self.a_conversation(data))

    @rule(data=DATA)
    def prefill_without(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        named = self.a_target(known, data, talk)
        if named is None:
            return
        target, said, parts, _ = named
        record = Record(said.text, said.ids, parts)
        if said.ids == (None, None):
            return

        def prefill(messages: Any) -> Any:
            done = self.world.session(known).prefill(messages, without=[target])
            return done

        self.world.enforce(known, f"without {self.world.number()}", [record])
        self.read(known, talk, prefill)

    @rule(data=DATA)
    def chat(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        options = {"max_tokens": data.draw(st.integers(1, 3)), "temperature": 1.0, "seed": data.draw(st.integers(0, 3))}
        reply = self.read(known, talk, self.world.session(known).chat, mask=letters, **options)
        if reply is not None:
            self.add_answer(known, talk, reply.text, data.draw(st.booleans()))
            known.latest = list(talk)

    @rule(data=DATA)
    def begin(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        if not talk or len(known.streams) > 1:
            return
        stream = self.world.session(known).stream(
            messages_of(talk), max_tokens=6, temperature=1.0, seed=data.draw(st.integers(0, 3)), mask=letters
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

    @precondition(lambda self: any(known.streams for known in self.world.known.values()))
    @rule(data=DATA, how=st.sampled_from(["take", "finish", "close", "abandon"]))
    def go_on(self, data: Data, how: str) -> None:
        known = data.draw(st.sampled_from([known for known in self.world.known.values() if known.streams]))
        stream = data.draw(st.sampled_from(known.streams))
        if how == "take":
            next(stream.items, None)
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
            if reply.finish_reason == "length" and data.draw(st.booleans()):
                self.add_answer(known, stream.talk, reply.text, data.draw(st.booleans()))

    @rule(data=DATA)
    def score(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        if talk:
            try:
                self.world.session(known).score(messages_of(talk), "yes")
                known.latest = list(talk)
            except ContextLengthError:
                known.latest = []
            known.catch_up()

    # Retracting

    @rule(data=DATA, again=st.booleans())
    def retract(self, data: Data, again: bool) -> None:
        known = self.a_session(data)
        named = self.a_target(known, data)
        if named is not None:
            self.erase(known, named, **self.settings(data))
            if again:
                self.read(known, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def retract_given(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        named = self.a_target(known, data, talk)
        if named is not None:
            self.erase(known, named, messages=messages_of(talk), **self.settings(data))

    @precondition(lambda self: any(known.reports for known in self.world.known.values()))
    @rule(data=DATA, again=st.booleans())
    def undo(self, data: Data, again: bool) -> None:
        known = data.draw(st.sampled_from([known for known in self.world.known.values() if known.reports]))
        report = known.reports[data.draw(st.integers(0, len(known.reports) - 1))]
        status = self.world.session(known).undo(report)
        assert (status is UndoStatus.NOOP) == (not known.records.pop(report.id, None))
        if again:
            self.read(known, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def defer(self, data: Data) -> None:
        known = self.a_session(data)
        named = self.a_target(known, data)
        if named is not None:
            session = self.world.session(known)
            options: dict[str, Any] = {"reason": data.draw(st.sampled_from(REASONS))}
            made: list[RetractionReport] = []

            def action() -> None:
                with suppress(TargetError):
                    made.append(session.retract(named[0], **options))

            def note() -> None:
                while made:
                    report = made.pop()
                    self.world.enforce(known, report.id, self.world.records_of(report, None, named[3]))
                    known.reports.append(report)

            session.defer(action)
            known.waiting.append(note)

    @rule(data=DATA)
    def two_threads(self, data: Data) -> None:
        known, talk = self.a_conversation(data)
        named = self.a_target(known, data)
        if named is None or not talk:
            return
        session = self.world.session(known)
        options: dict[str, Any] = {"eraser": data.draw(st.sampled_from(ERASERS))}
        errors: list[BaseException] = []

        def chat() -> None:
            try:
                session.chat(messages_of(talk), max_tokens=3, temperature=1.0, seed=0, mask=letters)
            except ContextLengthError:
                pass
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=chat)
        thread.start()
        try:
            report = session.retract(named[0], **options)
        except TargetError:
            report = None
        thread.join()
        assert not errors, errors
        known.catch_up()
        known.latest = []
        if report is not None:
            self.world.enforce(known, report.id, self.world.records_of(report, None, named[3]))
            known.reports.append(report)

    # Copies, room, ends

    @rule(data=DATA)
    def fork(self, data: Data) -> None:
        known = self.a_session(data)
        if len(self.world.known) < 4:
            name = f"{known.name}/{self.world.number()}"
            try:
                other = self.world.session(known).fork(name)
            except ContextLengthError:
                known.catch_up()
                return
            known.catch_up()
            self.world.known[name] = self.world.copy(known, other.id)

    @rule(data=DATA)
    def without(self, data: Data) -> None:
        known = self.a_session(data)
        named = self.a_target(known, data)
        if named is None:
            return
        try:
            other = self.world.session(known).without(named[0], eraser=data.draw(st.sampled_from(ERASERS)))
        except (ContextLengthError, TargetError):
            known.catch_up()
            return
        known.catch_up()
        with other:
            copy = self.world.copy(known, other.id)
            report = other.reports[-1]
            self.world.enforce(copy, report.id, self.world.records_of(report, named[1], named[3]))
            check_cells(other, self.world.forbidden(copy))
            self.read(copy, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def another(self, data: Data) -> None:
        """Another session, whose conversation takes the room of others."""
        known = self.world.known.setdefault("b", Known("b", [[]]))
        for _ in range(data.draw(st.integers(1, 3))):
            if len(known.talks[0]) < 12:
                self.add(known.talks[0], data)
        self.read(known, known.talks[0])

    @rule(data=DATA, how=st.sampled_from(["evict", "heal", "delete", "restart"]))
    def change(self, data: Data, how: str) -> None:
        known = self.a_session(data)
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
                known.records, known.waiting = {}, []
        elif self.world.audited:
            self.world.restart()

    # What is so after each step

    @invariant()
    def nothing_in_force_is_visible(self) -> None:
        if not hasattr(self, "world"):
            return
        for known in self.world.known.values():
            known.catch_up()
        sessions = [self.world.session(known) for known in self.world.known.values()]
        if not any(branch.busy for session in sessions for branch in session.branches):
            self.world.memory.healer.wait(60)
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
