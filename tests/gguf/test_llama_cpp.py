"""llama.cpp reads the files as transformers and PEFT read the source: the same logits and ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from kv_memory.gguf import export_model
from kv_memory.pocket import model_path
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.models import save_model
from kv_memory.trained.export import export_adapter
from tests.gguf.models import NAMES, random_model, save
from tests.lora import PUBLISHED

llama = pytest.importorskip("tests.gguf.llama", reason="llama-cpp-python is not installed (extra llama)")
TOLERANCE = 1e-3
"""Seen: 8e-5 with logits up to 8, which the adapters here move by as much."""
IDS = torch.randint(0, 256, (1, 200), generator=torch.Generator().manual_seed(0))


def _check(model: Any, ids: torch.Tensor, found: Any) -> Any:
    with torch.inference_mode():
        expected = model(ids).logits[0].numpy()
    assert np.abs(expected - found).max() < TOLERANCE
    return expected


@pytest.mark.parametrize("name", NAMES)
def test_models_and_adapters(name: str, tmp_path: Path) -> None:
    model = random_model(name, tie_word_embeddings=name == "qwen3")
    folder, out = save(model, tmp_path / "model"), tmp_path / "model.gguf"
    export_model(folder, out, "f32")
    plain = _check(model, IDS, llama.logits(out, IDS[0].tolist()))

    eraser, adapter = save_lora(model, tmp_path / "eraser", rank=4, targets=PUBLISHED), tmp_path / "eraser.gguf"
    for stabilised in (False, True):
        path = eraser / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"use_rslora": stabilised}))
        export_adapter(eraser, folder, adapter)
        fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        adapted = PeftModel.from_pretrained(fresh, eraser).eval()
        steered = _check(adapted, IDS, llama.logits(out, IDS[0].tolist(), adapter))
        assert np.abs(steered - plain).max() > 1


def test_biases(tmp_path: Path) -> None:
    model = random_model("llama", attention_bias=True, mlp_bias=True)
    export_model(save(model, tmp_path / "model"), tmp_path / "model.gguf", "f32")
    _check(model, IDS, llama.logits(tmp_path / "model.gguf", IDS[0].tolist()))


def test_the_pocket_model(tmp_path: Path) -> None:
    export_model(model_path(), tmp_path / "pocket.gguf", "f32")
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    said = [{"role": "user", "content": "The code of the north door is 4711. What is the code of the north door?"}]
    ids = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32)
    found = llama.logits(tmp_path / "pocket.gguf", ids["input_ids"][0].tolist())
    _check(model, ids["input_ids"], found)


def test_text_is_cut_as_by_the_source(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path / "model")
    export_model(folder, tmp_path / "model.gguf", "f16")
    text = "abc, cab'll be 4711 naïve  things<|end|>\nbad"
    assert llama.tokenize(tmp_path / "model.gguf", text) == AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
