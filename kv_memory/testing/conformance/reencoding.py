"""Tests of recomputing cells in place, which erasers are made of."""

from __future__ import annotations

import pytest
import torch

from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift import Shift
from kv_memory.testing.conformance.case import Case, Cases, needs
from kv_memory.testing.reference import (
    all_cells,
    assert_close,
    assert_close_cells,
    assert_same_cells,
    flat,
    next_log_probs,
    plain_logits,
    without,
)

HOLES = {
    "start": [(0, 12)],
    "middle": [(20, 33)],
    "near the end": [(45, 59)],
    "several": [(5, 9), (20, 33), (40, 41)],
}


class Reencoding(Cases):
    """Tests of recomputing cells in place, which erasers are made of."""

    @needs("edit", "score")
    @pytest.mark.parametrize("spans", HOLES.values(), ids=HOLES)
    def test_reencoding_all_that_follows_equals_never_saw_with_the_hole(
        self, case: Case, ids: list[int], spans: list[tuple[int, int]]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        seen = next_log_probs(engine, seq)
        for span in spans:
            engine.drop(seq, *span)
        kept = without(range(60), *spans)
        engine.reencode(seq, [p for p in kept if p >= spans[0][0]])

        never_saw = plain_logits(case.model, without(ids, *spans), kept)[-1].log_softmax(-1)
        assert_close(next_log_probs(engine, seq), never_saw)
        assert (seen - never_saw).abs().max() > 1e-2

    @needs("edit", "rows")
    def test_reencoded_cells_are_those_of_a_fresh_run(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 33)
        engine.reencode(seq, range(33, 60))
        fresh = engine.create()
        engine.prefill(fresh, without(ids, (20, 33)), without(range(60), (20, 33)))
        actual, expected = all_cells(engine, seq), all_cells(engine, fresh)
        assert_close_cells(actual, expected)

    @needs("edit", "rows")
    def test_reencoding_some_leaves_the_others_bit_identical(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 33)
        chosen = [35, 36, 50]
        others = [p for p in engine.positions(seq) if p not in chosen]
        before, old = engine.read_cells(seq, others), engine.read_cells(seq, chosen)
        engine.reencode(seq, chosen)
        assert_same_cells(engine.read_cells(seq, others), before)
        assert (flat(engine.read_cells(seq, chosen).values[1:]) - flat(old.values[1:])).abs().max() > 1e-2

    @needs("edit", "rows")
    def test_within_one_call_a_later_token_sees_the_new_rows_of_an_earlier_one(
        self, case: Case, ids: list[int]
    ) -> None:
        engine, together = case.engine, case.sequence(ids)
        engine.drop(together, 20, 33)
        one_by_one = engine.fork(together)
        engine.reencode(together, [50, 33, 41])
        for position in (33, 41, 50):
            engine.reencode(one_by_one, [position])
        assert_close(flat(all_cells(engine, together).values), flat(all_cells(engine, one_by_one).values))

    @needs("edit", "rows")
    def test_reencoding_what_is_already_right_changes_nothing(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = all_cells(engine, seq)
        engine.reencode(seq, range(60))
        after = all_cells(engine, seq)
        assert_close_cells(after, before)

    @needs("edit", "rows", "score")
    def test_reencoding_nothing_is_a_no_op(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        before, scores = all_cells(engine, seq), next_log_probs(engine, seq)
        engine.reencode(seq, [])
        assert_same_cells(all_cells(engine, seq), before)
        assert torch.equal(next_log_probs(engine, seq), scores)

    @needs("adapters", "edit", "rows")
    def test_an_unknown_adapter_is_refused(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        before = all_cells(engine, seq)
        with pytest.raises(ValueError, match="'steer'"):
            engine.reencode(seq, [5], adapter="steer")
        assert_same_cells(all_cells(engine, seq), before)

    @needs("edit", "rows", "shift")
    @pytest.mark.parametrize("spans", HOLES.values(), ids=HOLES)
    def test_reencoding_all_that_follows_a_closed_gap_equals_recompute(
        self, case: Case, ids: list[int], spans: list[tuple[int, int]]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        recomputed = engine.fork(seq)
        Recompute().erase(engine, recomputed, spans)
        Shift().erase(engine, seq, spans)
        engine.reencode(seq, [position for position in engine.positions(seq) if position >= spans[0][0]])
        actual, expected = all_cells(engine, seq), all_cells(engine, recomputed)
        assert (actual.positions, actual.token_ids) == (expected.positions, expected.token_ids)
        assert_close(flat(actual.keys), flat(expected.keys))
        assert_close(flat(actual.values), flat(expected.values))
