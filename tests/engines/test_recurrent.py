"""Models with recurrent layers: whatever was done, the next token is that of a fresh run of the same tokens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM, PreTrainedModel, RecurrentGemmaConfig, RecurrentGemmaForCausalLM

from kv_memory.engines.base import Sampling, SequenceId
from kv_memory.engines.checkpoints import CheckpointSettings
from kv_memory.engines.parts import lacks
from kv_memory.engines.registry import engine_over, open_engine
from kv_memory.engines.transformers import RecurrentEngine, TransformersEngine
from kv_memory.erasers import ERASERS, get_eraser
from kv_memory.erasers.recompute import Recompute
from kv_memory.errors import ArgumentError, ModelError, UnsupportedModelError, UnsupportedOperationError
from kv_memory.testing.models import HYBRIDS, save_model, tiny_hybrid, tokenizer
from tests.tiny import save_tiny

KINDS = ("qwen3_5", "granitemoehybrid", "lfm2", "jamba")
"""A gated delta-net, a mamba, a convolution, and one whose code ignores the states in passes of several tokens."""
IDS = torch.randint(0, 400, (200,), generator=torch.Generator().manual_seed(3)).tolist()
_ENGINES: dict[str, RecurrentEngine] = {}


def engine_of(kind: str) -> RecurrentEngine:
    """The engine of this kind, made once, with room for all checkpoints."""
    if kind not in _ENGINES:
        _ENGINES[kind] = RecurrentEngine(tiny_hybrid(kind), tokenizer(), name=kind)
    return _ENGINES[kind]


@pytest.fixture
def engine() -> RecurrentEngine:
    return engine_of("qwen3_5")


def filled(engine: RecurrentEngine, ids: list[int] = IDS[:100], marks: tuple[int, ...] = (20, 40, 60)) -> SequenceId:
    seq = engine.create()
    engine.mark(seq, marks)
    engine.prefill(seq, ids)
    return seq


def assert_fresh(engine: RecurrentEngine, seq: SequenceId) -> None:
    """Compare the next tokens' log-probabilities with those of one pass over the same tokens."""
    fresh = engine.create()
    engine.prefill(fresh, engine.tokens(seq), engine.positions(seq))
    torch.testing.assert_close(engine.score(seq, [5, 6, 7]), engine.score(fresh, [5, 6, 7]), atol=1e-4, rtol=0)
    engine.free(fresh)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_that_still_holds_the_text_would_show(kind: str) -> None:
    """The tolerance of the other tests is far below what one erased token changes."""
    engine = engine_of(kind)
    seq, other = filled(engine), filled(engine, [*IDS[:59], *IDS[60:100]])
    assert float((engine.score(seq, [5]) - engine.score(other, [5])).abs().max()) > 3e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_recomputation_runs_from_the_last_checkpoint_and_equals_a_fresh_run(kind: str) -> None:
    engine = engine_of(kind)
    seq = filled(engine)
    assert engine.checkpoints.positions(seq) == [20, 40, 60]
    done = Recompute().erase(engine, seq, [(45, 50)])
    assert engine.tokens(seq) == IDS[:45] + IDS[50:100]
    assert done.recomputed == 5 + 50
    assert engine.marks(seq) == [20, 40, 55]
    assert engine.checkpoints.positions(seq) == [20, 40]
    assert_fresh(engine, seq)


def test_marks_after_an_erasure_are_kept_where_the_tokens_are_now(engine: RecurrentEngine) -> None:
    seq = filled(engine, marks=(20, 40, 60, 80))
    Recompute().erase(engine, seq, [(25, 30), (58, 65)])
    assert engine.marks(seq) == [20, 35, 53, 68]
    assert engine.checkpoints.positions(seq) == [20, 53]
    assert_fresh(engine, seq)


