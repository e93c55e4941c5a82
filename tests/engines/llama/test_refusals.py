"""Files that are no models, models whose cells cannot be edited, and what does not belong to a model: one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kv_memory import Memory, context_length
from kv_memory.engines.llama_cpp import LlamaCppEngine, probe, room
from kv_memory.engines.llama_cpp.library import library
from kv_memory.engines.llama_cpp.model import Model
from kv_memory.engines.parts import Scoring, lacks
from kv_memory.errors import KVMemoryError, ModelError, UnsupportedModelError
from kv_memory.testing.adapters import save_lora
from kv_memory.testing.models import save_model
from kv_memory.trained.export import export_adapter
from kv_memory.trained.files import open_eraser
from tests.engines.llama import odd_models

Make = Callable[..., LlamaCppEngine]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9], ids=str)
def test_a_truncated_file_is_refused(converted: Callable[[str], Path], tmp_path: Path, share: float) -> None:
    whole = converted("qwen3").read_bytes()
    path = tmp_path / "part.gguf"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"part\.gguf.*copy or convert it again"):
        LlamaCppEngine.load(path)


def test_a_file_that_is_no_gguf_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "other.gguf").write_text("This is a text, and a text is no model.")
    with pytest.raises(ModelError, match="not a whole GGUF"):
        Memory(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        Memory(tmp_path / "none.gguf")
    with pytest.raises(ModelError, match="cannot be read: Is a directory"):
        Memory(tmp_path.rename(tmp_path.with_suffix(".gguf")))


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="unknown model architecture: 'nonesuch'"):
        LlamaCppEngine.load(odd_models.unknown(tmp_path / "m.gguf"))


REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "recurrent (trap 3)": (odd_models.recurrent, "mamba model has recurrent layers"),
    "hybrid (trap 3)": (odd_models.hybrid, "lfm2 model has recurrent layers"),
    "M-RoPE (trap 7)": (odd_models.of_several_axes, "qwen2vl .* several axes"),
    "encoder": (odd_models.encoder, "t5encoder model is no causal language model"),
    "indexed": (odd_models.indexed, "llama .* by an index of its own"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_models_that_cannot_be_edited_by_the_cell_are_refused(tmp_path: Path, kind: str) -> None:
    write, message = REFUSED[kind]
    path = write(tmp_path / "m.gguf")
    with pytest.raises(UnsupportedModelError, match=message):
        LlamaCppEngine.load(path)


def test_a_layer_that_uses_the_rows_of_another_is_refused(
    converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_places", lambda state, keys: {0: 0, 1: 1})
    monkeypatch.setattr(probe, "_understood", lambda context, watch, found, tables: found)
    with pytest.raises(UnsupportedModelError, match=r"Layer 2 of this qwen3 model uses the K and V of another"):
        LlamaCppEngine.load(converted("qwen3"))


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "bfloat16", "nonsense"])
def test_other_types_of_k_and_v_are_refused(converted: Callable[[str], Path], dtype: str) -> None:
    """Traps 1 and 8: rows of these are rotated, rounded, or end the process when they are moved."""
    with pytest.raises(ModelError, match=f"cannot be kept as {dtype}.*float16 or float32"):
        Memory(converted("qwen3"), dtype=dtype)


def test_another_device_is_refused(converted: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="on the CPU here, not on cuda"):
        Memory(converted("qwen3"), device="cuda")


def test_probe_layers_that_the_model_does_not_have_are_refused(engine: Make) -> None:
    with pytest.raises(ValueError, match="probe layer 3"):
        engine(probe_layers=(0, 3))


def test_it_says_which_queries_it_keeps_and_what_one_layers_take(engine: Make) -> None:
    mine = engine(probe_layers="all")
    assert mine.probe_layers == tuple(range(mine.config["num_hidden_layers"]))
    heads, kv = mine.config["num_attention_heads"], mine.config["num_key_value_heads"]
    assert mine.probe_memory == (heads + kv) / (2 * len(mine.probe_layers) * kv)  # the keys are kept a second time


def test_an_engine_without_probe_layers_says_so(engine: Make) -> None:
    plain = engine(probe_layers=())
    assert lacks(plain, "influence")
    seq = plain.create()
    plain.prefill(seq, [1, 2, 3])
    with pytest.raises(KVMemoryError, match="keeps no queries"):
        plain.influence(seq, [(0, 1)])
    assert plain.read_cells(seq, [0, 1]).queries == ()


def adapter_of(name: str, folder: Path) -> Path:
    """A GGUF eraser of another conformance model."""
    from transformers import AutoModelForCausalLM

    path = save_model(name, folder)
    save_lora(AutoModelForCausalLM.from_pretrained(path), path / "eraser")
    export_adapter(path / "eraser", path, folder / "eraser.gguf")
    return folder / "eraser.gguf"


@pytest.mark.parametrize("other", ["llama", "qwen2"])
def test_an_adapter_of_another_model_is_refused_and_the_engine_goes_on(
    engine: Make, tmp_path: Path, other: str
) -> None:
    mine = engine()
    path = adapter_of(other, tmp_path)
    with pytest.raises(ModelError, match=f"model_type {other}"):
        open_eraser(path).load(mine)
    with pytest.raises(ModelError, match="not for this model"):
        mine.load_adapter(str(path), "other")
    assert_works(mine)


def test_a_broken_adapter_is_refused(engine: Make, tmp_path: Path) -> None:
    whole = adapter_of("qwen3", tmp_path)
    (tmp_path / "part.gguf").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ModelError, match=r"part\.gguf is not a whole GGUF adapter"):
        open_eraser(tmp_path / "part.gguf")
    mine = engine()
    with pytest.raises(ModelError, match=r"part\.gguf is not for this model"):
        mine.load_adapter(str(tmp_path / "part.gguf"), "part")
    assert_works(mine)


def test_a_model_is_no_adapter(engine: Make, converted: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match="not a LoRA adapter"):
        open_eraser(converted("qwen3"))
    with pytest.raises(ModelError, match="not for this model"):
        engine().load_adapter(str(converted("qwen3")), "model")


def test_a_context_that_is_too_large_is_refused(engine: Make) -> None:
    with pytest.raises(ModelError, match=r"cells of model\.gguf take .* GB, and .* context length"):
        engine(cells=2**31 - 64)


def test_a_context_is_as_long_as_the_file_says_or_as_it_is_asked_for(converted: Callable[[str], Path]) -> None:
    path = converted("tiny")
    assert Memory(path).engine.max_positions == context_length(path) == 2048
    assert Memory(path, context_length=300).engine.max_positions == 300
    for wanted, message in ((4096, r"made for 2,048 tokens, not for 4,096; give a smaller"), (0, "at least one token")):
        with pytest.raises(ModelError, match=message):
            Memory(path, context_length=wanted)
    assert LlamaCppEngine.load(path, context_length=4096, rope={"rope_freq_scale": 0.5}).max_positions == 4096
    with pytest.raises(ModelError, match="ready engine has a context_length"):
        Memory(LlamaCppEngine.load(path), context_length=300)
    with pytest.raises(ValueError, match="no rotary setting 'base'"):
        LlamaCppEngine.load(path, rope={"base": 1.0})


def test_more_memory_than_is_free_is_not_asked_for(
    converted: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """llama.cpp writes to all cells at once, and Linux would end the process."""
    path = converted("tiny")
    cell = Model.load(path).cell_bytes(2)
    assert cell == 2 * 2 * 2 * 8 * 2  # layers, K and V, heads, width of a head, bytes
    monkeypatch.setattr(room, "free_memory", lambda: 1500 * cell)
    with pytest.raises(ModelError, match=r"2,080 cells of model\.gguf take .* give a context length of at most 1,024"):
        Memory(path)
    assert Memory(path, context_length=1024).engine.max_positions == 1024
    monkeypatch.setattr(room, "free_memory", lambda: 10 * cell)
    with pytest.raises(ModelError, match="use a smaller model"):
        Memory(path)


def test_the_memory_that_is_free_is_known() -> None:
    free = room.free_memory()
    if sys.platform == "linux":
        assert free is not None
        assert 1e6 < free < 1e14
    else:
        assert free is None


def test_messages_of_the_library_do_not_reach_the_terminal(converted: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "part.gguf").write_bytes(converted("qwen3").read_bytes()[:4000])
    code = (
        "import sys\nfrom kv_memory.engines.llama_cpp import LlamaCppEngine\n"
        "LlamaCppEngine.load(sys.argv[1])\n"
        "try:\n    LlamaCppEngine.load(sys.argv[2])\nexcept Exception as error:\n    print(error)\n"
    )
    files = [str(converted("qwen3")), str(tmp_path / "part.gguf")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert "part.gguf" in done.stdout
    assert "llama" not in done.stderr


def test_where_the_library_is_missing_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    try:
        with pytest.raises(ModelError, match=r"pip install 'kv-memory\[llama\]'"):
            library()
    finally:
        monkeypatch.undo()
        library.cache_clear()


def assert_works(engine: Scoring) -> None:
    seq = engine.create()
    engine.prefill(seq, [1, 2, 3])
    assert engine.score(seq, [4]).shape[0] == 1
    engine.free(seq)
