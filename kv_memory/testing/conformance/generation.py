"""Tests of generation: which text comes out, when it ends, and which cells it leaves."""

from __future__ import annotations

import pytest
import torch

from kv_memory.engines.base import Sampling, SequenceId, Token
from kv_memory.testing.conformance.case import AllParts, Case, Cases, needs
from kv_memory.testing.models import CONTEXT
from kv_memory.testing.reference import all_cells, assert_close, flat, next_log_probs, plain_logits

LENGTH = 24


def run(engine: AllParts, seq: SequenceId, **settings: object) -> list[Token]:
    return list(engine.generate(seq, Sampling(**{"max_tokens": LENGTH, **settings})))  # type: ignore[arg-type]


def text_of(tokens: list[Token]) -> str:
    return "".join(token.text for token in tokens)


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens if token.id >= 0]


def draws(engine: AllParts, seq: SequenceId, **settings: float) -> list[int]:
    """Draw the next token with 300 seeds."""
    return [
        token
        for seed in range(300)
        for token in ids_of(run(engine, engine.fork(seq), max_tokens=1, seed=seed, **settings))
    ]


def pairs_in(engine: AllParts, tokens: list[Token]) -> list[int]:
    """Return the indices of the tokens that are two letters."""
    texts = [engine.tokenizer.decode([token.id]) for token in tokens]
    return [i for i, text in enumerate(texts) if len(text) == 2 and text.isalpha()]


class Generation(Cases):
    """Tests of generation: which text comes out, when it ends, and which cells it leaves."""

    def test_greedy_output_is_that_of_transformers_generate(self, case: Case, ids: list[int]) -> None:
        expected = case.model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, 60), max_new_tokens=LENGTH, do_sample=False
        )[0, 60:].tolist()
        ended = expected[-1] in case.engine.tokenizer.eos_ids
        tokens = run(case.engine, case.sequence(ids))
        assert ids_of(tokens) == (expected[:-1] if ended else expected)
        assert tokens[-1].finish == ("stop" if ended else "length")

    @needs("score")
    def test_the_cells_hold_what_was_generated(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        run(engine, seq)
        written = engine.tokens(seq)
        assert_close(next_log_probs(engine, seq), plain_logits(case.model, written)[-1].log_softmax(-1))

    @needs("edit", "score")
    def test_generation_after_an_edit_goes_by_the_edited_cells(self, case: Case, ids: list[int]) -> None:
        engine, seq = case.engine, case.sequence(ids)
        engine.drop(seq, 20, 50)
        rerun = engine.fork(seq)
        engine.reencode(rerun, [59])
        assert ids_of(run(engine, seq, max_tokens=1)) == [int(next_log_probs(engine, rerun).argmax())]

    def test_only_the_last_token_has_a_finish(self, one_case: Case, ids: list[int]) -> None:
        tokens = run(one_case.engine, one_case.sequence(ids), max_tokens=5)
        assert [token.finish for token in tokens] == [None] * 4 + ["length"]

    def test_a_seed_repeats_a_draw_and_another_gives_another(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        draws = [ids_of(run(engine, engine.fork(seq), temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
        assert draws[0] == draws[1] != draws[2]

    def test_without_a_seed_draws_differ(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        assert ids_of(run(engine, engine.fork(seq), temperature=1.5)) != ids_of(run(engine, seq, temperature=1.5))

    @needs("score")
    def test_temperature_flattens_the_draw(self, one_case: Case, ids: list[int]) -> None:
        """Give the likeliest tokens, half of the scaled distribution and more of the plain one, half of the draws."""
        engine, seq = one_case.engine, one_case.sequence(ids)
        log_probs = next_log_probs(engine, seq)
        scaled = (log_probs / 3).softmax(-1).sort(descending=True)
        half = scaled.indices[: int((scaled.values.cumsum(-1) < 0.5).sum())]
        assert log_probs.exp()[half].sum() > 0.7
        drawn = draws(engine, seq, temperature=3.0)
        share = sum(token in half.tolist() for token in drawn) / len(drawn)
        assert share == pytest.approx(0.5, abs=0.09)  # three standard deviations

    @needs("score")
    def test_top_p_leaves_out_the_tail(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        sorted_probs = next_log_probs(engine, seq).exp().sort(descending=True)
        nucleus = sorted_probs.indices[: int((sorted_probs.values.cumsum(-1) < 0.7).sum()) + 1].tolist()
        drawn = set(draws(engine, seq, temperature=1.0, top_p=0.7))
        assert len(drawn) > 1
        assert drawn <= set(nucleus)

    def test_cancelling_ends_at_the_next_token(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        seen: list[Token] = []
        for token in engine.generate(seq, Sampling(max_tokens=LENGTH), cancelled=lambda: len(seen) == 3):
            seen.append(token)
        assert [token.finish for token in seen] == [None, None, None, "cancelled"]
        assert engine.tokenizer.decode(engine.tokens(seq)[60:]) == text_of(seen)

    def test_a_full_context_ends_the_text(self, one_case: Case) -> None:
        engine, seq = one_case.engine, one_case.sequence([1] * (CONTEXT - 2))
        tokens = run(engine, seq)
        assert (len(ids_of(tokens)), tokens[-1].finish) == (2, "length")
        assert engine.tokenizer.decode(engine.tokens(seq)[CONTEXT - 2 :]) == text_of(tokens)

    def test_an_end_token_is_neither_yielded_nor_written(self, one_case: Case, ids: list[int]) -> None:
        """Let the likeliest third token end the turn."""
        engine, seq = one_case.engine, one_case.sequence(ids)
        third = ids_of(run(engine, engine.fork(seq)))[2]
        own = engine.tokenizer.eos_ids
        engine.tokenizer.eos_ids = own | {third}
        try:
            tokens = run(engine, seq)
        finally:
            engine.tokenizer.eos_ids = own
        assert tokens[-1] == Token(-1, tokens[-1].text, "stop")
        assert third not in ids_of(tokens)
        assert engine.tokenizer.decode(engine.tokens(seq)[60:]) == text_of(tokens)

    @needs("score")
    @pytest.mark.parametrize("into", [0, 1], ids=["between tokens", "inside a token"])
    def test_a_stop_string_is_cut_from_text_and_cells(self, one_case: Case, ids: list[int], into: int) -> None:
        """Take the stop string from the greedy text, from the start or middle of its second pair of letters on."""
        engine, seq = one_case.engine, one_case.sequence(ids)
        greedy = run(engine, engine.fork(seq))
        before = len(engine.tokenizer.decode(ids_of(greedy)[: pairs_in(engine, greedy)[1]]))
        text = text_of(greedy)
        stop = text[before + into : before + into + 2]
        expected = text[: text.index(stop)]

        tokens = run(engine, seq, stop=(stop,))

        assert (text_of(tokens), tokens[-1].finish) == (expected, "stop")
        assert engine.tokenizer.decode(engine.tokens(seq)[60:]) == expected
        written = plain_logits(one_case.model, engine.tokens(seq))
        assert_close(next_log_probs(engine, seq), written[-1].log_softmax(-1))

    @needs("rows")
    def test_a_closed_generation_leaves_cells_that_can_be_cut(self, one_case: Case, ids: list[int]) -> None:
        engine, seq = one_case.engine, one_case.sequence(ids)
        before = all_cells(engine, seq)
        tokens = engine.generate(seq, Sampling(max_tokens=LENGTH))
        first = next(tokens)
        tokens.close()
        assert engine.tokens(seq) == [*ids, first.id]
        engine.truncate(seq, 60)
        assert torch.equal(flat(all_cells(engine, seq).values), flat(before.values))
