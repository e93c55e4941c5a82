"""Tests of random histories of primitive operations, against a model of positions and tokens."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kv_memory.engines.base import STEERED, SequenceId
from kv_memory.engines.parts import lacks
from kv_memory.erasers.steer import Steer
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.models import CONTEXT
from kv_memory.testing.reference import all_cells, assert_close, assert_same_cells, next_log_probs, plain_logits

Numbers = tuple[int, int, int]
Cells = dict[int, int]
"""Token by position: all that a sequence is, but for its rows. It never ends in steering states."""


def prefill(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    start = engine.next_position(seq) + (n[0] % 3 if cells else 0)
    new = {start + i: (n[1] + 7 * i) % 400 for i in range(1 + n[2] % 12) if start + i < CONTEXT}
    engine.prefill(seq, list(new.values()), list(new))
    cells |= new


def drop(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    if cells:
        start = sorted(cells)[n[0] % len(cells)]
        end = start
        while end in cells and end - start < 1 + n[1] % 8:
            del cells[end]
            end += 1
        engine.drop(seq, start, end)
        truncate(engine, seq, cells, (0, 0, 0))


def truncate(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    start = max((p + 1 for p in tokens(cells) if p < max(cells) + 1 - n[0] % 6), default=0)
    engine.truncate(seq, start)
    for position in [p for p in cells if p >= start]:
        del cells[position]


def steer(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    if tokens(cells):
        start = end = tokens(cells)[n[0] % len(tokens(cells))]
        while cells.get(end, STEERED) != STEERED and end - start < 1 + n[1] % 8:
            end += 1
        done = Steer().erase(engine, seq, [(start, end)])
        for position in range(start, end):
            del cells[position]
        cells |= {p: STEERED for first, last in done.steered for p in range(first, last)}
        truncate(engine, seq, cells, (0, 0, 0))


def tokens(cells: Cells) -> list[int]:
    """Return the positions that hold a token."""
    return sorted(p for p, token in cells.items() if token != STEERED)


def shift(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    if cells:
        start = sorted(cells)[n[0] % len(cells)]
        free_from = max((p for p in cells if p < start), default=-1) + 1
        delta = free_from - start if n[1] % 2 else min(n[2] % 5, CONTEXT - 1 - max(cells))
        engine.shift(seq, start, delta)
        moved = {p + delta if p >= start else p: token for p, token in cells.items()}
        cells.clear()
        cells |= moved


def reencode(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    engine.reencode(seq, tokens(cells)[n[0] % 4 :: 1 + n[1] % 4])


def undo(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    before = all_cells(engine, seq)
    changed = dict(cells)
    for edit in (drop, reencode):
        edit(engine, seq, changed, n)
    engine.write_cells(seq, before)
    assert_same_cells(all_cells(engine, seq), before)


def score(engine: AllParts, seq: SequenceId, cells: Cells, n: Numbers) -> None:
    if cells and max(cells) + 3 < CONTEXT:
        before = all_cells(engine, seq)
        engine.score(seq, [1, 2, 3])
        assert_same_cells(all_cells(engine, seq), before)


Operation = Callable[[AllParts, SequenceId, Cells, Numbers], None]
OPERATIONS: dict[Operation, str] = {
    prefill: "edit",
    drop: "edit",
    truncate: "edit",
    shift: "shift",
    steer: "adapters",
    reencode: "edit",
    undo: "rows",
    score: "rows",
}
"""Operations of a history, each with the capability that it takes beyond the core."""
SHARED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
"""Warnings of hypothesis about a fixture where one engine serves all examples, which is meant here."""
numbers = st.tuples(*[st.integers(0, 1000)] * 3)
step = st.tuples(st.sampled_from(list(OPERATIONS)), st.booleans(), numbers)


class Histories(Cases):
    """Tests of random histories of primitive operations, against a model of positions and tokens."""

    @needs("edit", "score")
    @settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=SHARED)
    @given(history=st.lists(step, max_size=10))
    def test_any_history_keeps_positions_and_tokens(
        self,
        one_case: Case,
        history: list[tuple[Operation, bool, Numbers]],
    ) -> None:
        """Make each step on one of two branches; in the end all tokens, re-encoded, equal a fresh run there."""
        engine = one_case.engine
        trunk = engine.create()
        cells = dict(enumerate(range(20)))
        engine.prefill(trunk, list(cells.values()))
        branches = [(trunk, cells), (engine.fork(trunk), dict(cells))]

        for operation, on_fork, n in history:
            if not lacks(engine, OPERATIONS[operation]):
                operation(engine, *branches[on_fork], n)
            for seq, expected in branches:
                assert engine.positions(seq) == sorted(expected)
                assert engine.tokens(seq) == [expected[p] for p in sorted(expected)]

        for seq, expected in branches:
            if expected:
                positions = tokens(expected)
                for position in expected.keys() - positions:
                    engine.drop(seq, position, position + 1)
                engine.reencode(seq, positions)
                fresh = plain_logits(one_case.model, [expected[p] for p in positions], positions)[-1]
                assert_close(next_log_probs(engine, seq), fresh.log_softmax(-1))
            engine.free(seq)
