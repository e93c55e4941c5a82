"""Tests of edits of cells in place: drop, shift, read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from kv_memory.engines.base import Cells, SequenceId
from kv_memory.engines.parts import PARTS
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.reference import (
    all_cells,
    assert_close,
    assert_close_cells,
    assert_same_cells,
    flat,
    next_log_probs,
    rotated,
    without,
)

SPANS = [(0, 12), (20, 33), (50, 60)]
THERE_AND_BACK = [7, 23, -19, 41, -35, 13, -29, 9, -5, -5]
"""Distances that add up to none."""


CHANGES: dict[str, Callable[[AllParts, SequenceId], None]] = {
    "drop": lambda engine, seq: engine.drop(seq, 20, 33),
    "drop all": lambda engine, seq: engine.drop(seq, 0, 60),
    "drop and append": lambda engine, seq: (engine.drop(seq, 20, 33), engine.prefill(seq, [1, 2, 3]))[0],
    "reencode": lambda engine, seq: (engine.drop(seq, 20, 33), engine.reencode(seq, range(33, 60)))[0],
    "truncate": lambda engine, seq: engine.truncate(seq, 11),
}


MISSING: dict[str, Callable[[AllParts, SequenceId], object]] = {
    "drop": lambda engine, seq: engine.drop(seq, 15, 25),
    "reencode": lambda engine, seq: engine.reencode(seq, [30, 20]),
    "read_cells": lambda engine, seq: engine.read_cells(seq, [60]),
    "deviation": lambda engine, seq: engine.deviation(seq, [25]),
    "influence": lambda engine, seq: engine.influence(seq, [(18, 22)]),
}


class Edits(Cases):
    """Tests of edits of cells in place: drop, shift, read and write."""

    @needs("edit", "rows")
    @pytest.mark.parametrize("span", SPANS, ids=["start", "middle", "end"])
    def test_drop_leaves_all_other_cells_bit_identical(self, case: Case, ids: list[int], span: tuple[int, int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        kept = without(range(60), span)
        before = engine.read_cells(seq, kept)
        engine.drop(seq, *span)
        assert_same_cells(all_cells(engine, seq), before)

    @needs("edit", "rows", "score")
    def test_a_dropped_span_is_not_attended_to(self, case: Case, ids: list[int]) -> None:
        """Compare two sequences that differ in the span's values alone: they answer alike once it is dropped."""
        engine, seq = case.engine, case.sequence(ids)
        other = engine.fork(seq)
        span = engine.read_cells(other, range(20, 33))
        engine.write_cells(other, replace(span, values=tuple(rows + 1 for rows in span.values)))

    @needs("edit", "rows", "shift")
    def test_shift_equals_an_independent_rotation(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = engine.read_cells(seq, range(30, 60))
        frequencies = case.frequencies
        if frequencies is None:
            pytest.skip("the layers of this model turn in several ways; see the test of tokens that were read there")
        engine.drop(seq, 18, 30)
        engine.shift(seq, 30, -12)
        after = engine.read_cells(seq, range(18, 48))
        expected = [rotated(rows, frequencies, -12) for rows in before.keys]
        assert_close(flat(after.keys), flat(expected))
        assert all(torch.equal(rows, others) for rows, others in zip(after.values, before.values, strict=True))
        assert after.token_ids == before.token_ids
        if before.queries:
            assert_close(flat(after.queries), flat([rotated(rows, frequencies, -12) for rows in before.queries]))

    @needs("rows", "shift")
    def test_shifted_cells_are_those_of_tokens_read_there(self, case: Case, ids: list[int]) -> None:
        """Compare with the same tokens read 40 positions on: what turns with the position is all that differs."""
        engine, seq = case.engine, case.sequence(ids)
        engine.shift(seq, 0, 40)
        there = engine.create()
        engine.prefill(there, ids, range(40, 100))
        assert_close_cells(all_cells(engine, seq), all_cells(engine, there))

    @needs("score", "shift")
    def test_shift_of_a_whole_sequence_does_not_change_what_comes_next(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = next_log_probs(engine, seq)
        engine.shift(seq, 0, 17)
        assert engine.positions(seq) == list(range(17, 77))
        assert_close(next_log_probs(engine, seq), before)

    @needs("rows", "shift")
    def test_shift_leaves_the_cells_before_it_bit_identical(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = engine.read_cells(seq, range(25))
        engine.shift(seq, 25, 3)
        assert_same_cells(engine.read_cells(seq, range(25)), before)

    @needs("rows", "shift")
    def test_many_shifts_are_as_precise_as_one(self, case: Case, ids: list[int]) -> None:
        """Compare keys after a thousand shifts with those after one: within one float32 rounding of the largest."""
        engine, seq = case.engine, case.sequence(ids)
        once, at = engine.fork(seq), 30
        for delta in [*THERE_AND_BACK * 100, 10]:
            engine.shift(seq, at, delta)
            at += delta
        engine.shift(once, 30, 10)
        keys, expected = flat(all_cells(engine, seq).keys), flat(all_cells(engine, once).keys)
        assert (keys - expected).abs().max() <= 2**-23 * expected.abs().max()

    @needs("edit", "rows", "shift")
    def test_a_shift_into_other_cells_is_refused(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        engine.drop(seq, 20, 30)
        before = all_cells(engine, seq)
        with pytest.raises(ValueError, match="move"):
            engine.shift(seq, 30, -11)
        with pytest.raises(ValueError, match="move"):
            engine.shift(seq, 0, -1)
        assert_same_cells(all_cells(engine, seq), before)

    @needs("edit", "rows", "score")
    @pytest.mark.parametrize("change", CHANGES)
    def test_writing_cells_back_undoes_bit_identically(self, case: Case, ids: list[int], change: str) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before, scores = all_cells(engine, seq), engine.score(seq, ids[:4])
        CHANGES[change](engine, seq)
        engine.write_cells(seq, before)
        engine.truncate(seq, 60)
        assert_same_cells(all_cells(engine, seq), before)
        assert_close(engine.score(seq, ids[:4]), scores)

    @needs("rows", "score")
    def test_cells_can_be_written_into_another_sequence(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        other = engine.create()
        engine.write_cells(other, all_cells(engine, seq))
        assert engine.tokens(other) == ids
        assert_close(engine.score(other, ids[:4]), engine.score(seq, ids[:4]))

    @needs("rows")
    def test_a_cell_written_over_another_takes_its_place(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        other = engine.fork(seq)
        engine.truncate(other, 58)
        engine.prefill(other, [1, 2])
        engine.write_cells(seq, engine.read_cells(other, [58, 59]))
        assert_same_cells(all_cells(engine, seq), all_cells(engine, other))

    @needs("rows")
    def test_read_cells_are_a_copy(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        cells, again = engine.read_cells(seq, range(60)), engine.read_cells(seq, range(60))
        cells.keys[0].zero_()
        assert_same_cells(all_cells(engine, seq), again)

    @needs("rows")
    def test_cells_of_another_shape_are_refused(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        cells = engine.read_cells(seq, range(5))
        wrong = Cells(cells.positions, cells.token_ids, cells.keys[:1], cells.values[:1], cells.queries)
        with pytest.raises(ValueError, match="shape"):
            engine.write_cells(seq, wrong)
        assert engine.tokens(seq) == ids

    @needs("edit", "rows")
    @pytest.mark.parametrize("call", MISSING)
    def test_a_position_without_a_cell_is_refused(self, one_case: Case, ids: list[int], call: str) -> None:
        one_case.need(*[call] * (call in PARTS))
        engine, seq = one_case.engine, one_case.sequence(ids)
        engine.drop(seq, 20, 30)
        before = all_cells(engine, seq)
        with pytest.raises(ValueError, match="no cell at position"):
            MISSING[call](engine, seq)
        assert_same_cells(all_cells(engine, seq), before)
