"""One case beside never-saw."""

from __future__ import annotations

from random import Random

import pytest
import torch

from kv_memory.erasers.drop import Drop
from kv_memory.erasers.recompute import Recompute
from kv_memory.erasers.shift_influence import ShiftInfluence
from kv_memory.evaluation.cases import Case
from kv_memory.evaluation.oracle import deviations, top_share
from kv_memory.evaluation.suites.texts import text_cases
from kv_memory.evaluation.trial import trial
from tests.tiny import tiny_engine

CASE = next(text_cases([i * i % 250 for i in range(400)], [], 12, 60, Random(0)))
QUESTION = Case("keep", CASE.ids, CASE.spans, (5, 6, 7), answer="no tiny model says this")


@pytest.mark.parametrize("case", [CASE, QUESTION], ids=["text", "question"])
def test_recompute_is_never_saw_and_no_erasing_is_not(case: Case) -> None:
    with trial(tiny_engine(), case) as this:
        exact, nothing = this.run(Recompute()), this.run(None)
    assert exact.kl < 1e-9
    assert nothing.kl > 1e-4
    assert exact.agrees
    assert (exact.recomputed, nothing.recomputed) == (60, 0)
    assert exact.seconds > 0


def test_closing_the_hole_and_running_every_token_again_is_never_saw() -> None:
    with trial(tiny_engine(), CASE) as this:
        assert this.run(ShiftInfluence(1000)).kl < 1e-9 < this.run(Drop()).kl


def test_agreement_read_off_one_pass_is_that_of_the_answers() -> None:
    engine = tiny_engine()
    for seed in range(12):
        ids = tuple(torch.randint(0, 250, (40,), generator=torch.Generator().manual_seed(seed)).tolist())
        with trial(engine, Case("keep", ids, ((10, 25),), (5, 6), answer="")) as this:
            assert this.answered  # an empty answer is in every one
            for eraser in (None, Drop(), Recompute()):
                assert this.run(eraser).agrees == (this.answer_after(eraser) == this.answer)


def test_a_trial_gives_its_cells_back_and_leaves_them_as_they_were() -> None:
    engine = tiny_engine()
    with trial(engine, QUESTION) as this:
        first = this.run(Drop())
        assert this.run(Drop()).kl == first.kl
        assert engine.tokens(this.read) == list(QUESTION.ids)
        read = this.read
    with pytest.raises(ValueError, match="no sequence"):
        engine.tokens(read)


def test_deviations_are_the_change_of_a_recompute_in_place() -> None:
    engine = tiny_engine()
    seq = engine.create()
    engine.prefill(seq, CASE.ids)
    positions, change = deviations(engine, seq, CASE.spans)
    assert positions == list(range(CASE.spans[0][1], len(CASE.ids)))
    assert change.shape == (2, 60)
    assert change[0].max() < 1e-5  # a token's own K and V in the first layer do not depend on others
    engine.drop(seq, *CASE.spans[0])
    expected = engine.deviation(seq, positions, layer=1)
    cells = engine.read_cells(seq, positions)
    size = (cells.keys[1].square().sum((0, 2)) + cells.values[1].square().sum((0, 2))).sqrt().mean()
    torch.testing.assert_close(change[1] * size, expected)


def test_the_share_of_the_first_in_order() -> None:
    assert top_share(torch.tensor([1.0, 5.0, 4.0]), torch.tensor([1, 2, 0]), 2) == pytest.approx(0.9)
    assert top_share(torch.zeros(3), torch.tensor([0, 1, 2]), 2) == 0
