"""The rules of the state machine that retract, undo, and write again; also from threads and other processes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from kv_memory import RetractionReport, UndoStatus
from kv_memory.errors import TargetError
from tests.histories.callers import ERASERS, REASONS, Callers
from tests.histories.checks import messages_of
from tests.histories.choices import CHOICES, Choices
from tests.histories.oracle import Version
from tests.histories.threads import MOMENTS, answered_beside
from tests.histories.world import Known, letters, tombstoned


class Retracting(Callers):
    """What callers retract, in any order."""

    def reported(self, choose: Choices, *, dependent: bool = False) -> tuple[Known, RetractionReport] | None:
        """Choose a report, of a retraction that may have been undone; with `dependent` one on which turns depended."""
        reports = [
            (known, report)
            for known in self.world.known.values()
            for report in known.reports
            if not dependent or any(found.depends for found in report.dependences)
        ]
        return choose.of(reports) if reports else None

    def left_by(self, report: RetractionReport, talk: list[Version]) -> list[Version] | None:
        """What is left of a conversation by a report's tombstones; None where the rules leave it open."""
        left = tombstoned(talk, self.world.records_of(report, None, talk), self.world.said)
        return None if any(map(self.world.said.mistakable, talk)) else left

    @rule(choose=CHOICES)
    def tombstone(self, choose: Choices) -> None:
        for _ in range(choose.number(1, 3)):
            found = self.reported(choose)
            if found is None:
                return self.retract_one(choose)
            known, report = found
            talk = choose.of(known.talks)
            left = self.left_by(report, talk)
            stored = RetractionReport.model_validate_json(report.model_dump_json())
            made = (stored if choose.yes() else report).tombstones(messages_of(talk))
            if left is not None:
                assert made == messages_of(left), "the tombstones are not what is left"
                talk[:] = left
            self.read_perhaps(known, talk, choose)

    @rule(choose=CHOICES, again=st.booleans())
    def retract(self, choose: Choices, again: bool) -> None:
        self.retract_one(choose)
        if again:
            known, talk = self.a_conversation(choose)
            self.read(known, talk)

    @rule(choose=CHOICES)
    def retract_given(self, choose: Choices) -> None:
        known, talk = self.a_conversation(choose)
        named = self.a_target(known, choose, talk)
        if named is not None:
            self.erase(known, named, messages=messages_of(talk), **self.settings(choose))

    def retract_one(self, choose: Choices, **options: Any) -> None:
        """Retract from the conversation that was read last."""
        known = self.a_session(choose)
        if not known.latest:
            self.read(known, choose.of(known.talks))
        named = self.a_target(known, choose)
        if named is not None:
            self.erase(known, named, **self.settings(choose) | options)

    @rule(choose=CHOICES, again=st.booleans())
    def undo(self, choose: Choices, again: bool) -> None:
        found = self.reported(choose)
        if found is None:
            return self.retract_one(choose)
        known, report = found
        status = self.world.session(known).undo(report)
        assert (status is UndoStatus.NOOP) == (not known.records.pop(report.id, None))
        if again:
            self.read(known, choose.of(known.talks))

    @rule(choose=CHOICES)
    def regenerate(self, choose: Choices) -> None:
        """What depended on something retracted is written again: a correction, or the same text without the reason."""
        if self.world.memory.cache_tokens < 2048:
            return
        if choose.yes():
            self.retract_one(choose, cascade="regenerate")
        found = self.reported(choose, dependent=True)
        if found is None:
            return
        known, report = found
        talk = choose.of(known.talks)
        left = self.left_by(report, talk)
        if left is None or not talk:
            return
        sampling: dict[str, Any] = {"max_tokens": choose.number(1, 3), "temperature": 1.0, "seed": choose.number(0, 3)}
        made = self.world.session(known).regenerate(report, messages_of(talk), mask=letters, **sampling)
        known.catch_up()
        known.latest = []
        for number, message in enumerate(made):
            if message == left[number].message():
                continue
            was = left[number].said
            assert was.role == "assistant", "only the assistant's turns are written again"
            assert message.get("id") == was.id
            again = self.world.new("assistant", [(message["content"], None)], id=message.get("id"))
            if again.said.text == was.text:
                self.world.withdraw(known, report.id, talk, number)
            left[number] = again
        talk[:] = left[: len(made)]
        self.read(known, talk)

    @rule(choose=CHOICES)
    def defer(self, choose: Choices) -> None:
        known = self.a_session(choose)
        named = self.a_target(known, choose)
        if named is not None:
            session = self.world.session(known)
            options: dict[str, Any] = {"reason": choose.of(REASONS)}
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

    @rule(choose=CHOICES, moment=st.sampled_from(MOMENTS))
    def two_threads(self, choose: Choices, moment: str) -> None:
        """One thread has an answer while another retracts."""
        known, talk = self.a_conversation(choose)
        named = self.a_target(known, choose)
        if named is None or not talk:
            return
        session = self.world.session(known)
        eraser, made = choose.of(ERASERS), list[RetractionReport]()

        def retract() -> None:
            with suppress(TargetError):
                made.append(session.retract(named[0], eraser=eraser))

        reply = answered_beside(session, messages_of(talk), moment, retract)
        if reply is not None:
            self.answer(reply.text, choose)  # in the cache, in no history
        known.catch_up()
        known.latest = []
        for report in made:
            self.world.enforce(known, report.id, self.world.records_of(report, None, named[3]))
            known.reports.append(report)

    @rule(choose=CHOICES, how=st.sampled_from(["read", "retract", "undo"]))
    def in_another_process(self, choose: Choices, how: str) -> None:
        """Another process has the same session in its own cache; what is retracted in one is hidden in both."""
        if not self.world.audited:
            return
        known, talk = self.a_conversation(choose)
        session = self.world.another_process().session(known.name)
        if how == "retract":
            named = self.a_target(known, choose, talk)
            if named is not None:
                before = len(known.reports)
                self.erase(known, named, session=session, messages=messages_of(talk), **self.settings(choose))
                known.elsewhere |= {report.id for report in known.reports[before:]}
        elif how == "undo" and known.reports:
            report = choose.of(known.reports)
            status = session.undo(report)
            assert (status is UndoStatus.NOOP) == (not known.records.pop(report.id, None))
        self.read(known, talk, session=session)
        known.latest = []
        self.read_perhaps(known, talk, choose)
