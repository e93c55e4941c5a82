"""The ledger: all spans of one cached conversation, the cells that they occupy, and which of them are erased.

It keeps positions and token ids in step with one engine sequence, but calls no engine. When part of a message is
retracted, its text is overwritten here.
"""

from __future__ import annotations

import copy
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kv_memory.conversation.chat_format import Piece
from kv_memory.conversation.messages import Cuts, Message
from kv_memory.conversation.span_numbers import SpanNumbers
from kv_memory.conversation.spans import Span, SpanKind, SpanStatus, range_chars, range_id
from kv_memory.engines.base import STEERED
from kv_memory.positions import Interval, merge, moved, subtract


@dataclass(frozen=True)
class Run:
    """A piece at its place in the cache: its tokens have the positions `start`, `start + 1`, ..."""

    piece: Piece
    start: int

    @property
    def end(self) -> int:
        """Return one past the position of the last token."""
        return self.start + len(self.piece.ids)


@dataclass(frozen=True)
class Erased:
    """Tokens of a message that are no longer in the cache.

    [start, end) are the positions that they had; if it is not empty, it is now a gap or holds steering states
    (`Ledger.steered`). `chars` and `call` say which part of the message they were, `part_of` is the id of the span that
    was erased.
    """

    start: int
    end: int
    chars: Interval | None
    call: int | None
    status: SpanStatus
    part_of: str


@dataclass(eq=False)
class Entry:
    """One message of the conversation and the cells that it occupies. An entry equals only itself."""

    serial: int
    message: Message
    digest: str
    """Digest of the message as it was prefilled, before any of it was retracted."""
    runs: list[Run]
    generated: bool = False
    written: str | None = None
    """Text of a generated message with its scaffolding, until some of it is retracted."""
    erased: list[Erased] = field(default_factory=list)
    cuts: Cuts = field(default_factory=Cuts)

    @property
    def span_id(self) -> str:
        """Return the id of the span that is the whole message."""
        return f"s{self.serial}"

    @property
    def start(self) -> int:
        """Return the position of the first cell; of a message that has none, that where it was."""
        if self.runs:
            return self.runs[0].start
        return min((erased.start for erased in self.erased), default=0)

    @property
    def intervals(self) -> list[Interval]:
        """Return the positions of all cells of the message, scaffolding too."""
        return merge((run.start, run.end) for run in self.runs)

    @property
    def named(self) -> bool:
        """Return whether the caller gave the message an id."""
        return self.message.id is not None or self.message.tool_call_id is not None

    @property
    def nameable(self) -> bool:
        """Return whether the message or a part of it may have an id that a target names."""
        return self.named or bool(self.message.tool_calls or self.message.documents)

    @property
    def empty(self) -> bool:
        """Return whether there was nothing in the message when it was read."""
        said = self.message
        return not (said.content or said.tool_calls or said.reasoning or self.erased)

    @property
    def scaffold(self) -> list[int]:
        """Return the token ids of all that is around the content and the calls."""
        return [i for run in self.runs if run.piece.kind == "scaffold" for i in run.piece.ids]

    @property
    def covered(self) -> list[Interval]:
        """Return the characters of the content that the cells held when it was read."""
        held = (interval for run in self.runs for interval in run.piece.chars or ())
        return merge([*held, *self.cuts.chars])

    @property
    def calls(self) -> list[tuple[int, ...]]:
        """Return the tokens of the calls that the cells hold."""
        return [run.piece.ids for run in self.runs if run.piece.kind == "call"]

    @property
    def thinks(self) -> bool:
        """Return whether the cells hold thoughts that came beside the content."""
        return any(run.piece.kind == "reasoning" for run in self.runs)

    def everything(self) -> Cuts:
        """Return cuts that leave only the scaffolding."""
        return Cuts(((0, len(self.message.content)),), frozenset(range(len(self.message.tool_calls))))


