"""Models that read images too are used for text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma4Config,
    Llama4Config,
    Mistral3Config,
    PixtralVisionConfig,
    PreTrainedConfig,
    SiglipVisionConfig,
)

from kv_memory.engines.transformers import TransformersEngine
from kv_memory.engines.transformers.loading import class_of
from kv_memory.erasers.shift import Shift
from kv_memory.testing.models import CONFIGS, WINDOWS, tokenizer
from kv_memory.testing.reference import assert_close, plain_logits, without

IDS = torch.randint(1, 250, (60,), generator=torch.Generator().manual_seed(1)).tolist()
VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE: dict[str, Any] = {"image_size": 28, "patch_size": 14, **VISION}


def text(config: PreTrainedConfig) -> dict[str, Any]:
    return {**config.to_dict(), "pad_token_id": 0}


MODELS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gemma3": lambda: Gemma3Config(
        text_config=text(WINDOWS["gemma3"]()), vision_config=SiglipVisionConfig(**IMAGE), mm_tokens_per_image=4
    ),
    "gemma4": lambda: Gemma4Config(text_config=text(WINDOWS["gemma4"]()), vision_config=VISION, audio_config=None),
    "llama4": lambda: Llama4Config(
        text_config=text(WINDOWS["llama4"]()),
        vision_config={**IMAGE, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
    "mistral3": lambda: Mistral3Config(
        text_config=text(CONFIGS["mistral"]()), vision_config=PixtralVisionConfig(**IMAGE)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_it_loads_from_a_directory_and_answers_as_a_plain_pass(name: str, tmp_path: Path) -> None:
    config = MODELS[name]()
    torch.manual_seed(0)
    class_of(config).from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    engine = TransformersEngine.load(tmp_path, device="cpu", dtype="float32")
    seq = engine.create()
    engine.prefill(seq, IDS)
    assert_close(engine.next_logits(seq), plain_logits(engine._forward.model, IDS)[-1])
    Shift().erase(engine, seq, [(20, 33)])
    engine.reencode(seq, range(20, 47))
    assert_close(engine.next_logits(seq), plain_logits(engine._forward.model, without(IDS, (20, 33)))[-1])
