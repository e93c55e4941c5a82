"""The objective: its passes are those of an engine, and one packed pass is the same as four."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from kv_memory.testing.chat import tiny_model
from kv_memory.training.adapter import Adapter
from kv_memory.training.batch import Batch, Example, Query, collate
from kv_memory.training.objective import Objective, divergence
from kv_memory.training.packed import packed_loss
from kv_memory.training.passes import Context


def examples(count: int = 3) -> list[Example]:
    rng = Random(1)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(97) for _ in range(rng.randint(low, high)))

    def query() -> Query:
        tokens = ids(3, 7)
        return Query(tokens, tuple(float(place >= 2) for place in range(len(tokens))))

    return [Example(ids(3, 9), ids(1, 6), ids(2, 9), (query(), query())) for _ in range(count)]


@pytest.fixture
def adapter() -> Adapter:
    adapter = Adapter(tiny_model(), rank=4, alpha=8)
    for name, parameter in adapter.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapter


@pytest.fixture
def objective(adapter: Adapter) -> Objective:
    return Objective(adapter.model, adapter.switched)


def plain(model: Any, ids: list[int], positions: list[int] | None = None) -> torch.Tensor:
    """Log-probabilities of one plain pass."""
    where = torch.tensor([positions or list(range(len(ids)))])
    mask = torch.full((1, 1, len(ids), len(ids)), torch.finfo(torch.float32).min).triu(1)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids]), position_ids=where, attention_mask=mask).logits
    return logits[0].log_softmax(-1)


def test_never_saw_is_a_plain_pass_without_the_span(objective: Objective) -> None:
    rows = examples()
    batch = collate(rows)
    found = objective.never_saw(batch)
    for row, example in enumerate(rows):
        at = 0
        for query in example.queries:
            expected = plain(objective.model, [*example.prefix, *example.suffix, *query.ids])[-len(query.ids) :]
            torch.testing.assert_close(found[row, at : at + len(query.ids)], expected, atol=1e-4, rtol=1e-4)
            at += len(query.ids)


def test_nothing_erased_is_a_plain_pass_with_the_span(objective: Objective) -> None:
    rows = examples()
    batch = collate(rows)
    found = objective.ask(batch, objective.read(batch))
    for row, example in enumerate(rows):
        query = example.queries[0]
        expected = plain(objective.model, [*example.prefix, *example.span, *example.suffix, *query.ids])
        torch.testing.assert_close(found[row, : len(query.ids)], expected[-len(query.ids) :], atol=1e-4, rtol=1e-4)


def test_dropping_a_span_at_the_end_is_never_saw_with_a_hole(objective: Objective) -> None:
    example = examples(1)[0]
    batch = collate([Example(example.prefix, example.span, (), example.queries)])
    found = objective.ask(batch, objective.drop(batch, objective.read(batch)))
    query = example.queries[0]
    start = len(example.prefix) + len(example.span)
    where = [*range(len(example.prefix)), *range(start, start + len(query.ids))]
    expected = plain(objective.model, [*example.prefix, *query.ids], where)[-len(query.ids) :]
    torch.testing.assert_close(found[0, : len(query.ids)], expected, atol=1e-4, rtol=1e-4)


def test_steering_replaces_the_rows_of_the_span_alone(objective: Objective) -> None:
    batch = collate(examples())
    read = objective.read(batch)
    steered = objective.steer(batch, read)
    start, end = batch.prefix.ids.shape[1], batch.prefix.ids.shape[1] + batch.span.ids.shape[1]
    for (keys, values), (new_keys, new_values) in zip(read.rows, steered.rows, strict=True):
        for old, new in ((keys, new_keys), (values, new_values)):
            torch.testing.assert_close(new[:, :, :start], old[:, :, :start], atol=0, rtol=0)
            torch.testing.assert_close(new[:, :, end:], old[:, :, end:], atol=0, rtol=0)
            assert not torch.allclose(new[:, :, start:end], old[:, :, start:end])


def test_one_packed_pass_is_the_four(objective: Objective, adapter: Adapter) -> None:
    batch = collate(examples())
    losses = []
    for loss in (objective.loss(batch), packed_loss(objective, adapter, batch)):
        adapter.model.zero_grad()
        torch.autograd.backward(loss)
        losses.append((loss.detach(), [gradient(p) for p in adapter.parameters()]))
    torch.testing.assert_close(losses[0][0], losses[1][0], atol=1e-5, rtol=1e-4)
    for one, other in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    # Past its keys and values, the last layer's part of the adapter has no effect: four passes leave it out.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()


def test_only_the_adapter_is_trained(objective: Objective, adapter: Adapter) -> None:
    torch.autograd.backward(objective.loss(collate(examples())))
    trained = {name for name, p in adapter.model.named_parameters() if p.grad is not None}
    assert trained and all("lora_" in name for name in trained)


def test_divergence_is_nothing_between_equals() -> None:
    logits = torch.randn(2, 5, 11).log_softmax(-1)
    assert divergence(logits, logits).abs().max() < 1e-6
    assert (divergence(logits, torch.randn(2, 5, 11).log_softmax(-1)) > 0).all()


def test_a_batch_does_not_change_an_example(objective: Objective) -> None:
    rows = examples()
    together = collate(rows)
    steered = objective.ask(together, objective.steer(together, objective.read(together)))
    for row, example in enumerate(rows):
        alone: Batch = collate([example])
        context: Context = objective.steer(alone, objective.read(alone))
        found = objective.ask(alone, context)[0]
        torch.testing.assert_close(steered[row, : found.shape[0]], found, atol=1e-4, rtol=1e-4)


def test_checkpointing_changes_no_gradient(adapter: Adapter) -> None:
    batch = collate(examples())
    found = []
    for checkpoint in (False, True):
        adapter.model.zero_grad()
        loss = Objective(adapter.model, adapter.switched, checkpoint=checkpoint).loss(batch)
        torch.autograd.backward(loss)
        found.append([parameter.grad.clone() for parameter in adapter.parameters() if parameter.grad is not None])
    assert len(found[0]) == len(found[1]) > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
        assert one.abs().sum() > 0


def test_a_recomputed_layer_attends_by_the_kernels_of_its_pass(adapter: Adapter) -> None:
    layers, allowed = [module for module in adapter.model.modules() if hasattr(module, "self_attn")], []
    cudnn: Callable[[], bool] = torch.backends.cuda.cudnn_sdp_enabled
    for layer in layers:
        layer.self_attn.register_forward_pre_hook(lambda *_: allowed.append(cudnn()))
    assert cudnn()
    loss = Objective(adapter.model, adapter.switched, checkpoint=True).loss(collate(examples()))
    passes = len(allowed)
    torch.autograd.backward(loss)
    assert len(allowed) >= passes + len(layers) > 0
    assert not any(allowed)
