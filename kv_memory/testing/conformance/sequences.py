"""Tests of sequences: prefilled, scored, forked, truncated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kv_memory.engines.base import Sampling
from kv_memory.errors import ContextLengthError
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.models import CONTEXT
from kv_memory.testing.reference import all_cells, assert_close, assert_same_cells, next_log_probs, plain_logits

STALE: dict[str, Callable[[AllParts, int], None]] = {
    "drop": lambda engine, seq: engine.drop(seq, 40, 50),
    "shift": lambda engine, seq: engine.shift(seq, 50, 5),
    "reencode": lambda engine, seq: (engine.drop(seq, 40, 50), engine.reencode(seq, range(50, 59)))[0],
}


EDITS: dict[str, Callable[[AllParts, int], None]] = {
    "drop": lambda engine, seq: engine.drop(seq, 3, 9),
    "truncate": lambda engine, seq: engine.truncate(seq, 15),
    "append": lambda engine, seq: engine.prefill(seq, [1, 2, 3]),
    "shift": lambda engine, seq: engine.shift(seq, 10, 5),
    "reencode": lambda engine, seq: (engine.drop(seq, 0, 2), engine.reencode(seq, range(2, 20)))[0],
    "free": lambda engine, seq: engine.free(seq),
}


class Sequences(Cases):
    """Tests of sequences: prefilled, scored, forked, truncated."""

    @needs("score")
    def test_score_equals_the_plain_forward_pass(self, case: Case, ids: list[int]) -> None:
        seq = case.sequence(ids[:20])
        expected = plain_logits(case.model, ids)[19:-1].log_softmax(-1)
        assert_close(case.engine.score(seq, ids[20:]), expected)

    @needs("score")
    def test_prefill_in_pieces_equals_one_pass(self, case: Case, ids: list[int]) -> None:
        pieces = case.engine.create()
        for start, end in ((0, 1), (1, 17), (17, 18), (18, 60)):
            case.engine.prefill(pieces, ids[start:end])
        assert_close(next_log_probs(case.engine, pieces), plain_logits(case.model, ids)[-1].log_softmax(-1))

    @needs("score")
    def test_prefill_at_given_positions_equals_a_plain_pass_there(self, case: Case, ids: list[int]) -> None:
        positions = [*range(3, 20), *range(40, 83)]
        seq = case.engine.create()
        case.engine.prefill(seq, ids, positions)
        assert_close(next_log_probs(case.engine, seq), plain_logits(case.model, ids, positions)[-1].log_softmax(-1))
        assert case.engine.positions(seq) == positions

    def test_positions_and_tokens_are_those_that_were_appended(self, one_case: Case, ids: list[int]) -> None:
        engine = one_case.engine
        seq = engine.create()
        assert (engine.positions(seq), engine.tokens(seq), engine.next_position(seq)) == ([], [], 0)
        engine.prefill(seq, ids[:5])
        engine.prefill(seq, ids[5:7], [10, 12])
        assert engine.positions(seq) == [0, 1, 2, 3, 4, 10, 12]
        assert engine.tokens(seq) == ids[:7]
        assert engine.next_position(seq) == 13

    @needs("rows", "score")
    def test_score_commits_nothing(self, case: Case, ids: list[int]) -> None:
        seq = case.sequence(ids[:30])
        before = all_cells(case.engine, seq)
        first = case.engine.score(seq, ids[30:])
        assert_same_cells(all_cells(case.engine, seq), before)
        assert torch.equal(case.engine.score(seq, ids[30:]), first)

    @needs("score")
    def test_scores_are_log_probabilities_of_each_of_the_ids(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids[:10])
        scores = one_case.engine.score(seq, ids[10:14])
        assert scores.shape[0] == 4
        assert_close(scores.exp().sum(-1), torch.ones(4))
        assert one_case.engine.score(seq, []).shape[0] == 0

    @needs("edit", "rows", "score")
    @pytest.mark.parametrize("edit", STALE)
    def test_after_an_edit_the_next_token_is_that_of_the_last_token_run_again(
        self, case: Case, ids: list[int], edit: str
    ) -> None:
        case.need(*["shift"] * (edit == "shift"))
        engine, seq = case.engine, case.sequence(ids)
        unedited = next_log_probs(engine, seq)
        STALE[edit](engine, seq)
        cells = all_cells(engine, seq)
        rerun = engine.fork(seq)
        engine.reencode(rerun, engine.positions(rerun)[-1:])

        after = next_log_probs(engine, seq)

        assert_close(after, next_log_probs(engine, rerun))
        assert (after - unedited).abs().max() > 1e-2
        assert_same_cells(all_cells(engine, seq), cells)

    @needs("edit", "rows")
    @pytest.mark.parametrize("edit", EDITS)
    @pytest.mark.parametrize("edited", ["fork", "source"])
    def test_an_edit_of_a_fork_or_its_source_does_not_touch_the_other(
        self, one_case: Case, ids: list[int], edit: str, edited: str
    ) -> None:
        one_case.need(*["shift"] * (edit == "shift"))
        engine, source = one_case.engine, one_case.sequence(ids)
        fork = engine.fork(source)
        edited_seq, other = (fork, source) if edited == "fork" else (source, fork)
        before = all_cells(engine, other)
        EDITS[edit](engine, edited_seq)
        assert_same_cells(all_cells(engine, other), before)

    @needs("score")
    def test_a_fork_up_to_a_position_continues_from_there(self, case: Case, ids: list[int]) -> None:
        fork = case.engine.fork(case.sequence(ids), 25)
        assert case.engine.tokens(fork) == ids[:25]
        assert_close(next_log_probs(case.engine, fork), plain_logits(case.model, ids[:25])[-1].log_softmax(-1))

    def test_a_fork_of_an_empty_sequence_is_empty(self, one_case: Case, ids: list[int]) -> None:
        fork = one_case.engine.fork(one_case.engine.create())
        one_case.engine.prefill(fork, ids)
        assert one_case.engine.tokens(fork) == ids

    @needs("score")
    def test_a_truncated_sequence_continues_like_a_fresh_one(self, case: Case, ids: list[int]) -> None:
        seq = case.sequence(ids)
        case.engine.truncate(seq, 20)
        case.engine.prefill(seq, ids[40:])
        expected = plain_logits(case.model, ids[:20] + ids[40:])[-1].log_softmax(-1)
        assert_close(next_log_probs(case.engine, seq), expected)

    @needs("edit")
    def test_a_hole_at_the_end_does_not_count(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids)
        one_case.engine.drop(seq, 50, 60)
        assert one_case.engine.next_position(seq) == 50

    def test_progress_counts_up_to_all_tokens(self, one_case: Case, ids: list[int]) -> None:
        done: list[int] = []
        one_case.engine.prefill(one_case.engine.create(), ids, progress=done.append)
        assert done[-1] == len(ids)
        assert done == sorted(done)

    @needs("rows", "score")
    def test_an_exception_from_progress_rolls_back(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids[:20])
        before, scores = all_cells(one_case.engine, seq), next_log_probs(one_case.engine, seq)

        def interrupt(done: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            one_case.engine.prefill(seq, ids[20:], progress=interrupt)
        assert_same_cells(all_cells(one_case.engine, seq), before)
        assert torch.equal(next_log_probs(one_case.engine, seq), scores)

    def test_more_than_the_context_is_refused_whole(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids)
        assert one_case.engine.max_positions == CONTEXT
        with pytest.raises(ContextLengthError):
            one_case.engine.prefill(seq, [1] * (CONTEXT - len(ids) + 1))
        assert one_case.engine.tokens(seq) == ids
        one_case.engine.prefill(seq, [1] * (CONTEXT - len(ids)))
        assert one_case.engine.next_position(seq) == CONTEXT

    @needs("score")
    def test_a_score_beyond_the_context_is_refused(self, one_case: Case) -> None:
        seq = one_case.sequence([1] * CONTEXT)
        assert one_case.engine.score(seq, [1]).shape[0] == 1
        with pytest.raises(ContextLengthError):
            one_case.engine.score(seq, [1, 2])

    @pytest.mark.parametrize("positions", [[20, 21], [60, 60], [61, 60], [60]], ids=str)
    def test_positions_that_cannot_be_appended_are_refused(
        self, one_case: Case, ids: list[int], positions: list[int]
    ) -> None:
        seq = one_case.sequence(ids)
        with pytest.raises(ValueError, match="position"):
            one_case.engine.prefill(seq, [1, 2], positions)
        assert one_case.engine.tokens(seq) == ids

    @pytest.mark.parametrize("token", [-1, 1_000_000])
    def test_ids_that_the_model_does_not_know_are_refused(self, one_case: Case, ids: list[int], token: int) -> None:
        seq = one_case.sequence(ids)
        with pytest.raises(ValueError, match="vocabulary"):
            one_case.engine.prefill(seq, [1, token])
        assert one_case.engine.tokens(seq) == ids

    @needs("score")
    def test_an_empty_sequence_has_no_next_token(self, one_case: Case) -> None:
        engine, seq = one_case.engine, one_case.engine.create()
        with pytest.raises(ValueError, match="empty"):
            engine.score(seq, [1])
        with pytest.raises(ValueError, match="empty"):
            engine.generate(seq, Sampling())

    def test_a_freed_sequence_is_gone(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids)
        one_case.engine.free(seq)
        with pytest.raises(ValueError, match="sequence"):
            one_case.engine.tokens(seq)
        assert one_case.engine.create() != seq
