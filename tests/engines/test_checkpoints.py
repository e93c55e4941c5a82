"""Which copies of a state are kept, and which go when they exceed their memory."""

from __future__ import annotations

from itertools import pairwise

import pytest

from kv_memory.engines.checkpoints import NEAR, STRIDE, Checkpoints, CheckpointSettings
from kv_memory.errors import ArgumentError


class Ends(dict[int, int]):
    """The next position of each sequence."""

    def __call__(self, seq: int) -> int:
        return self[seq]


def filled(budget: int, length: int, every: int = 50) -> Checkpoints[int]:
    """Checkpoints of ten bytes along a conversation that grows; the state is the position."""
    ends = Ends({1: 0})
    kept: Checkpoints[int] = Checkpoints(budget, ends)
    for position in range(every, length + 1, every):
        ends[1] = position
        kept.keep(1, position, position, 10)
    return kept


def test_the_last_checkpoint_before_a_position_is_found() -> None:
    kept = filled(1000, 300)
    found = [kept.before(1, position) for position in (49, 50, 99, 100, 10_000)]
    assert [one.state if one else None for one in found] == [None, 50, 50, 100, 300]
    assert kept.before(2, 50) is None


def test_a_truncation_forgets_what_is_after_it() -> None:
    kept = filled(1000, 300)
    kept.mark(1, [100, 150, 151])
    kept.cut(1, 150)
    assert kept.positions(1) == [50, 100, 150]
    assert kept.marks(1) == [100, 150]


def test_the_budget_is_kept_and_the_newest_stays() -> None:
    kept = filled(55, 5000)
    assert kept.bytes <= 55
    assert len(kept.positions(1)) == 5
    assert kept.positions(1)[-1] == 5000


def test_distances_grow_with_age_so_that_a_replay_is_little_longer_than_what_follows() -> None:
    kept = filled(120, 20_000)
    positions = [0, *kept.positions(1)]
    gaps = [after - before for before, after in pairwise(positions)]
    assert gaps[0] > 10 * gaps[-1]
    worst = max(
        (20_000 - positions[i]) / (20_000 - start)
        for i, end in enumerate(positions[1:])
        for start in (end - 50,)  # a message that began just before the next checkpoint
        if start >= positions[i]
    )
    assert worst < 3


def test_a_checkpoint_that_forks_share_counts_once_and_goes_everywhere() -> None:
    ends = Ends({1: 100, 2: 100})
    kept: Checkpoints[str] = Checkpoints(25, ends)
    kept.keep(1, 50, "a", 10)
    kept.keep(1, 100, "b", 10)
    kept.fork(1, 2)
    assert kept.bytes == 20
    kept.free(1)
    assert (kept.bytes, kept.positions(2)) == (20, [50, 100])
    ends[2] = 200
    kept.keep(2, 200, "c", 10)
    assert kept.positions(2) == [100, 200]


def test_of_equals_the_one_of_the_sequence_that_was_used_longest_ago_goes() -> None:
    kept: Checkpoints[str] = Checkpoints(20, Ends({1: 50, 2: 50, 3: 50}))
    for seq in (1, 2, 3):
        kept.keep(seq, 50, "a", 10)
    assert [kept.positions(seq) for seq in (1, 2, 3)] == [[], [50], [50]]


def test_one_is_due_at_a_mark_and_within_a_long_text_but_not_beside_another() -> None:
    kept: Checkpoints[str] = Checkpoints(100, Ends({1: 10_000}))
    kept.mark(1, [NEAR, 100, 100 + NEAR, 200])
    assert [kept.next_due(1, position) for position in (0, 100, 200)] == [100, 100 + NEAR, STRIDE]
    assert [kept.due(1, position) for position in (NEAR, 100, 101, STRIDE)] == [False, True, False, True]
    kept.keep(1, 100, "a", 10)
    assert kept.next_due(1, 100) == 200
    assert not kept.due(1, 100 + NEAR)
    assert kept.due(1, 100 + STRIDE)


def test_without_memory_none_is_due() -> None:
    kept: Checkpoints[str] = Checkpoints(0, Ends({1: 10_000}))
    kept.mark(1, [100])
    assert not kept.due(1, 100)
    assert [kept.next_due(1, position) for position in (0, 3 * STRIDE)] == [STRIDE, 4 * STRIDE], "long passes stay long"
    assert kept.marks(1) == [100]


def test_one_that_is_larger_than_the_budget_drives_out_no_other() -> None:
    kept = filled(30, 150)
    kept.keep(1, 200, 200, 31)
    assert kept.positions(1) == [50, 100, 150]


@pytest.mark.parametrize("megabytes", [-1, float("inf"), float("nan"), "many", True])
def test_a_wrong_budget_is_refused_in_one_sentence(megabytes: float) -> None:
    with pytest.raises(ArgumentError, match=r"^checkpoint_mb is a number of megabytes[^.]*\.$"):
        CheckpointSettings.of(megabytes, None)


def test_a_wrong_device_is_refused_and_nothing_set_is_nothing() -> None:
    with pytest.raises(ArgumentError, match="checkpoint_device is a name that torch knows"):
        CheckpointSettings.of(None, 3)  # type: ignore[arg-type]
    assert CheckpointSettings.of(None, None) is None
    assert CheckpointSettings.of(0, None) == CheckpointSettings(0.0)
