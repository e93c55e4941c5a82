"""What the rules of the state machine are made of: callers say, read and retract, and what comes back is checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine

from kv_memory import CharRange, RetractionReport, RetractionStatus, Session
from kv_memory.engines.parts import lacks
from kv_memory.erasers import get_eraser
from kv_memory.errors import ContextLengthError, TargetError
from tests.histories.checks import ENGINE, check_read, check_report, messages_of, state_of
from tests.histories.choices import Choices
from tests.histories.oracle import Parts, Record, Said, Version, differ
from tests.histories.world import Known, World

ERASERS = [None, "recompute", "drop", "shift", "influence", "shift+influence", "steer"]
ERASERS = [name for name in ERASERS if name is None or not get_eraser(name).lacking(ENGINE)]
KEEPS_ROWS = not lacks(ENGINE, "rows")
REASONS = ["", "stale", "security: it was wrong", "privacy"]
Named = tuple[Any, Said, Parts, list[Version]]
"""A target, the message and the parts that it means, and the conversation in which it means them."""


class Callers(RuleBasedStateMachine):
    """Callers with their histories, and the sessions of one memory."""

    world: World

    def a_session(self, choose: Choices) -> Known:
        return choose.of(list(self.world.known.values()))

    def a_conversation(self, choose: Choices) -> tuple[Known, list[Version]]:
        known = self.a_session(choose)
        return known, choose.of(known.talks)

    def add(self, talk: list[Version], choose: Choices) -> None:
        world = self.world
        kinds = ["user", "yes", "documents", "call", "result", "assistant", *(["system"] if not talk else [])]
        kind = choose.of(kinds)
        name = f"m{world.number()}" if choose.yes() else None
        words = [(world.word(not choose.yes(5)), None) for _ in range(choose.number(1, 4))]
        if kind == "yes":
            talk.append(world.new("user", [("yes", None)], id=name))
        elif kind == "documents":
            texts = [(word, f"d{world.number()}" if i else None) for i, (word, _) in enumerate(words)]
            talk.append(world.new("user", texts, id=f"m{world.number()}"))
        elif kind == "call":
            calls = [(f"c{world.number()}", world.word()) for _ in range(choose.number(1, 2))]
            content = words[:1] if choose.yes() else []
            talk.append(world.new("assistant", content, id=name, calls=tuple(calls)))
        elif kind == "result":
            made = [call for version in talk for call, _ in version.said.calls]
            open_ = [call for call in made if call not in {version.said.call_id for version in talk}]
            equal = choose.of([words, words, [("no results", None)]])
            call = choose.of(open_) if open_ else f"c{world.number()}"
            talk.append(world.new("tool", equal, call_id=call))
        else:
            talk.append(world.new(kind, words, id=name))

    def read(
        self,
        known: Known,
        talk: list[Version],
        call: Callable[..., Any] | None = None,
        *,
        session: Session | None = None,
        **more: Any,
    ) -> Any:
        """Read a conversation by a call of the session, and check all that it says and holds afterwards."""
        session = session or self.world.session(known)
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
        self.check_corrected(known, talk, usage.corrected)
        return done

    def read_perhaps(self, known: Known, talk: list[Version], choose: Choices) -> None:
        if not choose.yes(3):
            self.read(known, talk)

    def check_corrected(self, known: Known, talk: list[Version], corrected: tuple[str, ...]) -> None:
        retracted = {name: record.text for record in known.in_force for name in record.ids if name is not None}
        texts = {record.text for record in known.in_force}
        may = {
            name
            for version in talk
            for name in version.said.ids
            if name in retracted and version.said.text not in texts and version.edit is None
        }
        assert set(corrected) <= may, f"{set(corrected) - may} are no corrections"

    def answer(self, text: str, choose: Choices) -> Version:
        """An answer that was generated, as its caller keeps it."""
        name = f"m{self.world.number()}" if choose.yes() else None
        return self.world.new("assistant", [(text, None)], id=name)

    def a_target(self, known: Known, choose: Choices, given: list[Version] | None = None) -> Named | None:
        """Choose a target in the conversation that was read last, or in one that is given."""
        talk = known.latest if given is None else given
        numbers = [i for i, version in enumerate(talk) if version.edit is None]
        if not numbers:
            return None
        number = choose.of(numbers)
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
        options += [
            (name, Parts(chars)) for name, chars in said.documents() if given is None or chars <= version.own.chars
        ]
        if len([v for v in talk if v.said.text == said.text or not v.own.chars]) == 1 and version.own:
            options.append((version.message(), said.whole))
        if given is None:
            spans = [s for s in self.world.session(known).spans() if s.message == number and "." not in s.id]
            options += [(span.id, said.whole) for span in spans]
        if (said.id or said.call_id) and said.words:
            first, last = sorted(choose.number(0, len(said.words) - 1) for _ in range(2))
            chars = set(range(said.words[first][0], said.words[last][1]))
            own = sorted(version.own.chars) if given is not None else list(range(len(said.content)))
            named = [i for i, char in enumerate(own) if char in chars]
            if named:
                name = said.id or said.call_id or ""
                span = CharRange(message=name, start=named[0], end=named[-1] + 1)
                options.append((span, Parts(frozenset(own[named[0] : named[-1] + 1]))))
        if not options:
            return None
        target, parts = choose.of(options)
        return target, said, parts, talk

    def erase(
        self, known: Known, named: Named, *, session: Session | None = None, **options: Any
    ) -> RetractionReport | None:
        target, said, parts, talk = named
        world, session = self.world, session or self.world.session(known)
        before = state_of(session)
        waiting = any(report.status is RetractionStatus.QUEUED for report in session.reports)
        try:
            report = session.retract(target, **options)
        except TargetError:
            assert options.get("messages") is None or isinstance(target, str), "what is given is known"
            return None
        cascades = options.get("cascade") in ("retract", "regenerate")
        dependents = self.dependents(known, session, report, talk) if cascades else None
        records = world.records_of(report, said, talk, dependents)
        meant = [r for r in records if r.text == said.text and not any(map(differ, r.ids, said.ids))]
        if options.get("dry_run"):
            assert report.status is RetractionStatus.PLANNED
            assert state_of(session) == before
            return None
        found = [
            r.parts for r in meant if r.parts <= parts and parts - world.said.ever.get(said.text, Parts()) <= r.parts
        ]
        version = next(v for v in talk if v.said is said)
        assert found or self.may_be_of_another(version, report, records), f"not of {target}: {report.redactions}"
        world.enforce(known, report.id, records)
        known.reports.append(report)
        with world.memory.engine.lock:
            if not waiting:
                check_report(session, session.report(report.id), before)
        return report

    def dependents(self, known: Known, session: Session, report: RetractionReport, talk: list[Version]) -> list[Said]:
        """Turns of the conversation that depended on what was retracted; known of the one that was read last alone."""
        numbers = {span.id: span.message for span in session.spans()} if talk is known.latest else {}
        found = [numbers.get(dependence.span_id, len(talk)) for dependence in report.dependences if dependence.depends]
        return [talk[number].said for number in found if number < len(talk)]

    def may_be_of_another(self, version: Version, report: RetractionReport, records: list[Record]) -> bool:
        """Return whether a report on a message of which nothing is left may name another: one that was retracted too,
        or an empty message, where there is nothing to retract."""
        empty = report.status is RetractionStatus.NOOP and not any(r.chars or r.calls for r in report.redactions)
        said = self.world.said
        return any(said.may_be(version, r) for r in records) or (empty and said.blank(version))

    def settings(self, choose: Choices) -> dict[str, Any]:
        options: dict[str, Any] = {
            "eraser": choose.of(ERASERS),
            "reason": choose.of(REASONS),
            "keep_undo": choose.yes() and KEEPS_ROWS,
        }
        if choose.yes(3):
            options["cascade"] = choose.of(["report", "retract", "regenerate"])
        if choose.yes(8):
            options["dry_run"] = True
        return options
