"""Retraction from the sessions of one memory by LangChain's messages and documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage

from kv_memory import (
    Cascade,
    Category,
    KVMemoryError,
    Memory,
    Reason,
    Session,
    Span,
    SpanKind,
    UnknownTargetError,
    get_eraser,
    target_name,
)
from kv_memory import Target as CoreTarget
from langchain_kv_memory.convert import to_openai
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.targets import Missing, Scope, Target, check_choice, core_target
from langchain_kv_memory.warn import warn


@dataclass(frozen=True)
class Retraction:
    """A request to retract: what, where and how. See `ErasableChatModel.retract` for what the fields mean."""

    targets: tuple[Target, ...]
    home: str
    """Session that messages are looked for in."""
    scope: Scope | None = None
    eraser: str | None = None
    """Eraser to use, whatever the reason."""
    default: str | None = None
    """Eraser of the chat model, which a policy may overrule."""
    reason: Reason | str = ""
    by: str = "owner"
    cascade: Cascade | None = None
    keep_undo: bool | None = None
    missing: Missing | None = None
    messages: Sequence[BaseMessage] | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Raise TypeError, ValueError or KVMemoryError for what can never be carried out."""
        for target in self.targets:
            core_target(target)
        check_choice("scope", self.scope, Scope)
        check_choice("missing", self.missing, Missing)
        check_choice("cascade", self.cascade, Cascade)
        if self.eraser is not None:
            get_eraser(self.eraser)

    def carry_out(self, memory: Memory) -> RetractionReport:
        """Retract now. Raises, before anything is changed, what `ErasableChatModel.retract` raises."""
        given = to_openai(self.messages) if self.messages else None
        with memory.engine.lock:
            if given is not None:
                memory.session(self.home)
            plan: dict[str, list[CoreTarget]] = {}
            missing: list[str] = []
            for target in self.targets:
                holders = self._holders(memory, target, given)
                missing += [] if holders else [target_name(core_target(target))]
                for session in holders:
                    plan.setdefault(session.id, []).append(core_target(target))
            parts = [
                memory.session(name).retract(
                    *targets,
                    reason=self.reason,
                    by=self.by,
                    eraser=self._eraser(memory),
                    cascade=self.cascade,
                    keep_undo=self.keep_undo,
                    messages=given if name == self.home else None,
                    dry_run=self.dry_run,
                )
                for name, targets in plan.items()
            ]
        return RetractionReport(reason=str(self.reason), parts=tuple(parts), missing=tuple(missing))

    def queue(self, memory: Memory | None, done: Callable[[RetractionReport], None]) -> RetractionReport:
        """Have each session retract before it reads its next conversation; never waits.

        `done` is called with each session's report. Without a memory nothing has been read, so that all is missing.
        """
        everywhere = self.scope == "all" or (self.scope is None and any(isinstance(t, Document) for t in self.targets))
        sessions: list[Session] = []
        if memory is not None:
            names = dict.fromkeys([self.home, *memory.sessions()] if everywhere else [self.home])
            sessions = [session for session in map(memory.get, names) if session is not None]
            for session in sessions:
                session.defer(partial(self._carry_out_in, memory, session, done))
        missing = () if sessions else tuple(target_name(core_target(target)) for target in self.targets)
        if missing:
            self._not_there(UnknownTargetError(f"No conversation has been read that could hold {', '.join(missing)}."))
        return RetractionReport(reason=str(self.reason), queued=tuple(s.id for s in sessions), missing=missing)

    def _carry_out_in(self, memory: Memory, session: Session, done: Callable[[RetractionReport], None]) -> None:
        messages = self.messages if session.id == self.home else None
        here = replace(self, home=session.id, scope="session", missing="ignore", messages=messages)
        try:
            report = here.carry_out(memory)
        except KVMemoryError as error:  # its caller is long gone, and the answer that is due must not fail for it
            warn(f"A queued retraction was not made: {error}")
            return
        if report.parts:
            done(report)

    def _eraser(self, memory: Memory) -> str | None:
        return self.eraser or (None if memory.policy.handling(self.reason).exact else self.default)

    def _holders(self, memory: Memory, target: Target, given: list[dict[str, Any]] | None) -> list[Session]:
        """Return the sessions in which it is to be retracted; none when it is missing, and that is no error."""
        here, core = memory.get(self.home), core_target(target)
        unknown: UnknownTargetError | None = None
        spans: Sequence[Span] = ()
        try:
            if here is None:
                raise UnknownTargetError(
                    f"There is no session {self.home!r} that could hold {target_name(core)!r}; "
                    "name the thread by config= or session_id=."
                )
            spans = here.find(core, given)
        except UnknownTargetError as error:
            unknown = error
        holders = [here] if here is not None and unknown is None else []
        documents = isinstance(target, Document) or (isinstance(target, str) and _are_documents(spans))
        if self.scope == "all" or (self.scope is None and documents):
            others = [memory.session(name) for name in memory.sessions() if name != self.home]
            holders += [s for s in others if _holds(s, core, documents_only=self.scope is None)]
        if not holders:
            assert unknown is not None, "the session at home holds it"
            self._not_there(unknown)
        return holders

    def _not_there(self, error: UnknownTargetError) -> None:
        strict = Reason.of(self.reason).category in (Category.SECURITY, Category.PRIVACY)
        missing = self.missing or ("error" if strict else "warn")
        if missing == "error":
            raise error
        if missing == "warn":
            warn(str(error))


def _holds(session: Session, target: CoreTarget, *, documents_only: bool) -> bool:
    try:
        spans = session.find(target)
    except UnknownTargetError:
        return False
    return _are_documents(spans) or not documents_only


def _are_documents(spans: Sequence[Span]) -> bool:
    """Return whether all are documents; also where none is known, since another session may hold a document."""
    return all(span.kind is SpanKind.DOCUMENT for span in spans)
