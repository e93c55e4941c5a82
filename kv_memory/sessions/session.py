"""A session: one agent's conversation, kept in step with its cache; what it is told to forget stays forgotten.

The caller's chat history is the truth. Each call brings all of it; the session aligns it with what is cached and only
prefills what is new. A session may hold several branches (sub-agents, summarizers, other continuations): the one with
the longest match is used, and forked where the conversation diverges.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from kv_memory.audit import Outcome, SealedRedaction
from kv_memory.conversation.ledger import Ledger
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.redactions import Redaction
from kv_memory.conversation.resolve import resolve
from kv_memory.conversation.spans import Span, Target
from kv_memory.engines.base import Sampling
from kv_memory.erasers.base import Eraser
from kv_memory.errors import UnknownTargetError
from kv_memory.sessions.attribution import Attribution, attribute
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.branches import Tools
from kv_memory.sessions.policed import PolicedSession
from kv_memory.sessions.reply import Reply, Usage
from kv_memory.sessions.report import RetractionReport
from kv_memory.sessions.turn import Answering, ReplyStream, SamplingOptions
from kv_memory.sessions.undoing import UndoingSession

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int], None]


class Session(PolicedSession, UndoingSession):
    """Made by `Memory.session`. Usable from several threads; forward passes of one engine take turns."""

    def prefill(
        self, messages: Any, tools: Tools = None, *, without: Sequence[Target] = (), progress: Progress | None = None
    ) -> Usage:
        """Read a conversation without answering. `without` names parts of it to leave out, as if retracted before."""
        with self._engine.lock:
            parsed = parse_messages(messages)
            unread = self._unread(parsed, Ledger(), tools) if without else None
            self._apply_queued()
            self._recall(parsed)
            redactions = [
                redaction for target in without for m in resolve(target, [], unread) for redaction in m.redactions
            ]
            with self._recorded(without, redactions, log=bool(redactions)) as attempt:
                self._remember(redactions)
                attempt.outcome = Outcome("never read")
            usage = self.branches.hold(parsed, tools, self._redactions, None, progress)[1]
            self._settle()
            return usage

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
        history_eraser: str | Eraser | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> Reply:
        """Answer a conversation (all of it, OpenAI format; its last message is the one to answer).

        `cancelled` is asked before each token; a cancelled answer is returned as far as it went, but the session does
        not remember it. `progress` hears how many tokens have been prefilled. `history_eraser` erases what vanished
        from the history since the last call; by default as the memory erases.
        """
        return self.stream(
            messages, tools, cancelled=cancelled, progress=progress, history_eraser=history_eraser, **sampling
        ).finish()

    def stream(
        self,
        messages: Any,
        tools: Tools = None,
        *,
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        history_eraser: str | Eraser | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> ReplyStream:
        """Like `chat`, as an iterator of text. The conversation is read when the first text is asked for."""
        wanted = None if history_eraser is None else self._memory.load_eraser(history_eraser)
        answering = Answering(self._engine, self._memory.format, parse_messages(messages), tools, Sampling(**sampling))

        def hold() -> tuple[Branch, Usage]:
            self._apply_queued()
            self._recall(answering.messages)
            return self.branches.hold(
                answering.messages, tools, self._redactions, answering.head, progress, history_eraser=wanted
            )

        def afterwards() -> None:
            self._apply_queued()
            self._settle()

        return ReplyStream(answering.run(hold, cancelled or (lambda: False), afterwards), answering.id)

    def score(self, messages: Any, answer: str, tools: Tools = None) -> Tensor:
        """Log-probabilities [tokens + 1, vocabulary] before each token of `answer` and its end, as the next turn."""
        with self._engine.lock:
            parsed = parse_messages(messages)
            self._recall(parsed)
            head = self._memory.format.generation_prompt(parsed, tools)
            branch, _ = self.branches.hold(parsed, tools, self._redactions, head)
            start = self._engine.next_position(branch.seq)
            try:
                self._engine.prefill(branch.seq, head.ids)
                ids, _ = self._engine.tokenizer.encode(answer, special=False)
                end = self._memory.format.closing([*parsed, Message("assistant", answer)], tools).ids[:1]
                return self._engine.score(branch.seq, [*ids, *end])
            finally:
                self._engine.truncate(branch.seq, start)

    def regenerate(
        self,
        report: RetractionReport,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[dict[str, Any]]:
        """The conversation with the assistant's turns that a retraction found dependent written anew.

        It ends after the first new turn that calls a tool or stands where a call was made: what follows belongs to a
        call that may not be made again, so the agent goes on from there. Messages keep their ids.
        """
        anew = {found.span_id.split(".")[0] for found in report.dependences if found.depends}
        with self._engine.lock:
            ids = {e.span_id: e.digest for branch in self.branches for e in branch.ledger.entries if e.span_id in anew}
        digests = set(ids.values())
        result: list[dict[str, Any]] = []
        for message, left in zip(messages, report.tombstones(messages), strict=True):
            parsed = parse_messages([message])[0]
            if parsed.role != "assistant" or parsed.digest() not in digests:
                result.append(left)
                continue
            reply = self.chat(result, tools, **sampling).message
            if parse_messages([reply])[0].digest() == parsed.digest():  # the same again, and now rightly so
                self._allow_again(report, parsed.digest())
            result.append({**reply, **({"id": message["id"]} if "id" in message else {})})
            if reply.get("tool_calls") or parsed.tool_calls:
                break
        return result

    def _allow_again(self, report: RetractionReport, digest: str) -> None:
        """What was retracted of this message is not any longer."""
        again = [redaction for redaction in self._redactions if redaction.digest == digest]
        if self._audit is not None:
            self._audit.undone(self.id, report.id, redactions=again, reason="written again without it")
            self._sealed = self._audit.retracted(self.id)
        self._redactions = [redaction for redaction in self._redactions if redaction not in again]

    def _record_inherited(self, origin: str) -> None:
        inherited: list[Redaction | SealedRedaction] = [*self._redactions, *self._sealed]
        with self._recorded((), inherited, reason=f"forked from {origin}", log=bool(inherited)) as attempt:
            attempt.outcome = Outcome("inherited")

    def fork(self, session_id: str | None = None) -> Session:
        """A new session with a copy of the latest conversation and of all that is retracted here."""
        with self._engine.lock:
            other = self._copy(session_id or f"{self.id}/{uuid.uuid4().hex[:6]}")
            other._record_inherited(self.id)
            return other

    def _copy(self, session_id: str) -> Session:
        with self._engine.lock:
            other = self._memory.new_session(session_id)
            other._redactions, other._sealed = list(self._redactions), list(self._sealed)
            latest = self.branches.latest
            if latest and latest.resident:
                self._memory.make_room(latest.cells, latest)
                other.branches.add(latest.fork())
            return other

    def without(self, *targets: Target, eraser: str | Eraser | None = None) -> Session:
        """What if it had never read these: a fork without them, to ask and then to forget.

        ```python
        with session.without("doc-7") as other:
            print(other.chat(messages).text)
        ```
        Costs a copy of the cells and an erasure. The fork never heals; leaving the block forgets it.
        """
        with self._engine.lock:
            other = self._copy(f"{self.id}/without/{uuid.uuid4().hex[:6]}")
            other.heals, other._audit = False, None  # nothing is retracted, only asked about
            try:
                other.retract(*targets, reason="counterfactual", eraser=eraser)
            except BaseException:
                self._memory.delete_session(other.id)
                raise
            return other

    def attribute(self, answer: str, *targets: Target, eraser: str | Eraser | None = None) -> list[Attribution]:
        """What an answer of the latest conversation rests on: its spans by how much less likely it is without each.

        `answer`: the id of an assistant message, its span id, or that of a call in it. `targets`: the spans to compare,
        by default each message and document before it that is there. For each the cells are copied and the span erased
        (by `eraser`, or as a retraction would); nothing of the session changes. Raises UnknownTargetError,
        AmbiguousTargetError, and TargetError where the target is no answer of the assistant that is in the cache in
        full.
        """
        with self._engine.lock:
            asked = self._memory.eraser if eraser is None else eraser
            wanted = None if asked is None else self._memory.load_eraser(asked)
            return attribute(self._latest(), answer, targets, wanted)

    def _latest(self) -> Branch:
        latest = self.branches.latest
        if latest is None or not latest.resident:
            raise UnknownTargetError(f"Session {self.id!r} has nothing in its cache; call prefill() or chat() first.")
        return latest

    def evict(self) -> None:
        """Give all cells back, and what was kept to undo with. What was retracted stays so when it is read again."""
        with self._engine.lock:
            self._kept.clear()
            for branch in self.branches:
                branch.evict()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.delete_session(self.id)
