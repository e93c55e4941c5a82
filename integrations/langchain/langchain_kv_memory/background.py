"""Generating in a worker thread for asyncio: nothing blocks the event loop, and a cancelled task stops the worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import closing
from typing import TypeVar

from langchain_core.runnables.config import run_in_executor

from kv_memory import KVMemoryError

T = TypeVar("T")


class StoppedError(KVMemoryError):
    """The worker was stopped since its caller is gone."""


class StopFlag:
    """A flag that tells a worker that nobody waits for it any longer."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Stop the worker at its next token or chunk of prefill."""
        self._event.set()

    def is_set(self) -> bool:
        """Return whether the worker is to stop."""
        return self._event.is_set()

    def check(self, _done: int = 0) -> None:
        """Raise StoppedError when the flag is set; raised from a prefill's progress it takes the prefill back."""
        if self._event.is_set():
            raise StoppedError("The call was cancelled.")


async def iterate(make: Callable[[StopFlag], Generator[T]]) -> AsyncIterator[T]:
    """Yield the items of `make(flag)`, made in a worker thread; when the consumer goes away the flag is set."""
    loop, stop = asyncio.get_running_loop(), StopFlag()
    items: asyncio.Queue[tuple[bool, T | None]] = asyncio.Queue()

    def work() -> None:
        with closing(make(stop)) as made:
            for item in made:
                stop.check()
                loop.call_soon_threadsafe(items.put_nowait, (True, item))

    worker = asyncio.ensure_future(run_in_executor(None, work))
    worker.add_done_callback(lambda _: items.put_nowait((False, None)))
    try:
        while True:
            more, item = await items.get()
            if not more:
                break
            yield item  # type: ignore[misc]  # an item where there are more
        worker.result()
    finally:
        stop.set()
        if not worker.done():
            worker.add_done_callback(_heed)


def _heed(worker: asyncio.Future[None]) -> None:
    """Take note of how an abandoned worker ended, so that asyncio does not complain of an error that nobody read."""
    if not worker.cancelled():
        worker.exception()
