"""Passes that llama.cpp alone does not offer: tokens appended after a hole, and cells recomputed in mid-sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kv_memory.engines.llama_cpp.context import HELD, MADE, WORK, CacheFullError, Context


@dataclass(frozen=True)
class Run:
    """Tokens at consecutive positions."""

    start: int
    ids: tuple[int, ...]

    @property
    def end(self) -> int:
        """Return the position after the last one."""
        return self.start + len(self.ids)


def runs_of(ids: Sequence[int], positions: Sequence[int]) -> list[Run]:
    """Split tokens at ascending positions where the positions jump."""
    cuts = [i for i, (a, b) in enumerate(pairwise(positions), start=1) if b != a + 1]
    bounds = [0, *cuts, len(ids)]
    return [Run(positions[a], tuple(ids[a:b])) for a, b in pairwise(bounds) if b > a]


def append(context: Context, home: int, runs: Sequence[Run], progress: Callable[[int], None]) -> Tensor:
    """Append tokens after a sequence's last cell; return the logits [vocabulary] of the last.

    On an exception the new cells are removed.
    """
    done = 0
    try:
        for run in runs:
            progress_here = _counting(progress, done)
            if context.last(home) in (-1, run.start - 1):
                logits = context.decode(home, run.ids, run.start, 1, progress_here)
            else:
                with context.cleared(WORK):
                    context.copy(home, WORK)
                    logits = _continued(context, WORK, run, 1, progress_here)
                    context.copy(WORK, home, run.start, run.end)
            done += len(run.ids)
    except BaseException:
        context.remove(home, runs[0].start)
        raise
    return logits[0]


def after_last(context: Context, home: int, token: int) -> Tensor:
    """Recompute the logits [vocabulary] of a sequence's last token. Changes nothing."""
    last = context.last(home)
    with context.cleared(WORK):
        context.copy(home, WORK, 0, last)
        return _continued(context, WORK, Run(last, (token,)), 1)[0]


@contextmanager
def rerun(
    context: Context, home: int, runs: Sequence[Run], adapter: object = None, *, keep: int = 0
) -> Iterator[Rerun]:
    """Recompute cells over what is visible before each of them; later runs see the new cells of earlier ones.

    In the block the new cells are beside the old ones: `commit` puts them in their place; without it nothing changes.
    Where there is not room for both, the old ones are kept outside the context during the block. `keep`: 1 for the
    logits of the last token.
    """
    result = Rerun(context, home, runs, keep)
    try:
        with context.adapted(adapter):
            try:
                result.run()
            except CacheFullError:
                result.make_way()
                result.run()
        yield result
    finally:
        result.close()


class Rerun:
    """Cells that are being recomputed: the old ones and the new ones."""

    def __init__(self, context: Context, home: int, runs: Sequence[Run], keep: int) -> None:
        self._context = context
        self._home = home
        self._runs = runs
        self._keep = keep
        self._saved: NDArray[np.uint8] | None = None
        self.logits = torch.empty(0)
        """[keep, vocabulary]"""

    def run(self) -> None:
        """Write the new cells into WORK, behind shared copies of the cells that stay, and let MADE have them."""
        covered = 0
        for run in self._runs:
            self._context.copy(self._home, WORK, covered, run.start)
            keep = self._keep if run is self._runs[-1] else 0
            self.logits = _continued(self._context, WORK, run, keep)
            self._context.copy(WORK, MADE, run.start, run.end)
            covered = run.end

    def make_way(self) -> None:
        """Remove the old cells and keep their state outside the context."""
        self._discard()
        self._saved = self.old()
        for run in self._runs:
            self._context.remove(self._home, run.start, run.end)

    def old(self) -> NDArray[np.uint8]:
        """Return the state of the old cells."""
        return self._part(self._home) if self._saved is None else self._saved

    def new(self) -> NDArray[np.uint8]:
        """Return the state of the new cells."""
        return self._part(MADE)

    def commit(self) -> None:
        """Replace the old cells by the new ones."""
        self._saved = None
        for run in self._runs:
            self._context.remove(self._home, run.start, run.end)
            self._context.copy(MADE, self._home, run.start, run.end)

    def close(self) -> None:
        """Restore the sequence as it was, or leave it as `commit` made it."""
        self._discard()
        if self._saved is not None:
            self._context.add(self._home, self._saved)

    def _discard(self) -> None:
        self._context.remove(WORK)
        self._context.remove(MADE)

    def _part(self, home: int) -> NDArray[np.uint8]:
        return self._context.read_part(home, [(run.start, run.end) for run in self._runs])


def _continued(
    context: Context, home: int, run: Run, keep: int, progress: Callable[[int], None] = lambda done: None
) -> Tensor:
    """Append a run to `home`, which may end with a hole before it; as `Context.decode`.

    NOTE: llama.cpp continues a sequence only right after its last position.
    """
    last, reach = context.last(home), context.model.reach
    if last in (-1, run.start - 1):
        return context.decode(home, run.ids, run.start, keep, progress)
    hidden = reach.hides(torch.arange(run.start, run.end), torch.tensor([last]))[:, 0]
    if bool(hidden[0]):
        _hide_from_windows(context, home, last)
        return context.decode(home, run.ids, run.start, keep, progress)
    # Only these tokens see the last cell in all layers: others would see it from where it is for the block.
    near = len(run.ids) - int(hidden.sum())
    rest = len(run.ids) - near
    with _bridged(context, home, run.start):
        first = context.decode(home, run.ids[:near], run.start, max(keep - rest, 0), progress)
    if not rest:
        return first
    after = context.decode(home, run.ids[near:], run.start + near, min(keep, rest), _counting(progress, near))
    return torch.cat([first, after])


def _hide_from_windows(context: Context, home: int, last: int) -> None:
    """Leave layers with a window without cells, for tokens from beyond the window of the last one on: with none there,
    a sequence can be continued anywhere."""
    nowhere = last + 1
    context.write_states(home, context.layout.windows_alone(nowhere))
    context.remove(home, nowhere, nowhere + 1)


@contextmanager
def _bridged(context: Context, home: int, start: int) -> Iterator[None]:
    """Let `home`, which ends with a hole before `start`, be continued there: for the block, the last cell is at the
    position before `start`.

    It is a copy with the same rows: keys keep the rotation of where they were written.
    """
    last = context.last(home)
    with context.cleared(HELD):
        context.copy(home, HELD, last, last + 1)
        data = context.read(HELD)
        context.parse(data).move(start - 1 - last)
        context.remove(home, last, last + 1)
        try:
            context.add(home, data)
            yield
        finally:
            context.remove(home, start - 1, start)
            context.copy(HELD, home, last, last + 1)


def _counting(progress: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda done: progress(before + done)
