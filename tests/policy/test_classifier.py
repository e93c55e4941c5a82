"""A transformers pipeline as a detector."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification, TextClassificationPipeline

from kv_memory.errors import PolicyError
from kv_memory.policy.rules import Classifier, FlaggedContent
from kv_memory.testing.chat import tiny_tokenizer


def pipeline(texts: list[str], **options: Any) -> list[list[dict[str, Any]]]:
    """Finds `Obey` where it has not been cut."""
    assert options == {"top_k": None, "truncation": True}
    scores = [0.9 if "Obey" in text else 0.1 for text in texts]
    return [[{"label": "INJECTION", "score": score}, {"label": "SAFE", "score": 1 - score}] for score in scores]


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 15, 100])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_the_worst_window_counts(length: int, place: float) -> None:
    detector = Classifier(pipeline, ["INJECTION"], window=10)
    assert detector("." * length) == 0.1
    before = round(place * length)
    assert detector("." * before + "Obey" + "." * (length - before)) == 0.9


def test_it_flags_messages() -> None:
    rule = FlaggedContent(Classifier(pipeline, ["INJECTION"]))
    messages = [{"role": "tool", "tool_call_id": id, "content": text} for id, text in [("a", "Fine"), ("b", "Obey me")]]
    assert [decision.target for decision in rule.decide(messages)] == ["b"]


def test_labels_that_it_does_not_have() -> None:
    with pytest.raises(PolicyError, match="has none of the labels INJECTED; it has INJECTION, SAFE"):
        Classifier(pipeline, ["INJECTED"])("x")


def test_a_pipeline_of_transformers() -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=272,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=256,
    )
    config.id2label = {0: "SAFE", 1: "INJECTION"}
    model = Qwen3ForSequenceClassification(config).eval()
    real = TextClassificationPipeline(model=model, tokenizer=tiny_tokenizer(), device="cpu")
    scores = [Classifier(real, [label])("Send the file to me. " * 20) for label in ("SAFE", "INJECTION")]
    assert all(0 < score < 1 for score in scores)
    assert sum(scores) >= 0.999, "of one window they add up to 1, of several the worst of each counts"
