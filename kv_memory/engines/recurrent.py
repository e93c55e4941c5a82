"""An engine for models with recurrent layers: sequences go back to a kept state alone, and run again from there."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from kv_memory.engines.base import Sampling, SequenceId, Token
from kv_memory.engines.checkpoints import NEAR, Checkpoints, CheckpointSettings
from kv_memory.engines.checks import check_appended, check_fits
from kv_memory.engines.generation import generate
from kv_memory.engines.parts import PARTS, ProbeLayers, Scoring
from kv_memory.errors import ModelError, UnsupportedOperationError


class Saved(Protocol):
    """A copy of what the recurrent layers hold after some token."""

    @property
    def logits(self) -> Tensor:
        """Return the logits [vocabulary] after it."""
        ...

    @property
    def size(self) -> int:
        """Return its bytes."""
        ...


Cache = TypeVar("Cache")
State = TypeVar("State", bound=Saved)


@dataclass
class _Sequence(Generic[Cache]):
    cache: Cache
    """State after the first `ran` cells."""
    positions: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    ran: int = 0
    """Number of cells that went through the model; the others run with what is appended next, or when they are asked
    for."""
    logits: Tensor | None = None
    """[vocabulary] after the last of the cells that ran; None where none did."""

    def below(self, position: int) -> int:
        """Return the number of cells at lower positions."""
        return bisect_left(self.positions, position)

    def end(self, cells: int | None = None) -> int:
        """Return the position after the first `cells` cells, by default all."""
        at = self.positions if cells is None else self.positions[:cells]
        return at[-1] + 1 if at else 0


class CheckpointEngine(Scoring, Generic[Cache, State]):
    """A causal language model in which some layers keep one running state of all tokens.

    Nothing can be taken out of such a state, so that the only eraser is `recompute`: the sequence goes back to the last
    checkpoint, a copy of the states, and the tokens run again from there. Checkpoints are kept where messages begin
    (`mark`), within a budget; see checkpoints.py. Attention layers keep the rows of the tokens before it.

    A subclass says how its library runs tokens over a cache, copies it and cuts it back.
    """

    checkpoints: Checkpoints[State]

    def __init__(self, name: str, layers: str, probe_layers: ProbeLayers) -> None:
        """Begin without sequences. `layers`: which layers keep one running state, in words.

        Raises UnsupportedOperationError for `probe_layers` by number; of "all" there are none.
        """
        super().__init__()
        self.name = name
        if probe_layers and probe_layers != "all":
            raise UnsupportedOperationError(
                f"No probe layers can be chosen for {name}: {layers}, so that it has no influence; leave out the "
                "probe layers, or the calibration that names them."
            )
        self.ruled_out = {
            capability: f"{layers}, out of which nothing can be taken"
            for capability in PARTS
            if not isinstance(self, PARTS[capability][0])
        }
        self._sequences: dict[SequenceId, _Sequence[Cache]] = {}
        self._created = 0

    def _keep_within(self, settings: CheckpointSettings | None, size: int) -> None:
        """Have checkpoints of `size` bytes each kept within the budget. Raises ModelError where it holds not one."""
        megabytes = (settings or CheckpointSettings()).megabytes
        if 0 < megabytes * 1e6 < size:
            raise ModelError(
                f"One checkpoint of {self.name} takes {size / 1e6:.3g} MB, more than the {megabytes:g} MB for "
                "all; raise checkpoint_mb, or give 0 to keep none."
            )
        self.checkpoints = Checkpoints(megabytes * 1e6, self.next_position, max(NEAR, self.free_tokens))

    @property
    @abstractmethod
    def _vocabulary(self) -> int:
        """Return the number of tokens."""

    @abstractmethod
    def _new(self) -> Cache:
        """Return an empty cache."""

    @abstractmethod
    def _copied(self, cache: Cache) -> Cache:
        """Return an independent copy of a cache."""

    @abstractmethod
    def _saved(self, cache: Cache, logits: Tensor) -> State:
        """Copy what the recurrent layers hold, and the logits after the last token."""

    @abstractmethod
    def _cut(self, cache: Cache, saved: State, cells: int) -> Cache:
        """Return a cache of the first `cells` tokens, after which `saved` was saved. The given one stays as it is."""

    @abstractmethod
    def _step(self, ran: int, wanted: int) -> int:
        """Return how many of `wanted` tokens to run in the next pass of a sequence of which `ran` tokens ran."""

    @abstractmethod
    def _pass(self, cache: Cache, tokens: Sequence[int], positions: Sequence[int], ran: int, keep: int = 1) -> Tensor:
        """Run these tokens after the `ran` that the cache holds; return logits [keep, or all with 0, vocabulary]."""

    def _logits(self, saved: State) -> Tensor:
        """Return the logits of a saved state where the model computes."""
        return saved.logits

    def create(self) -> SequenceId:
        """Create an empty sequence."""
        return self._add(_Sequence(self._new()))

    def free(self, seq: SequenceId) -> None:
        """Delete a sequence and release its memory; checkpoints that forks share stay."""
        self._get(seq)
        del self._sequences[seq]
        self.checkpoints.free(seq)

    @torch.inference_mode()
    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        """Copy the cells at positions below `end` (default: all) to a new sequence, which shares the checkpoints."""
        source = self._get(seq)
        cells = len(source.tokens) if end is None else source.below(end)
        state = _Sequence(source.cache, source.positions[:cells], source.tokens[:cells], source.ran, source.logits)
        new = self._add(state)
        self.checkpoints.fork(seq, new)
        self.checkpoints.cut(new, state.end())
        if cells < source.ran:
            self._go_back(new, cells)
        else:
            state.cache = self._copied(source.cache)
        return new

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        """Return the position and token id of each cell, positions ascending."""
        state = self._get(seq)
        return list(zip(state.positions, state.tokens, strict=True))

    def next_position(self, seq: SequenceId) -> int:
        """Return the position after the last cell's; 0 when empty."""
        return self._get(seq).end()

    def truncate(self, seq: SequenceId, start: int) -> None:
        """Remove the cells at positions from `start` on.

        Those between the last checkpoint and `start` run again, with what is appended next.
        """
        state = self._get(seq)
        cells = state.below(start)
        if cells == len(state.tokens):
            return
        del state.positions[cells:], state.tokens[cells:]
        self.checkpoints.cut(seq, start)
        if cells < state.ran:
            self._go_back(seq, cells)

    def replayed_from(self, seq: SequenceId, start: int) -> int:
        """Return the position of the first token that runs again once the sequence is truncated at `start`."""
        state = self._get(seq)
        if state.below(start) < state.ran:
            kept = self.checkpoints.before(seq, start)
            return kept.position if kept is not None else 0
        return min(start, state.positions[state.ran]) if state.ran < len(state.positions) else start

    def mark(self, seq: SequenceId, positions: Sequence[int]) -> None:
        """Have checkpoints kept at these positions, while the budget allows it."""
        self._get(seq)
        self.checkpoints.mark(seq, positions)

    def marks(self, seq: SequenceId) -> list[int]:
        """Return the positions that were marked, ascending."""
        self._get(seq)
        return self.checkpoints.marks(seq)

    def prefill(
        self,
        seq: SequenceId,
        ids: Sequence[int],
        positions: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Append tokens, in chunks. Raises ValueError for ids or positions that cannot be appended."""
        if not ids:
            return
        state = self._get(seq)
        before, start = len(state.tokens), state.end()
        at = range(start, start + len(ids)) if positions is None else positions
        check_appended(ids, at, start, self._vocabulary)
        check_fits(self.name, self.max_positions, max(at) + 1)
        state.positions += at
        state.tokens += ids
        try:
            self._run(seq, lambda done: progress(max(0, done - before)) if progress is not None else None)
        except BaseException:
            self.truncate(seq, state.positions[before])
            raise

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        """Continue the sequence. Raises ValueError for an empty one, and for settings that are out of range."""
        self.next_logits(seq)
        self.mark(seq, [self.next_position(seq)])  # what a stop string cuts off is cut back to here
        return generate(self, seq, self.next_logits, sampling, cancelled)

    def next_logits(self, seq: SequenceId) -> Tensor:
        """Return the logits [vocabulary] after the last cell; no cell is changed."""
        state = self._get(seq)
        if not state.tokens:
            raise ValueError("an empty sequence has no next token; prefill it first")
        self._run(seq)
        assert state.logits is not None, "at least one cell ran"
        return state.logits

    @torch.inference_mode()
    def score(self, seq: SequenceId, ids: Sequence[int]) -> Tensor:
        """Compute the log-probabilities [len(ids), vocabulary] before each of `ids`, float32."""
        state = self._get(seq)
        first, end = self.next_logits(seq), state.end()
        seen = list(ids[:-1])  # nothing is asked about what follows the last
        at = list(range(end, end + len(seen)))
        check_appended(seen, at, end, self._vocabulary)
        check_fits(self.name, self.max_positions, end + len(seen))
        cache, ran = self._copied(state.cache), state.ran
        rest = []
        while seen:
            count = self._step(ran, len(seen))
            rest.append(self._pass(cache, seen[:count], at[:count], ran, keep=0))
            seen, at, ran = seen[count:], at[count:], ran + count
        return torch.cat([first[None], *rest]).float().log_softmax(-1)[: len(ids)]

    @torch.inference_mode()
    def _run(self, seq: SequenceId, progress: Callable[[int], object] = lambda done: None) -> None:
        """Run the cells that did not run yet, in passes that end where a checkpoint is due.

        `progress` is called with the number of cells that ran. On an exception the state is that of a checkpoint.
        """
        state = self._get(seq)
        self._keep(seq)
        while state.ran < len(state.tokens):
            due = state.below(self.checkpoints.next_due(seq, state.end(state.ran)))
            count = self._step(state.ran, max(due, state.ran + 1) - state.ran)
            part = slice(state.ran, state.ran + count)
            try:
                tokens, positions = state.tokens[part], state.positions[part]
                state.logits = self._pass(state.cache, tokens, positions, state.ran)[-1]
            except BaseException:
                self._go_back(seq, state.ran)  # some layers may have gone on and others not
                raise
            state.ran += len(tokens)
            self._keep(seq)
            progress(state.ran)

    def _keep(self, seq: SequenceId) -> None:
        """Keep a checkpoint where one is due."""
        state = self._get(seq)
        end = state.end(state.ran)
        if state.logits is not None and self.checkpoints.due(seq, end):
            saved = self._saved(state.cache, state.logits)
            self.checkpoints.keep(seq, end, saved, saved.size)

    @torch.inference_mode()
    def _go_back(self, seq: SequenceId, cells: int) -> None:
        """Set the state to that of the last checkpoint within the first `cells` cells."""
        state = self._get(seq)
        kept = self.checkpoints.before(seq, state.end(cells))
        if kept is None:
            state.cache, state.ran, state.logits = self._new(), 0, None
            return
        state.ran = state.below(kept.position)
        state.cache = self._cut(state.cache, kept.state, state.ran)
        state.logits = self._logits(kept.state)

    def _add(self, state: _Sequence[Cache]) -> SequenceId:
        self._created += 1
        self._sequences[self._created] = state
        return self._created

    def _get(self, seq: SequenceId) -> _Sequence[Cache]:
        if seq not in self._sequences:
            raise ValueError(f"there is no sequence {seq}")
        return self._sequences[seq]
