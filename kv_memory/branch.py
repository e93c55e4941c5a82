"""A branch: one cached conversation, its engine sequence and its ledger, changed together or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from kv_memory.chat import Piece
from kv_memory.engines.base import Engine, Interval, SequenceId
from kv_memory.erasers import default_eraser
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.errors import ContextLengthError
from kv_memory.ledger import Entry, Ledger, Selection, merge
from kv_memory.messages import Cuts, Message


class Branch:
    """Callers hold the engine's lock."""

    def __init__(self, engine: Engine, seq: SequenceId | None = None, ledger: Ledger | None = None) -> None:
        self.engine = engine
        self._seq: SequenceId | None = engine.create() if seq is None else seq
        self.ledger = ledger or Ledger()
        self.tools_digest = ""
        self.busy = False
        """An answer is being generated at its end."""
        self.used = 0.0
        """When it last held a conversation; 0 while it has held none."""

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
        end = max((run.end for entry in ledger.entries for run in entry.runs), default=0)
        other = Branch(self.engine, self.engine.fork(self.seq, end), ledger)
        other.tools_digest = self.tools_digest
        return other

    def check_room(self, tokens: int) -> None:
        """ContextLengthError unless so many tokens can be appended."""
        needed, limit = self.engine.next_position(self.seq) + tokens, self.engine.capabilities.max_positions
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

    def erase(self, selections: Sequence[Selection], eraser: Eraser | None) -> tuple[int, Eraser]:
        """Take parts of messages out of the cache and the ledger; the number of tokens recomputed, and by what.

        Should the eraser fail midway, the conversation is cut off before the first of them: what is kept is right, and
        what was to be erased is gone.
        """
        spans = merge(i for selection in selections for i in selection.intervals())
        eraser = eraser or self._default(spans)
        if not self.resident:
            self.ledger.erase(selections, (), exact=True)
            return 0, eraser
        done = self._run(eraser, spans, [selection.entry for selection in selections])
        self.ledger.erase(selections, done.moves, exact=eraser.exact)
        return done.recomputed, eraser

    def touch(self) -> None:
        """Note that it was used now."""
        self.used = time.monotonic()

    def remove(self, entries: Sequence[Entry], eraser: Eraser | None) -> None:
        """Take whole messages out, scaffolding too."""
        spans = merge(i for entry in entries for i in entry.intervals)
        eraser = eraser or self._default(spans)
        done = self._run(eraser, spans, entries)
        self.ledger.remove(entries, done.moves, exact=eraser.exact)

    def _run(self, eraser: Eraser, spans: Sequence[Interval], entries: Sequence[Entry]) -> Erasure:
        """Erase from the cells; on an error cut the conversation off before the first of these messages."""
        try:
            return eraser.erase(self.engine, self.seq, spans, self.ledger.approximate_from)
        except BaseException:
            first = min(self.ledger.entries.index(entry) for entry in entries)
            self.engine.truncate(self.seq, self.ledger.entries[first].start)
            self.ledger.truncate(first)
            raise

    def _default(self, spans: Sequence[Interval]) -> Eraser:
        erased = sum(end - start for start, end in spans)
        start = min((start for start, _ in spans), default=0)
        return default_eraser(self.engine, self.ledger.cells_from(start) - erased)
