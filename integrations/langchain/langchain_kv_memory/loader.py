"""The memory of a chat model, loaded when it is first needed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from kv_memory import Memory, TokenCounter

if TYPE_CHECKING:
    from langchain_kv_memory.constrain import Grammars


class MemoryLoader:
    """A loader that loads once, whichever thread asks first; copies that LangChain makes of a chat model share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counting = threading.Lock()
        self._counters: dict[str, TokenCounter] = {}
        self._memory: Memory | None = None
        self._name = ""
        self._grammars: Grammars | None = None

    @property
    def loaded(self) -> Memory | None:
        """Return the memory, if it is loaded; never waits."""
        return self._memory

    def get(self, name: str, make: Callable[[], Memory]) -> Memory:
        """Return the memory; `make` makes it the first time. Raises ValueError if it is another model's."""
        with self._lock:
            if self._memory is None:
                self._memory, self._name = make(), name
            if self._name != name:
                raise ValueError(
                    f"This chat model has loaded {self._name!r} and cannot become {name!r}; make another one of it."
                )
            return self._memory

    def counter(self, name: str, make: Callable[[], TokenCounter]) -> TokenCounter:
        """Return the counter of a model's tokens; `make` makes it the first time. Never waits for weights that load."""
        with self._counting:
            if name not in self._counters:
                self._counters[name] = make()
            return self._counters[name]

    def grammars(self, memory: Memory) -> Grammars:
        """Return the maker of masks for the memory's tokenizer."""
        from langchain_kv_memory.constrain import Grammars

        with self._lock:
            if self._grammars is None:
                self._grammars = Grammars(memory.engine)
            return self._grammars
