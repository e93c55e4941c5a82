"""Retracting from the sessions of one memory by what LangChain code has in hand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage

from kv_memory import CharRange, Memory, Span, SpanKind
from kv_memory.errors import KVMemoryError, UnknownTargetError
from kv_memory.policy import Cascade, Reason
from kv_memory.policy.authority import OWNER
from kv_memory.session import Session
from kv_memory.spans import Target as CoreTarget
from kv_memory.spans import target_name
from langchain_kv_memory.convert import to_openai
from langchain_kv_memory.documents import document_id
from langchain_kv_memory.report import RetractionReport

Target = str | BaseMessage | Document | CharRange
"""A span id, tool call id, message id or document id; a message; a document; characters of a message."""
Scope = Literal["session", "all"]
Missing = Literal["warn", "error", "ignore"]


@dataclass(frozen=True)
class Retraction:
    """A wish to retract: what, where and how. See `ErasableChatModel.retract` for what the fields mean."""

    targets: tuple[Target, ...]
    home: str
    """The session that messages are looked for in."""
    scope: Scope | None = None
    eraser: str | None = None
    """By which eraser, whatever the reason."""
    default: str | None = None
    """The chat model's own, which a policy may overrule."""
    reason: Reason | str = ""
    by: str = OWNER
    cascade: Cascade | None = None
    keep_undo: bool | None = None
    missing: Missing = "warn"
    messages: Sequence[BaseMessage] | None = None
    dry_run: bool = False

    def carry_out(self, memory: Memory) -> RetractionReport:
        """Retract now. Raises, before anything is changed, what `ErasableChatModel.retract` raises."""
        given = None if self.messages is None else to_openai(self.messages)
        with memory.engine.lock:
            if given is not None:
                memory.session(self.home)
            plan: dict[str, list[CoreTarget]] = {}
            missing: list[str] = []
            for target in self.targets:
                holders = self._holders(memory, target, given)
                missing += [] if holders else [target_name(_core(target))]
                for session in holders:
                    plan.setdefault(session.id, []).append(_core(target))
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
        """Have each session retract before it reads its next conversation; waits for nothing. `done` hears of each.

        Without a memory nothing has been read, so that all is missing.
        """
        everywhere = self.scope == "all" or (self.scope is None and any(isinstance(t, Document) for t in self.targets))
        sessions: list[Session] = []
        if memory is not None:
            names = dict.fromkeys([self.home, *memory.sessions()] if everywhere else [self.home])
            sessions = [session for session in map(memory.get, names) if session is not None]
            for session in sessions:
                session.soon(partial(self._carry_out_in, memory, session, done))
        missing = () if sessions else tuple(target_name(_core(target)) for target in self.targets)
        return RetractionReport(reason=str(self.reason), queued=tuple(s.id for s in sessions), missing=missing)

    def _carry_out_in(self, memory: Memory, session: Session, done: Callable[[RetractionReport], None]) -> None:
        here = replace(self, home=session.id, scope="session", missing="ignore", messages=None)
        try:
            report = here.carry_out(memory)
        except KVMemoryError as error:  # its caller is long gone, and the answer that is due must not fail for it
            warnings.warn(f"A queued retraction was not made: {error}", stacklevel=2)
            return
        if report.parts:
            done(report)

    def _eraser(self, memory: Memory) -> str | None:
        return self.eraser or (None if memory.policy.handling(self.reason).exact else self.default)

    def _holders(self, memory: Memory, target: Target, given: list[dict[str, Any]] | None) -> list[Session]:
        """The sessions in which it is to be retracted; none when it is missing, and that is no error."""
        here, core = memory.get(self.home), _core(target)
        unknown: UnknownTargetError | None = None
        spans: Sequence[Span] = ()
        try:
            if here is None:
                raise UnknownTargetError(f"There is no session {self.home!r} that could hold {target_name(core)!r}.")
            spans = here.retract(core, messages=given, dry_run=True).spans
        except UnknownTargetError as error:
            unknown = error
        holders = [here] if here is not None and unknown is None else []
        documents = isinstance(target, Document) or (isinstance(target, str) and _are_documents(spans))
        if self.scope == "all" or (self.scope is None and documents):
            others = [memory.session(name) for name in memory.sessions() if name != self.home]
            holders += [s for s in others if _holds(s, core, documents_only=self.scope is None)]
        if holders or self.missing == "ignore":
            return holders
        assert unknown is not None, "the session at home holds it"
        if self.missing == "error":
            raise unknown
        warnings.warn(str(unknown), stacklevel=2)
        return []


def _core(target: Target) -> CoreTarget:
    if isinstance(target, BaseMessage):
        said: Mapping[str, Any] = to_openai([target], ())[0]
        return said
    return document_id(target) if isinstance(target, Document) else target


def _holds(session: Session, target: CoreTarget, *, documents_only: bool) -> bool:
    try:
        spans = session.retract(target, dry_run=True).spans
    except UnknownTargetError:
        return False
    return _are_documents(spans) or not documents_only


def _are_documents(spans: Sequence[Span]) -> bool:
    """Whether all are documents; also where none is known, since a document may stand in another session alone."""
    return all(span.kind is SpanKind.DOCUMENT for span in spans)
