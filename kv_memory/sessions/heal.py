"""Healing: after an approximate erasure, the later cells are recomputed exactly beside the conversation, in idle time.

The exact cells grow in a sequence of their own, a chunk at a time, and replace the approximate ones in one step.
Messages that are appended meanwhile are prefilled there too, and messages that are removed are truncated there. Until
the last step the conversation's own cells do not change.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable
from itertools import takewhile

from kv_memory.engines.base import STEERED, SequenceId
from kv_memory.erasers.recompute import Recompute
from kv_memory.locks import TurnLock
from kv_memory.positions import moves_to
from kv_memory.sessions.branch import Branch

FIRST_CHUNK, LONGEST = 32, 0.05
"""Tokens of the first chunk. `LONGEST`: seconds that a chunk is to take; a request may have to wait that long."""
_PATIENCE, _PAUSE = 0.2, 0.01
"""Seconds to wait for the lock; `_PAUSE` is the time between checks whether an answer is still being generated."""
_LOG = logging.getLogger(__name__)


class Healing:
    """One branch whose exact cells are being computed. Callers hold the engine's lock."""

    def __init__(self, branch: Branch, *, in_place: bool = False) -> None:
        """Create the healing of a branch; `in_place`: in one step, without a second copy of the cells."""
        self.branch = branch
        self._in_place = in_place
        self._seq: SequenceId | None = None
        self._first = 0
        """Position of the first cell that is recomputed; the cells before it are copies of the branch's."""

    def step(self, tokens: int) -> bool:
        """Recompute at most `tokens` more tokens; return whether nothing is left: the branch is exact, or evicted."""
        branch, engine = self.branch, self.branch.engine
        start = branch.ledger.approximate_from
        if start is None or not branch.resident:
            self.close()
            return True
        if self._in_place:
            branch.erase([], Recompute())
            return True
        cells = engine.cells(branch.seq)
        before = [cell for cell in cells if cell[0] < start]
        kept = [cell for cell in cells if cell[0] >= start and cell[1] != STEERED]
        made = [] if self._seq is None else engine.cells(self._seq)
        if self._seq is None or [cell for cell in made if cell[0] < self._first] != before:
            self.close()
            self._seq, made = engine.fork(branch.seq, start), before
            self._first = engine.next_position(self._seq)
        same = zip(made[len(before) :], kept, strict=False)
        done = sum(1 for _ in takewhile(lambda pair: pair[0][1] == pair[1][1], same))
        engine.truncate(self._seq, self._first + done)
        engine.prefill(self._seq, [token for _, token in kept[done : done + tokens]])
        if done + tokens < len(kept):
            return False
        branch.replace_cells(self._seq, moves_to([position for position, _ in kept], self._first))
        self._seq = None
        return True

    def close(self) -> None:
        """Free the cells that were computed so far."""
        if self._seq is not None:
            self.branch.engine.free(self._seq)
            self._seq = None


class Healer:
    """A background worker that heals branches in a thread of its own, which ends when nothing is left to heal."""

    def __init__(
        self,
        lock: TurnLock,
        find: Callable[[], Iterable[Branch]],
        busy: Callable[[], bool],
        has_room: Callable[[Branch], bool],
        done: Callable[[Branch], None],
    ) -> None:
        """Create a healer; its thread starts with `wake`.

        The functions are called with the lock held: `find` returns the branches to heal, the most urgent first; `busy`
        returns whether an answer is being generated; `has_room` whether a copy of a branch fits: without one it is
        recomputed in place, in one step; `done` is called with each branch that is exact.
        """
        self._lock = lock
        self._find = find
        self._busy = busy
        self._has_room = has_room
        self._done = done
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._chunk = FIRST_CHUNK

    def wake(self) -> None:
        """Start the thread unless it runs already. Called with the lock held, so that the thread does not end just
        then."""
        with self._guard:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="kv_memory heal", daemon=True)
                self._thread.start()
                atexit.register(self.stop)

    def stop(self) -> None:
        """Stop for good, and wait for the current chunk to end."""
        self._stop.set()
        self.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to heal, for at most `timeout` seconds; return whether that is so."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return thread is None or not thread.is_alive()

    def _run(self) -> None:
        healing: Healing | None = None
        while not self._stop.is_set():
            with self._lock.when_idle(_PATIENCE) as free:
                if free and not self._busy():
                    branch = next(iter(self._find()), None)
                    if healing is not None and branch is not healing.branch:
                        healing.close()
                        healing = None
                    if branch is None:
                        self._forget_thread()
                        return
                    healing = healing or Healing(branch, in_place=not self._has_room(branch))
                    self._step(healing)
                    continue
            self._stop.wait(_PAUSE)
        self._forget_thread()
        if healing is not None:
            with self._lock:
                healing.close()

    def _forget_thread(self) -> None:
        with self._guard:
            self._thread = None
            atexit.unregister(self.stop)

    def _step(self, healing: Healing) -> None:
        """Compute one chunk and adapt the size of the next to `LONGEST`.

        If healing fails, the branch stays as it is until its next erasure.
        """
        started = time.perf_counter()
        try:
            finished = healing.step(self._chunk)
        except Exception:  # a thread has no caller to raise it to
            _LOG.exception("A conversation was not healed; it stays as the erasure left it.")
            healing.branch.heals = False
            return
        seconds = time.perf_counter() - started
        self._chunk = max(FIRST_CHUNK, int(self._chunk * min(2.0, LONGEST / max(seconds, 1e-6))))
        if finished:
            self._done(healing.branch)
