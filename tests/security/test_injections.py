"""Injections of InjecAgent and AgentDojo: each is found in its tool result, and erasing it exactly leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from kv_memory import Memory
from kv_memory.evaluation.baselines import NO_ERASE
from kv_memory.evaluation.leakage.injections import FILES, injected, residuals


@pytest.mark.parametrize("source", FILES)
def test_an_injection_that_was_erased_exactly_leaves_nothing(
    source: str, data: Callable[[str], Path], measured: Callable[[str], None]
) -> None:
    memory = Memory(heal="never")
    folder = data(FILES[source]).parent
    case = next(islice(injected(memory.format, folder, source), 3, None))
    text = memory.engine.tokenizer.decode(case.ids[case.spans[0][0] : case.spans[0][1]])
    assert "please" in text.lower()
    found = residuals(memory, case, ["recompute", "drop"])
    measured(f"injection of {source}: drop leaves {found['drop'] / found[NO_ERASE]:.4f} of its influence")
    assert found["recompute"] < 1e-5 < found[NO_ERASE]
