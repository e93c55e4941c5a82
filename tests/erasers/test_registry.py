"""Erasers by name, and what they refuse. What they do to cells is in tests/conformance."""

from __future__ import annotations

import re

import pytest

from kv_memory.engines.base import Engine
from kv_memory.erasers import ERASERS, get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.repair import Repair
from kv_memory.errors import ArgumentError, KVMemoryError, UnsupportedOperationError
from tests.tiny import tiny_engine

IDS = list(range(3, 43))


@pytest.mark.parametrize("name", ERASERS)
def test_each_name_gives_its_eraser(name: str) -> None:
    assert get_eraser(name).name == name


def test_an_eraser_is_handed_through_with_its_settings() -> None:
    eraser = Repair(5)
    assert get_eraser(eraser) is eraser


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(KVMemoryError) as refused:
        get_eraser("rubber")
    message = str(refused.value)
    assert "'rubber'" in message
    assert all(name in message for name in ERASERS)


def test_only_recompute_is_exact() -> None:
    assert [name for name, eraser in ERASERS.items() if eraser.exact] == ["recompute"]


def test_a_budget_is_a_share_unless_another_is_given() -> None:
    given = ("repair", "selective", "shift+influence 32", "influence 0.05 left")
    labels = [get_eraser(name).label for name in given]
    assert labels == ["repair 25%", "selective 15%", *given[2:]]


@pytest.mark.parametrize("eraser", ["drop 3", "steer 10%", "recompute 5"])
def test_a_budget_for_an_eraser_that_takes_none_is_refused(eraser: str) -> None:
    with pytest.raises(ArgumentError, match=rf"The eraser '{eraser.split(maxsplit=1)[0]}' takes no budget"):
        get_eraser(eraser)


def lacking(capability: str) -> Engine:
    """The tiny engine, without this capability. It has no trained eraser loaded."""
    engine = tiny_engine()
    engine.ruled_out[capability] = "for this test"
    return engine


@pytest.mark.parametrize(
    ("eraser", "capability"),
    [(get_eraser(name), need) for name, kind in ERASERS.items() for need in sorted(kind.needs)],
)
def test_what_an_engine_lacks_is_refused_before_anything_is_erased(eraser: Eraser, capability: str) -> None:
    engine = lacking(capability)
    seq = engine.create()
    engine.prefill(seq, IDS)
    with pytest.raises(UnsupportedOperationError, match=re.escape(f"{eraser.name!r} needs {capability}")):
        eraser.erase(engine, seq, [(10, 20)])
    assert engine.tokens(seq) == IDS


@pytest.mark.parametrize("name", [name for name, kind in ERASERS.items() if kind.needs <= {"edit"}])
def test_others_run_on_an_engine_without_extras(name: str) -> None:
    engine = tiny_engine()
    engine.ruled_out |= dict.fromkeys(("shift", "influence", "deviation", "adapters"), "for this test")
    seq = engine.create()
    engine.prefill(seq, IDS)
    get_eraser(name).erase(engine, seq, [(10, 20)])
    assert engine.tokens(seq) == IDS[:10] + IDS[20:]