@dataclass(frozen=True)
class Selection:
    """Part of one message that a target names."""

    entry: Entry
    span_id: str
    cuts: Cuts

    def tokens(self) -> Iterator[tuple[Run, list[Interval]]]:
        """Yield the runs of the message that the cuts touch, each with intervals of indices of tokens: those that are
        touched."""
        for run in self.entry.runs:
            if (run.piece.kind == "call" and run.piece.call in self.cuts.calls) or (
                run.piece.kind == "reasoning" and self.entry.message.wholly_in(self.cuts)
            ):
                yield run, [(0, len(run.piece.ids))]
            elif run.piece.chars is not None:
                chosen = run.piece.touched(self.cuts.chars)
                if chosen:
                    yield run, chosen

    def chars(self) -> tuple[Interval, ...]:
        """Return the characters that are cut, widened to whole tokens."""
        touched = [run.piece.chars_of(part) for run, chosen in self.tokens() if run.piece.chars for part in chosen]
        return tuple(merge([*self.cuts.chars, *touched]))

    def intervals(self) -> list[Interval]:
        """Return the positions of the tokens that are cut."""
        return merge((run.start + a, run.start + b) for run, chosen in self.tokens() for a, b in chosen)


def selection(entry: Entry, cuts: Cuts) -> Selection:
    """Return the selection of these parts, with the id of their span: a message, a call, a document or a range."""
    whole = entry.everything()
    if len(cuts.calls) == 1 and not cuts.chars:
        return Selection(entry, f"{entry.span_id}.call{min(cuts.calls)}", cuts)
    if not cuts.chars or cuts.calls or (set(cuts.chars) >= set(whole.chars) and not whole.calls):
        return Selection(entry, entry.span_id, cuts)
    for i, document in enumerate(entry.message.documents):
        if cuts.chars == ((document.start, document.end),):
            return Selection(entry, f"{entry.span_id}.doc{i}", cuts)
    return Selection(entry, range_id(entry.span_id, cuts.chars), cuts)


