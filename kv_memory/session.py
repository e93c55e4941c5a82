"""A session: one agent's conversation, kept in step with its cache; what it is told to forget stays forgotten.

The caller's chat history is the truth. Each call brings all of it; the session aligns it with what is cached and only
prefills what is new. A session may hold several branches (sub-agents, summarizers, other continuations): the one with
the longest match is used, and forked where the conversation diverges.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Unpack

from kv_memory.answering import Answering, ReplyStream, SamplingOptions
from kv_memory.attribution import Attribution, attribute
from kv_memory.branch import Branch
from kv_memory.branches import Branches, Tools
from kv_memory.edits import Edit, selections
from kv_memory.engines.base import Sampling
from kv_memory.erasers import get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import UnknownTargetError
from kv_memory.ledger import Ledger
from kv_memory.messages import Message, parse_messages
from kv_memory.reply import Reply, Usage
from kv_memory.report import Cascade, RetractionReport
from kv_memory.resolve import Meaning, learn_ids, resolve
from kv_memory.retraction import Carrying, answers_after, erase_edits, forget_edits, named_spans, never_read, status_of
from kv_memory.spans import Span, SpanStatus, Target, target_name
from kv_memory.undo import Kept

if TYPE_CHECKING:
    from torch import Tensor

    from kv_memory.memory import Memory

Undone = Literal["restored", "to be read again"]
Progress = Callable[[int], None]


class Session:
    """Made by `Memory.session`. Usable from several threads; forward passes of one engine take turns."""

    def __init__(self, memory: Memory, session_id: str) -> None:
        self.id = session_id
        self.branches = Branches(memory)
        self.reports: list[RetractionReport] = []
        self.heals = True
        """What approximate erasures leave is healed, as the memory says."""
        self._memory = memory
        self._engine = memory.engine
        self._edits: list[Edit] = []
        self._kept: dict[str, list[Kept]] = {}
        """By report id."""
        self._queued: list[tuple[Branch, Callable[[], object]]] = []
        self._soon: deque[Callable[[], object]] = deque()

    def prefill(
        self, messages: Any, tools: Tools = None, *, without: Sequence[Target] = (), progress: Progress | None = None
    ) -> Usage:
        """Read a conversation without answering. `without` names parts of it to leave out, as if retracted before."""
        with self._engine.lock:
            parsed = parse_messages(messages)
            unread = self._unread(parsed, Ledger(), tools) if without else None
            self._apply_queued()
            self._remember([edit for target in without for m in resolve(target, [], unread) for edit in m.edits])
            usage = self.branches.hold(parsed, tools, self._edits, None, progress)[1]
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
        wanted = None if history_eraser is None else get_eraser(history_eraser)
        if wanted is not None:
            wanted.check(self._engine)
        answering = Answering(self._engine, self._memory.format, parse_messages(messages), tools, Sampling(**sampling))

        def hold() -> tuple[Branch, Usage]:
            self._apply_queued()
            return self.branches.hold(
                answering.messages, tools, self._edits, answering.head, progress, history_eraser=wanted
            )

        def afterwards() -> None:
            self._apply_queued()
            self._settle()

        return ReplyStream(answering.run(hold, cancelled or (lambda: False), afterwards), answering.id)

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

    def retract(
        self,
        *targets: Target,
        reason: str = "",
        eraser: str | Eraser | None = None,
        messages: Any = None,
        cascade: Cascade | None = None,
        keep_undo: bool = False,
        dry_run: bool = False,
    ) -> RetractionReport:
        """Erase what these targets name from the cache, in all branches, now and for good.

        A target is a span id, tool call id (its result), message id, document id, or a CharRange. The same message in
        a later call stays erased, though the caller's history still holds it. Naming what is already erased changes
        nothing, unless the eraser is exact and the earlier one was not. Without an `eraser`, here or in the memory, it
        is what `policy.default_eraser` chooses.

        `messages`: the conversation that is meant, where the session may not have read all of it yet; what it has not
        read it will not read. `cascade`: score what the assistant wrote afterwards and say, or retract too, what
        depended on the span; it costs two forward passes of those turns. `keep_undo`: keep the rows that `drop` or
        `steer` replaces, text and all, in memory for ten minutes, so that `undo` puts them back as they were; until
        then it is not healed in idle time. `dry_run` changes nothing and reports what
        would be erased.

        Raises UnknownTargetError, AmbiguousTargetError, TargetError or UnsupportedOperationError (the engine lacks what
        the eraser needs) before anything is changed.
        """
        if not targets:
            raise UnknownTargetError("Nothing to retract was named; give a span, tool call, message or document id.")
        with self._engine.lock:
            started = time.perf_counter()
            wanted = self._memory.eraser if eraser is None else get_eraser(eraser)
            if wanted is not None:
                wanted.check(self._engine)
            meanings = self._resolve(targets, self._given(messages))
            edits = list(dict.fromkeys(edit for meaning in meanings for edit in meaning.edits))
            named = [(m.ledger, {s.span_id for s in selections(m.ledger, m.edits)}) for m in meanings]
            derived = answers_after(meanings)
            work = Carrying(wanted, dry_run, score=cascade is not None, keep=keep_undo)
            if not dry_run:
                self._remember(edits)
            work.carry_out(self.branches, edits)
            if not dry_run:
                never_read(meanings, [branch.ledger for branch in self.branches])
            if cascade in ("retract", "regenerate"):
                found = [found.span_id for found in work.found if found.depends]
                meanings = self._resolve(found, None)
                named += [(m.ledger, {s.span_id for s in selections(m.ledger, m.edits)}) for m in meanings]
                more = [edit for meaning in meanings for edit in meaning.edits if edit not in edits]
                self._remember(more)
                work.carry_out(self.branches, more)
                edits += more
            self._queued += [(branch, partial(erase_edits, branch, edits, wanted)) for branch in work.waiting]
            spans = named_spans(named)
            report = RetractionReport(
                id=uuid.uuid4().hex[:12],
                session=self.id,
                targets=tuple(target_name(target) for target in targets),
                reason=reason,
                eraser=", ".join(work.used) or (wanted.name if wanted else "default"),
                status="planned" if dry_run else "queued" if work.waiting else status_of(spans),
                spans=spans,
                edits=tuple(edits),
                tokens_erased=work.erased,
                tokens_recomputed=work.recomputed,
                tokens_reused=work.reused,
                seconds=time.perf_counter() - started,
                dependences=tuple(work.found),
                derived=derived,
            )
            if dry_run:
                return report
            self.reports.append(report)
            self._kept[report.id] = [kept for kept in work.kept if kept.usable]
            self._settle()
            return self.report(report.id)

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
                self._edits = [edit for edit in self._edits if edit.digest != parsed.digest()]
            result.append({**reply, **({"id": message["id"]} if "id" in message else {})})
            if reply.get("tool_calls") or parsed.tool_calls:
                break
        return result

    def report(self, report_id: str) -> RetractionReport:
        """The report as it is by now: a healed retraction says "exact". Raises KeyError where there is none."""
        return {report.id: report for report in self.reports}[report_id]

    def heal(self) -> None:
        """Read everything that approximate erasures may have left their mark on again, exactly, now."""
        with self._engine.lock:
            for branch in self._approximate():
                if not branch.busy:
                    branch.erase([], Recompute())
            self.note_healed()

    def note_healed(self) -> None:
        """Make the reports say so where no branch is approximate any more. Callers hold the engine's lock."""
        if self._approximate():
            return
        spans = {span.id: span for branch in self.branches for span in branch.ledger.spans()}
        for place, report in enumerate(self.reports):
            if report.status == "approximate":
                now = tuple(
                    spans.get(span.id, span.model_copy(update={"status": SpanStatus.EXACT})) for span in report.spans
                )
                self.reports[place] = report.model_copy(update={"status": "exact", "healed": True, "spans": now})
                if self._memory.on_heal is not None:
                    self._memory.on_heal(self.reports[place])

    def soon(self, action: Callable[[], object]) -> None:
        """Have this done before the next conversation is read, with the engine's lock held. Waits for nothing."""
        self._soon.append(action)

    def undo(self, report: RetractionReport) -> Undone:
        """Take a retraction back: the next call reads again, from the first erased part on, what its history holds.

        With `keep_undo` the erased cells are put back, bit-identical, as long as nothing has moved or healed since;
        what was read meanwhile never saw them and stays as it is. "restored" says that this was done in all branches,
        "to be read again" that it was not.

        The text itself is not kept here: a history in which tombstones stand needs the messages back. What another
        retraction named too stays retracted.
        """
        with self._engine.lock:
            kept = self._kept.pop(report.id, [])
            self.reports = [other for other in self.reports if other.id != report.id]
            still = {edit for other in self.reports for edit in other.edits}
            undone = [edit for edit in report.edits if edit not in still]
            self._edits = [edit for edit in self._edits if edit not in undone]
            restored = set()
            for rows in reversed(kept):
                if rows.usable and not still & set(report.edits):
                    rows.put_back()
                    restored.add(rows.branch)
            for branch in self.branches:
                if branch.busy:
                    self._queued.append((branch, partial(forget_edits, branch, undone)))
                elif branch not in restored:
                    forget_edits(branch, undone)
            concerned = {branch for branch in self.branches if selections(branch.ledger, undone)}
            return "restored" if restored and concerned <= restored else "to be read again"

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

    def without(self, *targets: Target, eraser: str | Eraser | None = None) -> Session:
        """What if it had never read these: a fork without them, to ask and then to forget.

        ```python
        with session.without("doc-7") as other:
            print(other.chat(messages).text)
        ```
        Costs a copy of the cells and an erasure. The fork never heals; leaving the block forgets it.
        """
        with self._engine.lock:
            other = self.fork(f"{self.id}/without/{uuid.uuid4().hex[:6]}")
            other.heals = False
            try:
                other.retract(*targets, reason="counterfactual", eraser=eraser)
            except BaseException:
                self._memory.forget(other.id)
                raise
            return other

    def attribute(self, answer: str, *targets: Target, eraser: str | Eraser | None = None) -> list[Attribution]:
        """What an answer of the latest conversation rests on: its spans by how much less likely it is without each.

        `answer`: the id of an assistant message, or its span id. `targets`: the spans to compare, by default each
        message and document before it that is there. For each the cells are copied and the span erased (by `eraser`,
        or as a retraction would); nothing of the session changes. Raises UnknownTargetError, AmbiguousTargetError, and
        TargetError where the target is no answer of the assistant that is in the cache in full.
        """
        with self._engine.lock:
            wanted = self._memory.eraser if eraser is None else get_eraser(eraser)
            if wanted is not None:
                wanted.check(self._engine)
            return attribute(self._latest_with(answer), answer, targets, wanted)

    def _latest_with(self, answer: str) -> Branch:
        latest = self.branches.latest
        if latest is None or not latest.resident:
            raise UnknownTargetError(f"Session {self.id!r} has nothing in its cache; call prefill() or chat() first.")
        return latest

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.forget(self.id)

    def forget(self) -> None:
        """Give all cells back. What was retracted stays retracted when the conversation is read again."""
        with self._engine.lock:
            for branch in self.branches:
                branch.evict()

    def _resolve(self, targets: Sequence[Target], given: Ledger | None) -> list[Meaning]:
        """What the targets mean; the conversation `given` is asked first, then the branch used last."""
        ledgers = [branch.ledger for branch in sorted(self.branches, key=lambda b: -b.used)]
        meanings = []
        if given is not None:
            learn_ids(ledgers, given)
        for target in targets:
            try:
                meanings += resolve(target, ledgers, given)
            except UnknownTargetError as error:
                raise self._memory.explain_unknown(self, target) from error
        return meanings

    def _given(self, messages: Any) -> Ledger | None:
        """The conversation of a retraction; its span ids are none of the session's."""
        return None if messages is None else self._unread(parse_messages(messages), Ledger(itertools.count(-1, -1)))

    def _unread(self, messages: Sequence[Message], ledger: Ledger, tools: Tools = None) -> Ledger:
        """A conversation as a ledger of no cells."""
        for message, pieces in zip(messages, self._memory.format.encode(messages, tools), strict=True):
            ledger.append(message, pieces, 0)
        return ledger

    def _remember(self, edits: Sequence[Edit]) -> None:
        self._edits += [edit for edit in edits if edit not in self._edits]

    def undoable(self, branch: Branch) -> bool:
        """Whether rows are kept that healing would make useless."""
        self._kept = {name: left for name, kept in self._kept.items() if (left := [k for k in kept if k.usable])}
        return any(rows.branch is branch for kept in self._kept.values() for rows in kept)

    def _approximate(self) -> list[Branch]:
        return [b for b in self.branches if b.resident and b.ledger.approximate_from is not None]

    def _settle(self) -> None:
        """Heal as the memory says."""
        if self._memory.heal == "never" or not self.heals or not self._approximate():
            return
        if self._memory.heal == "now":
            if not any(map(self.undoable, self._approximate())):
                self.heal()
        elif not all(self.undoable(branch) for branch in self._approximate()):
            self._memory.healer.wake()

    def _apply_queued(self) -> None:
        while self._soon:
            self._soon.popleft()()
        waiting = [item for item in self._queued if not item[0].busy]
        self._queued = [item for item in self._queued if item[0].busy]
        for _, change in waiting:
            change()
