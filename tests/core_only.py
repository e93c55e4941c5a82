"""An engine that has the required core alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from kv_memory.engines.base import Engine, Sampling, SequenceId, Token


class CoreEngine(Engine):
    """The core of another engine and nothing else."""

    def __init__(self, inner: Engine) -> None:
        super().__init__()
        self.inner = inner
        self.name, self.config, self.tokenizer = "core", self.inner.config, self.inner.tokenizer
        self.max_positions, self.kv_dtype = self.inner.max_positions, self.inner.kv_dtype

    def create(self) -> SequenceId:
        return self.inner.create()

    def free(self, seq: SequenceId) -> None:
        self.inner.free(seq)

    def fork(self, seq: SequenceId, end: int | None = None) -> SequenceId:
        return self.inner.fork(seq, end)

    def cells(self, seq: SequenceId) -> list[tuple[int, int]]:
        return self.inner.cells(seq)

    def next_position(self, seq: SequenceId) -> int:
        return self.inner.next_position(seq)

    def truncate(self, seq: SequenceId, start: int) -> None:
        self.inner.truncate(seq, start)

    def prefill(
        self,
        seq: SequenceId,
        ids: Sequence[int],
        positions: Sequence[int] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.inner.prefill(seq, ids, positions, progress)

    def generate(
        self, seq: SequenceId, sampling: Sampling, cancelled: Callable[[], bool] = lambda: False
    ) -> Generator[Token]:
        return self.inner.generate(seq, sampling, cancelled)
