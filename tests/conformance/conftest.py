"""The engines and models that the suite runs on. A new engine adds one entry to ENGINES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from kv_memory.engines.base import Cells, Engine, SequenceId
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.trained.files import open_eraser
from tests.conformance.models import CONFIGS, save_model
from tests.conformance.reference import assert_close, assert_same_cells
from tests.lora import save_lora


def llama_cpp(path: Path) -> Engine:
    """The llama.cpp engine, its model converted into the model's directory once."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    from kv_memory.engines.llama_cpp import LlamaCppEngine
    from kv_memory.gguf import export_model

    converted = path / "model.gguf"
    if not converted.exists():
        export_model(path, converted, "f32")
    return LlamaCppEngine.load(converted, dtype="float32")


ENGINES: dict[str, Callable[[Path], Engine]] = {
    "transformers": lambda path: TransformersEngine.load(path, device="cpu", dtype="float32"),
    "llama.cpp": llama_cpp,
}
"""How to make an engine, in float32, of a model directory."""
if torch.cuda.is_available():
    ENGINES["transformers-cuda"] = lambda path: TransformersEngine.load(path, device="cuda", dtype="float32")


NOT_FOR_LLAMA_CPP = {"mistral", "gemma-mqa", "phi3-partial"}
"""Architectures that kv_memory does not convert to GGUF."""
CASES = [
    (engine, model)
    for engine in ENGINES
    for model in CONFIGS
    if engine != "llama.cpp" or model not in NOT_FOR_LLAMA_CPP
]


@dataclass(frozen=True)
class Case:
    """An engine with a random eraser loaded, and the same weights as a plain transformers model."""

    engine: Engine
    model: PreTrainedModel
    path: Path
    """The model's directory; the eraser's is `eraser` in it."""
    load: Callable[[Path], Engine]
    """Makes another engine of the same kind."""
    repeats: bool
    """The same pass in two sequences gives the same bits. llama.cpp adds up in the order in which cells lie in a cache
    that all sequences share."""

    def sequence(self, ids: list[int]) -> SequenceId:
        """A new sequence of these tokens."""
        seq = self.engine.create()
        self.engine.prefill(seq, ids)
        return seq

    def assert_same_pass(self, actual: Cells, expected: Cells) -> None:
        """The cells of two sequences in which the same passes ran: bit-identical where passes repeat."""
        if self.repeats:
            assert_same_cells(actual, expected)
            return
        assert (actual.positions, actual.token_ids) == (expected.positions, expected.token_ids)
        assert_close(actual.keys, expected.keys)
        assert_close(actual.values, expected.values)


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Case]:
    made: dict[tuple[str, str], Case] = {}

    def case(engine: str, model: str) -> Case:
        if (engine, model) not in made:
            path = save_model(model, tmp_path_factory.mktemp(model))
            plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            made[engine, model] = Case(
                ENGINES[engine](path), plain, path, ENGINES[engine], repeats=engine != "llama.cpp"
            )
            open_eraser(save_lora(plain, path / "eraser")).load(made[engine, model].engine)
        return made[engine, model]

    return case


@pytest.fixture(params=CASES, ids="/".join)
def case(request: pytest.FixtureRequest, cases: Callable[[str, str], Case]) -> Case:
    """Every engine on every model."""
    return cases(*request.param)


@pytest.fixture(params=ENGINES)
def one_case(request: pytest.FixtureRequest, cases: Callable[[str, str], Case]) -> Case:
    """Every engine on one model, for what does not depend on the architecture."""
    return cases(request.param, "qwen3")


@pytest.fixture(scope="session")
def ids() -> list[int]:
    """60 tokens."""
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 400, (60,), generator=generator).tolist()
