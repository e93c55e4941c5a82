"""The benchmarks' random model: small steps in, the shape and spread of a real one out."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_gguf import DEVIATION, random_gguf
from kv_memory.gguf import read_base
from tests.gguf.models import tensors


def test_one_layer(tmp_path: Path) -> None:
    path = random_gguf(tmp_path / "one.gguf", vocabulary=8192, layers=1)
    assert path.read_bytes() == random_gguf(tmp_path / "two.gguf", vocabulary=8192, layers=1).read_bytes()
    assert read_base(path).shape["hidden_size"] == 896
    found = tensors(path)
    assert found["token_embd.weight"].shape == (8192, 896)
    assert found["blk.0.ffn_down.weight"].shape == (896, 4864)
    assert found["blk.0.ffn_down.weight"].std() == pytest.approx(DEVIATION, rel=0.01)
