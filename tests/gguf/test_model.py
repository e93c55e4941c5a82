"""A converted model read back: its sizes, tensors and tokenizer are the source's; what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from kv_memory.engines.fingerprint import weights_digest
from kv_memory.errors import KVMemoryError, ModelError, UnsupportedModelError
from kv_memory.gguf import MODEL_KEY, export_model, read_base
from kv_memory.testing.chat import CHATML, tiny_tokenizer
from kv_memory.testing.models import save_model
from tests.gguf.models import NAMES, metadata, random_model, save, tensors


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_there_in_the_order_of_llama_cpp(name: str, tmp_path: Path) -> None:
    model = random_model(name, tie_word_embeddings=name == "qwen3")
    out = tmp_path / "model.gguf"
    export_model(save(model, tmp_path / "model"), out, "f32")
    stored = tensors(out)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, 3)
    heads = {"q": model.config.num_attention_heads, "k": model.config.num_key_value_heads}
    for parameter, tensor in model.named_parameters():
        expected = tensor.detach().numpy()
        projection = parameter.split(".")[-2].removesuffix("_proj")
        if name.startswith("llama") and projection in heads:
            half = expected.shape[0] // heads[projection] // 2
            order = [
                h * 2 * half + i + part * half for h in range(heads[projection]) for i in range(half) for part in (0, 1)
            ]
            expected = expected[order]
        np.testing.assert_array_equal(stored.pop(names.get_name(parameter, (".weight", ".bias")) or ""), expected)
    assert set(stored) == ({"rope_freqs.weight"} if name == "llama-mha-llama3" else set())


def test_sizes_and_identity(tmp_path: Path) -> None:
    model = random_model("qwen3")
    out = tmp_path / "model.gguf"
    export_model(save(model, tmp_path / "folder"), out, "f32")
    said = metadata(out)
    sizes = {key.removeprefix("qwen3."): value for key, value in said.items() if key.startswith("qwen3.")}
    assert sizes.pop("attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    assert sizes == {
        "context_length": 256,
        "embedding_length": 32,
        "block_count": 3,
        "feed_forward_length": 48,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "attention.value_length": 16,
        "vocab_size": 416,
        "rope.dimension_count": 16,
        "rope.freq_base": 10_000.0,
    }
    known = json.loads(said[MODEL_KEY])
    assert (known["model"], known["revision"], known["weights"]) == ("folder", None, weights_digest(model))
    assert read_base(out).shape == read_base(tmp_path / "folder").shape == known["shape"]
    assert read_base(out).weights == read_base(tmp_path / "folder").weights == known["weights"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("llama-linear", {"type": "linear", "factor": 2.0}),
        ("qwen3-yarn", {"type": "yarn", "factor": 4.0, "original_context_length": 64}),
    ],
)
def test_scaled_positions(name: str, keys: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    export_model(save(random_model(name), tmp_path / "model"), out, "f32")
    said = metadata(out)
    assert {key.rpartition(".")[2]: value for key, value in said.items() if ".rope.scaling." in key} == keys


@pytest.mark.parametrize(("dtype", "floor"), [("f16", 1e-3), ("q8_0", 1e-2)])
def test_smaller_dtypes(dtype: Any, floor: float, tmp_path: Path) -> None:
    folder = save(random_model("qwen2"), tmp_path / "model")
    export_model(folder, tmp_path / "exact.gguf", "f32")
    export_model(folder, tmp_path / "small.gguf", dtype)
    exact = tensors(tmp_path / "exact.gguf")
    for tensor in gguf.GGUFReader(tmp_path / "small.gguf").tensors:
        wide = tensor.shape[0] % 32 == 0
        kind = "F32" if len(tensor.shape) == 1 else {"f16": "F16", "q8_0": "Q8_0" if wide else "F16"}[dtype]
        assert tensor.tensor_type.name == kind
        rows = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(exact[tensor.name].shape)
        assert np.abs(rows - exact[tensor.name]).max() <= floor * np.abs(exact[tensor.name]).max()


def test_half_precision_weights_in_several_files(tmp_path: Path) -> None:
    model = random_model("qwen3").to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 1
    export_model(tmp_path / "model", tmp_path / "model.gguf", "f32")
    stored = tensors(tmp_path / "model.gguf")["blk.2.ffn_up.weight"]
    np.testing.assert_array_equal(stored, model.model.layers[2].mlp.up_proj.weight.detach().float().numpy())


def test_the_tokenizer(tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    export_model(save(random_model("qwen3"), tmp_path / "model"), out, "f32")
    said = metadata(out)
    tokenizer = tiny_tokenizer()
    assert len(said["tokenizer.ggml.tokens"]) == 416
    assert said["tokenizer.ggml.tokens"][: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    types = said["tokenizer.ggml.token_type"]
    kinds = {
        "<|im_end|>": gguf.TokenType.CONTROL,
        "<tool_call>": gguf.TokenType.USER_DEFINED,
        "a": gguf.TokenType.NORMAL,
    }
    assert {text: types[tokenizer.convert_tokens_to_ids(text)] for text in kinds} == kinds
    assert set(types[len(tokenizer) :]) == {gguf.TokenType.UNUSED}
    assert said["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert said["tokenizer.ggml.add_bos_token"] is False
    assert said["tokenizer.chat_template"] == CHATML
    same = Tokenizer.from_str(said["tokenizer.huggingface.json"])
    text = "<|im_start|>user\nnaïve 4711<|im_end|>"
    assert same.encode(text).ids == tokenizer(text)["input_ids"]


def test_merges(tmp_path: Path) -> None:
    export_model(save_model("llama", tmp_path / "model"), tmp_path / "model.gguf", "f32")
    merges = metadata(tmp_path / "model.gguf")["tokenizer.ggml.merges"]
    assert (len(merges), merges[1]) == (144, "a b")


# As Llama 3's tokenizer.json has it.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [(PRETOKENIZE_REGEX, "qwen2"), (_LLAMA3, "llama-bpe"), (r"\p{N}|\s+", "qwen2")],  # the last: no name for it
)
def test_how_text_is_cut_before_merging(pattern: str, name: str, tmp_path: Path) -> None:
    folder = save(random_model("qwen3"), tmp_path / "model")
    cut = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}]
    steps = [*cut, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}]
    _tokenizer(folder, {"type": "Sequence", "pretokenizers": steps})
    export_model(folder, tmp_path / "model.gguf", "f16")
    assert metadata(tmp_path / "model.gguf")["tokenizer.ggml.pre"] == name


def test_a_tokenizer_that_does_not_end_in_bytes_is_refused(tmp_path: Path) -> None:
    folder = save(random_model("qwen3"), tmp_path / "model")
    _tokenizer(folder, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True})
    with pytest.raises(UnsupportedModelError, match="byte-level"):
        export_model(folder, tmp_path / "model.gguf", "f16")


def _tokenizer(folder: Path, pre_tokenizer: dict[str, Any]) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": pre_tokenizer}))


def _edit(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:2000])


def _without(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, path)


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (lambda folder: _edit(folder, model_type="gemma"), UnsupportedModelError, "type gemma"),
        (
            lambda folder: _edit(folder, use_sliding_window=True, layer_types=["sliding_attention"] * 3),
            UnsupportedModelError,
            "sliding_attention",
        ),
        (
            lambda folder: _edit(folder, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            UnsupportedModelError,
            "dynamic",
        ),
        (lambda folder: _edit(folder, attention_bias=True), ModelError, "q_proj.bias"),
        (lambda folder: _edit(folder, intermediate_size=64), ModelError, "64"),
        (lambda folder: _edit(folder, vocab_size=200), ModelError, "shape"),
        (lambda folder: (folder / "config.json").unlink(), ModelError, "no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), ModelError, "no model.safetensors"),
        (lambda folder: (folder / "tokenizer.json").unlink(), ModelError, "tokenizer"),
        (_truncate, ModelError, "cannot be read"),
        (_without, ModelError, "no model.layers.1.mlp.up_proj.weight"),
    ],
)
def test_what_is_no_model_is_refused(spoil: Any, error: type[KVMemoryError], says: str, tmp_path: Path) -> None:
    folder = save(random_model("qwen3"), tmp_path / "model")
    spoil(folder)
    with pytest.raises(error, match=says):
        export_model(folder, tmp_path / "model.gguf", "f32")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_tokenizer_that_is_too_large_is_refused(tmp_path: Path) -> None:
    model = random_model("qwen3", vocab_size=200)
    with pytest.raises(UnsupportedModelError, match="200 tokens only"):
        export_model(save(model, tmp_path / "model"), tmp_path / "model.gguf", "f32")


def test_an_interruption_leaves_the_old_file(tmp_path: Path) -> None:
    folder = save(random_model("qwen3"), tmp_path / "model")
    out = tmp_path / "model.gguf"
    out.write_text("old")

    def interrupt(done: int, total: int) -> None:
        if done == total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_model(folder, out, "f32", interrupt)
    assert out.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.gguf"}


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = save(random_model("qwen3"), tmp_path / "model")
    for out in (tmp_path, tmp_path / "no" / "model.gguf"):
        with pytest.raises(KVMemoryError, match=str(out)):
            export_model(folder, out, "f32")
