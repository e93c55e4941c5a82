"""A session: one agent's conversation, kept in step with its cache; what it is told to forget stays forgotten.

The caller's chat history is the truth. Each call brings all of it; the session aligns it with what is cached and only
prefills what is new. A session may hold several branches (sub-agents, summarizers, other continuations): the one with
the longest match is used, and forked where the conversation diverges.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from kv_memory.answering import Answering, ReplyStream, SamplingOptions
from kv_memory.branch import Branch
from kv_memory.branches import Branches, Tools
from kv_memory.edits import Edit, edit_of, selections
from kv_memory.engines.base import Sampling
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.errors import UnknownTargetError
from kv_memory.ledger import Ledger, Selection
from kv_memory.messages import Message, parse_messages
from kv_memory.reply import Reply, Usage
from kv_memory.report import RetractionReport, RetractionStatus
from kv_memory.spans import Span, SpanStatus, Target
from kv_memory.targets import find

if TYPE_CHECKING:
    from torch import Tensor

    from kv_memory.memory import Memory

Progress = Callable[[int], None]


class Session:
    """Made by `Memory.session`. Usable from several threads; forward passes of one engine take turns."""

    def __init__(self, memory: Memory, session_id: str) -> None:
        self.id = session_id
        self.branches = Branches(memory)
        self.reports: list[RetractionReport] = []
        self._memory = memory
        self._engine = memory.engine
        self._edits: list[Edit] = []
        self._queued: list[tuple[Branch, list[Edit], Eraser | None]] = []

    def prefill(
        self, messages: Any, tools: Tools = None, *, without: Sequence[Target] = (), progress: Progress | None = None
    ) -> Usage:
        """Read a conversation without answering. `without` names parts of it to leave out, as if retracted before."""
        with self._engine.lock:
            parsed = parse_messages(messages)
            if without:
                unread = Ledger()
                for message, pieces in zip(parsed, self._memory.format.encode(parsed, tools), strict=True):
                    unread.append(message, pieces, 0)
                self._remember([edit_of(unread, s) for target in without for s in find(unread, target)])
            return self.branches.hold(parsed, tools, self._edits, None, progress)[1]

    def spans(self) -> list[Span]:
        """The spans of the conversation that was used last, in order."""
        with self._engine.lock:
            latest = self.branches.latest
            return latest.ledger.spans() if latest else []

    def chat(
        self,
        messages: Any,
        tools: Tools = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Reply:
        """Answer a conversation (all of it, OpenAI format; its last message is the one to answer).

        `cancelled` is asked before each token; a cancelled answer is returned as far as it went, but the session does
        not remember it. `progress` hears how many tokens have been prefilled.
        """
        return self.stream(messages, tools, cancelled=cancelled, progress=progress, **sampling).finish()

    def stream(
        self,
        messages: Any,
        tools: Tools = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> ReplyStream:
        """Like `chat`, as an iterator of text. The conversation is read when the first text is asked for."""
        answering = Answering(self._engine, self._memory.format, parse_messages(messages), tools, Sampling(**sampling))

        def hold() -> tuple[Branch, Usage]:
            self._apply_queued()
            return self.branches.hold(answering.messages, tools, self._edits, answering.head, progress)

        return ReplyStream(answering.run(hold, cancelled or (lambda: False), self._apply_queued))

    def score(self, messages: Any, answer: str, tools: Tools = None) -> Tensor:
        """Log-probabilities [tokens + 1, vocabulary] before each token of `answer` and its end, as the next turn."""
        with self._engine.lock:
            parsed = parse_messages(messages)
            head = self._memory.format.generation_prompt(parsed, tools)
            branch, _ = self.branches.hold(parsed, tools, self._edits, head)
            start = self._engine.next_position(branch.seq)
            try:
                self._engine.prefill(branch.seq, head.ids)
                ids, _ = self._engine.tokenizer.encode(answer, special=False)
                end = self._memory.format.closing([*parsed, Message("assistant", answer)], tools).ids[:1]
                return self._engine.score(branch.seq, [*ids, *end])
            finally:
                self._engine.truncate(branch.seq, start)

    def retract(self, *targets: Target, reason: str = "", eraser: str | Eraser | None = None) -> RetractionReport:
        """Erase what these targets name from the cache, in all branches, now and for good.

        A target is a span id, tool call id (its result), message id, document id, or a CharRange. The same message in
        a later call stays erased, though the caller's history still holds it. Naming what is already erased changes
        nothing, unless the eraser is exact and the earlier one was not. Without an `eraser`, here or in the memory, it
        is `recompute` where few tokens follow and `influence` where many do. Raises UnknownTargetError or
        AmbiguousTargetError before anything is changed.
        """
        if not targets:
            raise UnknownTargetError("Nothing to retract was named; give a span, tool call, message or document id.")
        with self._engine.lock:
            started = time.perf_counter()
            wanted = self._memory.eraser if eraser is None else get_eraser(eraser)
            used: list[str] = []
            home, edits = self._resolve(targets)
            named = {s.span_id for s in selections(home.ledger, edits)}
            self._remember(edits)
            erased = recomputed = 0
            edited: list[Branch] = []
            queued = False
            for branch in self.branches:
                concerned = selections(branch.ledger, edits)
                if branch.busy and concerned:
                    self._queued.append((branch, edits, wanted))
                    queued = True
                elif concerned:
                    erased += branch.resident * sum(end - start for s in concerned for start, end in s.intervals())
                    again, name = _erase(branch, concerned, wanted)
                    recomputed += again
                    used += [name] if name not in used else []
                    edited.append(branch)
            seconds = time.perf_counter() - started
            spans = tuple(span for span in home.ledger.spans() if span.id in named)
            report = RetractionReport(
                id=uuid.uuid4().hex[:12],
                session=self.id,
                targets=tuple(str(target) for target in targets),
                reason=reason,
                eraser=", ".join(used) or (wanted.name if wanted else "default"),
                status="queued" if queued else _status(spans),
                spans=spans,
                edits=tuple(edits),
                tokens_erased=erased,
                tokens_recomputed=recomputed,
                tokens_reused=sum(branch.cells for branch in edited) - recomputed,
                seconds=seconds,
            )
            self.reports.append(report)
            return report

    def fork(self, session_id: str | None = None) -> Session:
        """A new session with a copy of the latest conversation and of all that is retracted here."""
        with self._engine.lock:
            other = self._memory.new_session(session_id or f"{self.id}/{uuid.uuid4().hex[:6]}")
            other._edits = list(self._edits)
            latest = self.branches.latest
            if latest and latest.resident:
                self._memory.make_room(latest.cells, latest)
                other.branches.add(latest.fork())
            return other

    def forget(self) -> None:
        """Give all cells back. What was retracted stays retracted when the conversation is read again."""
        with self._engine.lock:
            for branch in self.branches:
                branch.evict()

    def _resolve(self, targets: Sequence[Target]) -> tuple[Branch, list[Edit]]:
        """The edits that the targets are, and the branch that has the last of them; the latest is asked first."""
        branches = sorted(self.branches, key=lambda b: -b.used)
        edits: list[Edit] = []
        home: Branch | None = None
        for target in targets:
            unknown: UnknownTargetError | None = None
            for branch in branches:
                try:
                    edits += [edit_of(branch.ledger, s) for s in find(branch.ledger, target)]
                    home = branch
                    break
                except UnknownTargetError as error:
                    unknown = unknown or error
            else:
                raise self._memory.explain_unknown(self, target) from unknown
        assert home is not None, "each target was found in some branch"
        return home, list(dict.fromkeys(edits))

    def _remember(self, edits: Sequence[Edit]) -> None:
        self._edits += [edit for edit in edits if edit not in self._edits]

    def _apply_queued(self) -> None:
        waiting = [item for item in self._queued if not item[0].busy]
        self._queued = [item for item in self._queued if item[0].busy]
        for branch, edits, eraser in waiting:
            _erase(branch, selections(branch.ledger, edits), eraser)


def _erase(branch: Branch, concerned: Sequence[Selection], eraser: Eraser | None) -> tuple[int, str]:
    """Tokens recomputed, and the name of the eraser that did it."""
    live = any(selection.intervals() for selection in concerned)
    upgrade = eraser is not None and eraser.exact and branch.ledger.approximate_from is not None
    if not (live or upgrade):
        return 0, eraser.name if eraser else "none"
    recomputed, used = branch.erase(concerned, eraser)
    return recomputed, used.name


def _status(spans: Sequence[Span]) -> RetractionStatus:
    statuses = {span.status for span in spans}
    if statuses <= {SpanStatus.LIVE}:
        return "nothing to erase"
    return "approximate" if SpanStatus.APPROXIMATE in statuses else "exact"
