"""Tests of steering states: the rows that the adapted model writes, in place of a span's, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from kv_memory.engines.base import STEERED, SequenceId
from kv_memory.engines.transformers.cache_argument import cache_argument
from kv_memory.erasers import ERASERS
from kv_memory.erasers.base import Eraser
from kv_memory.erasers.drop import Drop
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift import Shift
from kv_memory.erasers.steer import Steer
from kv_memory.erasers.steer_influence import SteerInfluence
from kv_memory.erasers.steer_repair import SteerRepair
from kv_memory.erasers.steering import Steering, steer_with, steering_of
from kv_memory.positions import Interval, moved
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
    "several": [(0, 4), (20, 33), (40, 41), (55, 60)],
    "adjacent": [(5, 9), (9, 14)],
}
every_span = pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
WAYS: dict[str, dict[str, Any]] = {
    "all slots": {},
    "3 slots": {"slots": 3},
    "3 spread content-free slots": {"slots": 3, "spread": True, "token": 7},
    "all slots see the suffix": {"sees_suffix": True},
}
CLOSED: dict[str, Any] = {"slots": 3, "closes": True}
"""Settings of Steering that close the gap behind the slots; WAYS are those that leave it."""
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@contextmanager
def used(case: Case, way: dict[str, Any]) -> Iterator[None]:
    """Let the engine use the loaded eraser this way, in the block."""
    if way.get("sees_suffix"):
        case.need("ahead")
    engine = case.engine
    before = steering_of(engine)
    assert before is not None
    steer_with(engine, Steering(before.adapter, **way))
    try:
        yield
    finally:
        steer_with(engine, before)


def adapted_rows(case: Case, ids: list[int], start: int, end: int) -> tuple[Tensor, Tensor]:
    """Compute K and V of all layers, flat, that PEFT's own model writes over the plain prefix."""
    plain = AutoModelForCausalLM.from_pretrained(case.path, dtype=torch.float32)
    model = PeftModel.from_pretrained(plain, case.path / "eraser").eval()
    cache = DynamicCache()
    given = {cache_argument(model): cache}
    with torch.no_grad():
        if start:
            with model.disable_adapter():
                model(torch.tensor([ids[:start]]), use_cache=True, **given)
        model(torch.tensor([ids[start:end]]), use_cache=True, **given)
    keys, values = (
        flat([getattr(layer, part)[:, :, start:end] for layer in cache.layers if layer.is_initialized])
        for part in ("keys", "values")
    )
    return keys, values


RERUNS: dict[str, Callable[[AllParts, SequenceId], object]] = {
    "reencode": lambda engine, seq: engine.reencode(seq, [4, 7]),
    "deviation": lambda engine, seq: engine.deviation(seq, [4, 7]),
    "generation after it": lambda engine, seq: (engine.truncate(seq, 9), engine.score(seq, [1])),
}


