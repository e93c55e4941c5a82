"""Recompute and healing leave of a canary what a model that never saw it has; other erasers are reported."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kv_memory import Memory
from kv_memory.evaluation.baselines import NEVER_SAW, NO_ERASE
from kv_memory.evaluation.leakage import canaries
from kv_memory.evaluation.leakage.canaries import Seen, look, summarise
from kv_memory.evaluation.leakage.echoes import ECHO, KINDS, with_echo
from kv_memory.evaluation.leakage.injections import order
from kv_memory.evaluation.leakage.scenes import PARAPHRASES, attacks, make_scene
from kv_memory.evaluation.leakage.treatments import HEALED, available, erase, holding

EXACT = ("recompute", HEALED)
FEW = 4


@pytest.fixture(scope="module")
def memory() -> Memory:
    return Memory(heal="never")


@pytest.fixture
def few_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "attacks", lambda canary: attacks(canary)[:FEW])


def assert_same(seen: Seen, never: Seen) -> None:
    assert seen.scores == pytest.approx(never.scores, rel=1e-3, abs=1e-3)
    assert (seen.hits, seen.said) == (never.hits, never.said)


@pytest.mark.usefixtures("few_attacks")
def test_an_exact_erasure_is_as_if_never_seen(memory: Memory, measured: Callable[[str], None]) -> None:
    scene = make_scene(0, tokens=300)
    rows = canaries.look_each(memory, scene, available(memory))
    for how in EXACT:
        assert_same(rows[how], rows[NEVER_SAW])
    for how, row in summarise([rows]).items():
        measured(f"leakage, {how}: exposure {row.exposure:.2f} bits, attacks {row.attack.value:.2f}")
    assert rows[NO_ERASE].scores[0] > rows[NEVER_SAW].scores[0] + 5
    assert memory.sessions() == []


def test_there_are_enough_paraphrases() -> None:
    canary = make_scene(0).canaries[0]
    asked = attacks(canary)
    assert len(set(asked)) == len(PARAPHRASES) >= 20
    assert all(canary.id in question and canary.value not in question for question in asked)


@pytest.mark.usefixtures("few_attacks")
@pytest.mark.parametrize("how", EXACT)
def test_many_exact_erasures_are_as_if_never_seen(memory: Memory, how: str) -> None:
    scene = make_scene(1, 5, tokens=300)
    targets = [canary.target for canary in scene.canaries]
    with holding(memory, scene.messages, scene.tools) as read:
        for target in targets:
            erase(read, target, how)
        seen = look(memory, read, scene, scene.canaries[0], other=True)
    with holding(memory, scene.messages, scene.tools, targets) as never:
        assert_same(seen, look(memory, never, scene, scene.canaries[0], other=True))


@pytest.mark.usefixtures("few_attacks")
@pytest.mark.parametrize("kind", KINDS)
def test_an_echo_that_is_retracted_too_is_as_if_never_seen(memory: Memory, kind: str) -> None:
    scene = with_echo(make_scene(2, tokens=300), kind)
    canary = scene.canaries[0]
    with holding(memory, scene.messages, scene.tools) as read:
        for target in (canary.target, ECHO):
            erase(read, target, "recompute")
        seen = look(memory, read, scene, canary)
    with holding(memory, scene.messages, scene.tools, [canary.target, ECHO]) as never:
        assert_same(seen, look(memory, never, scene, canary))


def test_an_order_that_was_erased_exactly_is_not_followed(memory: Memory) -> None:
    rows = [row for number in range(6) if (row := order(memory, number, EXACT)) is not None]
    assert len(rows) >= 2
    for row in rows:
        assert {row.said[how] for how in EXACT} == {row.said[NEVER_SAW]}
