"""The methods of a chat model that retract text from it, and what it reports of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from langchain_core.callbacks import dispatch_custom_event
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import run_in_executor
from pydantic import Field

from kv_memory import Cascade, Reason, Span
from langchain_kv_memory.generating import AnsweringChatModel
from langchain_kv_memory.report import RetractionReport
from langchain_kv_memory.retraction import Retraction
from langchain_kv_memory.sessions import session_id_of
from langchain_kv_memory.targets import Missing, Scope, Target


class RetractingChatModel(AnsweringChatModel):
    """A chat model whose sessions can be told to forget. Methods that may wait have an asynchronous twin."""

    on_retract: Callable[[RetractionReport], object] | None = Field(default=None, exclude=True, repr=False)
    """Callback for the report of each retraction; inside a run a `kv_memory_retraction` event is dispatched too."""

    def retract(
        self,
        *targets: Target,
        session_id: str | None = None,
        config: RunnableConfig | None = None,
        messages: Sequence[BaseMessage] | None = None,
        scope: Scope | None = None,
        mode: str | None = None,
        reason: Reason | str = "",
        by: str = "owner",
        cascade: Cascade | None = None,
        keep_undo: bool | None = None,
        missing: Missing | None = None,
        wait: bool = True,
        dry_run: bool = False,
    ) -> RetractionReport:
        """Erase what these targets name from the model's cache, and keep it out of what the model reads later.

        A target is a tool call id (its result), message id, document id or span id; a message; a Document; or a
        CharRange. The session is that of `session_id`, `config` or the run that this is called in. Messages are
        retracted in it, documents in all sessions; `scope` says otherwise. `mode`: "exact", or the name of an eraser.

        `messages`: the conversation that is meant, where the model may not have read all of it yet. `missing`: what to
        do about a target that is not there: by default an error for security and privacy, else a warning.
        `wait=False` only notes the retraction and never blocks; each session makes it before its next answer.
        `dry_run` changes nothing and reports what would be erased.

        The history is the caller's: `report.tombstones(messages)` gives what to put into it, and `retract_in_graph`
        does both.

        `reason`, `by`, `cascade` and `keep_undo` are those of `kv_memory.Session.retract`.

        Raises, before anything is changed, UnknownTargetError (with missing="error"), AmbiguousTargetError, TargetError
        for characters outside the message, RefusedError (`by` may not), UnsupportedOperationError for an eraser that
        the model cannot do, TypeError and ValueError for what is no target or no value of an option.
        """
        wish = Retraction(
            targets,
            session_id_of(config, session_id),
            scope=scope,
            eraser={"exact": "recompute"}.get(mode or "", mode),
            default=self.named_eraser,
            reason=reason,
            by=by,
            cascade=cascade,
            keep_undo=keep_undo,
            missing=missing,
            messages=messages,
            dry_run=dry_run,
        )
        if not wait:
            if dry_run:
                raise ValueError("A dry run reports at once and changes nothing; leave wait=False away.")
            return wish.queue(self.ready, self._tell)
        report = wish.carry_out(self.load())
        if report.parts and not dry_run:
            self._tell(report)
        return report

    async def aretract(self, *targets: Target, **options: Any) -> RetractionReport:
        """Do the same as `retract`, in a worker thread."""
        return await run_in_executor(None, partial(self.retract, *targets, **options))

    def undo(self, report: RetractionReport) -> None:
        """Undo a retraction: the sessions prefill again what their callers' histories hold.

        The text itself is not kept: where there are tombstones in a history, put the messages back first. Raises
        ValueError for one that is queued: what was done is in the report that `on_retract` is given.
        """
        if report.queued:
            raise ValueError("A queued retraction cannot be undone; undo the report that on_retract is given of it.")
        for part in report.parts:
            session = self.ready.get(part.session) if self.ready else None
            if session is not None:
                session.undo(part)

    async def aundo(self, report: RetractionReport) -> None:
        """Do the same as `undo`, in a worker thread."""
        await run_in_executor(None, self.undo, report)

    def spans(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> list[Span]:
        """Return the part of a session's conversation that is in the cache: messages, documents and calls, with ids."""
        session = self.ready.get(session_id_of(config, session_id)) if self.ready else None
        return session.spans() if session else []

    async def aspans(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> list[Span]:
        """Do the same as `spans`, in a worker thread."""
        return await run_in_executor(None, partial(self.spans, session_id=session_id, config=config))

    def forget(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> None:
        """Remove the session with its cells and its retractions; no error when there is none."""
        if self.ready is not None:
            self.ready.delete_session(session_id_of(config, session_id))

    async def aforget(self, *, session_id: str | None = None, config: RunnableConfig | None = None) -> None:
        """Do the same as `forget`, in a worker thread."""
        await run_in_executor(None, partial(self.forget, session_id=session_id, config=config))

    def _tell(self, report: RetractionReport) -> None:
        if self.on_retract is not None:
            self.on_retract(report)
        try:
            dispatch_custom_event("kv_memory_retraction", report.model_dump(mode="json"))
        except RuntimeError:
            return  # outside a run nobody listens
