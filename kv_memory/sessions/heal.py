"""Healing: what an approximate erasure left is read again exactly, beside the conversation, while nobody waits.

The exact cells grow in a sequence of their own, a chunk at a time, and take the place of the others in one step. What
the conversation gained meanwhile is read too; what it lost is taken back; nothing of the conversation changes before.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable, Iterable
from itertools import takewhile

from kv_memory.engines.base import STEERED, SequenceId
from kv_memory.locks import TurnLock
from kv_memory.positions import moves_to
from kv_memory.sessions.branch import Branch

FIRST_CHUNK, LONGEST = 32, 0.05
"""Tokens of the first chunk; seconds that a chunk is to take: about that long a request may have to wait for it."""
_PATIENCE, _PAUSE = 0.2, 0.01
"""Seconds to wait for the lock, and between looks whether an answer is still being written."""
_LOG = logging.getLogger(__name__)


class Healing:
    """The exact cells of one branch in the making. Callers hold the engine's lock."""

    def __init__(self, branch: Branch) -> None:
        self.branch = branch
        self._seq: SequenceId | None = None
        self._first = 0
        """The position of the first cell that is made; those before are the branch's."""

    def step(self, tokens: int) -> bool:
        """Read at most so many tokens more. True when nothing is left to do: the branch is exact, or without cells."""
        branch, engine = self.branch, self.branch.engine
        start = branch.ledger.approximate_from
        if start is None or not branch.resident:
            self.close()
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
        """Give the cells back that were made so far."""
        if self._seq is not None:
            self.branch.engine.free(self._seq)
            self._seq = None


class Healer:
    """Heals in a thread of its own, which ends when there is nothing left to do."""

    def __init__(
        self,
        lock: TurnLock,
        find: Callable[[], Iterable[Branch]],
        busy: Callable[[], bool],
        done: Callable[[Branch], None],
    ) -> None:
        """All are called with the lock held. `find` gives the branches to heal, the first one first; `busy` says
        whether an answer is being written; `done` hears of each branch that is exact.
        """
        self._lock = lock
        self._find = find
        self._busy = busy
        self._done = done
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._chunk = FIRST_CHUNK

    def wake(self) -> None:
        """Begin, unless it has begun already. Called with the lock held, so that the thread does not end just then."""
        with self._guard:
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="kv_memory heal", daemon=True)
                self._thread.start()
                atexit.register(self.stop)

    def stop(self) -> None:
        """End after the chunk that is being read; for good."""
        self._stop.set()
        self.wait()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is left to heal, at most so many seconds; whether that is so."""
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
                    healing = healing or Healing(branch)
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
        """One chunk, as long as `LONGEST` allows. What cannot be healed stays as it is until its next erasure."""
        started = time.perf_counter()
        try:
            finished = healing.step(self._chunk)
        except Exception:  # nobody called: there is nobody to raise it to
            _LOG.exception("A conversation was not healed; it stays as the erasure left it.")
            healing.branch.heals = False
            return
        seconds = time.perf_counter() - started
        self._chunk = max(FIRST_CHUNK, int(self._chunk * min(2.0, LONGEST / max(seconds, 1e-6))))
        if finished:
            self._done(healing.branch)
