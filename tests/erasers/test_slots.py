"""Which cells of a span are steered."""

from __future__ import annotations

from kv_memory.erasers.steering import Steering


def test_slots_are_spread_evenly() -> None:
    steering = Steering("", 4, spread=True)
    assert steering.cells(10, 20) == [(11, 12), (13, 14), (16, 17), (18, 19)]
    assert steering.cells(10, 14) == [(10, 14)]
    assert [len(steering.cells(0, length)) for length in range(4, 9)] == [1, 4, 4, 4, 4]
    assert Steering("", 4).cells(10, 12) == [(10, 12)]
