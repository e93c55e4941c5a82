"""Erasers by name, and what they refuse. What they do to cells is in tests/conformance."""

from __future__ import annotations

import re

import pytest

from kv_memory.engines.base import Engine
from kv_memory.erasers import ERASERS, get_eraser
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.repair import Repair
from kv_memory.erasers.selective import Selective
from kv_memory.errors import KVMemoryError, UnsupportedOperationError
from tests.tiny import tiny_engine

IDS = list(range(3, 43))


@pytest.mark.parametrize("name", ERASERS)
def test_each_name_gives_its_eraser(name: str) -> None:
    assert get_eraser(name).name == name


def test_an_eraser_is_handed_through_with_its_settings() -> None:
    eraser = Repair(k=5)
    assert get_eraser(eraser) is eraser


def test_an_unknown_name_is_answered_with_the_names() -> None:
    with pytest.raises(KVMemoryError) as refused:
        get_eraser("rubber")
    message = str(refused.value)
    assert "'rubber'" in message
    assert all(name in message for name in ERASERS)


def test_only_recompute_is_exact() -> None:
    assert [name for name, eraser in ERASERS.items() if eraser.exact] == ["recompute"]


def test_defaults_are_those_of_the_feasibility_study() -> None:
    assert (Repair().k, Influence().k, Selective().ratio) == (32, 32, 0.15)


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
