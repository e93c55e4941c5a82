"""Trained erasers as directories: loaded where they fit, refused by name, before anything is loaded, where not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from kv_memory import Memory
from kv_memory.engines.fingerprint import revision_of
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.steering import Steering, steering_of
from kv_memory.errors import KVMemoryError, ModelError
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.trained.files import open_eraser
from kv_memory.trained.record import FILE, EraserRecord
from tests.calibration.test_record import calibration
from tests.lora import PUBLISHED, save_eraser
from tests.test_session import CONVERSATION
from tests.tiny import save_tiny, tiny_engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


@pytest.fixture
def eraser(tmp_path: Path) -> Path:
    """Return an eraser of the tiny model, with a record."""
    settings: dict[str, Any] = {"recipe": {"steps": 10}, "seed": 3, "lengths": (512, 1024)}
    return save_eraser(tiny_engine(), tiny_model(), tmp_path / "eraser", **settings)


def refusal(model: Any, eraser: Path | str) -> str:
    """What a memory says, which is one line."""
    with pytest.raises(KVMemoryError) as refused:
        Memory(model, eraser=eraser)
    message = str(refused.value)
    assert "\n" not in message
    return message


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_record_is_read_as_it_was_written(eraser: Path) -> None:
    found = open_eraser(eraser)
    assert found.record == EraserRecord.of(tiny_engine(), recipe={"steps": 10}, seed=3, lengths=(512, 1024))
    assert found.record is not None
    assert (found.record.model, found.record.slots, found.calibration) == ("tiny", None, None)


@pytest.mark.parametrize("kind", ["path", "text", "engine"])
def test_a_memory_with_an_eraser_steers(model: Path, eraser: Path, kind: str) -> None:
    memory = Memory(
        tiny_engine() if kind == "engine" else model, heal="never", eraser=str(eraser) if kind == "text" else eraser
    )
    session = memory.session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").eraser == "steer"
    assert session.retract("u1", eraser="steer+influence").eraser == "steer+influence"


def test_its_calibration_chooses_the_eraser_and_the_probe_layers(model: Path, tmp_path: Path) -> None:
    known = calibration((0, "steer+repair 8"), probe_layers=(1,))
    path = save_eraser(tiny_engine(), tiny_model(), tmp_path / "eraser", calibration=known, slots=3)
    (model / "calibration.json").write_text(calibration((0, "shift")).model_dump_json())
    memory = Memory(model, eraser=path, heal="never")
    assert (memory.calibration, memory.eraser) == (known, None)
    session = memory.session("a")
    session.prefill(CONVERSATION)
    report = session.retract("c1")
    assert (report.eraser, report.tokens_recomputed) == ("steer+repair", 3 + 8)


def test_its_calibration_may_stand_in_the_models_file(model: Path) -> None:
    known = calibration((0, "steer+repair 8"))
    (model / "calibration.json").write_text(known.model_dump_json())
    path = save_eraser(tiny_engine(), tiny_model(), model / "eraser")
    file = path / FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"calibration": "../calibration.json"}))
    assert open_eraser(path).calibration == known
    assert Memory(model, eraser=path, heal="never").eraser is None
    (model / "calibration.json").unlink()
    with pytest.raises(KVMemoryError, match="cannot be read"):
        open_eraser(path)


def test_a_choice_that_needs_an_eraser_is_exact_without_one() -> None:
    session = Memory(tiny_engine(), calibration=calibration((0, "steer")), heal="never").session("a")
    session.prefill(CONVERSATION)
    assert session.retract("c1").eraser == "recompute"


@pytest.mark.parametrize("base", [None, "Qwen/Qwen3-8B"])
def test_the_published_layout_loads(tmp_path: Path, base: str | None) -> None:
    """A plain PEFT LoRA of rank 16 and alpha 32 on all projections, without eraser.json."""
    path = save_lora(tiny_model(), tmp_path / "eraser", rank=16, targets=PUBLISHED, base=base)
    config = json.loads((path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (16, 32, sorted(PUBLISHED))
    for name in ("tiny", "Qwen/Qwen3-8B", "someone/qwen3-8b"):
        memory = Memory(TransformersEngine(tiny_model(), tiny_tokenizer(), name=name), eraser=path)
        session = memory.session("a")
        session.prefill(CONVERSATION)
        assert session.retract("c1").eraser == "steer"


def test_answers_without_an_erasure_are_bit_identical(eraser: Path) -> None:
    plain, steering = Memory(tiny_engine(), heal="never"), Memory(tiny_engine(), eraser=eraser, heal="never")
    steering.session("other").prefill(CONVERSATION)
    steering.session("other").retract("c1")
    answers = [memory.session("a").chat(CONVERSATION, max_tokens=12).text for memory in (plain, steering)]
    assert answers[0] == answers[1]
    scores = [memory.session("a").score(CONVERSATION, "a longer answer") for memory in (plain, steering)]
    assert torch.equal(*scores)


def test_several_can_be_loaded_and_the_last_one_steers(eraser: Path, tmp_path: Path) -> None:
    engine = tiny_engine()
    first = open_eraser(eraser).load(engine)
    second = open_eraser(save_eraser(engine, tiny_model(), tmp_path / "b", slots=2)).load(engine)
    assert steering_of(engine) == second != first


def test_how_its_slots_are_used_is_read_and_kept(tmp_path: Path) -> None:
    way: dict[str, Any] = {"slots": 4, "sees_suffix": True, "token": 9, "closes": True}
    engine = tiny_engine()
    found = open_eraser(save_eraser(engine, tiny_model(), tmp_path / "eraser", **way))
    steering = found.load(engine)
    assert steering == Steering(steering.adapter, **way) == steering_of(engine)
    assert found.calibrated(calibration((0, "steer"))).steering("a") == Steering("a", **way)


def test_a_plain_lora_is_used_as_the_published_one(tmp_path: Path) -> None:
    engine = tiny_engine()
    steering = open_eraser(save_lora(tiny_model(), tmp_path / "eraser")).load(engine)
    assert steering == Steering(steering.adapter, None, spread=False, sees_suffix=False, token=None)


# what does not fit


def test_an_engine_that_cannot_show_the_suffix_is_refused(tmp_path: Path) -> None:
    engine = tiny_engine()
    path = save_eraser(engine, tiny_model(), tmp_path / "eraser", sees_suffix=True)
    engine.ruled_out["ahead"] = "for this test"
    assert "see what follows the span, which the engine of tiny cannot" in refusal(engine, path)
    assert steering_of(engine) is None


def other_model(**change: int) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config.from_dict(tiny_model().config.to_dict() | change | {"layer_types": None}))


SHAPES = {"num_hidden_layers": 3, "hidden_size": 48, "num_key_value_heads": 4, "vocab_size": 300}


@pytest.mark.parametrize(("key", "value"), SHAPES.items())
def test_another_shape_is_refused_by_name(tmp_path: Path, model: Path, key: str, value: int) -> None:
    there = other_model(**{key: value})
    path = save_eraser(TransformersEngine(there, tiny_tokenizer(), name="big"), there, tmp_path / "eraser")
    here = tiny_model().config.to_dict()[key]
    assert f"is for big ({key} {value}) and" in refusal(tiny_engine(), path)
    (model / "model.safetensors").unlink()  # said before the weights are read
    assert f"{key} {here}" in refusal(model, path)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("num_hidden_layers", "is for a model of 3 layers and this one has 2"),
        ("hidden_size", "48 numbers there and 32, the hidden size, here"),
        ("num_key_value_heads", "k_proj gives 32 numbers there and 16 here"),
    ],
)
def test_a_plain_lora_of_another_shape_is_refused_by_name(tmp_path: Path, key: str, says: str) -> None:
    path = save_lora(other_model(**{key: SHAPES[key]}), tmp_path / "eraser")
    engine = tiny_engine()
    assert says in refusal(engine, path)
    assert not any("lora" in name for name, _ in engine._forward.model.named_parameters())


def test_another_rank_is_refused_by_name(eraser: Path) -> None:
    rewrite(eraser / "adapter_config.json", r=8)
    assert "has rank 4 in its weights and 8 in its adapter_config.json" in refusal(tiny_engine(), eraser)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    path = save_lora(tiny_model(), tmp_path / "eraser")
    model = tiny_model()
    for layer in model.model.layers:
        layer.mlp.gate_up_proj = layer.mlp.gate_proj
        del layer.mlp.gate_proj
    with pytest.raises(ModelError, match=r"this model has no model\.layers\.0\.mlp\.gate_proj"):
        open_eraser(path).load(_of(model))


def _of(model: Any) -> TransformersEngine:
    """An engine whose model was changed afterwards."""
    engine = tiny_engine()
    engine._adapters.base = model
    return engine


def test_other_weights_of_the_same_shape_are_refused(eraser: Path) -> None:
    assert "is for another revision of tiny" in refusal(tiny_engine(seed=1), eraser)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_same_weights_in_another_type_are_the_same(eraser: Path, dtype: torch.dtype) -> None:
    model = tiny_model().to(torch.bfloat16)
    engine = TransformersEngine(model.to(dtype), tiny_tokenizer(), name="tiny")
    assert engine.weights_digest() == (None if dtype == torch.float16 else tiny_engine().weights_digest())
    open_eraser(eraser).load(engine)
    assert engine.weights_digest() == (None if dtype == torch.float16 else tiny_engine().weights_digest())


def test_another_hub_model_is_refused_by_name(tmp_path: Path) -> None:
    path = save_lora(tiny_model(), tmp_path / "eraser", base="Qwen/Qwen3-8B")
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), name="Qwen/Qwen3-8B-Base")
    assert "is for Qwen/Qwen3-8B, not for Qwen/Qwen3-8B-Base" in refusal(engine, path)


def test_another_revision_is_refused_by_name(tmp_path: Path) -> None:
    """The model is in the hub's cache."""
    snapshot = tmp_path / "models--Qwen--Qwen3-8B" / "snapshots" / "abc123"
    tiny_model().save_pretrained(snapshot)
    tiny_tokenizer().save_pretrained(snapshot)
    assert revision_of(str(snapshot)) == "abc123"
    path = save_lora(tiny_model(), tmp_path / "eraser", base="Qwen/Qwen3-8B")
    rewrite(path / "adapter_config.json", revision="def456")
    assert f"is for another revision of {snapshot} (def456, not abc123)" in refusal(snapshot, path)
    rewrite(path / "adapter_config.json", revision="abc123")
    Memory(snapshot, eraser=path)


