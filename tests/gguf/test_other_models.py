"""llama.cpp reads the tests' own files of other architectures as transformers reads the source: the same logits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from kv_memory.testing.gguf_models import convert
from kv_memory.testing.models import save_model
from tests.gguf.test_llama_cpp import IDS, TOLERANCE

llama = pytest.importorskip("tests.gguf.llama", reason="llama-cpp-python is not installed (extra llama)")
GELU = 1e-2
"""NOTE: llama.cpp looks Gemma's GELU up in a table of 16-bit numbers. Seen: 2e-3 with logits up to 8."""


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "olmo3", "cohere2", "glm4-moe-lite", "lfm2", "qwen3_5"])
def test_logits_are_those_of_the_source(name: str, tmp_path: Path) -> None:
    path = save_model(name, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = model(IDS).logits[0].numpy()
    found = llama.logits(convert(path, path / "model.gguf"), IDS[0].tolist())
    assert np.abs(expected - found).max() < (GELU if name == "gemma3" else TOLERANCE)
