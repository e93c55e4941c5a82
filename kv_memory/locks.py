"""The lock of an engine: calls take turns, and background work gives way to calls that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

from kv_memory.errors import ConversationError

P = ParamSpec("P")
T = TypeVar("T")

_LONGEST = 1.0
"""Seconds that `give_way` waits for the others at most before it queues up again."""


class TurnLock:
    """A reentrant lock that knows whether another thread waits for it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._turn_over = threading.Condition(self._lock)
        self._owner = 0
        self._depth = 0
        self._calling_back = False
        self._counting = threading.Lock()
        self._waiting = 0
        self._none_waits = threading.Event()
        self._none_waits.set()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; see `threading.RLock.acquire`.

        Raises ConversationError in a callback (`callback`): the engine is in the middle of a call.
        """
        if self._calling_back and self._owner == threading.get_ident():
            raise ConversationError(
                "A callback (progress, cancelled or mask) runs in the middle of a call and cannot call its memory; "
                "note what is to be done and do it when the call has returned."
            )
        self._count(1)
        try:
            held = self._lock.acquire(blocking, timeout)
        finally:
            self._count(-1)
        if held:
            self._owner, self._depth = threading.get_ident(), self._depth + 1
        return held

    def release(self) -> None:
        """Release the lock; see `threading.RLock.release`."""
        self._depth -= 1
        if not self._waiting:
            self._turn_over.notify_all()
        self._lock.release()

    @property
    def held(self) -> bool:
        """Return whether this thread holds the lock."""
        return self._depth > 0 and self._owner == threading.get_ident()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def callback(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return a function that is called in the middle of a call, with the lock held: it cannot take it again."""

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            before, self._calling_back = self._calling_back, True
            try:
                return function(*args, **kwargs)
            finally:
                self._calling_back = before

        return call

    def give_way(self) -> None:
        """Let the calls that wait take their turn now; the lock is held again when this returns.

        Does nothing while nobody waits, or where a caller further up holds the lock for more than this call.
        """
        if self._waiting and self._depth == 1:
            self._depth = 0
            self._turn_over.wait(_LONGEST)
            self._owner, self._depth = threading.get_ident(), 1

    @contextmanager
    def when_idle(self, timeout: float) -> Iterator[bool]:
        """Hold the lock if it becomes free with nobody waiting, within `timeout` seconds for each; yield whether it is
        held."""
        free = self._none_waits.wait(timeout) and self._lock.acquire(timeout=timeout)
        if free:
            self._owner, self._depth = threading.get_ident(), self._depth + 1
        try:
            yield free
        finally:
            if free:
                self.release()

    def _count(self, change: int) -> None:
        with self._counting:
            self._waiting += change
            if self._waiting:
                self._none_waits.clear()
            else:
                self._none_waits.set()
