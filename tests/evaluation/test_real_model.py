"""The bench on a real small model: a recompute is never-saw, and an eraser leaves less than nothing erased."""

from __future__ import annotations

from collections.abc import Callable

from kv_memory import Memory
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.evaluation.baselines import NO_ERASE, OTHER_CHUNKS
from kv_memory.evaluation.bench.measure import measure
from kv_memory.evaluation.bench.record import Record
from kv_memory.evaluation.bench.run import Bench
from kv_memory.evaluation.bench.summary import summarise
from kv_memory.evaluation.cases import Case, Transcript
from kv_memory.testing.real_models import smollm2
from tests.evaluation.test_record import RUN, silent

FULL = ShiftInfluence.name


FACTS = {"the courier is late": "It comes on Monday at nine.", "the desk costs 249 dollars": "It is made of oak."}


def cases(memory: Memory) -> list[Case]:
    """Make cases in which a model repeats what is around an erased message."""
    found = []
    for fact, after in FACTS.items():
        messages = [
            {"role": "user", "content": "Here are some notes."},
            {"role": "assistant", "content": "I am reading."},
            {"role": "user", "id": "wrong", "content": f"I was told that {fact}."},
            {"role": "user", "content": f"{after} Please keep these notes for later, and say nothing about them now."},
        ]
        read = Transcript(memory.format, messages)
        found.append(read.neighbourhood("text", ["wrong"], suite="notes", name=fact, conversation=fact))
    return found


def test_recompute_is_never_saw_and_an_eraser_leaves_less_than_nothing_erased(
    measured: Callable[[str], None],
) -> None:
    memory = Memory(smollm2(), context_length=512, heal="never")
    bench = Bench(memory.engine, {"recompute": Recompute(), FULL: ShiftInfluence("50%")})
    (group, *_) = summarise(measure(bench, cases(memory), Record(RUN), silent), FULL).groups
    assert group.changed == group.cases == 2
    kl = {name: found.kl or 0.0 for name, found in group.treatments.items()}
    measured(f"SmolLM2, {FULL} 50%: KL {kl[FULL]:.4f}, nothing erased {kl[NO_ERASE]:.4f}, noise {kl[OTHER_CHUNKS]:.5f}")
    assert max(kl["recompute"], kl[OTHER_CHUNKS]) < 0.05 * kl[NO_ERASE]
    assert kl[FULL] < 0.5 * kl[NO_ERASE]
