"""A branch: one cached conversation, its engine sequence and its ledger, changed together or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from kv_memory.calibration.record import Calibration
from kv_memory.conversation.chat_format import Piece
from kv_memory.conversation.ledger import Entry, Ledger, Selection
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.engines.base import Cells, Engine, SequenceId
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.errors import ContextLengthError
from kv_memory.policy.choice import Choice
from kv_memory.policy.choose import as_named, choose
from kv_memory.policy.config import Policy
from kv_memory.policy.reasons import Reason
from kv_memory.positions import Interval, merge


class Branch:
    """Callers hold the engine's lock."""

    def __init__(
        self,
        engine: Engine,
        calibration: Calibration | None = None,
        policy: Policy | None = None,
        seq: SequenceId | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """`calibration` and `policy` choose the eraser where a call names none."""
        self.engine = engine
        self.calibration = calibration
        self.policy = policy
        self._seq: SequenceId | None = engine.create() if seq is None else seq
        self.ledger = Ledger() if ledger is None else ledger
        self.tools_digest = ""
        self.number = 0
        self.busy = False
        """An answer is being generated at its end."""
        self.used = 0.0
        """When it last held a conversation; 0 while it has held none."""
        self.heals = True
        """Nothing went wrong when it was last to be healed."""
        self.erasures = self.moves = 0
        """How often something was erased, and how often cells moved or were read again exactly."""

    @property
    def resident(self) -> bool:
        """Whether its cells are there. An evicted branch still knows its spans, so that they can be retracted."""
        return self._seq is not None

    @property
    def seq(self) -> SequenceId:
        """Its engine sequence."""
        assert self._seq is not None, "an evicted branch is not used"
        return self._seq

    @property
    def cells(self) -> int:
        """How many cells it holds."""
        return len(self.engine.positions(self._seq)) if self._seq is not None else 0

    def evict(self) -> None:
        """Give the cells back."""
        if self._seq is not None:
            self.engine.free(self._seq)
            self._seq = None

    def fork(self, entries: int | None = None) -> Branch:
        """A copy of its first messages (all without a number)."""
        ledger = self.ledger.copy(entries)
        other = Branch(self.engine, self.calibration, self.policy, self.engine.fork(self.seq, ledger.end), ledger)
        other.tools_digest = self.tools_digest
        return other

    def check_room(self, tokens: int) -> None:
        """ContextLengthError unless so many tokens can be appended."""
        needed, limit = self.engine.next_position(self.seq) + tokens, self.engine.max_positions
        if needed > limit:
            raise ContextLengthError(
                f"The conversation needs {needed:,} tokens and the model reads at most {limit:,}; "
                "leave messages out, or use a model with a longer context."
            )

    def append(
        self,
        messages: Sequence[Message],
        pieces: Sequence[Sequence[Piece]],
        cuts: Sequence[Cuts],
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Prefill messages and enter them, each with what its pieces leave out; the number of tokens."""
        ids = [i for message in pieces for piece in message for i in piece.ids]
        at = self.engine.next_position(self.seq)
        self.engine.prefill(self.seq, ids, progress=progress)
        for message, parts, left_out in zip(messages, pieces, cuts, strict=True):
            self.ledger.append(message, parts, at, cuts=left_out)
            at += sum(len(piece.ids) for piece in parts)
        return len(ids)

    def erase(
        self,
        selections: Sequence[Selection],
        eraser: Eraser | None,
        reason: Reason | str = "",
        *,
        keep: bool = False,
    ) -> tuple[int, Eraser, Cells | None]:
        """Take parts of messages out of the cache and the ledger; the number of tokens recomputed, and by what.

        With `keep` also the cells that are gone, where the eraser is undoable.

        Should the eraser fail midway, the conversation is cut off before the first of them: what is kept is right, and
        what was to be erased is gone.
        """
        spans = merge(i for selection in selections for i in selection.intervals())
        eraser = eraser or self.choose(spans, reason).eraser
        if not self.resident:
            self.ledger.erase(selections, (), exact=True)
            return 0, eraser, None
        done = self._run(eraser, spans, [selection.entry for selection in selections], keep=keep)
        self.ledger.erase(selections, done.moves, exact=eraser.exact, steered=done.steered)
        self._trim()
        self._note(eraser, done)
        return done.recomputed, eraser, done.undo

    def replace_cells(self, seq: SequenceId, moves: Sequence[tuple[int, int]]) -> None:
        """Take the cells of this sequence in place of the branch's: the same tokens, read exactly, moved so."""
        self.engine.free(self.seq)
        self._seq = seq
        self.ledger.erase([], moves, exact=True)
        self._trim()
        self.moves += 1

    def cut_off(self, entry: int) -> None:
        """Forget the messages from this one on."""
        self.ledger.truncate(entry)
        if self.resident:
            self._trim()

    def touch(self) -> None:
        """Note that it was used now."""
        self.used = time.monotonic()

    def remove(self, entries: Sequence[Entry], eraser: Eraser | None) -> None:
        """Take whole messages out, scaffolding too."""
        spans = merge(i for entry in entries for i in entry.intervals)
        eraser = eraser or self.choose(spans).eraser
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
        """Erase from the cells; on an error cut the conversation off before the first message that it may concern."""
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
        """Remove the cells after the last token: steering states that nothing follows, and what was cut off."""
        self.engine.truncate(self.seq, self.ledger.end)

    def choose(self, spans: Sequence[Interval], reason: Reason | str = "", named: Eraser | None = None) -> Choice:
        """How to take these cells out, and why: by the eraser that is `named`, or as `policy.choose` says."""
        erased = sum(end - start for start, end in spans)
        start = min((start for start, _ in spans), default=0)
        following = self.ledger.cells_from(start) - erased
        known: dict[str, Any] = {"calibration": self.calibration, "policy": self.policy, "reason": reason}
        if named is not None:
            return as_named(self.engine, named, erased, following, **known)
        return choose(self.engine, erased, following, **known)
