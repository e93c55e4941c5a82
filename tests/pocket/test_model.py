"""The shipped model reads unseen worlds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kv_memory.pocket import model_path
from pocket_training import evaluate
from pocket_training.evaluate import Case, answer_cases, encode, scores
from pocket_training.pieces import pieces
from pocket_training.tokenizer import PieceEncoder


@cache
def model() -> tuple[Any, Any]:
    network = AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.float32).eval()
    return network, AutoTokenizer.from_pretrained(model_path())


def exact_match(groups: tuple[str, ...], each: int) -> dict[str, float]:
    """The share of right answers on unseen worlds of 600 tokens, in sentences like those of training."""
    network, tokenizer = model()
    encoder = PieceEncoder(tokenizer)
    cases = [encode(encoder, case) for case in evaluate.test_cases(600, each, held_out=False) if case.group in groups]
    return scores(cases, answer_cases(network, cases, tokens=8192))


def test_answers_on_unseen_worlds_without_the_span() -> None:
    measured = exact_match(("restore/without", "unknown/without", "keep/without"), 40)
    assert min(measured.values()) >= 0.9, measured


def test_a_span_sways_what_was_read_after_it() -> None:
    groups = ("binding/with", "binding/without", "injection/with", "injection/without", "restore/with", "unknown/with")
    measured = exact_match(groups, 10)
    assert min(measured.values()) >= 0.8, measured


def test_generation_gives_the_same_answers_as_one_pass() -> None:
    network, tokenizer = model()
    encoder = PieceEncoder(tokenizer)
    cases = [case for case in evaluate.test_cases(420, 1) if case.call is None]
    right = [outcome.right for outcome in answer_cases(network, [encode(encoder, case) for case in cases])]
    said = [generate(network, tokenizer, encoder, case) for case in cases]
    talk = [case.group.startswith("call/") for case in cases]  # right as long as nothing is called
    assert [
        "<tool_call>" not in text if any_words else text == case.answer
        for text, case, any_words in zip(said, cases, talk, strict=True)
    ] == right


def generate(network: Any, tokenizer: Any, encoder: PieceEncoder, case: Case) -> str:
    items = pieces([*case.messages, {"role": "user", "content": case.question}], case.tools, generate=True)
    ids = torch.tensor([[token for part in encoder.encode(items) for token in part]])
    out = network.generate(ids, attention_mask=torch.ones_like(ids))
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def test_size_and_files() -> None:
    network, _ = model()
    assert sum(p.numel() for p in network.parameters()) <= 30_000_000
    assert sum(file.stat().st_size for file in model_path().iterdir()) <= 60_000_000
    assert all(file.stat().st_size < 16_000_000 for file in model_path().iterdir())
    assert network.config.max_position_embeddings == 32768


def test_a_long_conversation_goes_in() -> None:
    network, _ = model()
    with torch.inference_mode():
        out = network.model(input_ids=torch.randint(0, 8000, (1, 9000), generator=torch.Generator().manual_seed(0)))
    assert torch.isfinite(out.last_hidden_state).all()
