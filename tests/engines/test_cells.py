"""Cell storage: grown seldom, used again, wiped."""

from __future__ import annotations

import torch

from kv_memory.engines.cells import CellLayout, CellStore, LayerShape, Rows, compact

LAYER = LayerShape(kv_heads=2, key_dim=4, value_dim=4, heads=4, query_dim=4, device=torch.device("cpu"))
LAYOUT = CellLayout((LAYER,) * 3, torch.float32, probe_layers=(1,))


def rows(count: int, value: float = 1.0) -> Rows:
    return Rows(
        [torch.full((1, 2, count, 4), value)] * 3,
        [torch.full((1, 2, count, 4), value)] * 3,
        [torch.full((1, 4, count, 4), value)],
    )


def filled(store: CellStore, start: int, count: int) -> None:
    slots = store.allocate(torch.arange(start, start + count), torch.arange(count))
    store.write(slots, rows(count, start + 1.0))


def test_appending_one_by_one_seldom_copies() -> None:
    store = CellStore(LAYOUT, limit=4096)
    places = set()
    for position in range(2000):
        filled(store, position, 1)
        places.add(store.keys[0].data_ptr())
    assert len(places) <= 4  # 256, 512, 1024, 2048 cells


def test_capacity_ends_at_the_limit() -> None:
    store = CellStore(LAYOUT, limit=300)
    filled(store, 0, 256)
    filled(store, 256, 1)
    assert store.keys[0].shape[2] == 300


def test_cells_survive_growth() -> None:
    store = CellStore(LAYOUT, limit=4096)
    filled(store, 0, 200)
    before = store.read(slice(0, 200))
    filled(store, 200, 400)
    after = store.read(slice(0, 200))
    assert torch.equal(after.keys[2], before.keys[2])
    assert torch.equal(after.queries[0], before.queries[0])


def test_a_freed_slot_is_used_again() -> None:
    store = CellStore(LAYOUT, limit=4096)
    filled(store, 0, 50)
    store.release(store.find(range(10, 20)))
    filled(store, 50, 10)
    assert store.used == 50
    assert store.order()[0].tolist() == [*range(10), *range(20, 60)]


def test_released_rows_are_wiped() -> None:
    store = CellStore(LAYOUT, limit=4096)
    filled(store, 0, 50)
    slots = store.find([3, 4, 40])
    store.release(slots)
    assert all(not part[:, :, slots].any() for part in (*store.keys, *store.values, *store.queries))
    assert not store.token[slots].any()


def test_cells_at_the_end_give_their_slots_back() -> None:
    store = CellStore(LAYOUT, limit=4096)
    filled(store, 0, 50)
    store.release(store.between(30))
    assert store.used == 30


def test_an_interrupted_growth_can_be_done_again() -> None:
    store = CellStore(LAYOUT, limit=4096)
    filled(store, 0, 256)
    store.keys[0] = torch.cat([store.keys[0], torch.zeros(1, 2, 256, 4)], dim=2)  # grown, and then an exception
    filled(store, 256, 1)
    assert {part.shape[2] for part in (*store.keys, *store.values, *store.queries)} == {512}
    assert float(store.keys[0][0, 0, 255, 0]) == 1.0


def test_a_store_made_in_inference_mode_can_be_written_outside() -> None:
    with torch.inference_mode():
        store = CellStore(LAYOUT, limit=4096)
        filled(store, 0, 10)
    filled(store, 10, 5)
    store.release(store.find([3]))
    assert store.next_position == 15


def test_slots_side_by_side_become_a_slice() -> None:
    assert compact(torch.tensor([4, 5, 6])) == slice(4, 7)
    assert isinstance(compact(torch.tensor([4, 6, 5])), torch.Tensor)
    assert isinstance(compact(torch.tensor([4, 6])), torch.Tensor)
