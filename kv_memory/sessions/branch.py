"""A branch: one cached conversation, with an engine sequence and a ledger that are changed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from kv_memory.calibration.record import Calibration
from kv_memory.conversation.chat_format import Piece
from kv_memory.conversation.ledger import Entry, Ledger, Run, Selection
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.engines.base import Engine, SequenceId
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import ContextLengthError, ConversationError
from kv_memory.policy.choice import Choice
from kv_memory.policy.choose import as_named, choose
from kv_memory.policy.config import Policy
from kv_memory.policy.reasons import Reason
from kv_memory.positions import Interval, merge
from kv_memory.sessions.reply import FinishReason

CHUNK = 512
"""Number of tokens that are prefilled before calls that wait take their turn."""


class Branch:
    """One cached conversation: the cells of an engine sequence, and the ledger that says what they hold.

    Callers hold the engine's lock.
    """

    def __init__(
        self,
        engine: Engine,
        calibration: Calibration | None = None,
        policy: Policy | None = None,
        seq: SequenceId | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Create a branch, by default empty. `calibration` and `policy` choose the eraser where a call names none."""
        self.engine = engine
        self.calibration = calibration
        self.policy = policy
        self._seq: SequenceId | None = engine.create() if seq is None else seq
        self.ledger = Ledger() if ledger is None else ledger
        self.tools_digest = ""
        self.number = 0
        self.busy = False
        """Whether it is being prefilled, or an answer is being generated at its end."""
        self.active = 0.0
        """Time at which a busy branch last went on, as `time.monotonic` gives it."""
        self.interrupt: Callable[[FinishReason], object] | None = None
        """Stops the answer that is being generated at its end and removes its cells."""
        self.used = 0.0
        """Time, by `time.monotonic`, when the branch last held a conversation; 0 before the first."""
        self.heals = True
        """Whether the branch is to be healed; False after healing failed, until the next erasure."""
        self.erasures = self.moves = 0
        """Number of erasures. `moves` counts the times that cells moved or were recomputed exactly."""

    @property
    def resident(self) -> bool:
        """Return whether the cells are in the cache.

        An evicted branch keeps its ledger, so that its spans can still be retracted.
        """
        return self._seq is not None

    @property
    def seq(self) -> SequenceId:
        """Return the engine sequence of a resident branch."""
        assert self._seq is not None, "an evicted branch is not used"
        return self._seq

    @property
    def cells(self) -> int:
        """Return the number of cells."""
        return len(self.engine.positions(self._seq)) if self._seq is not None else 0

    def evict(self) -> None:
        """Free the cells."""
        if self._seq is not None:
            self.engine.free(self._seq)
            self._seq = None

    def remembered(self) -> Branch:
        """Return a branch without cells that knows the same messages, as one that was used when this one was."""
        other = Branch(self.engine, self.calibration, self.policy, ledger=self.ledger.copy())
        other.evict()
        other.ledger.erase([], (), exact=True)  # without cells there is no influence left in any
        other.tools_digest, other.used = self.tools_digest, self.used
        return other

    def fork(self, entries: int | None = None) -> Branch:
        """Return a copy of the first `entries` messages, all by default."""
        ledger = self.ledger.copy(entries)
        other = Branch(self.engine, self.calibration, self.policy, self.engine.fork(self.seq, ledger.end), ledger)
        other.tools_digest = self.tools_digest
        return other

    def check_room(self, tokens: int) -> None:
        """Raise ContextLengthError unless this number of tokens can be appended."""
        limit = self.engine.max_positions
        if self.engine.next_position(self.seq) + tokens > limit and self.ledger.approximate_from is not None:
            self.erase([], Recompute())  # closes the gaps that erasures have left
        needed = self.engine.next_position(self.seq) + tokens
        if needed > limit:
            raise ContextLengthError(
                f"The conversation needs {needed:,} tokens and the model reads at most {limit:,}; "
                "leave messages out, or use a model with a longer context."
            )

    def append(
        self,
        messages: Sequence[Message],
        pieces: Sequence[tuple[int, Piece]],
        cuts: Sequence[Cuts],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Prefill messages and append them, each with what its pieces leave out; return the number of tokens.

        `pieces`: in the order of the text, each with the index of its message.
        Calls that wait for the engine take their turn between chunks. On an error the branch is as it was. Raises
        ConversationError where it was evicted meanwhile.
        """
        ids = [i for _, piece in pieces for i in piece.ids]
        at = self.engine.next_position(self.seq)
        self._mark(pieces, at)
        self.busy = True
        try:
            self._prefill(ids, progress or (lambda done: None))
        except BaseException:
            if self.resident:
                self.engine.truncate(self.seq, at)
            raise
        finally:
            self.busy = False
        runs: list[list[Run]] = [[] for _ in messages]
        for owner, piece in pieces:
            runs[owner] += [Run(piece, at)] if piece.ids else []
            at += len(piece.ids)
        for message, own, left_out in zip(messages, runs, cuts, strict=True):
            self.ledger.enter(message, own, at, cuts=left_out)
        return len(ids)

    def _mark(self, pieces: Sequence[tuple[int, Piece]], at: int) -> None:
        """Tell the engine where the messages begin: it may be truncated there."""
        begins: dict[int, int] = {}
        for owner, piece in pieces:
            begins.setdefault(owner, at)
            at += len(piece.ids)
        self.engine.mark(self.seq, sorted(begins.values()))

    def _prefill(self, ids: Sequence[int], progress: Callable[[int], None]) -> None:
        for start in range(0, len(ids), CHUNK):
            self.active = time.monotonic()
            hear = self.engine.lock.callback(partial(_add, progress, start))
            self.engine.prefill(self.seq, ids[start : start + CHUNK], progress=hear)
            self.engine.lock.give_way()
            if not self.resident:
                raise ConversationError("The conversation was evicted while it was being prefilled; call again.")

    def erase(
        self,
        selections: Sequence[Selection],
        eraser: Eraser | None,
        reason: Reason | str = "",
        *,
        keep: bool = False,
    ) -> tuple[Erasure, Eraser]:
        """Erase parts of messages from the cache and the ledger.

        Returns the erasure, with its `undo` if `keep` asks for it, and the eraser used. If the eraser fails midway, the
        conversation is cut off before the first of the messages: what is left is right, and what was to be erased is
        gone.
        """
        spans = merge(i for selection in selections for i in selection.intervals())
        eraser = self.choose(spans, reason, eraser).eraser if spans or eraser is None else eraser
        if not self.resident:
            self.ledger.erase(selections, (), exact=True)
            return Erasure(recomputed=0), eraser
        done = self._run(eraser, spans, [selection.entry for selection in selections], keep=keep)
        self.ledger.erase(selections, done.moves, exact=eraser.exact, steered=done.steered)
        self._trim()
        self._note(eraser, done)
        return done, eraser

    def replace_cells(self, seq: SequenceId, moves: Sequence[tuple[int, int]]) -> None:
        """Replace the branch's cells by those of `seq`: the same tokens, computed exactly and moved by `moves`."""
        self.engine.free(self.seq)
        self._seq = seq
        self.ledger.erase([], moves, exact=True)
        self._trim()
        self.moves += 1

    def cut_off(self, entry: int) -> None:
        """Delete the messages from this one on, and their cells."""
        self.ledger.truncate(entry)
        if self.resident:
            self._trim()

    def touch(self) -> None:
        """Note that the branch was used now."""
        self.used = time.monotonic()

    def remove(self, entries: Sequence[Entry], eraser: Eraser | None) -> None:
        """Erase whole messages, scaffolding too."""
        spans = merge(i for entry in entries for i in entry.intervals)
        eraser = self.choose(spans, named=eraser).eraser
        done = self._run(eraser, spans, entries)
        self.ledger.remove(entries, done.moves, exact=eraser.exact, steered=done.steered)
        self._trim()
        self._note(eraser, done)

    def _note(self, eraser: Eraser, done: Erasure) -> None:
        self.heals = True
        self.erasures += 1
        self.moves += bool(done.moves) or eraser.exact

    def _run(
        self, eraser: Eraser, spans: Sequence[Interval], entries: Sequence[Entry], *, keep: bool = False
    ) -> Erasure:
        """Erase from the cells; on an error cut the conversation off before the first message that may be affected."""
        healed = self.ledger.approximate_from if eraser.exact else None
        try:
            run = eraser.erase_undoably if keep else eraser.erase
            return run(self.engine, self.seq, spans, self.ledger.approximate_from)
        except BaseException:
            known = self.ledger.entries
            self.cut_off(
                next(
                    i
                    for i, entry in enumerate(known)
                    if entry in entries or (healed is not None and any(run.end > healed for run in entry.runs))
                )
            )
            raise

    def _trim(self) -> None:
        """Remove the cells after the last token: what was cut off, and steering states with no token after them."""
        self.engine.truncate(self.seq, self.ledger.end)

    def _replayed(self, start: int) -> int:
        """Return the number of tokens before this position that run again where the cells from it on are recomputed."""
        if not self.resident:
            return 0
        first = self.engine.replayed_from(self.seq, start)
        return self.ledger.cells_from(first) - self.ledger.cells_from(start)

    def choose(self, spans: Sequence[Interval], reason: Reason | str = "", named: Eraser | None = None) -> Choice:
        """Choose how to erase these cells: by the eraser `named`, or as `policy.choose` says; exactly where they can no
        longer be edited in place."""
        erased = sum(end - start for start, end in spans)
        start = min((start for start, _ in spans), default=0)
        following = self.ledger.cells_from(start) - erased
        known: dict[str, Any] = {"calibration": self.calibration, "policy": self.policy, "reason": reason}
        known["replayed"] = self._replayed(start)
        in_place = not self.resident or not spans or start >= self.engine.editable_from(self.seq)
        if named is not None and (in_place or named.exact):
            return as_named(self.engine, named, erased, following, **known)
        return choose(self.engine, erased, following, in_place=in_place, **known)


def _add(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