class Ledger:
    """The entries of one cached conversation, in order."""

    def __init__(self, numbers: SpanNumbers | None = None) -> None:
        """Create an empty ledger. `numbers` number its messages; the branches of a session share them."""
        self.entries: list[Entry] = []
        self.approximate_from: int | None = None
        """First position whose cell an approximate erasure may have left influence in, or None."""
        self.steered: list[Interval] = []
        """Intervals of cells that hold steering states in place of erased tokens, ascending and disjoint. None lies
        before `approximate_from` or after the last token."""
        self._numbers = SpanNumbers() if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.entries)

    def append(
        self,
        message: Message,
        pieces: Sequence[Piece],
        start: int,
        *,
        generated: bool = False,
        written: str | None = None,
        cuts: Cuts | None = None,
    ) -> Entry:
        """Append a message whose pieces have the positions from `start` on; `cuts` is what they leave out of it."""
        runs, at = [], start
        for piece in pieces:
            if piece.ids:
                runs.append(Run(piece, at))
                at += len(piece.ids)
        return self.enter(message, runs, start, generated=generated, written=written, cuts=cuts)

    def enter(
        self,
        message: Message,
        runs: Sequence[Run],
        start: int,
        *,
        generated: bool = False,
        written: str | None = None,
        cuts: Cuts | None = None,
    ) -> Entry:
        """Append a message whose pieces are at these places; one that has none is at `start`."""
        serial = self._numbers.of(message, self.entries[-1].serial if self.entries else None)
        entry = Entry(serial, message, message.digest(), list(runs), generated, written)
        if cuts:
            hole = runs[0].end if runs else start  # parts left out never had cells: they are empty intervals here
            whole = cuts if message.wholly_in(cuts) else None
            parts = [Cuts((chars,)) for chars in cuts.chars]
            for part in [*parts, *(Cuts(calls=frozenset([call])) for call in sorted(cuts.calls))]:
                chars, call = next(iter(part.chars), None), next(iter(part.calls), None)
                named = selection(entry, whole or part).span_id
                entry.erased.append(Erased(hole, hole, chars, call, SpanStatus.EXACT, named))
            entry.cuts, entry.message = cuts, message.overwritten(cuts)
        self.entries.append(entry)
        return entry

    def copy(self, entries: int | None = None) -> Ledger:
        """Return a copy of the first `entries` messages (all by default), for a fork."""
        other = copy.copy(self)
        other.entries = [
            replace(e, runs=list(e.runs), erased=list(e.erased))
            for e in self.entries[: len(self) if entries is None else entries]
        ]
        other.settle()
        return other

    def truncate(self, entries: int) -> None:
        """Delete all messages but the first `entries`."""
        del self.entries[entries:]
        self.settle()

    def erase(
        self,
        selections: Sequence[Selection],
        moves: Sequence[tuple[int, int]],
        *,
        exact: bool,
        steered: Sequence[Interval] = (),
    ) -> None:
        """Note that the tokens of these selections are gone, and move the others.

        `moves` is how the remaining cells moved, as in `Erasure`. `exact` says that everything from the first erased
        position on, or from `approximate_from`, was recomputed. `steered` are the erased cells that hold steering
        states now; nothing moves then.
        """
        starts = [start for selection in selections for start, _ in selection.intervals()]
        for selection in selections:
            self._take_out(selection)
        if exact:
            self._set_status(SpanStatus.EXACT, 0)
            self.approximate_from = None
            self.steered = []
        else:
            self._mark_approximate(starts)
        starts = sorted(run.start for run in self._runs())

        def closed(position: int) -> int:
            """Return where an erased token is now: not after the token that followed it, which may have moved there."""
            following = starts[bisect_left(starts, position) :][:1]
            return min(moved(p, moves) for p in (position, *following))

        for entry in self.entries:
            entry.runs = [replace(run, start=moved(run.start, moves)) for run in entry.runs]
            entry.erased = [replace(e, start=closed(e.start), end=closed(e.end)) for e in entry.erased]
        kept = [(moved(start, moves), moved(end - 1, moves) + 1) for start, end in self.steered]
        self.steered = merge([*kept, *steered])
        self.settle()

    def remove(
        self,
        entries: Sequence[Entry],
        moves: Sequence[tuple[int, int]],
        *,
        exact: bool,
        steered: Sequence[Interval] = (),
    ) -> None:
        """Note that these messages are gone with their scaffolding. The other arguments are those of `erase`."""
        starts = [entry.start for entry in entries]
        self.entries = [entry for entry in self.entries if entry not in entries]
        self.erase([], moves, exact=exact, steered=steered)
        if not exact:
            self._mark_approximate(starts)
            self.settle()

    def settle(self) -> None:
        """Update statuses: an erasure with no tokens after it is exact, whatever the eraser, and needs no steering
        states."""
        last = self.end
        self.steered = [(start, end) for start, end in self.steered if start < last]
        if self.approximate_from is not None and self.approximate_from >= last:
            self.approximate_from = None
        self._set_status(SpanStatus.EXACT, last if self.approximate_from is not None else 0)

    @property
    def end(self) -> int:
        """Return one past the position of the last token; 0 when empty."""
        return max((run.end for run in self._runs()), default=0)

    def begins(self, other: Ledger) -> bool:
        """Return whether the other conversation is this one and more: a number is that of a message after the same
        messages."""
        last = len(self) - 1
        return last < 0 or (len(self) < len(other) and other.entries[last].serial == self.entries[last].serial)

    def closed(self, entries: int) -> bool:
        """Return whether all cells of the first `entries` messages come before those of the others."""
        ends = max((run.end for entry in self.entries[:entries] for run in entry.runs), default=0)
        return all(run.start >= ends for entry in self.entries[entries:] for run in entry.runs)

    def token_ids(self) -> list[int]:
        """Return the ids of all cells, in the order of their positions; STEERED for a steering state."""
        runs: list[tuple[int, Sequence[int]]] = [(run.start, run.piece.ids) for run in self._runs()]
        runs += [(start, [STEERED] * (end - start)) for start, end in self.steered]
        return [i for _, ids in sorted(runs, key=lambda run: run[0]) for i in ids]

    def positions(self) -> list[int]:
        """Return the positions of all cells, ascending."""
        cells = [*((run.start, run.end) for run in self._runs()), *self.steered]
        return sorted(p for start, end in cells for p in range(start, end))

    def spans(self) -> list[Span]:
        """Return all spans: for each message its content, then its documents, tool calls and erased ranges."""
        return [span for index, entry in enumerate(self.entries) for span in _entry_spans(entry, index)]

    def span_of(self, chosen: Selection) -> Span:
        """Return the span of a selection, also of characters that have none of their own while they are there."""
        index = self.entries.index(chosen.entry)
        known = next((span for span in _entry_spans(chosen.entry, index) if span.id == chosen.span_id), None)
        return known or _range_span(chosen.entry, index, chosen.span_id)

    def cells_from(self, start: int) -> int:
        """Return the number of tokens at or after this position."""
        return sum(max(0, run.end - max(run.start, start)) for run in self._runs())

    def _mark_approximate(self, starts: Sequence[int]) -> None:
        marks = [*starts, *(() if self.approximate_from is None else (self.approximate_from,))]
        self.approximate_from = min(marks, default=None)

    def _runs(self) -> Iterator[Run]:
        return (run for entry in self.entries for run in entry.runs)

    def _set_status(self, status: SpanStatus, start: int) -> None:
        for entry in self.entries:
            entry.erased = [replace(e, status=status) if e.start >= start else e for e in entry.erased]

    def _take_out(self, selection: Selection) -> None:
        entry = selection.entry
        chosen = {id(run): parts for run, parts in selection.tokens()}
        chars: list[Interval] = []
        kept: list[Run] = []
        for run in entry.runs:
            gone = chosen.get(id(run), [])
            left = subtract([(0, len(run.piece.ids))], gone)
            kept += [_slice(run, start, end) for start, end in left] if gone else [run]
            for start, end in gone:
                widened = None if run.piece.chars is None else run.piece.chars_of((start, end))
                chars += [] if widened is None else [widened]
                at = run.start
                entry.erased.append(
                    Erased(at + start, at + end, widened, run.piece.call, SpanStatus.APPROXIMATE, selection.span_id)
                )
        entry.runs = kept
        entry.written = None
        entry.cuts |= Cuts(tuple(merge([*chars, *selection.cuts.chars])), selection.cuts.calls)
        entry.message = entry.message.overwritten(entry.cuts)


