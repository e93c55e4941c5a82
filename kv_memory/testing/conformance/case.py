"""The engine under test, on one model, and the fixtures that give it to the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from kv_memory.engines.base import Cells, Engine, SequenceId
from kv_memory.engines.parts import AdapterPass, AttentionScores, CellRows, Deviation, Scoring, lacks
from kv_memory.erasers.base import Eraser
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.models import CHAT, CONFIGS, save_model
from kv_memory.testing.reference import assert_close_cells, assert_same_cells, flat
from kv_memory.trained.files import open_eraser


class AllParts(AdapterPass, CellRows, AttentionScores, Deviation, Scoring):
    """An engine with every part. Tests see the engine as one, since those that need what it lacks are skipped."""


@dataclass(frozen=True)
class Case:
    """An engine with a random eraser loaded, and the same weights as a plain transformers model."""

    engine: AllParts
    model: PreTrainedModel
    name: str
    path: Path
    """The model's directory; the eraser's is `eraser` in it."""
    open: Callable[[Path], Engine]
    """Function that makes another engine of the same kind."""
    repeats: bool
    """Whether the same pass in two sequences gives the same bits."""

    @property
    def frequencies(self) -> Tensor | None:
        """Return the frequencies by which pairs half of the turning dimensions apart turn; None where layers differ."""
        if self.name not in CONFIGS and self.name != CHAT:
            return None
        found: Tensor = next(module.inv_freq for module in self.model.modules() if hasattr(module, "inv_freq"))
        return found

    def still(self, cells: Cells) -> Tensor:
        """Return those rows of cells that do not turn with the position, flat: V, or the latent of latent attention."""
        latent = getattr(self.model.config, "kv_lora_rank", None)
        return flat(cells.keys if latent and cells.keys[0].shape[-1] == latent else cells.values)

    def sequence(self, ids: list[int]) -> SequenceId:
        """Create a sequence of these tokens."""
        seq = self.engine.create()
        self.engine.prefill(seq, ids)
        return seq

    def assert_same_pass(self, actual: Cells, expected: Cells) -> None:
        """Compare the cells of two sequences in which the same passes ran: bit-identical where passes repeat."""
        if self.repeats:
            assert_same_cells(actual, expected)
            return
        assert_close_cells(actual, expected)

    def need(self, *capabilities: str) -> None:
        """Skip the test, with the reason, where the engine lacks one of these capabilities."""
        for capability in capabilities:
            if reason := lacks(self.engine, capability):
                pytest.skip(f"the engine lacks {capability}: {reason}")


ATTENTION = r".*self_attn\.\w*proj\w*"
"""Layers that get a LoRA in models with experts, whose routers PEFT takes for plain linear layers."""
Test = TypeVar("Test", bound=Callable[..., object])


def needs(*capabilities: str) -> Callable[[Test], Test]:
    """Return a decorator that skips the test where the engine lacks one of these capabilities."""

    def marked(test: Test) -> Test:
        cast(Any, test).needs = capabilities
        return test

    return marked


class Cases:
    """Fixtures of the tests: `case`, the engine on each model; `one_case`, on one model, for what is the same for all;
    `ids`."""

    models: ClassVar[tuple[str, ...]] = tuple(CONFIGS)
    """Names of kv_memory.testing.models.CONFIGS or HYBRIDS."""
    chat: ClassVar[str] = CHAT
    """Name of the model with a chat template: CHAT or CHAT_HYBRID."""
    repeats: ClassVar[bool] = True
    """Whether the same pass in two sequences gives the same bits; else it is equal but for rounding."""
    _made: ClassVar[dict[tuple[type, str], Case]] = {}

    def open(self, path: Path) -> Engine:
        """Make an engine, in float32, of a model directory."""
        raise NotImplementedError

    def save(self, model: str, folder: Path) -> Path:
        """Write the model of this name, and its tokenizer, as a directory; return it."""
        return save_model(model, folder)

    def load_eraser(self, engine: Engine, model: Path, lora: Path) -> None:
        """Load a LoRA of a model directory, saved by PEFT, for `steer`."""
        open_eraser(lora).load(engine)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run the tests that use `case` on each model."""
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("model", self.models)

    @pytest.fixture
    def case(self, model: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
        """Give the engine on each model; what is reported of the test says on which."""
        made = self._case(model, tmp_path_factory)
        request.node.user_properties += [("model", model), ("engine", type(made.engine).__name__)]
        return made

    @pytest.fixture
    def one_case(self, tmp_path_factory: pytest.TempPathFactory) -> Case:
        """Give the engine on one model, for what does not depend on the architecture."""
        return self._case(self.models[0] if "qwen3" not in self.models else "qwen3", tmp_path_factory)

    @pytest.fixture
    def chat_case(self, tmp_path_factory: pytest.TempPathFactory) -> Case:
        """Give the engine on a model with a chat template."""
        return self._case(self.chat, tmp_path_factory)

    @pytest.fixture
    def ids(self) -> list[int]:
        """Give 60 tokens."""
        generator = torch.Generator().manual_seed(7)
        return torch.randint(0, 400, (60,), generator=generator).tolist()

    @pytest.fixture(autouse=True)
    def _skip_what_it_lacks(self, request: pytest.FixtureRequest) -> None:
        wanted = [name for name in ("case", "one_case", "chat_case") if name in request.fixturenames]
        if not wanted:
            return
        case: Case = request.getfixturevalue(wanted[0])
        case.need(*getattr(request.function, "needs", ()))
        parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
        for eraser in (value for value in parameters.values() if isinstance(value, Eraser)):
            for capability, reason in eraser.lacking(case.engine).items():
                pytest.skip(f"the engine lacks {capability}: {reason}")

    def _case(self, model: str, folders: pytest.TempPathFactory) -> Case:
        """Make the engine of a model once for all tests of the class."""
        key = type(self), model
        if key not in self._made:
            path = self.save(model, folders.mktemp(model))
            plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            engine = self.open(path)
            self._made[key] = Case(cast(AllParts, engine), plain, model, path, self.open, self.repeats)
            if not lacks(engine, "adapters"):
                targets = "all-linear" if model in CONFIGS or model == CHAT else ATTENTION
                self.load_eraser(engine, path, save_lora(plain, path / "eraser", targets=targets))
        return self._made[key]
