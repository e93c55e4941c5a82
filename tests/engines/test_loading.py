"""Models from paths and hub ids, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, GlmMoeDsaConfig

from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import SMALL
from kv_memory.errors import ModelError, UnsupportedModelError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model directory, in bfloat16."""
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(name: str | Path, device: str = "cpu", dtype: str | None = None) -> str:
    """What load says, which is one line."""
    with pytest.raises(ModelError) as refused:
        TransformersEngine.load(name, device=device, dtype=dtype)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_a_directory_is_loaded_with_its_tokenizer(saved: Path) -> None:
    engine = TransformersEngine.load(saved, device="cpu")
    assert engine.name == str(saved)
    ids, _ = engine.tokenizer.encode("abc", special=False)
    seq = engine.create()
    engine.prefill(seq, ids)
    assert engine.tokenizer.decode(engine.tokens(seq)) == "abc"


def test_a_small_model_computes_in_float32_on_the_cpu(saved: Path) -> None:
    assert TransformersEngine.load(saved, device="cpu").kv_dtype == "float32"


def test_a_large_one_keeps_its_own_dtype_there(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SMALL == 1_000_000_000
    monkeypatch.setattr("kv_memory.engines.transformers.loading.SMALL", 1000)
    assert TransformersEngine.load(saved, device="cpu").kv_dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float16", torch.float16])
def test_a_dtype_that_is_asked_for_is_taken(saved: Path, dtype: str | torch.dtype) -> None:
    assert TransformersEngine.load(saved, device="cpu", dtype=dtype).kv_dtype == "float16"


def test_end_tokens_are_those_of_tokenizer_and_generation_config(saved: Path) -> None:
    settings = json.loads((saved / "generation_config.json").read_text())
    (saved / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": [7, 9]}))
    engine = TransformersEngine.load(saved, device="cpu")
    assert engine.tokenizer.eos_ids == {7, 9, tiny_tokenizer().eos_token_id}


def test_a_missing_directory(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nothing")


def test_a_relative_path_that_does_not_exist() -> None:
    assert "does not exist" in refusal("./nothing")


def test_a_directory_that_is_no_model(tmp_path: Path) -> None:
    assert "it has no config.json; give a directory saved with save_pretrained" in refusal(tmp_path)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    assert "it has no config.json" in refusal(tmp_path / "model.gguf")


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "Cannot load 'no-such-owner/no-such-model'" in refusal("no-such-owner/no-such-model")


def test_a_config_that_is_broken(saved: Path) -> None:
    (saved / "config.json").write_text("{")
    assert "as a causal language model" in refusal(saved)


def test_an_unknown_architecture(saved: Path) -> None:
    (saved / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    assert "no-such-type" in refusal(saved)


def test_an_architecture_that_is_no_language_model(saved: Path) -> None:
    (saved / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "as a causal language model" in refusal(saved)


def test_weights_that_are_broken(saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(b"\x00" * 64)
    assert "as a causal language model" in refusal(saved)


def test_weights_that_are_missing(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    assert "as a causal language model" in refusal(saved)


def test_a_model_without_a_tokenizer(saved: Path) -> None:
    for file in saved.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in refusal(saved)


def test_a_device_that_is_none(saved: Path) -> None:
    assert refusal(saved, device="nowhere").startswith("There is no device 'nowhere' here; give one of cpu")


def test_a_dtype_that_is_none(saved: Path) -> None:
    for dtype in ("float99", "int8", "Tensor"):
        message = f"There is no dtype {dtype!r} of weights; give float32, bfloat16 or float16."
        assert refusal(saved, dtype=dtype) == message


def test_the_home_directory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert TransformersEngine.load("~/model", device="cpu").max_positions == 2048


def test_an_unsupported_layer_is_refused_before_the_weights_are_read(saved: Path) -> None:
    GlmMoeDsaConfig(num_hidden_layers=2).save_pretrained(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match="index of its own"):
        TransformersEngine.load(saved)


def test_an_encoder_is_refused() -> None:
    config = BertConfig(
        vocab_size=272, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UnsupportedModelError, match="Layer 0 is of an encoder"):
        TransformersEngine(model, tiny_tokenizer())
