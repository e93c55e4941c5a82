"""The nightly command: `python -m tests.histories --histories 20000 --seed 7`, or `make nightly`.

Reads many histories, in blocks with a seed each, and writes what it found to benchmarks/results/histories.json. A block
that failed is read again, alone, with `--only SEED`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is imported, see tests/conftest.py
if "--hybrid" in sys.argv:
    os.environ["KV_MEMORY_HISTORIES_HYBRID"] = "1"  # before the engine is made, see checks.py

from benchmarks import record
from tests.histories.running import BLOCK, Block, read


def summary(whole: dict[str, Any]) -> dict[str, Any]:
    """Return the result with what each failure says in one line."""
    said = [
        {"seed": failure["seed"], "failure": next(iter(_ERROR.findall(failure["failure"])), "")[:200]}
        for failure in whole["failures"]
    ]
    return {**whole, "failures": said}


_ERROR = re.compile(r"^\S*Error: .*|^\S*Definition: .*", re.MULTILINE)


def main() -> None:
    """Read the histories and write the result; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.histories", description=__doc__)
    parser.add_argument("--histories", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="read the block with this seed alone, and write nothing")
    parser.add_argument("--hybrid", action="store_true", help="on a model with recurrent layers, and write nothing")
    given = parser.parse_args()
    if given.only is not None:
        block = read(given.only, BLOCK, shrink=True)
        print(block.failure or f"{block.histories} histories, none failed.")
        sys.exit(bool(block.failure))

    began = time.perf_counter()
    numbers = range(0, given.histories, BLOCK)
    seeds = [given.seed * 1_000_000 + number // BLOCK for number in numbers]
    failed: list[Block] = []
    done = 0
    with ProcessPoolExecutor(given.processes, mp_context=get_context("spawn")) as pool:
        sizes = [min(BLOCK, given.histories - number) for number in numbers]
        for future in as_completed([pool.submit(read, seed, size) for seed, size in zip(seeds, sizes, strict=True)]):
            block = future.result()
            done += block.histories
            failed += [block] if block.failure else []
            seconds = time.perf_counter() - began
            print(
                f"{done:,} of {given.histories:,} histories, {len(failed)} blocks failed, {seconds:,.0f} s "
                f"(seed {block.seed})",
                flush=True,
            )
            if block.failure:
                print(f"Seed {block.seed}:\n{block.failure}", flush=True)
    if given.hybrid:
        sys.exit(bool(failed))
    whole = {
        **record.environment(given.seed),
        "histories": given.histories,
        "histories_a_seed": BLOCK,
        "seeds": [seeds[0], seeds[-1]],
        "failures": [{"seed": block.seed, "failure": block.failure} for block in failed],
        "processes": given.processes,
        "seconds": time.perf_counter() - began,
    }
    record.save("histories", whole, summary(whole))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
