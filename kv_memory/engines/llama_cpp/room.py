"""Memory that a context takes, and whether the machine has it.

NOTE: llama.cpp allocates the cells of a context at once, and writes to all of them: where the memory is too little,
Linux ends the process before llama.cpp notices.
"""

from __future__ import annotations

import re
from pathlib import Path

from kv_memory.engines.llama_cpp.model import Model
from kv_memory.errors import ModelError

_STEP = 1024
_USED = 0.9
"""Share of the free memory that the advice for a shorter context counts on."""


def check_room(model: Model, cells: int, size: int) -> None:
    """Raise ModelError where K and V of `cells`, of `size` bytes each, take more memory than is free."""
    free = free_memory()
    if free is None or cells * size <= free:
        return
    fitting = int(_USED * free) // size // _STEP * _STEP
    instead = f"give a context length of at most {fitting:,}" if fitting else "use a smaller model"
    raise ModelError(f"{said_room(model, cells, size)}, and {free / 1e9:,.2f} GB are free; {instead}.")


def said_room(model: Model, cells: int, size: int) -> str:
    """Return the memory that K and V of a context take, in words."""
    return f"K and V of {cells:,} cells of {model.path.name} take {cells * size / 1e9:,.2f} GB"


def free_memory() -> int | None:
    """Return the bytes that this process can still use, on Linux with the limit of its control group; else None."""
    free = [_number(Path("/proc/meminfo"), r"MemAvailable:\s*(\d+) kB", 1024)]
    group = Path("/sys/fs/cgroup")
    limit, taken = _number(group / "memory.max", r"(\d+)"), _number(group / "memory.stat", r"anon (\d+)")
    if limit is not None and taken is not None:
        free.append(max(0, limit - taken))
    return min((size for size in free if size is not None), default=None)


def _number(path: Path, pattern: str, unit: int = 1) -> int | None:
    try:
        found = re.search(pattern, path.read_text())
    except OSError:
        return None
    return int(found[1]) * unit if found else None
