"""Other erasers than the published one: what is trained is what `steer` does, and one packed pass is the four."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kv_memory.engines.transformers import TransformersEngine
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steer_influence import SteerInfluence
from kv_memory.erasers.steering import Steering, steering_of
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from kv_memory.trained.files import open_eraser
from kv_memory.trained.record import EraserRecord
from kv_memory.training.adapter import Adapter
from kv_memory.training.batch import collate
from kv_memory.training.objective import Objective
from kv_memory.training.packed import packed_loss
from kv_memory.training.passes import Context
from kv_memory.training.watching import attention_mass
from tests.training.test_objective import examples, gradient

WAYS: dict[str, dict[str, Any]] = {
    "published": {},
    "2 slots": {"slots": 2},
    "2 spread slots": {"slots": 2, "spread": True},
    "1 slot": {"slots": 1},
    "seeing the suffix": {"sees_suffix": True},
    "content-free": {"token": 7},
    "2 slots, gap closed": {"slots": 2, "closes": True},
    "2 slots that see the suffix, gap closed": {"slots": 2, "closes": True, "sees_suffix": True},
    "all of it": {"slots": 2, "spread": True, "sees_suffix": True, "token": 7},
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
repaired = pytest.mark.parametrize("repair", [0, 2, 30], ids=["alone", "2 repaired", "all repaired"])


@pytest.fixture
def adapter() -> Adapter:
    adapter = Adapter(tiny_model(), rank=4, alpha=8)
    torch.manual_seed(5)
    for name, parameter in adapter.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return adapter


def objective(adapter: Adapter, way: dict[str, Any]) -> Objective:
    engine = TransformersEngine(tiny_model(), tiny_tokenizer())
    return Objective(
        adapter.model,
        adapter.switched,
        sees_suffix=way.get("sees_suffix", False),
        closing=engine.rotation if way.get("closes") else None,
    )


@every_way
@repaired
def test_one_packed_pass_is_the_four(adapter: Adapter, way: dict[str, Any], repair: int) -> None:
    batch, trained = collate(examples(), Steering("", **way)), objective(adapter, way)
    if way.get("closes"):
        with pytest.raises(ValueError, match="within one pass"):
            packed_loss(trained, adapter, batch, repair)
        return
    losses = []
    for loss in (trained.loss(batch, repair), packed_loss(trained, adapter, batch, repair)):
        adapter.model.zero_grad()
        torch.autograd.backward(loss)
        losses.append((loss.detach(), [gradient(p) for p in adapter.parameters()]))
    torch.testing.assert_close(losses[0][0], losses[1][0], atol=1e-5, rtol=1e-4)
    for one, other in zip(losses[0][1], losses[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)


def cells(context: Context, row: int) -> tuple[list[int], Tensor, Tensor]:
    """Positions, ascending, and K and V [layers, kv_heads, cells, head_dim] of the visible cells of a row."""
    real = torch.cat([part.real for part in context.segments], 1)[row]
    positions = torch.cat([part.positions for part in context.segments], 1)[row][real]
    order = positions.argsort()
    keys, values = (torch.stack([layer[part][row][:, real] for layer in context.rows]) for part in (0, 1))
    return positions[order].tolist(), keys[:, :, order].detach(), values[:, :, order].detach()


@every_way
@repaired
def test_what_is_trained_is_what_the_eraser_does(
    adapter: Adapter, way: dict[str, Any], repair: int, tmp_path: Path
) -> None:
    adapter.model.save_pretrained(tmp_path)
    engine = TransformersEngine(tiny_model(), tiny_tokenizer(), name="tiny")
    EraserRecord.of(engine, Steering("", **way)).save(tmp_path)
    assert open_eraser(tmp_path).load(engine) == Steering(steering_of(engine).adapter, **way)  # type: ignore[union-attr]
    rows, trained = examples(), objective(adapter, way)
    batch = collate(rows, Steering("", **way))
    read = trained.read(batch)
    context = trained.steer(batch, read)
    if repair:
        context = trained.repair(context, trained.choose(batch, read, repair))
    for row, example in enumerate(rows):
        seq = engine.create()
        engine.prefill(seq, [*example.prefix, *example.span, *example.suffix])
        span = (len(example.prefix), len(example.prefix) + len(example.span))
        (SteerInfluence(repair) if repair else Steer()).erase(engine, seq, [span])
        positions, keys, values = cells(context, row)
        assert engine.positions(seq) == positions
        found = engine.read_cells(seq, positions)
        torch.testing.assert_close(torch.stack(found.keys), keys, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(torch.stack(found.values), values, atol=1e-4, rtol=1e-4)


@every_way
def test_steering_changes_no_other_cell_but_for_the_keys_that_move(adapter: Adapter, way: dict[str, Any]) -> None:
    batch, trained = collate(examples(), Steering("", **way)), objective(adapter, way)
    read, steered = trained.read(batch), trained.steer(batch, trained.read(batch))
    start, end = batch.prefix.ids.shape[1], batch.suffix.ids.shape[1]
    for before, after in zip(read.rows, steered.rows, strict=True):
        for moves, old, new in zip((way.get("closes", False), False), before, after, strict=True):
            assert torch.equal(new[:, :, :start], old[:, :, :start])
            assert torch.equal(new[:, :, -end:], old[:, :, -end:]) != moves


def test_attention_mass_is_that_of_a_softmax() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 7, 8)
    target = torch.rand(2, 7) < 0.4
    mask = torch.zeros(2, 1, 5, 7).masked_fill(torch.rand(2, 1, 5, 7) < 0.3, torch.finfo(torch.float32).min)
    shares = (queries @ keys.repeat_interleave(2, 1).transpose(2, 3) * 0.3 + mask).softmax(-1)
    expected = (shares * target[:, None, None]).sum(-1)
    torch.testing.assert_close(attention_mass(queries, keys, target, mask, 0.3), expected)


@repaired
def test_so_much_of_the_mass_is_in_the_loss(adapter: Adapter, repair: int) -> None:
    way: dict[str, Any] = {"slots": 2, "closes": True}
    batch, trained = collate(examples(), Steering("", **way)), objective(adapter, way)
    torch.testing.assert_close(
        trained.loss(batch, repair, 0.5), trained.loss(batch, repair) + 0.5 * trained.mass(batch)
    )


@every_way
def test_training_on_mass_takes_attention_from_the_states(adapter: Adapter, way: dict[str, Any]) -> None:
    batch, trained = collate(examples(), Steering("", **way)), objective(adapter, way)
    unseen = replace(batch, slots=batch.slots.hiding(torch.arange(batch.slots.ids.shape[1]).repeat(3, 1)))
    assert float(trained.mass(unseen).detach()) == 0
    optimizer, masses = torch.optim.Adam(adapter.parameters(), lr=0.02), []
    for _ in range(30):
        loss = trained.mass(batch)
        masses.append(float(loss.detach()))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert 0 < masses[-1] < 0.7 * masses[0]