def test_the_revision_of_a_hub_model_is_its_cached_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repo = tmp_path / "models--some--model"
    (repo / "snapshots" / "abc123").mkdir(parents=True)
    (repo / "snapshots" / "abc123" / "config.json").write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert revision_of("some/model") == "abc123"
    assert revision_of("some/other") is None
    assert revision_of("tiny") is None
    assert revision_of("no/hub/id") is None


# what is none

BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda path: (path / "adapter_config.json").unlink(), "it has no adapter_config.json"),
    "no weights": (lambda path: (path / "adapter_model.safetensors").unlink(), "it has no adapter_model.safetensors"),
    "broken config": (lambda path: (path / "adapter_config.json").write_text("{"), "as an adapter"),
    "broken weights": (lambda path: (path / "adapter_model.safetensors").write_bytes(b"no"), "as an adapter"),
    "broken record": (lambda path: (path / FILE).write_text("{}"), "is not the record of an eraser of this version"),
    "later record": (lambda path: rewrite(path / FILE, format=2), "is not the record of an eraser of this version"),
    "a token that is none": (
        lambda path: rewrite(path / FILE, token=272),
        "is not the record of an eraser of this version",
    ),
    "no slots": (lambda path: rewrite(path / FILE, slots=0), "is not the record of an eraser of this version"),
    "no LoRA": (lambda path: rewrite(path / "adapter_config.json", peft_type="IA3"), "is not a LoRA"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_eraser_is_one_line(eraser: Path, what: str) -> None:
    change, says = BROKEN[what]
    change(eraser)
    assert says in refusal(tiny_engine(), eraser)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/no/such/eraser", "/no/such/eraser is not a trained eraser"),
        ("./eraser", "./eraser is not a trained eraser"),
        ("rubber", "There is no eraser 'rubber'; choose one of"),
        ("no-such-owner/no-such-eraser", "Cannot find the eraser 'no-such-owner/no-such-eraser'"),
    ],
)
def test_a_name_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, says: str) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert says in refusal(tiny_engine(), name)
