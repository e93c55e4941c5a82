"""Four short chats on a machine that is idle and on one that is busy: what it costs when threads wait by spinning.

    python -m benchmarks.busy --busy 0 11 --rounds 9

The pocket model through Memory, LangChain's chat model and, where llama-cpp-python is installed, its GGUF file; each in
processes of their own that import torch before kv_memory or leave that to it, with threads that wait as kv_memory has
them (engines/threads.py) and with KV_MEMORY_PASSIVE_WAIT=0, as torch has them; and in one thread, for comparison.
They answer in turns, in a new order each round, beside `--busy` processes that do nothing but compute. Figures are
medians over the rounds; a ratio is of two times of the same round. The load average in the result tells whether others
used the machine too.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import product
from random import Random
from statistics import median
from typing import Any

Messages = list[dict[str, Any]]
Answer = Callable[[str, Messages], str]
"""Answer of the model, given a session's name and the conversation so far."""

QUESTIONS = ("Hello! Who are you?", "What is the price of a ticket to Oslo?", "And of one to Rome?", "Thank you. Bye.")
COMPUTE = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""Program that keeps a core busy; it ends with this process, also where that is killed."""
TOKENS = 16
"""Longest answer."""


def memory(model: str | None = None) -> Answer:
    """Open a memory."""
    from kv_memory import Memory

    opened = Memory(model, heal="never")
    return lambda session, messages: opened.session(session).chat(messages, max_tokens=TOKENS).text


def gguf() -> Answer:
    """Open a memory over llama.cpp."""
    from kv_memory.gguf import pocket_gguf

    return memory(str(pocket_gguf()))


def chat_model() -> Answer:
    """Open LangChain's chat model."""
    from langchain_kv_memory import ErasableChatModel

    opened = ErasableChatModel(max_tokens=TOKENS, heal="never")
    return lambda session, messages: str(opened.invoke(messages, {"configurable": {"thread_id": session}}).content)


USES: dict[str, Callable[[], Answer]] = {"Memory": memory, "ErasableChatModel": chat_model, "GGUF": gguf}
PACKAGES = {"ErasableChatModel": "langchain_kv_memory", "GGUF": "llama_cpp"}
SPINNING, PASSIVE, ONE = "spinning", "passive", "one thread"


def work(use: str, torch_first: bool, threads: int | None) -> None:
    """Answer the questions once for each line of standard input, and write how many seconds that took."""
    if torch_first:
        import torch

        if threads:
            torch.set_num_threads(threads)
    answer = USES[use]()
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        messages: Messages = []
        started = time.perf_counter()
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            messages.append({"role": "assistant", "content": answer(f"s{number}", messages)})
        print(time.perf_counter() - started, flush=True)


class Worker:
    """A process that answers."""

    def __init__(self, use: str, first: str, waiting: str) -> None:
        self.name = f"{use}, {first} first, {waiting}"
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.busy", "--worker", use, "--first", first]
        environment = {**os.environ, "KV_MEMORY_PASSIVE_WAIT": str(int(waiting == PASSIVE))}
        self.process = subprocess.Popen(
            [*command, "--threads", "1"] if waiting == ONE else command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={key: value for key, value in environment.items() if key != "OMP_WAIT_POLICY"},
        )
        self._line()

    def seconds(self) -> float:
        """Have it answer all questions."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with {self.process.wait()}")
        return line


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep the machine busy with `count` processes until the block ends."""
    processes = [subprocess.Popen([sys.executable, "-c", COMPUTE]) for _ in range(count)]
    try:
        time.sleep(2.0)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def measure(workers: list[Worker], rounds: int, rng: Random) -> Iterator[dict[str, Any]]:
    """Yield each worker's seconds, round by round, after each round."""
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(rounds):
        for worker in rng.sample(workers, len(workers)):
            seconds[worker.name].append(round(worker.seconds(), 4))
        print(f"round {number + 1}: " + ", ".join(f"{values[-1]:.2f}" for values in seconds.values()), flush=True)
        yield summary(seconds)


def summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return the medians, and how many times as long it took where threads spin."""
    ratios = {}
    for name, values in seconds.items():
        if name.endswith(f", {PASSIVE}"):
            spinning = seconds[name.replace(PASSIVE, SPINNING)]
            ratios[name.removesuffix(f", {PASSIVE}")] = median(a / b for a, b in zip(spinning, values, strict=True))
    return {
        "load_average": [round(load, 1) for load in os.getloadavg()[:2]],
        "seconds_median": {name: median(values) for name, values in seconds.items()},
        "spinning_over_passive": ratios,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 11], help="processes that compute")
    parser.add_argument("--uses", choices=USES, nargs="+", help="default: all that are installed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0, help="of the order in a round")
    parser.add_argument("--name", default="busy")
    parser.add_argument("--worker", choices=USES, help=argparse.SUPPRESS)
    parser.add_argument("--first", choices=("torch", "kv_memory"), help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.first == "torch", args.threads)
        return
    from benchmarks.record import environment, save, table

    uses = args.uses or [use for use in USES if find_spec(PACKAGES.get(use, "kv_memory"))]
    result: dict[str, Any] = {**environment(args.seed), "cpus": os.cpu_count(), "chats": len(QUESTIONS)}
    result |= {"rounds": args.rounds, "busy_processes": {}}
    workers = [Worker(*settings) for settings in product(uses, ("kv_memory", "torch"), (PASSIVE, SPINNING))]
    workers.append(Worker("Memory", "torch", ONE))
    rng = Random(args.seed)
    for count in args.busy:
        print(f"beside {count} busy processes:", flush=True)
        with busy(count):
            for found in measure(workers, args.rounds, rng):  # saved after each: at load a round takes minutes
                result["busy_processes"][str(count)] = found
                save(args.name, result)
    for worker in workers:
        worker.process.kill()
    medians = [found["seconds_median"] for found in result["busy_processes"].values()]
    rows = {worker.name: [f"{seconds[worker.name]:.2f}" for seconds in medians] for worker in workers}
    print("\n".join(table(result["busy_processes"], rows, "seconds beside busy processes")))


if __name__ == "__main__":
    main()
