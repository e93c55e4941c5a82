"""The lock of an engine: calls take turns, and background work gives way to calls that wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType


class TurnLock:
    """A reentrant lock that knows whether another thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counting = threading.Lock()
        self._waiting = 0
        self._none_waits = threading.Event()
        self._none_waits.set()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; see `threading.RLock.acquire`."""
        self._count(1)
        try:
            return self._lock.acquire(blocking, timeout)
        finally:
            self._count(-1)

    def release(self) -> None:
        """Release the lock; see `threading.RLock.release`."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextmanager
    def when_idle(self, timeout: float) -> Iterator[bool]:
        """Hold the lock if it becomes free with nobody waiting, within `timeout` seconds for each; yield whether it is
        held."""
        free = self._none_waits.wait(timeout) and self._lock.acquire(timeout=timeout)
        try:
            yield free
        finally:
            if free:
                self._lock.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change
            if self._waiting:
                self._none_waits.clear()
            else:
                self._none_waits.set()
