"""A converted eraser read back: its matrices, scale and record; what a GGUF adapter cannot hold is refused by name."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kv_memory.errors import KVMemoryError, ModelError
from kv_memory.gguf import ERASER_KEY, export_model, read_base
from kv_memory.testing.adapters import save_lora
from kv_memory.trained.export import export_adapter
from kv_memory.trained.record import EraserRecord
from tests.gguf.models import metadata, random_model, save, tensors
from tests.lora import PUBLISHED

_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _record(base: Path, **more: Any) -> EraserRecord:
    known = read_base(base)
    return EraserRecord(model=known.name, weights=known.weights, shape=known.shape, **more)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return save(random_model("qwen3"), tmp_path / "base")


@pytest.fixture
def eraser(tmp_path: Path, base: Path) -> Path:
    """Return an eraser made as the published one: rank 16, alpha 32, on all projections; with a record."""
    folder = save_lora(random_model("qwen3"), tmp_path / "eraser", rank=16, targets=PUBLISHED)
    _record(base, slots=4).save(folder)
    return folder


@pytest.mark.parametrize("name", ["qwen3", "qwen2", "llama"])
def test_every_matrix_is_there_in_the_order_of_llama_cpp(name: str, tmp_path: Path) -> None:
    model = random_model(name)
    base, out = save(model, tmp_path / "base"), tmp_path / "eraser.gguf"
    eraser = save_lora(model, tmp_path / "eraser", rank=16, targets=PUBLISHED)
    export_adapter(eraser, base, out)
    stored, source = tensors(out), load_file(eraser / "adapter_model.safetensors")
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    for key, tensor in source.items():
        found = re.fullmatch(r"base_model\.model\.model\.layers\.(\d)\.(.+)\.lora_([AB])\.weight", key)
        assert found
        part = _PARTS[found[2]]
        expected = tensor.numpy()
        if name == "llama" and found[3] == "B" and part in heads:
            rows = torch.arange(len(expected)).view(heads[part], 2, -1)
            expected = expected[rows.transpose(1, 2).reshape(-1)]
        written = stored.pop(f"blk.{found[1]}.{part}.weight.lora_{found[3].lower()}")
        np.testing.assert_array_equal(written, expected)
    assert not stored
    said = metadata(out)
    assert (said["general.type"], said["general.architecture"], said["adapter.type"]) == ("adapter", name, "lora")
    assert said["adapter.lora.alpha"] == 32.0


def test_the_record_goes_along(eraser: Path, base: Path, tmp_path: Path) -> None:
    export_adapter(eraser, base, tmp_path / "eraser.gguf")
    record = EraserRecord.model_validate_json(metadata(tmp_path / "eraser.gguf")[ERASER_KEY])
    assert record == _record(base, slots=4)


def test_a_plain_lora_gets_a_record_of_its_model(base: Path, tmp_path: Path) -> None:
    eraser = save_lora(random_model("qwen3"), tmp_path / "eraser", base="someone/model")
    export_adapter(eraser, base, tmp_path / "eraser.gguf")
    record = EraserRecord.model_validate_json(metadata(tmp_path / "eraser.gguf")[ERASER_KEY])
    assert record == EraserRecord(model="someone/model", shape=read_base(base).shape)


def test_the_model_may_be_a_gguf_file(eraser: Path, base: Path, tmp_path: Path) -> None:
    export_model(base, tmp_path / "base.gguf", "q8_0")
    export_adapter(eraser, base, tmp_path / "one.gguf")
    export_adapter(eraser, tmp_path / "base.gguf", tmp_path / "other.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "other.gguf").read_bytes()


def test_rank_stabilised(eraser: Path, base: Path, tmp_path: Path) -> None:
    _edit(eraser, use_rslora=True)
    export_adapter(eraser, base, tmp_path / "eraser.gguf")
    alpha = metadata(tmp_path / "eraser.gguf")["adapter.lora.alpha"]
    assert alpha / 16 == pytest.approx(32 / math.sqrt(16))


def _edit(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def _weights(folder: Path, add: tuple[str, ...] = (), drop: tuple[str, ...] = ()) -> None:
    path = folder / "adapter_model.safetensors"
    weights = {name: tensor for name, tensor in load_file(path).items() if not name.endswith(drop or ("none",))}
    save_file(weights | {name: torch.ones(2, 2) for name in add}, path)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: _edit(folder, use_dora=True), "use_dora"),
        (lambda folder: _edit(folder, modules_to_save=["lm_head"]), "modules_to_save"),
        (lambda folder: _edit(folder, rank_pattern={"q_proj": 8}), "rank_pattern"),
        (lambda folder: _edit(folder, alpha_pattern={"q_proj": 8}), "alpha_pattern"),
        (lambda folder: _edit(folder, bias="all"), "bias"),
        (lambda folder: _edit(folder, init_lora_weights="pissa"), "pissa"),
        (lambda folder: _edit(folder, lora_alpha=0), "lora_alpha"),
        (lambda folder: _edit(folder, r=8), "rank 16"),
        (lambda folder: _edit(folder, peft_type="IA3"), "not a LoRA"),
        (lambda folder: _weights(folder, add=("base_model.model.lm_head.weight",)), "lm_head.weight"),
        (lambda folder: _weights(folder, drop=("layers.1.mlp.up_proj.lora_B.weight",)), "no tensor.*up_proj.lora_B"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "Cannot load"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda folder: (folder / "eraser.json").write_text("{}"), "not the record"),
    ],
)
def test_what_cannot_be_held_is_refused(spoil: Any, says: str, eraser: Path, base: Path, tmp_path: Path) -> None:
    spoil(eraser)
    with pytest.raises(ModelError, match=says):
        export_adapter(eraser, base, tmp_path / "eraser.gguf")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "eraser"}


def test_other_parts_are_refused(base: Path, tmp_path: Path) -> None:
    eraser = save_lora(random_model("qwen3"), tmp_path / "eraser", targets=["lm_head", "q_proj"])
    with pytest.raises(ModelError, match="adapts lm_head"):
        export_adapter(eraser, base, tmp_path / "eraser.gguf")


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}, "num_hidden_layers 3"),
        ({"intermediate_size": 64}, "other sizes"),
        ({"initializer_range": 0.1}, "another revision"),
    ],
)
def test_another_model_is_refused(other: dict[str, Any], says: str, eraser: Path, tmp_path: Path) -> None:
    strange, as_gguf = save(random_model("qwen3", **other), tmp_path / "strange"), tmp_path / "strange.gguf"
    export_model(strange, as_gguf, "f16")
    if "intermediate_size" in other:  # the record does not say it
        _record(strange).save(eraser)
    for base in (strange, as_gguf):
        with pytest.raises(ModelError, match=says):
            export_adapter(eraser, base, tmp_path / "eraser.gguf")


def test_files_that_are_no_model_are_refused(eraser: Path, base: Path, tmp_path: Path) -> None:
    whole, broken, none = tmp_path / "base.gguf", tmp_path / "broken.gguf", tmp_path / "none.gguf"
    export_model(base, whole, "f16")
    broken.write_bytes(whole.read_bytes()[:3000])
    none.write_text("hello")
    for path in (broken, none):
        with pytest.raises(ModelError, match="not a whole GGUF model"):
            export_adapter(eraser, path, tmp_path / "eraser.gguf")
    with pytest.raises(ModelError, match=r"no config\.json"):
        export_adapter(eraser, tmp_path, tmp_path / "eraser.gguf")
    with pytest.raises(KVMemoryError, match="is the model itself"):
        export_adapter(eraser, whole, whole)
