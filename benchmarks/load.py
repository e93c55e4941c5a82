"""Many sessions at once: nothing is lost, nothing hangs, and each is as if it had been alone.

    python -m benchmarks.load --minutes 10 --seed 0

64 sessions of one memory, worked on by 8 threads and by an asyncio loop: they speak, answer in streams, cancel streams
midway, retract while an answer is written (their own thread and others), lose their cells and prefill them again. What
is done to a session is written down in the order in which it took hold; afterwards each session is played again, alone,
in a new memory: its answers, its cells and its spans have to be the same. Weights are random: only the bookkeeping
counts.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from kv_memory import Memory, Session
from kv_memory.engines.base import Engine

SESSIONS, THREADS, LONGEST = 64, 8, 14
ERASERS = ("drop", "recompute", "shift", "influence")
PATIENCE = 60.0
"""Seconds without any step of any worker that count as a deadlock."""

Step = tuple[str, Any]


@dataclass
class Story:
    """One session's history, what was done to it in order, and what it answered."""

    name: str
    history: list[dict[str, Any]] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    final: tuple[Any, ...] | None = None
    """Answers, cells and spans when it was over."""
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Lock of the worker that speaks in the session; others may retract meanwhile."""


def speak(session: Session, story: Story, what: tuple[str, int, int | None], *, note: bool) -> None:
    """Ask a question and write an answer, cancelled after some tokens or not."""
    text, seed, stop_after = what
    story.history.append({"role": "user", "id": f"u{len(story.history)}", "content": text})
    asked = list(story.history)
    stream = session.stream(asked, max_tokens=6, temperature=1.0, seed=seed)
    with session._engine.lock:  # noted in the order in which it takes effect
        if note:
            story.steps.append(("speak", what))
        words = iter(stream)
        first = next(words, None)
    taken = 1
    while first is not None and (stop_after is None or taken < stop_after):
        if next(words, None) is None:
            break
        taken += 1
    if stop_after is not None and stream.reply is None:
        stream.close()
        return
    reply = stream.finish() if stream.reply is None else stream.reply
    story.history.append({**reply.message, "id": f"a{len(story.history)}"})
    story.answers.append(reply.text)


def retract(session: Session, story: Story, what: tuple[int, str], *, note: bool) -> None:
    """Retract one message that the session has read."""
    number, eraser = what
    with session._engine.lock:
        if story.final is not None:
            return
        if note:
            story.steps.append(("retract", what))
        session.retract(f"u{number}", eraser=eraser)


def forget(session: Session, story: Story, *, note: bool) -> None:
    """Evict all cells."""
    with session._engine.lock:
        if story.final is not None or any(branch.busy for branch in session.branches):
            return
        if note:
            story.steps.append(("forget", None))
        session.evict()


def asked_of(story: Story) -> list[int]:
    """Return the numbers of the questions that were asked."""
    return [int(m["id"][1:]) for m in list(story.history) if m["id"].startswith("u")]


class Load:
    """One run over all sessions."""

    def __init__(self, engine: Engine, seed: int, sessions: int = SESSIONS) -> None:
        self.memory = Memory(engine, heal="never", cache_tokens=1 << 20)
        self.stories = [Story(f"s{i}") for i in range(sessions)]
        self.over: list[Story] = []
        self.seed = seed
        self.done = 0
        self.last = time.monotonic()
        self.errors: list[str] = []

    def work(self, worker: int, ends: Callable[[], bool]) -> None:
        """Do the work of one thread."""
        rng = Random(f"{self.seed}:{worker}")
        while not ends() and not self.errors:
            try:
                self.step(rng)
            except Exception as error:  # whatever it is, the run reports it
                self.errors.append(f"{type(error).__name__}: {error}")

    async def work_in_loop(self, worker: int, ends: Callable[[], bool]) -> None:
        """Do the same work in a task of an event loop."""
        rng = Random(f"{self.seed}:{worker}")
        while not ends() and not self.errors:
            try:
                await asyncio.to_thread(self.step, rng)
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")

    def step(self, rng: Random) -> None:
        """Do one thing to a random session."""
        place = rng.randrange(len(self.stories))
        story = self.stories[place]
        session = self.memory.session(story.name)
        draw = rng.random()
        if draw < 0.6:
            if story.turn.acquire(blocking=False):
                try:
                    stop = rng.randint(1, 4) if rng.random() < 0.25 else None
                    if len(story.history) < LONGEST:
                        what = (f"Number {rng.randrange(10**6)}?", rng.randrange(10**6), stop)
                        speak(session, story, what, note=True)
                    elif story.final is None:
                        self._end(story, session)
                        self.stories[place] = Story(f"{story.name}+")
                finally:
                    story.turn.release()
        elif draw < 0.9:
            numbers = asked_of(story)[:-1]  # the last may not have been read yet
            if numbers:
                retract(session, story, (rng.choice(numbers), rng.choice(ERASERS)), note=True)
        else:
            forget(session, story, note=True)
        self.done += 1
        self.last = time.monotonic()

    def _end(self, story: Story, session: Session) -> None:
        with self.memory.engine.lock:
            session.prefill(story.history)
            story.final = _state(session, story)
            self.memory.delete_session(story.name)
            self.over.append(story)

    def run(self, seconds: float) -> float:
        """Run for this many seconds; return the time that it took."""
        started = time.monotonic()

        def ends() -> bool:
            return time.monotonic() - started > seconds

        async def tasks() -> None:
            await asyncio.gather(*(self.work_in_loop(THREADS + i, ends) for i in range(4)))

        threads = [threading.Thread(target=self.work, args=(i, ends), daemon=True) for i in range(THREADS)]
        threads.append(threading.Thread(target=lambda: asyncio.run(tasks()), daemon=True))
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.05)
            if time.monotonic() - self.last > PATIENCE:
                self.errors.append(f"no step for {PATIENCE:.0f} s: a deadlock")
                break
        return time.monotonic() - started

    def differences(self) -> list[str]:
        """Return the sessions that are not as they would be alone."""
        found = []
        for story in [story for story in self.stories if story.history]:
            self._end(story, self.memory.session(story.name))
        for story in self.over:
            again, alone = Story(story.name), Memory(self.memory.engine, heal="never", cache_tokens=1 << 20)
            other = alone.session(story.name)
            for kind, what in story.steps:
                match kind:
                    case "speak":
                        speak(other, again, what, note=False)
                    case "retract":
                        retract(other, again, what, note=False)
                    case _:
                        forget(other, again, note=False)
            other.prefill(again.history)
            if story.final != _state(other, again):
                found.append(story.name)
            alone.delete_session(story.name)
        return found


def _state(session: Session, story: Story) -> tuple[Any, ...]:
    latest = session.branches.latest
    kept = session.branches and latest is not None and latest.resident
    cells = (latest.ledger.token_ids(), latest.ledger.positions()) if kept and latest else ()
    in_step = not kept or latest is None or session._engine.tokens(latest.seq) == latest.ledger.token_ids()
    spans = [span.model_dump(exclude={"id"}) for span in session.spans()]
    return story.answers, cells, spans, in_step or "cells and ledger differ"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from benchmarks.record import environment, save
    from tests.tiny import tiny_engine

    load = Load(tiny_engine(), options.seed)
    seconds = load.run(60 * options.minutes)
    result = {
        "sessions": SESSIONS,
        "threads": THREADS,
        "tasks": 4,
        "seconds": round(seconds, 1),
        "steps": load.done,
        "errors": load.errors,
        "sessions that differ from their replay": load.differences(),
        "conversations": len(load.over),
        "answers": sum(len(story.answers) for story in load.over),
    }
    save("load", {**environment(options.seed), **result})
    print(result)


if __name__ == "__main__":
    main()
