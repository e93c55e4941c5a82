"""Work on the parts of a measurement, one after the other here or in processes, each with its own memory."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from kv_memory.engines.threads import wait_passively
from kv_memory.erasers.steer import Steer
from kv_memory.errors import UnsupportedOperationError
from kv_memory.sessions.memory import Memory

Job = TypeVar("Job")
Found = TypeVar("Found")
_memory: list[Memory] = []


class Work(Protocol):
    """A function that runs `do` for each job; the results come in the order of the jobs."""

    def __call__(self, do: Callable[[Memory, Job], Found], jobs: Iterable[Job], /) -> Iterator[Found]:
        """Run `do` for each job. It may go to another process: it is a function of a module, or a partial of one."""
        ...


def open_memory(model: str | None, eraser: str | None) -> Memory:
    """Open a memory for many copies of one conversation, with the model's trained eraser if it has one."""
    memory = Memory(model, eraser=eraser, heal="never")
    memory.cache_tokens = 16 * memory.engine.max_positions
    with suppress(UnsupportedOperationError):
        memory.load_eraser(Steer())
    return memory


def here(memory: Memory) -> Work:
    """Return work that is done in this process."""
    return lambda do, jobs: (do(memory, job) for job in jobs)


@contextmanager
def processes(count: int, model: str | None, eraser: str | None) -> Iterator[Work]:
    """Start `count` processes to work in, which end with the block."""
    with get_context("spawn").Pool(count, _start, (model, eraser)) as pool:

        def work(do: Callable[[Memory, Job], Found], jobs: Iterable[Job]) -> Iterator[Found]:
            return pool.imap(partial(_do, do), jobs)

        yield work


def _start(model: str | None, eraser: str | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one stops the others
    wait_passively()
    import torch
    from transformers.utils.logging import disable_progress_bar

    torch.set_num_threads(1)
    disable_progress_bar()
    _memory.append(open_memory(model, eraser))


def _do(do: Callable[[Memory, Any], Found], job: Any) -> Found:
    return do(_memory[0], job)