def test_what_is_between_the_checkpoint_and_the_cut_runs_with_what_comes_next(
    engine: RecurrentEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seq = filled(engine)
    passes: list[int] = []
    run = type(engine._forward).__call__

    def counted(*given: Any, **named: Any) -> Any:
        passes.append(len(given[2]))
        return run(*given, **named)

    monkeypatch.setattr(type(engine._forward), "__call__", counted)
    assert [engine.replayed_from(seq, start) for start in (10, 20, 59, 60, 100)] == [0, 20, 40, 60, 100]
    engine.truncate(seq, 50)
    assert (passes, engine.replayed_from(seq, 50), engine.replayed_from(seq, 30)) == ([], 40, 20)
    engine.prefill(seq, IDS[60:70])
    assert passes == [20]
    engine.truncate(seq, 40)
    list(engine.generate(seq, Sampling(max_tokens=1)))
    assert passes == [20, 1], "the logits after a checkpoint are kept with it"


def test_a_checkpoint_serves_any_number_of_times(engine: RecurrentEngine) -> None:
    seq = filled(engine)
    for start in (40, 90, 40):
        engine.truncate(seq, start)
        engine.prefill(seq, IDS[100 + start : 180])
    assert_fresh(engine, seq)


def test_a_fork_shares_checkpoints_and_outlives_its_source(engine: RecurrentEngine) -> None:
    seq = filled(engine)
    before = engine.checkpoints.bytes
    fork, short = engine.fork(seq), engine.fork(seq, 50)
    assert engine.checkpoints.bytes == before
    engine.free(seq)
    engine.prefill(short, IDS[100:120])
    assert_fresh(engine, fork)
    assert_fresh(engine, short)


@pytest.mark.parametrize("layer", [0, 3])
def test_a_pass_that_is_interrupted_midway_leaves_the_cells_as_they_were(
    engine: RecurrentEngine, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    """Some layers have the new tokens in their state then, and others not."""
    seq = filled(engine)
    block = engine._forward.model.get_decoder().layers[layer]
    run = type(block).forward

    def interrupted(self: Any, *given: Any, **named: Any) -> Any:
        result = run(self, *given, **named)
        if self is block:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(type(block), "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.prefill(seq, IDS[100:110])
    assert engine.tokens(seq) == IDS[:100]
    assert_fresh(engine, seq)


def test_a_stop_string_cuts_back_to_before_the_answer(engine: RecurrentEngine) -> None:
    seq = filled(engine)
    plain = engine.fork(seq)
    text = "".join(token.text for token in engine.generate(plain, Sampling(max_tokens=20)))
    list(engine.generate(seq, Sampling(max_tokens=20, stop=(text[6:9],))))
    assert engine.tokens(seq) != engine.tokens(plain)
    assert engine.checkpoints.positions(seq) == [20, 40, 60, 100]
    assert_fresh(engine, seq)


@pytest.mark.parametrize(("megabytes", "kept"), [(0.0, 0), (0.02, 2), (1.0, 9)])
def test_within_any_budget_a_retraction_is_exact(megabytes: float, kept: int) -> None:
    engine = RecurrentEngine(tiny_hybrid("qwen3_5"), tokenizer(), checkpoints=CheckpointSettings(megabytes, "cpu"))
    seq = filled(engine, IDS, tuple(range(20, 200, 20)))
    assert len(engine.checkpoints.positions(seq)) == kept
    Recompute().erase(engine, seq, [(90, 97)])
    assert_fresh(engine, seq)


STEPS = ("append", "mark", "truncate", "fork", "generate", "erase")
step = st.tuples(st.sampled_from(STEPS), st.integers(0, 999), st.integers(0, 999))


@pytest.mark.parametrize("kind", KINDS[:3])
@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(history=st.lists(step, min_size=3, max_size=10))
def test_any_history_equals_a_fresh_run(kind: str, history: list[tuple[str, int, int]]) -> None:
    engine = engine_of(kind)
    budget, engine.checkpoints.budget = engine.checkpoints.budget, 5 * engine._forward.state_size
    held = [filled(engine, IDS[:30], (10, 20))]
    expected = [list(IDS[:30])]
    try:
        for name, a, b in history:
            number = a % len(held)
            seq, tokens = held[number], expected[number]
            end = engine.next_position(seq)
            if name == "append" and end < 200:
                new = IDS[b % 150 : b % 150 + 1 + a % 30]
                engine.prefill(seq, new)
                tokens += new
            elif name == "mark":
                engine.mark(seq, [end + b % 20])
            elif name == "truncate":
                engine.truncate(seq, b % (end + 1))
                del tokens[b % (end + 1) :]
            elif name == "fork" and len(held) < 4:
                held.append(engine.fork(seq, b % (end + 1) if a % 2 else None))
                expected.append(tokens[: b % (end + 1)] if a % 2 else list(tokens))
            elif name == "generate" and 0 < end < 200:
                list(engine.generate(seq, Sampling(max_tokens=1 + b % 5)))
                expected[number] = engine.tokens(seq)
            elif name == "erase" and end > 2:
                start = b % (end - 1)
                Recompute().erase(engine, seq, [(start, start + 1)])
                del tokens[start]
            assert [engine.tokens(each) for each in held] == expected
            assert engine.checkpoints.bytes <= engine.checkpoints.budget
        for seq in held:
            if engine.tokens(seq):
                assert_fresh(engine, seq)
    finally:
        engine.checkpoints.budget = budget
        for seq in held:
            engine.free(seq)


def test_the_engine_is_chosen_by_the_configuration(tmp_path: Path) -> None:
    path = save_model("lfm2", tmp_path)
    seen: list[dict[str, Any]] = []
    engine = open_engine(path, device="cpu", dtype="float32", check=seen.append, checkpoint_mb=3, context_length=99)
    assert isinstance(engine, RecurrentEngine)
    assert (engine.checkpoints.budget, engine.max_positions, engine.kv_dtype) == (3e6, 99, "float32")
    assert [config["model_type"] for config in seen] == ["lfm2"]
    assert isinstance(engine_over(tiny_hybrid("lfm2"), tokenizer()), RecurrentEngine)


@pytest.mark.parametrize("name", [name for name in ERASERS if name != "recompute"])
def test_every_other_eraser_is_refused_with_the_kind_of_layer(engine: RecurrentEngine, name: str) -> None:
    seq = filled(engine)
    reason = r"its layers of type linear_attention keep one running state of all tokens, .*; use 'recompute'\."
    with pytest.raises(UnsupportedOperationError, match=reason):
        get_eraser(name).erase(engine, seq, [(5, 9)])
    assert engine.tokens(seq) == IDS[:100]


def test_it_scores_and_lacks_all_else(engine: RecurrentEngine) -> None:
    assert not lacks(engine, "score")
    assert "linear_attention" in lacks(engine, "edit")


REFUSALS: dict[str, tuple[Callable[[], object], type[Exception], str]] = {
    "a budget below one checkpoint": (
        lambda: RecurrentEngine(tiny_hybrid("lfm2"), tokenizer(), checkpoints=CheckpointSettings(0.001)),
        ModelError,
        r"^One checkpoint of .* takes 0\.00\d+ MB, more than the 0.001 MB for all; raise checkpoint_mb, or give 0",
    ),
    "a device that there is not": (
        lambda: RecurrentEngine(tiny_hybrid("lfm2"), tokenizer(), checkpoints=CheckpointSettings(5, "gpu7")),
        ModelError,
        "^There is no device 'gpu7' here; give one of cpu",
    ),
    "probe layers": (
        lambda: RecurrentEngine(tiny_hybrid("lfm2"), tokenizer(), probe_layers=(1,)),
        UnsupportedOperationError,
        "^No probe layers can be chosen for .*: its layers of type conv keep one running state",
    ),
    "a model of attention alone": (
        lambda: RecurrentEngine.load(save_tiny(Path("tiny"))),
        UnsupportedModelError,
        "^This qwen3 model has no recurrent layers; use TransformersEngine",
    ),
    "checkpoints for a model of attention alone": (
        lambda: open_engine(save_tiny(Path("tiny")), checkpoint_mb=5),
        ModelError,
        "^tiny has no recurrent layers, so that it needs no checkpoints; leave out checkpoint_mb and checkpoint_device",
    ),
    "a negative budget": (
        lambda: open_engine(save_tiny(Path("tiny")), checkpoint_mb=-5),
        ArgumentError,
        "^checkpoint_mb is a number of megabytes, at least 0, not -5",
    ),
    "a model that says no context": (
        lambda: RecurrentEngine(small_mamba(), tokenizer(), name="mamba"),
        ModelError,
        "^mamba does not say how long a context it takes; give context_length",
    ),
    "a model that cannot go on from its state": (
        lambda: RecurrentEngine(small_recurrent_gemma(), tokenizer()),
        UnsupportedModelError,
        "^This recurrent_gemma model does not go on from the state of an earlier pass as it would in one pass; use",
    ),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_it_is_refused_in_one_sentence(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make, error, sentence = REFUSALS[what]
    with pytest.raises(error, match=sentence):
        make()


def test_a_model_that_ignores_its_state_in_longer_passes_runs_one_token_at_a_time() -> None:
    assert engine_of("jamba")._forward.step(0, 50) == 50
    assert engine_of("jamba")._forward.step(1, 50) == 1
    assert engine_of("qwen3_5")._forward.step(1, 50) == 50
    mamba = RecurrentEngine(small_mamba(), tokenizer(), context_length=200)
    assert mamba._forward.step(1, 50) == 1
    seq = filled(mamba, IDS[:50], (20,))
    mamba.truncate(seq, 30)
    assert_fresh(mamba, seq)


def test_models_with_attention_alone_keep_their_engine(tmp_path: Path) -> None:
    assert isinstance(open_engine(save_tiny(tmp_path), device="cpu"), TransformersEngine)
    assert set(KINDS) <= HYBRIDS.keys()


def small_mamba() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 416, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.1}
    return MambaForCausalLM(MambaConfig(**shape))


def small_recurrent_gemma() -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": 416, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    return RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**shape, num_attention_heads=4, num_key_value_heads=2))
