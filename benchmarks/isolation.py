"""Cases that may not fail: what one session holds shows in no other, and no content is taken for structure.

    python -m benchmarks.isolation --cases 10000 --workers 8

The cases are those of tests/security, of which the tests run a few.
"""

from __future__ import annotations

import argparse
from functools import partial
from multiprocessing import get_context
from typing import Any

from benchmarks.record import environment, save
from kv_memory.engines.threads import wait_passively
from tests.security import isolation, spoofing

CHUNK = 100
"""Cases of isolation that are one job."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="of isolation, and of spoofing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args()
    wait_passively()  # and the workers, which it starts
    result = measure(arguments.cases, arguments.seed, arguments.workers)
    save("isolation", result)
    parts = [result["isolation"], *result["spoofing"].values()]
    if failures := [failure for part in parts for failure in part["failures"]]:
        raise SystemExit("\n".join(failures))


def measure(cases: int, seed: int, workers: int = 1) -> dict[str, Any]:
    """Run this many cases of each kind, in `workers` processes."""
    jobs = [range(first, min(first + CHUNK, cases)) for first in range(0, cases, CHUNK)]
    look = partial(isolation.look, seed=seed)
    if workers == 1:
        parts = [look(job) for job in jobs]
    else:
        with get_context("spawn").Pool(workers, start) as pool:
            parts = pool.map(look, jobs, chunksize=1)
    found = isolation.summarise(case for part in parts for case in part)
    spoofed = spoofing.check(cases, seed)
    return {
        "environment": environment(seed),
        "isolation": {
            "cases": found.cases,
            "failures": list(found.failures),
            "largest_difference": found.largest,
            "controls_noticed": found.noticed,
            "controls": found.controls,
        },
        "spoofing": {
            name: {"cases": len(range(place, cases, len(spoofed))), "failures": failures}
            for place, (name, failures) in enumerate(spoofed.items())
        },
    }


def start() -> None:
    """Let a worker use one thread."""
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
