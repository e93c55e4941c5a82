"""LoRA adapters: on for one re-encoding, off for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from kv_memory.engines.transformers import TransformersEngine
from kv_memory.errors import ModelError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.testing.reference import flat

IDS = list(range(3, 43))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA of the tiny model, saved."""
    path = tmp_path_factory.mktemp("adapter")
    model = get_peft_model(tiny_model(), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.save_pretrained(path)
    return path


def encoded(engine: TransformersEngine, adapter: str | None) -> torch.Tensor:
    """Values of cells 10 to 20 after re-encoding them."""
    seq = engine.create()
    engine.prefill(seq, IDS)
    engine.reencode(seq, range(10, 20), adapter)
    return flat(engine.read_cells(seq, range(10, 20)).values)


@pytest.fixture(params=["loaded into the engine", "wrapped by PEFT"])
def engine(request: pytest.FixtureRequest, adapter: Path) -> TransformersEngine:
    if request.param == "wrapped by PEFT":
        return TransformersEngine(
            PeftModel.from_pretrained(tiny_model(), adapter, adapter_name="steer"), tiny_tokenizer()
        )
    engine = TransformersEngine(tiny_model(), tiny_tokenizer())
    engine.load_adapter(str(adapter), "steer")
    return engine


def test_off_it_is_bit_identical_to_the_model_without_it(engine: TransformersEngine) -> None:
    plain = TransformersEngine(tiny_model(), tiny_tokenizer())
    expected = encoded(plain, None)
    assert torch.equal(encoded(engine, None), expected)
    encoded(engine, "steer")
    assert torch.equal(encoded(engine, None), expected)


def test_on_it_writes_what_the_adapted_model_would(engine: TransformersEngine, adapter: Path) -> None:
    """The adapted weights, merged into a model of their own, read the span over the plain model's prefix."""
    merged = TransformersEngine(PeftModel.from_pretrained(tiny_model(), adapter).merge_and_unload(), tiny_tokenizer())
    plain = TransformersEngine(tiny_model(), tiny_tokenizer())
    source, seq = plain.create(), merged.create()
    plain.prefill(source, IDS[:10])
    merged.write_cells(seq, plain.read_cells(source, range(10)))
    merged.prefill(seq, IDS[10:20])
    expected = flat(merged.read_cells(seq, range(10, 20)).values)
    torch.testing.assert_close(encoded(engine, "steer"), expected, rtol=1e-4, atol=1e-5)
    assert (encoded(engine, None) - expected).abs().max() > 1e-2


def test_it_is_off_again_after_an_error(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = encoded(engine, None)
    seq = engine.create()
    engine.prefill(seq, IDS)
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(engine._forward, "over", _interrupt)
        engine.reencode(seq, [5], "steer")
    assert torch.equal(encoded(engine, None), expected)


def _interrupt(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


def test_an_unknown_name_lists_the_loaded_ones(engine: TransformersEngine) -> None:
    with pytest.raises(ValueError, match="'other' is loaded; loaded: steer"):
        encoded(engine, "other")


def test_a_path_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer())
    with pytest.raises(ModelError, match="as an adapter"):
        engine.load_adapter(str(tmp_path), "steer")
    assert encoded(engine, None).isfinite().all()