def _slice(run: Run, start: int, end: int) -> Run:
    chars = None if run.piece.chars is None else run.piece.chars[start:end]
    return Run(replace(run.piece, ids=run.piece.ids[start:end], chars=chars), run.start + start)


KINDS = {
    "system": SpanKind.SYSTEM,
    "user": SpanKind.USER,
    "assistant": SpanKind.ASSISTANT,
    "tool": SpanKind.TOOL_RESULT,
}
"""Kind of the span that a message's content is, by the role of the message."""


def _entry_spans(entry: Entry, index: int) -> Iterator[Span]:
    message = entry.message
    yield _span(entry, index, entry.span_id, KINDS[message.role], entry.everything())
    for i, document in enumerate(message.documents):
        chars = (document.start, document.end)
        span_id = f"{entry.span_id}.doc{i}"
        yield _span(entry, index, span_id, SpanKind.DOCUMENT, Cuts((chars,)), document_id=document.id, chars=chars)
    for i, call in enumerate(message.tool_calls):
        cuts, name = Cuts(calls=frozenset([i])), call.name or None
        yield _span(entry, index, f"{entry.span_id}.call{i}", SpanKind.TOOL_CALL, cuts, tool_call_id=call.id, name=name)
    for span_id in dict.fromkeys(erased.part_of for erased in entry.erased if range_chars(erased.part_of)):
        yield _range_span(entry, index, span_id)


def _range_span(entry: Entry, index: int, span_id: str) -> Span:
    chars = range_chars(span_id)
    return _span(entry, index, span_id, SpanKind.RANGE, Cuts(chars), chars=(chars[0][0], chars[-1][1]))


def _span(entry: Entry, index: int, span_id: str, kind: SpanKind, cuts: Cuts, **more: object) -> Span:
    message = entry.message
    live = Selection(entry, span_id, cuts).intervals()
    gone = [erased for erased in entry.erased if _shares(erased, cuts)]
    places = [*live, *((erased.start, erased.end) for erased in gone)]
    status = SpanStatus.LIVE
    if gone and not live:
        approximate = any(erased.status is SpanStatus.APPROXIMATE for erased in gone)
        status = SpanStatus.APPROXIMATE if approximate else SpanStatus.EXACT
    fields = {
        "id": span_id,
        "kind": kind,
        "start": min((start for start, _ in places), default=entry.start),
        "end": max((end for _, end in places), default=entry.start),
        "tokens": sum(end - start for start, end in live),
        "message": index,
        "message_id": message.id,
        "tool_call_id": message.tool_call_id,
        "name": message.name,
        "status": status,
    }
    return Span.model_validate({**fields, **more})


def _shares(erased: Erased, cuts: Cuts) -> bool:
    """Return whether what was erased is, in whole or in part, in these cuts."""
    if erased.chars is None:
        return erased.call in cuts.calls
    first, last = erased.chars
    return any((a < last and first < b) or (a <= first and last <= b) for a, b in cuts.chars)
