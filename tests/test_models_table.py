"""What the table of models says of memory is what an engine keeps."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.models import session_bytes
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.models import CONFIGS, WINDOW, WINDOWS, tokenizer

FLOAT32 = 4


@pytest.mark.parametrize("name", [*CONFIGS, *WINDOWS])
def test_memory_of_a_session(name: str) -> None:
    config = (CONFIGS | WINDOWS)[name]()
    engine = TransformersEngine(AutoModelForCausalLM.from_config(config), tokenizer())
    seq = engine.create()
    engine.prefill(seq, [1, 2, 3, 4])
    assert engine.read_cells(seq, range(4)).kv_bytes == session_bytes(config, 4, element=FLOAT32)


def test_memory_with_rows_given_back() -> None:
    torch.manual_seed(0)
    config, editable, length = WINDOWS["gemma4"](), 16, 100
    engine = TransformersEngine(AutoModelForCausalLM.from_config(config), tokenizer(), editable_tokens=editable)
    seq = engine.create()
    engine.prefill(seq, [1] * length)
    recent = engine.read_cells(seq, range(length - WINDOW - editable, length))
    store = engine._sequences[seq].store
    held = [sum(position < 1000 for position in store.held(layer).tolist()) for layer in range(len(recent.keys))]
    each = [
        (keys.nbytes + values.nbytes) // len(recent.positions)
        for keys, values in zip(recent.keys, recent.values, strict=True)
    ]
    assert sum(n * size for n, size in zip(held, each, strict=True)) == session_bytes(config, length, editable, FLOAT32)