class SteeringStates(Cases):
    """Tests of steering states: the rows that the adapted model writes, in place of a span's, and nothing else."""

    @needs("adapters", "rows")
    @pytest.mark.parametrize("span", [(20, 33), (0, 12)], ids=["middle", "start"])
    def test_a_span_gets_the_rows_that_the_adapted_model_writes(
        self, case: Case, ids: list[int], span: Interval
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before = engine.read_cells(seq, range(*span))
        assert Steer().erase(engine, seq, [span]).steered == (span,)
        states = engine.read_cells(seq, range(*span))
        keys, values = adapted_rows(case, ids, *span)
        assert_close(flat(states.keys), keys)
        assert_close(flat(states.values), values)
        assert set(states.token_ids) == {STEERED}
        assert (flat(states.values) - flat(before.values)).abs().max() > 1e-2

    @needs("adapters", "rows")
    @every_way
    @every_span
    def test_all_other_cells_stay_bit_identical(
        self, case: Case, ids: list[int], spans: list[Interval], way: dict[str, Any]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        kept = without(range(60), *spans)
        before = engine.read_cells(seq, kept)
        with used(case, way):
            done = Steer().erase(engine, seq, spans)
        assert_same_cells(engine.read_cells(seq, kept), before)
        steering = Steering("", **way)
        expected = [cell for start, end in spans if end < 60 for cell in steering.cells(start, end)]
        assert list(done.steered) == expected
        states = [position for start, end in expected for position in range(start, end)]
        assert engine.positions(seq) == sorted([*kept, *states])

    @needs("adapters", "edit", "rows", "shift")
    @every_span
    def test_a_gap_is_closed_behind_the_slots(self, case: Case, ids: list[int], spans: list[Interval]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        other, kept = engine.fork(seq), without(range(60), *spans)
        with used(case, CLOSED):
            done = Steer().erase_undoably(engine, seq, spans)
        assert done.undo is None
        # The same by hand: the removed cells go, and what follows is moved.
        gaps = [(start + 3 if end < 60 else start, end) for start, end in spans if end - start > 3 or end == 60]
        for start, end in reversed(gaps):
            engine.drop(other, start, end)
            engine.shift(other, end, start - end)
        held = engine.positions(seq)
        assert held == list(range(60 - sum(end - start for start, end in gaps))) == engine.positions(other)
        where = [moved(position, done.moves) for position in kept]
        assert_same_cells(engine.read_cells(seq, where), engine.read_cells(other, where))
        assert sorted({*where, *(p for cell in done.steered for p in range(*cell))}) == held

    @needs("adapters", "rows", "score")
    @every_way
    @every_span
    @pytest.mark.parametrize("eraser", [Steer(), Drop()], ids=lambda eraser: eraser.name)
    def test_undo_is_bit_identical(
        self, case: Case, ids: list[int], eraser: Eraser, spans: list[Interval], way: dict[str, Any]
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        before, scores = all_cells(engine, seq), next_log_probs(engine, seq)
        with used(case, way):
            undo = eraser.erase_undoably(engine, seq, spans).undo
        assert undo is not None
        engine.write_cells(seq, undo)
        assert_same_cells(all_cells(engine, seq), before)
        assert_close(next_log_probs(engine, seq), scores)

    @needs("adapters")
    def test_undo_is_kept_only_when_asked_for(self, one_case: Case, ids: list[int]) -> None:
        seq = one_case.sequence(ids)
        assert Steer().erase(one_case.engine, seq, [(5, 9)]).undo is None
        assert (
            SteerRepair(2).erase_undoably(one_case.engine, seq, [(20, 33)]).undo is None
        )  # it changes other cells too

    @needs("adapters", "rows")
    def test_several_spans_at_once_are_as_one_after_the_other(self, case: Case, ids: list[int]) -> None:
        engine, together = case.engine, case.sequence(ids)
        one_by_one = engine.fork(together)
        spans = SPANS["several"]
        Steer().erase(engine, together, spans)
        for span in spans:
            Steer().erase(engine, one_by_one, [span])
        assert_close(flat(all_cells(engine, together).values), flat(all_cells(engine, one_by_one).values))

    @needs("adapters", "rows")
    @pytest.mark.parametrize("slots", [None, 3], ids=["all slots", "3 slots"])
    def test_with_slots_the_first_cells_are_steered_over_the_prefix_alone(
        self, case: Case, ids: list[int], slots: int | None
    ) -> None:
        engine, some, every = case.engine, case.sequence(ids), case.sequence(ids)
        Steer().erase(engine, every, [(20, 33)])
        with used(case, {"slots": slots}):
            Steer().erase(engine, some, [(20, 33)])
        states = engine.read_cells(some, range(20, 33 if slots is None else 20 + slots))
        assert_close(flat(states.values), flat(engine.read_cells(every, states.positions).values))

    @needs("adapters", "rows")
    def test_content_free_slots_do_not_hold_what_stood_there(self, case: Case, ids: list[int]) -> None:
        """Compare two spans of other tokens: they get the same states."""
        engine, rows = case.engine, []
        for span in (ids[20:33], [token + 1 for token in ids[20:33]]):
            seq = case.sequence([*ids[:20], *span, *ids[33:]])
            with used(case, {"token": 7}):
                Steer().erase(engine, seq, [(20, 33)])
            rows.append(engine.read_cells(seq, range(20, 33)))
        case.assert_same_pass(*rows)

    @needs("adapters", "rows")
    def test_slots_that_see_the_suffix_do_and_no_others_do(self, case: Case, ids: list[int]) -> None:
        engine, change = case.engine, {}
        for sees in (False, True):
            rows = []
            for suffix in (ids[33:], [token + 1 for token in ids[33:]]):
                seq = case.sequence([*ids[:33], *suffix])
                with used(case, {"sees_suffix": sees}):
                    Steer().erase(engine, seq, [(20, 33)])
                rows.append(flat(engine.read_cells(seq, range(20, 33)).values))
            change[sees] = float((rows[0] - rows[1]).abs().max())
        assert change[False] < 1e-4
        assert change[True] > 1e-3

    @needs("adapters", "rows", "score")
    def test_a_span_around_an_earlier_one_leaves_its_steering_states(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        Steer().erase(engine, seq, [(24, 28)])
        inner = engine.read_cells(seq, range(24, 28))
        kept = engine.read_cells(seq, [*range(20), *range(33, 60)])
        done = Steer().erase(engine, seq, [(20, 24), (28, 33)])
        assert done.steered == ((20, 24), (28, 33))
        assert_same_cells(engine.read_cells(seq, range(24, 28)), inner)
        assert_same_cells(engine.read_cells(seq, kept.positions), kept)
        Recompute().erase(engine, seq, [], approximate_from=20)
        never_saw = plain_logits(case.model, without(ids, (20, 33)))[-1].log_softmax(-1)
        assert_close(next_log_probs(engine, seq), never_saw)

    @needs("adapters", "rows")
    @pytest.mark.parametrize("earlier", [Drop(), Shift(), Steer()], ids=lambda eraser: eraser.name)
    def test_after_an_earlier_erasure_the_span_sees_what_that_left(
        self, case: Case, ids: list[int], earlier: Eraser
    ) -> None:
        """Compare with a sequence that ends with the span and a token: later cells do not matter."""
        engine, seq = case.engine, case.sequence(ids)
        start = 20 - 6 * (earlier.name == "shift")
        earlier.erase(engine, seq, [(10, 16)])
        short = engine.fork(seq, start + 14)
        for each in (seq, short):
            Steer().erase(engine, each, [(start, start + 13)])
        states = engine.read_cells(seq, range(start, start + 13))
        assert_close(flat(states.values), flat(engine.read_cells(short, states.positions).values))

    @needs("adapters", "rows", "score")
    @pytest.mark.parametrize("eraser", [kind() for kind in ERASERS.values()], ids=list(ERASERS))
    def test_every_eraser_works_after_it(self, case: Case, ids: list[int], eraser: Eraser) -> None:
        engine, seq = case.engine, case.sequence(ids)
        Steer().erase(engine, seq, [(10, 16), (40, 42)])
        states = engine.read_cells(seq, [*range(10, 16), 40, 41])
        eraser.erase(engine, seq, [(30, 34)], approximate_from=10)
        kept = [token for token in engine.tokens(seq) if token != STEERED]
        assert kept == without(ids, (10, 16), (30, 34), (40, 42))
        if eraser.exact:
            assert_close(next_log_probs(engine, seq), plain_logits(case.model, kept)[-1].log_softmax(-1))
        elif "shift" in eraser.name:
            assert_close(case.still(engine.read_cells(seq, [*range(10, 16), 36, 37])), case.still(states))
        else:
            assert_same_cells(engine.read_cells(seq, states.positions), states)

    @needs("adapters", "rows")
    @pytest.mark.parametrize("eraser", [SteerRepair(6), SteerInfluence(5)], ids=lambda eraser: eraser.name)
    def test_a_repair_runs_over_the_steering_states(
        self, case: Case, ids: list[int], eraser: SteerRepair | SteerInfluence
    ) -> None:
        engine, seq = case.engine, case.sequence(ids)
        expected = engine.fork(seq)
        spans: list[Interval] = [(5, 9), (20, 33)]
        count = int(eraser.budget.value)
        chosen = eraser.choose(engine, seq, spans, count)
        assert len(chosen) == count
        eraser.erase(engine, seq, spans)
        Steer().erase(engine, expected, spans)
        engine.reencode(expected, chosen)
        case.assert_same_pass(all_cells(engine, seq), all_cells(engine, expected))

    @needs("adapters", "deviation", "edit", "score")
    @pytest.mark.parametrize("rerun", RERUNS)
    def test_a_steering_state_is_not_run_again(self, one_case: Case, ids: list[int], rerun: str) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        Steer().erase(engine, seq, [(5, 9)])
        with pytest.raises(ValueError, match=r"position \d holds a steering state"):
            RERUNS[rerun](engine, seq)

    @needs("adapters", "rows", "score")
    def test_the_eraser_that_is_loaded_is_off_for_all_else(self, case: Case, ids: list[int]) -> None:
        """Compare, bit-identical where passes repeat, with an engine in which none was ever loaded."""
        plain = cast(AllParts, case.open(case.path))
        there = plain.create()
        plain.prefill(there, ids)
        seq = case.sequence(ids)
        Steer().erase(case.engine, case.engine.fork(seq), [(20, 33)])
        actual, expected = case.engine.score(seq, ids[:9]), plain.score(there, ids[:9])
        assert_close(actual, expected)
        assert torch.equal(actual, expected) or not case.repeats
        case.assert_same_pass(all_cells(case.engine, seq), all_cells(plain, there))
