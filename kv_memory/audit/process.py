"""The identity of this process, and the check whether another one still runs."""

from __future__ import annotations

import os
import subprocess
from functools import lru_cache
from pathlib import Path

_PROC = Path("/proc")


def current() -> tuple[int, str]:
    """Return the pid of this process, and a token that no other process with that pid ever had."""
    return os.getpid(), _own_token(os.getpid())


def is_gone(pid: int, token: str) -> bool:
    """Return whether that process has surely ended; False where a process cannot be seen from here."""
    boot, space, start = token.split("/", 2)
    boot_here, space_here, _ = current()[1].split("/", 2)
    if boot != boot_here:
        return True  # the log is never shared between machines: SQLite's write-ahead log cannot be
    if space != space_here or not start:
        return False
    now = _start(pid)
    return now is None or now not in ("", start)


@lru_cache(maxsize=1)  # by pid: a forked child is another process
def _own_token(pid: int) -> str:
    boot = _read(_PROC / "sys/kernel/random/boot_id")
    try:
        space = os.readlink(_PROC / "self/ns/pid")
    except OSError:
        space = ""
    return f"{boot}/{space}/{_start(pid) or ''}"


def _start(pid: int) -> str | None:
    """Return when a process began; "" where the system does not say, None when there is none or a zombie."""
    stat = _read(_PROC / str(pid) / "stat")
    if stat:
        fields = stat.rpartition(")")[2].split()  # the process name before it may contain spaces
        return None if fields[0] in "ZX" else fields[19]
    if os.name != "posix":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    if _PROC.joinpath("self").exists():
        return ""
    ps = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return ps.stdout.strip()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
