"""Tests of the erasers: exact ones are exact, and each other one does what it says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from kv_memory.engines.base import STEERED, Sampling, SequenceId
from kv_memory.erasers import ERASERS
from kv_memory.erasers.base import Eraser, Erasure
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.influence import Influence
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.repair import Repair
from kv_memory.erasers.selective import Selective
from kv_memory.erasers.shift import Shift
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steer_influence import SteerInfluence
from kv_memory.erasers.steer_repair import SteerRepair
from kv_memory.positions import Interval, merge
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.reference import (
    all_cells,
    assert_close,
    assert_same_cells,
    flat,
    next_log_probs,
    plain_logits,
    without,
)

SPANS: dict[str, list[Interval]] = {
    "middle": [(20, 33)],
    "start": [(0, 12)],
    "end": [(50, 60)],
    "several": [(5, 9), (20, 33), (40, 41)],
    "adjacent": [(5, 9), (9, 14)],
}
every_span = pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
every_eraser = pytest.mark.parametrize("eraser", [kind() for kind in ERASERS.values()], ids=list(ERASERS))


def moved(positions: Sequence[int], erasure: Erasure) -> list[int]:
    """Return where the cells at these positions are now, by the erasure."""
    at = []
    for position in positions:
        deltas = [delta for start, delta in erasure.moves if start <= position]
        at.append(position + (deltas[-1] if deltas else 0))
    return at


def chosen_by(engine: AllParts, seq: SequenceId, eraser: Eraser, spans: list[Interval]) -> list[int]:
    """Return the positions whose cells the eraser recomputed."""
    before = engine.read_cells(seq, without(range(60), *spans))
    eraser.erase(engine, seq, spans)
    after = all_cells(engine, seq)
    # The first layer does not change: a token's own K and V there do not depend on others.
    layers = zip(after.values[1:], before.values[1:], strict=True)
    changed = torch.stack([(new != old).any(0).any(-1) for new, old in layers]).any(0)
    return [p for p, c in zip(after.positions, changed.tolist(), strict=True) if c]


class Erasing(Cases):
    """Tests of the erasers: exact ones are exact, and each other one does what it says."""

    @needs("score")
    @every_span
    def test_recompute_equals_never_saw(self, case: Case, ids: list[int], spans: list[Interval]) -> None:
        seq = case.sequence(ids)
        Recompute().erase(case.engine, seq, spans)
        kept = without(ids, *spans)
        never_saw = plain_logits(case.model, [*kept, 5, 6])[len(kept) - 1 : -1].log_softmax(-1)
        assert_close(case.engine.score(seq, [5, 6]), never_saw)
        assert case.engine.positions(seq) == list(range(len(kept)))

    @needs("score")
    @pytest.mark.parametrize("later", [[(40, 45)], []], ids=["with another span", "alone"])
    @pytest.mark.parametrize(
        "earlier", [Drop(), Repair(4), Shift(), Steer(), SteerInfluence(4)], ids=lambda eraser: eraser.name
    )
    def test_recompute_makes_an_earlier_approximate_erasure_exact(
        self, case: Case, ids: list[int], earlier: Eraser, later: list[Interval]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        first = earlier.erase(engine, seq, [(10, 16)])
        now = [(start, start + 5) for start in moved([start for start, _ in later], first)]
        Recompute().erase(engine, seq, now, approximate_from=10)
        never_saw = plain_logits(case.model, without(ids, (10, 16), *later))[-1].log_softmax(-1)
        assert_close(next_log_probs(engine, seq), never_saw)

    @needs("score")
    @pytest.mark.parametrize(
        "eraser", [Selective("100%"), Influence(1000), Repair(1000)], ids=lambda eraser: eraser.name
    )
    @pytest.mark.parametrize(
        "spans", [SPANS["middle"], SPANS["start"], SPANS["several"]], ids=["middle", "start", "several"]
    )
    def test_choosing_every_token_equals_never_saw_with_the_hole(
        self, case: Case, ids: list[int], eraser: Eraser, spans: list[Interval]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        eraser.erase(engine, seq, spans)
        kept, positions = without(ids, *spans), without(range(60), *spans)
        assert engine.positions(seq) == positions
        assert_close(next_log_probs(engine, seq), plain_logits(case.model, kept, positions)[-1].log_softmax(-1))

    @needs("influence", "score", "shift")
    @pytest.mark.parametrize(
        "spans", [SPANS["middle"], SPANS["start"], SPANS["several"]], ids=["middle", "start", "several"]
    )
    def test_closing_the_gap_and_choosing_every_token_equals_never_saw(
        self, case: Case, ids: list[int], spans: list[Interval]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        ShiftInfluence(1000).erase(engine, seq, spans)
        kept = without(ids, *spans)
        assert engine.positions(seq) == list(range(len(kept)))
        assert_close(next_log_probs(engine, seq), plain_logits(case.model, kept)[-1].log_softmax(-1))

    @needs("edit", "rows")
    @every_span
    def test_drop_leaves_all_kept_cells_bit_identical(self, case: Case, ids: list[int], spans: list[Interval]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = engine.read_cells(seq, without(range(60), *spans))
        Drop().erase(engine, seq, spans)
        assert_same_cells(all_cells(engine, seq), before)

    @needs("edit", "rows", "shift")
    @every_span
    def test_shift_is_drop_with_each_kept_cell_moved_down(
        self, case: Case, ids: list[int], spans: list[Interval]
    ) -> None:
        """Compare with the spans dropped and the kept stretches moved one by one, the first one first."""
        engine, seq = case.engine, case.sequence(ids)
        expected = engine.fork(seq)
        Shift().erase(engine, seq, spans)
        removed = 0
        for start, end in spans:
            engine.drop(expected, start - removed, end - removed)
            engine.shift(expected, end - removed, start - end)
            removed += end - start
        actual, wanted = all_cells(engine, seq), all_cells(engine, expected)
        assert actual.positions == tuple(range(60 - removed))
        assert actual.token_ids == tuple(without(ids, *spans))
        assert_close(flat(actual.keys), flat(wanted.keys))

    @every_eraser
    @every_span
    def test_kept_tokens_stand_where_the_erasure_says(
        self, one_case: Case, ids: list[int], eraser: Eraser, spans: list[Interval]
    ) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        erasure = eraser.erase(engine, seq, spans)
        cells = dict(zip(moved(without(range(60), *spans), erasure), without(ids, *spans), strict=True))
        cells |= {position: STEERED for start, end in erasure.steered for position in range(start, end)}
        assert engine.positions(seq) == sorted(cells)
        assert engine.tokens(seq) == [cells[position] for position in sorted(cells)]

    @needs("rows")
    @every_eraser
    def test_erasing_nothing_is_a_no_op(self, case: Case, ids: list[int], eraser: Eraser) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = all_cells(engine, seq)
        assert eraser.erase(engine, seq, []) == Erasure(recomputed=0)
        assert_same_cells(all_cells(engine, seq), before)

    @every_eraser
    def test_erasing_everything_leaves_an_empty_sequence(self, one_case: Case, ids: list[int], eraser: Eraser) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        eraser.erase(engine, seq, [(0, 60)])
        assert (engine.tokens(seq), engine.next_position(seq)) == ([], 0)

    @needs("edit", "rows")
    def test_repair_divides_its_budget_among_the_spans(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        assert chosen_by(engine, seq, Repair(7), [(10, 12), (13, 20), (57, 58)]) == [12, 20, 21, 22, 23, 58, 59]

    @needs("influence", "rows")
    def test_influence_runs_the_tokens_that_attended_most(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        positions, scores = engine.influence(seq, [(20, 33)])
        best = sorted(positions[i] for i in scores[0].argsort(descending=True)[:5].tolist())
        assert chosen_by(engine, seq, Influence(5, hops=1, near=0), [(20, 33)]) == best

    @needs("influence", "rows")
    def test_a_second_hop_asks_who_attended_to_the_first(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        first = Influence(hops=1, near=0).choose(engine, seq, [(20, 33)], 3)
        positions, scores = engine.influence(seq, merge([(20, 33), *((p, p + 1) for p in first)]))
        second = [positions[i] for i in scores[0].argsort(descending=True)[:2].tolist()]
        assert chosen_by(engine, seq, Influence(5, near=0), [(20, 33)]) == sorted(first + second)

    @needs("influence", "rows")
    def test_the_first_tokens_are_run_in_any_case(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        other = engine.fork(seq)
        chosen = chosen_by(engine, seq, Influence(9, near=2), [(20, 33)])
        assert chosen[:2] == [33, 34]
        assert len(chosen) == 9
        # at most a third of the budget
        assert chosen_by(engine, other, Influence(6, near=64), [(20, 33)])[:2] == [33, 34]

    @needs("deviation", "edit", "rows")
    def test_selective_runs_the_tokens_that_deviate_most(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        dropped = engine.fork(seq)
        engine.drop(dropped, 20, 33)
        deviation = engine.deviation(dropped, range(33, 60))
        best = sorted(33 + i for i in deviation.argsort(descending=True)[:9].tolist())
        assert chosen_by(engine, seq, Selective(9), [(20, 33)]) == best

    @pytest.mark.parametrize(
        ("eraser", "recomputed"),
        [
            (Recompute(), 40),
            (Drop(), 0),
            (Shift(), 0),
            (Repair(6), 6),
            (Selective("10%"), 40),
            (Influence(7), 7),
            (ShiftInfluence(7), 7),
            (Steer(), 10),
            (SteerRepair(6), 16),
            (SteerInfluence(7), 17),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_the_report_counts_the_tokens_that_ran_again(
        self, one_case: Case, ids: list[int], eraser: Eraser, recomputed: int
    ) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        replayed = 10 - engine.replayed_from(seq, 10) if eraser.exact else 0
        assert eraser.erase(engine, seq, [(10, 16), (30, 34)]).recomputed == replayed + recomputed

    @every_span
    def test_recompute_leaves_what_a_fresh_prefill_does(
        self, case: Case, ids: list[int], spans: list[Interval]
    ) -> None:
        """Compare the cells and what is generated from them: an engine that has the core alone shows no more."""
        engine, seq, fresh = case.engine, case.sequence(ids), case.sequence(without(ids, *spans))
        Recompute().erase(engine, seq, spans)
        assert engine.cells(seq) == engine.cells(fresh)
        said = [[token.id for token in engine.generate(each, Sampling(max_tokens=8))] for each in (seq, fresh)]
        assert said[0] == said[1]
