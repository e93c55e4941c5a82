"""An exception in the middle of a forward pass leaves a sequence as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory.engines.base import Cells, Sampling, SequenceId
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.testing.models import CONFIGS, tokenizer
from kv_memory.testing.reference import assert_same_cells

IDS = list(range(3, 63))

CALLS: dict[str, Callable[[TransformersEngine, SequenceId], object]] = {
    "prefill": lambda engine, seq: engine.prefill(seq, [1, 2, 3]),
    "score": lambda engine, seq: engine.score(seq, [1, 2, 3]),
    "reencode": lambda engine, seq: engine.reencode(seq, range(33, 60)),
    "deviation": lambda engine, seq: engine.deviation(seq, range(33, 60), layer=2),
    "next token": lambda engine, seq: list(engine.generate(seq, Sampling(max_tokens=3))),
}


@pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
@pytest.mark.parametrize("call", CALLS)
def test_cells_are_as_before(call: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second layer fails once it has written its rows."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen3"]())
    engine = TransformersEngine(model, tokenizer())
    seq = engine.create()
    engine.prefill(seq, IDS)
    engine.drop(seq, 20, 33)
    before = cells_of(engine, seq)

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as broken, pytest.raises(error):
        broken.setattr(model.model.layers[1].mlp, "forward", fail)
        CALLS[call](engine, seq)

    after = cells_of(engine, seq)
    assert_same_cells(after, before)
    assert model.config._attn_implementation == "sdpa"
    assert_usable(engine, seq)


def assert_usable(engine: TransformersEngine, seq: SequenceId) -> None:
    """It goes on as a copy of its cells does."""
    copy = engine.create()
    engine.write_cells(copy, cells_of(engine, seq))
    torch.testing.assert_close(engine.score(seq, [1, 2]), engine.score(copy, [1, 2]), rtol=1e-4, atol=1e-5)


def cells_of(engine: TransformersEngine, seq: SequenceId) -> Cells:
    return engine.read_cells(seq, engine.positions(seq))
