"""Threads that sleep while they wait: those that torch and llama.cpp compute in on a CPU.

Both split each operation among OpenMP's threads, which by default wait for the next one by spinning, for milliseconds.
Where other processes need the cores, a thread that spins keeps them from the one it waits for, and a model is tens of
times slower (benchmarks/busy.py). `wait_passively` has them sleep instead.

NOTE: libgomp, the OpenMP of torch's wheels for Linux, reads OMP_WAIT_POLICY when it is loaded (`import torch`), and
has no function to change it later. But it spins next to nothing (100 rounds in place of 300,000) while a process has
more OpenMP threads than CPUs, as its manual says of GOMP_SPINCOUNT. So where it is loaded already, a team of one thread
more than there are CPUs is started once, which then sleeps as long as the process lives. `torch.set_num_threads` would
not do: one thread is many times slower on an idle machine, and the number belongs to the user.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

SWITCH = "KV_MEMORY_PASSIVE_WAIT"
"""Environment variable; 0 leaves the threads as they are."""
_POLICY = "OMP_WAIT_POLICY"
_CHOSEN = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Environment variables by which users say how threads wait."""


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait, in this process and those that it starts from now on.

    Does nothing where KV_MEMORY_PASSIVE_WAIT is 0, or where OMP_WAIT_POLICY, GOMP_SPINCOUNT or KMP_BLOCKTIME is set,
    by the user or an earlier call. Otherwise sets OMP_WAIT_POLICY to PASSIVE, which is all that is needed before torch
    is imported; a libgomp that is loaded already is made to spin no more, which holds for all that the process does.
    How many threads torch and llama.cpp use stays as it is. Called when an engine is opened.
    """
    if os.environ.get(SWITCH) == "0" or any(name in os.environ for name in _CHOSEN):
        return
    os.environ[_POLICY] = "PASSIVE"
    if sys.platform == "linux":
        for library in _loaded():
            _outnumber_cpus(library)


def _loaded() -> Iterator[ctypes.CDLL]:
    """Yield each libgomp that is loaded: the one that shares its usual name with others, and torch's own."""
    torch = sys.modules.get("torch")
    names = ["libgomp.so.1"]
    if torch is not None and torch.__file__:
        names.append(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))  # which finds what it is linked with
    found = set()
    for name in names:
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD)
            address = ctypes.cast(library.GOMP_parallel, ctypes.c_void_p).value
        except (AttributeError, OSError):
            continue
        if address not in found:
            found.add(address)
            yield library


def _outnumber_cpus(library: ctypes.CDLL) -> None:
    nothing = ctypes.cast(library.omp_get_thread_num, ctypes.c_void_p)
    threads = library.omp_get_num_procs() + 1
    started = Event()

    def hold() -> None:
        library.GOMP_parallel(nothing, None, threads, 0)
        started.set()
        Event().wait()  # the team ends with the thread that started it

    Thread(target=hold, name="kv_memory OpenMP team", daemon=True).start()
    started.wait()
