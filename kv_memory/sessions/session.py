"""A session: one agent's conversation, kept in step with its cache. What is retracted from it stays retracted.

The caller's chat history is the truth. Each call brings all of it; the session aligns it with what is cached and
prefills only what is new. A session may hold several branches (sub-agents, summarizers, other continuations): the one
with the longest match is used, and forked where the conversation diverges.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Unpack

from kv_memory.arguments import check, check_flag, check_function, check_names, check_session_id
from kv_memory.conversation.messages import Message, parse_messages
from kv_memory.conversation.spans import Span, Target
from kv_memory.engines.base import Sampling
from kv_memory.engines.parts import Scoring, require
from kv_memory.erasers.base import Eraser
from kv_memory.errors import UnknownTargetError
from kv_memory.policy.authority import OWNER
from kv_memory.policy.config import Cascade
from kv_memory.policy.reasons import Reason
from kv_memory.sessions.apply_policy import apply_policy
from kv_memory.sessions.attribution import Attribution, attribute
from kv_memory.sessions.branch import Branch
from kv_memory.sessions.branches import Branches
from kv_memory.sessions.enforce import enforce, enforce_beginning, enforce_free
from kv_memory.sessions.plan import Tools, plan_reading
from kv_memory.sessions.regenerate import regenerate
from kv_memory.sessions.reply import Reply, Usage
from kv_memory.sessions.report import RetractionReport, UndoStatus
from kv_memory.sessions.retract import dry_run as dry_run_of
from kv_memory.sessions.retract import leave_out, retract
from kv_memory.sessions.retraction_plan import plan_retraction
from kv_memory.sessions.run_all import run_all
from kv_memory.sessions.state import SessionState, StateHost
from kv_memory.sessions.turn import ReplyStream, SamplingOptions, Turn, Written
from kv_memory.sessions.undo import undo

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int], None]


class SessionHost(StateHost, Protocol):
    """The part of a memory that its sessions share and use; `Memory` is one."""

    def new_session(self, session_id: str) -> Session:
        """Create a session; ConversationError when the id is taken."""

    def delete_session(self, session_id: str) -> None:
        """Delete a session, its cells and its redactions."""


class Session:
    """One agent's conversation in a `Memory`, which creates it with `Memory.session`.

    Usable from several threads; forward passes of one engine take turns.
    """

    def __init__(self, memory: SessionHost, session_id: str) -> None:
        self._memory = memory
        self._engine = memory.engine
        self._state = SessionState(memory, session_id)

    @property
    def id(self) -> str:
        """Return the id of the session in its memory."""
        return self._state.id

    @property
    def branches(self) -> Branches:
        """Return the branches of the session."""
        return self._state.branches

    @property
    def reports(self) -> list[RetractionReport]:
        """Return the reports of the session's retractions, oldest first, with their current status."""
        return self._state.reports

    @property
    def state(self) -> SessionState:
        """Return the internal state, for the memory; callers hold the engine's lock."""
        return self._state

    # Reading and answering

    def prefill(
        self, messages: Any, tools: Tools = None, *, without: Sequence[Target] = (), progress: Progress | None = None
    ) -> Usage:
        """Prefill a conversation without answering; return the token counts.

        `without` names parts of it to leave out, as if retracted before. `progress` is called with the number of tokens
        prefilled.
        """
        check_function("progress", progress)
        check("without", without, (list, tuple), "a list of targets, such as ['call_1']")
        with self._engine.lock:
            state, parsed = self._state, parse_messages(messages)
            if without:
                leave_out(state, parsed, tools, without)
            usage = self._read(parsed, tools, progress=progress)[1]
            state.settle()
            return usage

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
        """Answer a conversation (all of it, in OpenAI format; its last message is the one to answer).

        `cancelled` is called before each token; once it returns True the answer so far is returned, but the session
        does not keep it. `progress` is called with the number of tokens prefilled. `history_eraser` erases what
        vanished from the history since the last call; by default the memory's eraser. `sampling`: see `Sampling`.
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
        """Answer like `chat`, as an iterator of text; nothing is prefilled before the first text is asked for."""
        check_function("cancelled", cancelled)
        check_function("progress", progress)
        check_names(sampling, SamplingOptions.__annotations__, "option of an answer called")
        eraser = None if history_eraser is None else self._memory.load_eraser(history_eraser)
        may_call = check_flag("may_call", sampling.pop("may_call", True))
        turn = self._turn(parse_messages(messages), tools, Sampling(**sampling), may_call=may_call)  # type: ignore[misc]  # it is taken out
        answer = self._answer(turn, tools, cancelled or (lambda: False), progress, eraser)
        self._state.hold(answer)
        return ReplyStream(answer, self._state.let_go)

    def _turn(self, messages: list[Message], tools: Tools, sampling: Sampling, *, may_call: bool = True) -> Turn:
        form, sealed = self._memory.format, self._memory.originals.sealed
        return Turn(self._engine, form, messages, tools, sampling, sealed=sealed, may_call=may_call)

    def _answer(
        self,
        turn: Turn,
        tools: Tools,
        cancelled: Callable[[], bool],
        progress: Progress | None,
        eraser: Eraser | None,
    ) -> Generator[Written | Reply]:
        """Yield an answer as it is generated, then the reply."""
        with self._engine.lock:
            branch, usage = self._read(turn.messages, tools, progress=progress, eraser=eraser, turn=turn)
            turn.begin(branch)
        try:
            yield from turn.generate(cancelled)
        finally:
            with self._engine.lock:
                try:
                    turn.finish()
                finally:
                    run_all((self._state.catch_up, partial(enforce_free, self._state), self._state.settle))
        yield turn.reply(usage)

    def _read(
        self,
        messages: Sequence[Message],
        tools: Tools,
        *,
        progress: Progress | None = None,
        eraser: Eraser | None = None,
        turn: Turn | None = None,
        beside: bool = False,
    ) -> tuple[Branch, Usage]:
        """Make a branch hold this conversation, less what is retracted, so that the `turn` can follow.

        With `beside` no longer one is given up. Callers hold the engine's lock.
        """
        room, head = (turn.room, turn.begins) if turn else (0, "")
        state = self._state
        state.catch_up()
        messages = state.identify(messages)
        redactions, form = state.records.redactions, self._memory.format
        plan = plan_reading(state.branches, messages, tools, redactions, form, head=head, beside=beside)
        branch, erased = state.branches.open(plan, room)
        enforce_beginning(state, branch, plan)
        usage = state.branches.fill(plan, branch, eraser, progress, erased)
        state.catch_up()  # other calls had their turn while it was being prefilled
        enforce(state, branch)
        held = branch.ledger.cells_from(0)
        found = {
            "reused": max(0, min(usage.reused, held - usage.prefilled)),  # less what was erased since
            "left_out": plan.left_out(branch.ledger, form),
            "corrected": state.records.corrected(plan.unread),
        }
        return branch, usage.model_copy(update=found)

    def score(self, messages: Any, answer: str, tools: Tools = None) -> Tensor:
        """Return log-probabilities [tokens + 1, vocabulary] before each token of `answer`, as next turn, and its end.

        Nothing of the answer stays in the cache. Raises UnsupportedOperationError where the engine cannot score.
        """
        check("answer", answer, str, "the text of an answer")
        with self._engine.lock:
            engine = require(self._engine, Scoring, "Session.score")
            parsed, form = parse_messages(messages), self._memory.format
            turn = self._turn(parsed, tools, Sampling())
            branch, _ = self._read(parsed, tools, turn=turn, beside=True)
            start = self._engine.next_position(branch.seq)
            try:
                self._engine.prefill(branch.seq, turn.head.ids)
                ids, _ = self._engine.tokenizer.encode(answer, special=False)
                end = form.closing([*parsed, Message("assistant", answer)], tools).ids[:1]
                return engine.score(branch.seq, [*ids, *end])
            finally:
                self._engine.truncate(branch.seq, start)

    # Looking

    def spans(self) -> list[Span]:
        """Return the spans of the conversation that was used last, in order."""
        with self._engine.lock:
            latest = self.branches.latest
            return latest.ledger.spans() if latest else []

    def find(self, target: Target, messages: Any = None) -> list[Span]:
        """Return the spans that a target means, as they are now; changes nothing in the cache.

        `messages`: the conversation that is meant, which the session may not have prefilled completely; spans that are
        not prefilled have no tokens. Raises UnknownTargetError, AmbiguousTargetError, and TargetError for characters
        outside the message.
        """
        with self._engine.lock:
            given, held = self._state.given(messages), [branch.ledger for branch in self.branches if branch.resident]
            found: dict[str, Span] = {}
            for resolved in self._state.resolve([target], given):
                for span in map(resolved.ledger.span_of, resolved.selections):
                    unread = {"start": 0, "end": 0, "tokens": 0} if resolved.ledger not in held else {}
                    found.setdefault(span.id, span.model_copy(update=unread))
            return list(found.values())

    # Retracting

    def retract(
        self,
        *targets: Target,
        reason: Reason | str = "",
        by: str = OWNER,
        eraser: str | Eraser | None = None,
        messages: Any = None,
        cascade: Cascade | None = None,
        keep_undo: bool | None = None,
        dry_run: bool = False,
    ) -> RetractionReport:
        """Erase what these targets name from the cache, in all branches, and keep it from being prefilled later.

        A target is a span id, tool call id (its result), message id, document id, or a CharRange. The same message in a
        later call stays erased, though the caller's history still holds it. Naming what is already erased changes
        nothing, unless the eraser is exact and the earlier one was not.

        `reason`: a text, or a category that the policy has rules for: "security", "privacy", "stale", "error", alone or
        before a colon and a text. Security is exact, unless the policy or `eraser` says otherwise. Without an `eraser`,
        here or in the memory, `policy.choose` chooses. `by`: who asks: "owner", "user", "tool", "policy" or
        "session:<id>"; the policy's authority says what each may retract.

        `messages`: the conversation that is meant, which the session may not have prefilled completely; what is
        retracted will not be prefilled. `cascade`: score what the assistant wrote afterwards, and report, or also
        retract, what depended on the span; it costs two forward passes of those turns. `keep_undo`: keep the rows that
        `drop` or `steer` replaces, text and all, in memory for ten minutes, so that `undo` can put them back; the
        branch is not healed in idle time until then. Both are by default as the policy says. `dry_run` changes nothing
        and reports what would be erased.

        Raises UnknownTargetError, AmbiguousTargetError, TargetError, RefusedError (`by` may not), PolicyError (no such
        cascade) or UnsupportedOperationError (the engine lacks what the eraser, `cascade` or `keep_undo` needs) before
        anything is changed.
        """
        check_flag("dry_run", dry_run)
        with self._engine.lock:
            started = time.perf_counter()
            plan = plan_retraction(
                self._state,
                targets,
                reason=reason,
                by=by,
                eraser=eraser,
                messages=messages,
                cascade=cascade,
                keep_undo=keep_undo,
            )
            return (dry_run_of if dry_run else retract)(self._state, plan, started)

    def explain(
        self, *targets: Target, reason: Reason | str = "", eraser: str | Eraser | None = None, messages: Any = None
    ) -> str:
        """Explain how these targets would be erased and why: a line for the eraser, then one for each other one.

        Changes nothing. Arguments and errors are those of `retract`, whose report has the same text (`explanation`).
        """
        with self._engine.lock:
            plan = plan_retraction(self._state, targets, reason=reason, eraser=eraser, messages=messages)
            return plan.explanation

    def undo(self, report: RetractionReport) -> UndoStatus:
        """Undo a retraction: the next call prefills what its history holds, from the first erased part on.

        With `keep_undo` the erased cells are put back, bit-identical, as long as nothing has moved or healed since;
        cells that were prefilled after the erasure never saw them and stay as they are. Returns which of the two was
        done; the audit log says the same.

        The text itself is not kept here: a history that holds tombstones needs the original messages back. What another
        retraction named too stays retracted.
        """
        self._state.check_own(report)
        with self._engine.lock:
            return undo(self._state, report)

    def apply_policy(self, messages: Sequence[Mapping[str, Any]]) -> list[RetractionReport]:
        """Retract what the policy's rules (`retract` in its file) name in this conversation, prefilled or not.

        Call it before `chat` with the same messages: what is retracted is then never prefilled. It can be called each
        time, since what is retracted already is left alone. There is one retraction for each category of reason and
        each who asks: the policy, or a tool. Where several rules name the same part, the first one counts. What the
        asker may not retract stays, with a warning and a row in the audit log.
        """
        with self._engine.lock:
            return apply_policy(self._state, messages)

    def regenerate(
        self,
        report: RetractionReport,
        messages: Sequence[Mapping[str, Any]],
        tools: Tools = None,
        **sampling: Unpack[SamplingOptions],
    ) -> list[dict[str, Any]]:
        """Return the conversation with those turns generated again that a retraction found dependent.

        It ends after the first new turn that calls a tool or replaces a call: what follows belongs to a call that may
        not be made again, so the agent goes on from there. Messages keep their ids.
        """
        self._state.check_own(report)
        return regenerate(self._state, partial(self.chat, tools=tools, **sampling), report, messages)

    def report(self, report_id: str) -> RetractionReport:
        """Return the report with its current status: "exact" once healed. Raises TargetError where there is none."""
        check("report_id", report_id, str, "the id of a report")
        return self._state.report(report_id)

    def heal(self) -> None:
        """Recompute exactly, now, the cells that approximate erasures may have left influence in."""
        with self._engine.lock:
            self._state.heal()

    def defer(self, action: Callable[[], object]) -> None:
        """Defer an action until before the next conversation is read, with the engine's lock held. Never blocks."""
        check_function("action", action, optional=False)
        self._state.defer(action)

    # Copies

    def fork(self, session_id: str | None = None) -> Session:
        """Return a new session with a copy of the latest conversation and of all that is retracted here."""
        if session_id is not None:
            check_session_id(session_id)
        with self._engine.lock:
            name = session_id or f"{self.id}/{uuid.uuid4().hex[:6]}"
            return self._copy(name, lambda other: other._state.records.log_inherited(self.id))

    def without(self, *targets: Target, eraser: str | Eraser | None = None) -> Session:
        """Return a fork that never read these targets, to ask a question in and then delete.

        ```python
        with session.without("doc-7") as other:
            print(other.chat(messages).text)
        ```

        Costs a copy of the cells and an erasure. The fork never heals; leaving the block deletes it.
        """

        def begin(other: Session) -> None:
            other._state.heals = False
            other._state.records.stop_logging()  # the fork only answers a question: nothing is retracted
            other.retract(*targets, reason="counterfactual", eraser=eraser)

        with self._engine.lock:
            return self._copy(f"{self.id}/without/{uuid.uuid4().hex[:6]}", begin)

    def _copy(self, session_id: str, begin: Callable[[Session], object]) -> Session:
        """Return a copy on which `begin` has run; where it raises, there is none."""
        self._state.catch_up()
        latest = self.branches.latest
        copied = latest if latest is not None and latest.resident else None
        if copied is not None:
            self._memory.make_room(copied.cells, copied)
        other = self._memory.new_session(session_id)
        try:
            other._state.records.inherit(self._state.records)
            other.branches.numbers = self.branches.numbers  # a span id means one message in both
            if copied is not None:
                other.branches.add(copy := copied.fork())
                enforce(other._state, copy)
            begin(other)
        except BaseException:
            self._memory.delete_session(other.id)
            raise
        return other

    def attribute(self, answer: str, *targets: Target, eraser: str | Eraser | None = None) -> list[Attribution]:
        """Return the spans that an answer of the latest conversation rests on, most important first.

        They are ordered by how much less likely the answer is without each. `answer`: the id of an assistant message,
        its span id, or that of a call in it. `targets`: the spans to compare, by default each message and document
        before the answer that is in the cache. For each one the cells are copied and the span erased (by `eraser`, or
        as a retraction would); nothing of the session changes. Raises UnknownTargetError, AmbiguousTargetError,
        UnsupportedOperationError where the engine cannot score, and TargetError where `answer` is no answer of the
        assistant that is in the cache in full.
        """
        with self._engine.lock:
            latest = self.branches.latest
            if latest is None or not latest.resident:
                raise UnknownTargetError(
                    f"Session {self.id!r} has nothing in its cache; call prefill() or chat() first."
                )
            return attribute(latest, answer, targets, self._state.eraser(eraser))

    def evict(self) -> None:
        """Free all cells, and the rows kept for undo.

        What was retracted stays retracted when the conversation is prefilled again.
        """
        with self._engine.lock:
            self._state.evict()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.delete_session(self.id)
