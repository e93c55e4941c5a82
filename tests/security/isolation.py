"""Two sessions over one engine, their calls interleaved at random: does what one holds show in the other?

Noninterference, as Goguen and Meseguer have it ("Security Policies and Security Models", IEEE S&P 1982): the same calls
are made twice, the second time with other secrets of the same length in one session; what the other one says may not
change. The model is small and random, since it is the bookkeeping that is tested: any cell of another session that is
attended to would show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from kv_memory.engines.transformers import TransformersEngine
from kv_memory.evaluation.leakage.scenes import Messages
from kv_memory.sessions.memory import Memory
from tests.security.families import FAMILIES, VOCABULARY, tokenizer

SESSIONS = ("a", "b")
TOLERANCE = 1e-4
"""Smallest difference in log-probability, in nats, that counts as visible."""
CONTROLS = 20
"""Number of cases that test whether anything can be seen at all."""
_ERASERS = ("recompute", "drop", "shift", "repair", "influence")
_OPERATIONS = ("user", "tool", "chat", "retract", "fork", "score", "without")
Operation = tuple[str, str, int]
"""A session, what it does, and a number to choose by."""


@dataclass(frozen=True)
class Case:
    """Calls of two sessions in their order."""

    operations: tuple[Operation, ...]
    cache_tokens: int | None
    """Limit of the cache, low enough that sessions evict each other; or None. With a limit all erasures are exact,
    since what was evicted is prefilled again and is exact then, too."""
    watched: str
    """Session that is observed; the other one's secrets change."""


def make_case(seed: int) -> Case:
    """Make a case; the same for the same seed."""
    rng = Random(f"isolation:{seed}")
    operations = [
        (rng.choice(SESSIONS), rng.choice(_OPERATIONS), rng.randrange(1 << 30)) for _ in range(rng.randint(3, 9))
    ]
    return Case(tuple(operations), 420 if rng.random() < 0.3 else None, rng.choice(SESSIONS))


def engine() -> TransformersEngine:
    """Build a random Qwen3 of two layers over bytes."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        initializer_range=0.3,
    )
    return TransformersEngine(Qwen3ForCausalLM(config).eval(), tokenizer(FAMILIES[0]).hf, name="random")


class Play:
    """One run of a case."""

    def __init__(self, engine: TransformersEngine, case: Case, secrets: dict[str, int]) -> None:
        self.case = case
        self.memory = Memory(engine, heal="never", cache_tokens=case.cache_tokens)
        self.messages: dict[str, Messages] = {}
        self.secrets = {who: Random(f"secret:{number}") for who, number in secrets.items()}
        self.seen: list[Tensor] = []

    def run(self) -> list[Tensor]:
        """Run the calls; return what the watched session said: log-probabilities [tokens, vocabulary]."""
        try:
            for who in SESSIONS:
                self.messages[who] = [self._message(who, "user", "Hello")]
                self.memory.session(who).prefill(self.messages[who])
            for who, what, number in self.case.operations:
                self._do(who, what, number)
            for who in SESSIONS:
                self._do(who, "score", 0)
        finally:
            for name in self.memory.sessions():
                self.memory.delete_session(name)
        return self.seen

    def _message(self, who: str, role: str, text: str) -> dict[str, Any]:
        secret = self.secrets[who].randrange(10_000, 100_000)
        return {"role": role, "content": f"{text} {secret}", "id": f"m{len(self.messages.get(who, ()))}"}

    def _do(self, who: str, what: str, number: int) -> None:
        messages, session = self.messages[who], self.memory.session(who)
        match what:
            case "user" | "tool":
                said = self._message(who, what, f"item {number % 97:02}")
                messages.append(said | ({"tool_call_id": said["id"]} if what == "tool" else {}))
                session.prefill(messages)
            case "chat":
                self._look(who, session.score([*messages, {"role": "user", "content": "And?"}], "ok"))
                messages.append({"role": "assistant", "content": f"noted {number % 97:02}", "id": f"m{len(messages)}"})
                session.prefill(messages)
            case "retract":
                session.prefill(messages)
                eraser = "recompute" if self.case.cache_tokens else _ERASERS[number % len(_ERASERS)]
                session.retract(messages[number % len(messages)]["id"], eraser=eraser)
            case "fork":
                with session.fork(f"{who}/{number}") as fork:
                    self._look(who, fork.score(messages, "yes"))
            case "without":
                session.prefill(messages)
                with session.without(messages[number % len(messages)]["id"], eraser="recompute") as other:
                    self._look(who, other.score(messages, "yes"))
            case _:
                self._look(who, session.score(messages, "the code is 12345"))

    def _look(self, who: str, scores: Tensor) -> None:
        if who == self.case.watched:
            self.seen.append(scores)


@dataclass(frozen=True)
class Isolation:
    """The results of many cases."""

    cases: int
    failures: tuple[str, ...]
    largest: float
    """Largest difference in log-probability that was seen, in nats."""
    noticed: int
    """Number of cases in which the watched session's own secrets, when they are changed, show; of `controls`."""
    controls: int


def difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest difference of two runs; infinite where their shapes differ."""
    if [x.shape for x in a] != [y.shape for y in b]:
        return float("inf")
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@dataclass(frozen=True)
class Looked:
    """The result of one case."""

    number: int
    moved: float
    """Difference that the other session's secrets make, in nats."""
    own: float | None
    """Difference that the watched session's own secrets make, where they were changed too."""


def look(numbers: Iterable[int], seed: int, controls: int = CONTROLS) -> list[Looked]:
    """Run the cases of these numbers; those below `controls` also with the watched session's own secrets changed."""
    small, found = engine(), []
    for number in numbers:
        case = make_case(seed * 1_000_003 + number)
        other = next(who for who in SESSIONS if who != case.watched)
        first = Play(small, case, {case.watched: 0, other: 1}).run()
        moved = difference(first, Play(small, case, {case.watched: 0, other: 2}).run())
        own = difference(first, Play(small, case, {case.watched: 3, other: 1}).run()) if number < controls else None
        found.append(Looked(number, moved, own))
    return found


def summarise(found: Iterable[Looked]) -> Isolation:
    """Summarise all cases."""
    cases = list(found)
    controls = [case.own for case in cases if case.own is not None]
    return Isolation(
        cases=len(cases),
        failures=tuple(
            f"case {case.number}: the watched session changes by {case.moved:.2e} nats with the other's text"
            for case in cases
            if case.moved > TOLERANCE
        ),
        largest=max((case.moved for case in cases), default=0.0),
        noticed=sum(own > TOLERANCE for own in controls),
        controls=len(controls),
    )
