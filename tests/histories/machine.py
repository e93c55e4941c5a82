"""A state machine of histories of sessions, which checks everything after each step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kv_memory import CharRange, RetractionReport, RetractionStatus, UndoStatus
from kv_memory.errors import ContextLengthError, TargetError
from kv_memory.sessions import memory as memories
from tests.histories.checks import check_cells, check_influence, check_read, check_report, free, messages_of, state_of
from tests.histories.oracle import Parts, Record, Said, Version, differ
from tests.histories.world import Known, Stream, World, letters, tombstoned

memories.ABANDONED = float("inf")  # so that it does not depend on the time when a branch is healed
ERASERS = [None, "recompute", "drop", "shift", "influence", "shift+influence", "steer"]
REASONS = ["", "stale", "security: it was wrong", "privacy"]
DATA = st.data()
Data = st.DataObject
Named = tuple[Any, Said, Parts, list[Version]]
"""A target, the message and the parts that it means, and the conversation in which it means them."""


class Histories(RuleBasedStateMachine):
    """Callers, their histories, and the sessions of one memory."""

    world: World

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
            self._say(known.talks[0], data)
        self._read(known, known.talks[0])

    # What callers do to their histories

    def _known(self, data: Data) -> Known:
        return data.draw(st.sampled_from(list(self.world.known.values())))

    def _talk(self, data: Data) -> tuple[Known, list[Version]]:
        known = self._known(data)
        return known, data.draw(st.sampled_from(known.talks))

    def _say(self, talk: list[Version], data: Data) -> None:
        world = self.world
        kinds = ["user", "yes", "documents", "call", "result", "assistant", *(["system"] if not talk else [])]
        kind = data.draw(st.sampled_from(kinds))
        name = f"m{world.number()}" if data.draw(st.booleans()) else None
        words = [(world.word(data.draw(st.integers(0, 4)) > 0), None) for _ in range(data.draw(st.integers(1, 4)))]
        if kind == "yes":
            talk.append(world.new("user", [("yes", None)], id=name))
        elif kind == "documents":
            texts = [(word, f"d{world.number()}" if i else None) for i, (word, _) in enumerate(words)]
            talk.append(world.new("user", texts, id=f"m{world.number()}"))
        elif kind == "call":
            calls = [(f"c{world.number()}", world.word()) for _ in range(data.draw(st.integers(1, 2)))]
            content = words[:1] if data.draw(st.booleans()) else []
            talk.append(world.new("assistant", content, id=name, calls=tuple(calls)))
        elif kind == "result":
            made = [call for version in talk for call, _ in version.said.calls]
            open_ = [call for call in made if call not in {version.said.call_id for version in talk}]
            equal = data.draw(st.sampled_from([words, words, [("no results", None)]]))
            call = data.draw(st.sampled_from(open_)) if open_ else f"c{world.number()}"
            talk.append(world.new("tool", equal, call_id=call))
        else:
            talk.append(world.new(kind, words, id=name))

    @rule(data=DATA)
    def say(self, data: Data) -> None:
        known, talk = self._talk(data)
        if len(talk) < 12:
            for _ in range(data.draw(st.integers(1, 2))):
                self._say(talk, data)
        self._read_perhaps(known, talk, data)

    @rule(data=DATA)
    def diverge(self, data: Data) -> None:
        known, talk = self._talk(data)
        if len(known.talks) < 4:
            known.talks.append(talk[: data.draw(st.integers(0, len(talk)))])
            self._say(known.talks[-1], data)
            self._read_perhaps(known, known.talks[-1], data)

    @rule(data=DATA, how=st.sampled_from(["vanish", "empty", "placeholder", "correct", "back", "back"]))
    def edit(self, data: Data, how: str) -> None:
        known, talk = self._talk(data)
        if len(talk) < 2:
            return
        number = data.draw(st.integers(0, len(talk) - 1))
        said = talk[number].said
        if how == "back":
            talk[:] = [Version(version.said) for version in talk]
        elif how == "vanish":
            del talk[number]
        elif said.calls or not (said.id or said.call_id):
            return
        elif how == "correct":
            talk[number] = self.world.new(said.role, [(self.world.word(), None)], id=said.id, call_id=said.call_id)
        else:
            talk[number] = replace(talk[number], edit="" if how == "empty" else "[cleared]")
        self._read_perhaps(known, talk, data)

    @precondition(lambda self: any(known.reports for known in self.world.known.values()))
    @rule(data=DATA)
    def tombstone(self, data: Data) -> None:
        known = data.draw(st.sampled_from([known for known in self.world.known.values() if known.reports]))
        talk = data.draw(st.sampled_from(known.talks))
        for report in data.draw(st.lists(st.sampled_from(known.reports), min_size=1, max_size=3)):
            left = tombstoned(talk, self.world.records_of(report, None, talk), self.world.said)
            if left is None:
                return
            stored = RetractionReport.model_validate_json(report.model_dump_json())
            found = (stored if data.draw(st.booleans()) else report).tombstones(messages_of(talk))
            if not any(map(self.world.said.mistakable, talk)):
                assert found == messages_of(left), "the tombstones are not what is left"
                talk[:] = left
        self._read_perhaps(known, talk, data)

    # Reading and answering

    def _read(self, known: Known, talk: list[Version], call: Callable[..., Any] | None = None, **more: Any) -> Any:
        """Read a conversation by a call of the session, and check all that it says and holds afterwards."""
        session = self.world.session(known)
        if not talk:
            return None
        try:
            done = (call or session.prefill)(messages_of(talk), **more)
        except ContextLengthError:
            known.catch_up()
            known.latest = []
            return None
        known.catch_up()
        known.latest = list(talk)
        usage = getattr(done, "usage", done)
        with self.world.memory.engine.lock:
            branch = next(b for b in session.branches if b.number == usage.branch)
            check_read(branch, talk, self.world.hidden(known, talk), usage)
            if call is None:
                held = branch.ledger.cells_from(0)
                assert usage.reused + usage.prefilled == held, "reused and prefilled are not the cells"
        self._check_corrected(known, talk, usage.corrected)
        return done

    def _read_perhaps(self, known: Known, talk: list[Version], data: Data) -> None:
        if data.draw(st.integers(0, 2)):
            self._read(known, talk)

    def _check_corrected(self, known: Known, talk: list[Version], corrected: tuple[str, ...]) -> None:
        retracted = {name: record.text for record in known.in_force for name in record.ids if name is not None}
        texts = {record.text for record in known.in_force}
        may = {
            name
            for version in talk
            for name in version.said.ids
            if name in retracted and version.said.text not in texts and version.edit is None
        }
        assert set(corrected) <= may, f"{set(corrected) - may} are no corrections"

    @rule(data=DATA)
    def prefill(self, data: Data) -> None:
        self._read(*self._talk(data))

    @rule(data=DATA)
    def prefill_without(self, data: Data) -> None:
        known, talk = self._talk(data)
        named = self._target(known, data, talk)
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
        self._read(known, talk, prefill)

    @rule(data=DATA)
    def chat(self, data: Data) -> None:
        known, talk = self._talk(data)
        options = {"max_tokens": data.draw(st.integers(1, 3)), "temperature": 1.0, "seed": data.draw(st.integers(0, 3))}
        reply = self._read(known, talk, self.world.session(known).chat, mask=letters, **options)
        if reply is not None:
            self._answered(known, talk, reply.text, data.draw(st.booleans()))
            known.latest = list(talk)

    def _answered(self, known: Known, talk: list[Version], text: str, with_id: bool) -> None:
        name = f"m{self.world.number()}" if with_id else None
        talk.append(self.world.new("assistant", [(text, None)], id=name))

    @rule(data=DATA)
    def begin(self, data: Data) -> None:
        known, talk = self._talk(data)
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
        elif how == "finish":
            for _ in stream.items:
                pass
            reply = stream.stream.reply
            if reply.finish_reason == "length" and data.draw(st.booleans()):
                self._answered(known, stream.talk, reply.text, data.draw(st.booleans()))

    @rule(data=DATA)
    def score(self, data: Data) -> None:
        known, talk = self._talk(data)
        if talk:
            try:
                self.world.session(known).score(messages_of(talk), "yes")
                known.latest = list(talk)
            except ContextLengthError:
                known.latest = []
            known.catch_up()

    # Retracting

    def _target(self, known: Known, data: Data, given: list[Version] | None = None) -> Named | None:
        """Draw a target in the conversation that was read last, or in one that is given."""
        talk = known.latest if given is None else given
        numbers = [i for i, version in enumerate(talk) if version.edit is None]
        if not numbers:
            return None
        number = data.draw(st.sampled_from(numbers))
        version, said = talk[number], talk[number].said
        options: list[tuple[Any, Parts]] = []
        if said.id:
            options.append((said.id, said.whole))
        if said.call_id:
            options.append((said.call_id, said.whole))
        answered = {v.said.call_id for v in talk}
        options += [
            (name, Parts(calls=frozenset([i]))) for i, (name, _) in enumerate(said.calls) if name not in answered
        ]
        options += [(name, Parts(chars)) for name, chars in said.documents()]
        if len([v for v in talk if v.said.text == said.text]) == 1:
            options.append((version.message(), said.whole))
        if given is None:
            spans = [s for s in self.world.session(known).spans() if s.message == number and "." not in s.id]
            options += [(span.id, said.whole) for span in spans]
        if (said.id or said.call_id) and said.words:
            first, last = sorted(data.draw(st.tuples(*[st.integers(0, len(said.words) - 1)] * 2)))
            chars = set(range(said.words[first][0], said.words[last][1]))
            own = sorted(version.own.chars) if given is not None else list(range(len(said.content)))
            named = [i for i, char in enumerate(own) if char in chars]
            if named:
                name = said.id or said.call_id or ""
                span = CharRange(message=name, start=named[0], end=named[-1] + 1)
                options.append((span, Parts(frozenset(own[named[0] : named[-1] + 1]))))
        if not options:
            return None
        target, parts = data.draw(st.sampled_from(options))
        return target, said, parts, talk

    def _retract(self, known: Known, named: Named, **options: Any) -> RetractionReport | None:
        target, said, parts, talk = named
        world, session = self.world, self.world.session(known)
        before = state_of(session)
        try:
            report = session.retract(target, **options)
        except TargetError:
            assert options.get("messages") is None or isinstance(target, str), "what is given is known"
            return None
        records = world.records_of(report, said, talk)
        meant = [r for r in records if r.text == said.text and not any(map(differ, r.ids, said.ids))]
        if options.get("dry_run"):
            assert report.status is RetractionStatus.PLANNED
            assert state_of(session) == before
            return None
        found = [
            r.parts for r in meant if r.parts <= parts and parts - world.said.ever.get(said.text, Parts()) <= r.parts
        ]
        assert found, f"the report is not of {target}: {report.redactions}"
        world.enforce(known, report.id, records)
        known.reports.append(report)
        with world.memory.engine.lock:
            check_report(session, session.report(report.id), before)
        return report

    def _options(self, data: Data) -> dict[str, Any]:
        options: dict[str, Any] = {
            "eraser": data.draw(st.sampled_from(ERASERS)),
            "reason": data.draw(st.sampled_from(REASONS)),
            "keep_undo": data.draw(st.booleans()),
        }
        if data.draw(st.integers(0, 5)) == 0:
            options["cascade"] = "report"
        if data.draw(st.integers(0, 7)) == 0:
            options["dry_run"] = True
        return options

    @rule(data=DATA, again=st.booleans())
    def retract(self, data: Data, again: bool) -> None:
        known = self._known(data)
        named = self._target(known, data)
        if named is not None:
            self._retract(known, named, **self._options(data))
            if again:
                self._read(known, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def retract_given(self, data: Data) -> None:
        known, talk = self._talk(data)
        named = self._target(known, data, talk)
        if named is not None:
            self._retract(known, named, messages=messages_of(talk), **self._options(data))

    @precondition(lambda self: any(known.reports for known in self.world.known.values()))
    @rule(data=DATA, again=st.booleans())
    def undo(self, data: Data, again: bool) -> None:
        known = data.draw(st.sampled_from([known for known in self.world.known.values() if known.reports]))
        report = data.draw(st.sampled_from(known.reports))
        status = self.world.session(known).undo(report)
        assert (status is UndoStatus.NOOP) == (not known.records.pop(report.id, None))
        if again:
            self._read(known, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def defer(self, data: Data) -> None:
        known = self._known(data)
        named = self._target(known, data)
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
        known, talk = self._talk(data)
        named = self._target(known, data)
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
        known = self._known(data)
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
        known = self._known(data)
        named = self._target(known, data)
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
            self._read(copy, data.draw(st.sampled_from(known.talks)))

    @rule(data=DATA)
    def another(self, data: Data) -> None:
        """Another session, whose conversation takes the room of others."""
        known = self.world.known.setdefault("b", Known("b", [[]]))
        for _ in range(data.draw(st.integers(1, 3))):
            if len(known.talks[0]) < 12:
                self._say(known.talks[0], data)
        self._read(known, known.talks[0])

    @rule(data=DATA, how=st.sampled_from(["evict", "heal", "delete", "restart"]))
    def change(self, data: Data, how: str) -> None:
        known = self._known(data)
        session = self.world.session(known)
        if how == "evict":
            session.evict()
        elif how == "heal":
            session.heal()
            assert not any(branch.ledger.approximate_from is not None for branch in free(session))
        elif how == "delete":
            self.world.memory.delete_session(known.name)
            known.latest, known.streams, known.waiting = [], [], []
            if not self.world.audited:
                known.records = {}
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
