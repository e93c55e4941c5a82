"""Tests of the scores by which erasers choose tokens: attention mass and deviation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from kv_memory.engines.base import SequenceId
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.reference import all_cells, assert_close, assert_same_cells, without

SPANS = {"middle": [(20, 33)], "start": [(0, 12)], "several": [(5, 9), (20, 33)]}


def eager_attention(case: Case, ids: list[int]) -> Tensor:
    """Compute the plain model's own attention probabilities at the probe layer, [heads, queries, keys]."""
    model = AutoModelForCausalLM.from_pretrained(case.path, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        attentions = model(torch.tensor([ids]), output_attentions=True, use_cache=False).attentions
    probabilities: Tensor = attentions[case.engine.probe_layers[0]][0]
    return probabilities


def brute_force_deviation(engine: AllParts, seq: SequenceId, positions: list[int], layer: int) -> Tensor:
    """Measure the change in K and V that re-encoding makes, by doing it in a fork."""
    fork = engine.fork(seq)
    before = engine.read_cells(fork, positions)
    engine.reencode(fork, positions)
    after = engine.read_cells(fork, positions)
    engine.free(fork)
    keys, values = after.keys[layer] - before.keys[layer], after.values[layer] - before.values[layer]
    return (keys.square().sum((0, 2)) + values.square().sum((0, 2))).sqrt()


class Choice(Cases):
    """Tests of the scores by which erasers choose tokens: attention mass and deviation."""

    @needs("influence")
    @pytest.mark.parametrize("spans", SPANS.values(), ids=SPANS)
    def test_influence_is_the_models_own_attention_on_the_spans(
        self, case: Case, ids: list[int], spans: list[tuple[int, int]]
    ) -> None:
        positions, scores = case.engine.influence(case.sequence(ids), spans)
        attention = eager_attention(case, ids)
        expected = torch.stack([attention[:, :, start:end].sum(-1).mean(0) for start, end in spans]).sum(0)
        assert positions == [p for p in without(range(60), *spans) if p >= spans[0][0]]
        assert_close(scores[0], expected[positions])

    @needs("edit", "influence")
    def test_influence_is_renormalised_over_the_cells_that_are_left(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 40, 50)
        _, scores = engine.influence(seq, [(20, 33)])
        attention = eager_attention(case, ids)
        left = 1 - attention[:, 50:, 40:50].sum(-1)
        assert_close(scores[0, -10:], (attention[:, 50:, 20:33].sum(-1) / left).mean(0))

    @needs("edit", "influence")
    def test_a_sampled_normaliser_that_samples_every_cell_is_the_softmax(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 40, 50)
        expected = engine.influence(seq, [(20, 33)])[1]
        assert_close(engine.influence(seq, [(20, 33)], normaliser="sampled")[1], expected)

    @needs("influence")
    def test_a_score_without_normaliser_is_the_logarithm_before_the_division(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        first, second = (engine.influence(seq, [span], normaliser="none")[1][0] for span in ((16, 20), (20, 33)))
        attention = eager_attention(case, ids)[:, 33:]
        # what both are divided by cancels out, for each head
        ratio = (attention[:, :, 16:20].sum(-1) / attention[:, :, 20:33].sum(-1)).log().mean(0)
        sees = ratio.isfinite()  # within a window
        assert sees.any()
        assert_close((first[-27:] - second[-27:])[sees], ratio[sees])

    @needs("influence", "rows")
    def test_influence_changes_nothing(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        before = all_cells(engine, seq)
        engine.influence(seq, [(20, 33)])
        assert_same_cells(all_cells(engine, seq), before)

    @needs("influence")
    def test_influence_of_a_span_at_the_end_has_no_cells(self, one_case: Case, ids: list[int]) -> None:
        positions, scores = one_case.engine.influence(one_case.sequence(ids), [(50, 60)])
        assert (positions, scores.tolist()) == ([], [[]])

    @needs("deviation", "edit", "rows")
    @pytest.mark.parametrize("layer", [1, 2])
    def test_deviation_equals_brute_force(self, case: Case, ids: list[int], layer: int) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 33)
        positions = list(range(33, 60))
        assert_close(
            engine.deviation(seq, positions, layer=layer), brute_force_deviation(engine, seq, positions, layer)
        )

    @needs("deviation", "edit")
    def test_deviation_is_in_the_order_of_the_positions(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        engine.drop(seq, 20, 33)
        ascending = engine.deviation(seq, [40, 45, 50])
        assert_close(engine.deviation(seq, [50, 40, 45]), ascending[[2, 0, 1]])

    @needs("deviation", "edit")
    def test_the_first_layer_does_not_deviate(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 33)
        assert engine.deviation(seq, range(33, 60), layer=0).max() < 1e-5

    @needs("deviation", "edit", "rows")
    def test_deviation_changes_nothing(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 33)
        before = all_cells(engine, seq)
        engine.deviation(seq, range(33, 60), layer=2)
        assert_same_cells(all_cells(engine, seq), before)

    @needs("deviation")
    def test_a_layer_that_the_model_does_not_have_is_refused(self, one_case: Case, ids: list[int]) -> None:
        beyond = one_case.engine.config["num_hidden_layers"]
        with pytest.raises(ValueError, match=f"layer {beyond}"):
            one_case.engine.deviation(one_case.sequence(ids), [5], layer=beyond)
