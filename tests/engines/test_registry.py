"""One table says which engine runs a model."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kv_memory.engines import base
from kv_memory.engines.registry import ENGINES, engine_over, open_engine
from kv_memory.engines.transformers import TransformersEngine
from kv_memory.errors import ModelError
from kv_memory.testing.chat import tiny_model, tiny_tokenizer
from tests.tiny import save_tiny, tiny_engine

BELOW = {"arguments", "engines", "errors", "file_io", "locks", "pocket", "positions"}
"""What the modules of the engines may import of this package."""


def test_a_directory_is_opened_with_transformers(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    path = save_tiny(tmp_path)
    engine = open_engine(path, name="mine", device="cpu", dtype="float32", check=seen.append, probe_layers=(0,))
    assert isinstance(engine, TransformersEngine)
    assert (engine.name, engine.kv_dtype) == ("mine", "float32")
    assert [config["num_hidden_layers"] for config in seen] == [2]
    assert open_engine(path, device="cpu").name == str(path)


def test_a_gguf_file_is_opened_with_llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    entry = ENGINES["llama.cpp"]
    load = lambda model, **settings: asked.update(settings, model=model) or tiny_engine()  # noqa: E731
    monkeypatch.setitem(ENGINES, "llama.cpp", replace(entry, load=load))
    open_engine("somewhere/model.gguf", dtype="float32", probe_layers=(1,))
    assert (asked["model"], asked["dtype"], asked["probe_layers"]) == ("somewhere/model.gguf", "float32", (1,))


def test_gguf_models_run_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    with pytest.raises(ModelError, match="GGUF models run on the CPU here, not on cuda"):
        open_engine(tmp_path / "model.gguf", device="cuda")


def test_a_loaded_model_gets_an_engine_over_it() -> None:
    model = tiny_model()
    engine = engine_over(model, tiny_tokenizer())
    assert isinstance(engine, TransformersEngine)
    assert engine_over(engine) is engine
    with pytest.raises(TypeError, match="without a tokenizer"):
        engine_over(model)


@pytest.mark.parametrize("loaded", [None, "pocket", object(), tiny_tokenizer()], ids=["none", "str", "object", "other"])
def test_what_is_no_model_has_no_engine(loaded: object) -> None:
    assert engine_over(loaded, tiny_tokenizer()) is None


def test_the_table_and_the_contract_load_no_library_that_runs_models() -> None:
    heavy = ("torch", "transformers", "llama_cpp", "peft")
    code = "import sys, kv_memory.engines.registry, kv_memory.engines.parts; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(heavy) & set(done.stdout.split())


def test_engines_import_nothing_from_above() -> None:
    for path in Path(base.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            above = [name for name in names if name.startswith("kv_memory.") and name.split(".")[1] not in BELOW]
            assert not above, path.name
