"""An engine over a loaded `llama_cpp.Llama` answers as that object does, or the engine is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kv_memory import Memory
from kv_memory.engines.llama_cpp import LlamaCppEngine
from kv_memory.engines.llama_cpp.library import library
from kv_memory.errors import UnsupportedModelError
from kv_memory.testing.chat import CHATML
from kv_memory.testing.gguf_files import changed, with_bytes

IDS = list(range(40, 90))
ROPE: dict[str, dict[str, Any]] = {
    "as the file says": {},
    "base": {"rope_freq_base": 500_000.0},
    "linear": {"rope_freq_scale": 0.5, "n_ctx": 4096},
    "YaRN": {"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 64, "yarn_ext_factor": 1.0},
    "float32": {"type_k": 0, "type_v": 0},
    "flash attention": {"flash_attn": True},
}


@pytest.fixture
def path(converted: Callable[[str], Path], tmp_path: Path) -> Path:
    return with_bytes(converted("tiny"), tmp_path / "m.gguf")


def llama(path: Path, **settings: Any) -> Any:
    return library().Llama(str(path), verbose=False, **{"n_ctx": 256, **settings})


@pytest.mark.filterwarnings("ignore:This Llama was made with rope")
@pytest.mark.parametrize("kind", ROPE)
def test_logits_are_those_of_the_object(path: Path, kind: str) -> None:
    loaded = llama(path, **ROPE[kind])
    engine = LlamaCppEngine.over(loaded, threads=1)
    assert engine.max_positions == loaded.n_ctx()
    seq = engine.create()
    engine.prefill(seq, IDS)
    loaded.eval(IDS)
    theirs = np.ctypeslib.as_array(library().llama_get_logits(loaded.ctx), (loaded.n_vocab(),))
    assert np.abs(engine.next_logits(seq).numpy() - theirs).max() < 1e-5


def test_rope_moves_the_logits_of_this_model(path: Path) -> None:
    """Else the test above would show nothing."""
    found = []
    for kind in ("as the file says", "base", "linear", "YaRN"):
        loaded = llama(path, **ROPE[kind])
        loaded.eval(IDS)
        found.append(np.ctypeslib.as_array(library().llama_get_logits(loaded.ctx), (loaded.n_vocab(),)).copy())
    assert all(np.abs(one - other).max() > 1e-2 for i, one in enumerate(found) for other in found[:i])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "chat_format": ({"chat_format": "vicuna"}, "chat_format='vicuna', .* make it without that"),
    "chat_handler": ({"chat_handler": lambda **_: None}, "a chat_handler, .* make it without that"),
    "quantised": ({"type_k": 8, "type_v": 8, "flash_attn": True}, "type_k=8 and type_v=8, .* use 1"),
    "mixed": ({"type_k": 0, "type_v": 1}, "type_k=0 and type_v=1, .* use 1"),
    "tokenizer": ({"tokenizer": object()}, "a tokenizer, .* make it without that"),
    "vocab_only": ({"vocab_only": True}, "vocab_only=True, .* make it without that"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_taken_over_is_refused_by_name(path: Path, kind: str) -> None:
    settings, message = REFUSED[kind]
    loaded = llama(path)
    for name, value in settings.items():  # some of them cannot be made with this model
        place = next(
            (at for at in (loaded.context_params, loaded.model_params) if hasattr(at, name)),
            loaded,
        )
        setattr(place, {"tokenizer": "tokenizer_", "flash_attn": "flash_attn_type"}.get(name, name), value)
    with pytest.raises(UnsupportedModelError, match=f"^This Llama was made with {message}"):
        LlamaCppEngine.over(loaded)


def test_an_adapter_of_the_object_is_refused(path: Path) -> None:
    loaded = llama(path)
    loaded.lora_path = "some.gguf"
    with pytest.raises(UnsupportedModelError, match=r"lora_path, .* merge it into the model"):
        LlamaCppEngine.over(loaded)


@pytest.mark.parametrize("chat_format", [None, "chat_template.default", "chat_template.tool_use"])
def test_a_template_of_the_file_is_taken_over(path: Path, tmp_path: Path, chat_format: str | None) -> None:
    others = {"tokenizer.chat_template.tool_use": "{{ 'tools ' }}" + CHATML}
    loaded = llama(changed(path, tmp_path / "two.gguf", others), chat_format=chat_format)
    shown = LlamaCppEngine.over(loaded).tokenizer.render([{"role": "user", "content": "Hi"}], None, False)
    assert shown.startswith("tools ") == (chat_format == "chat_template.tool_use")


def test_the_format_that_llama_cpp_python_guesses_is_the_files(path: Path, tmp_path: Path) -> None:
    from llama_cpp.llama_chat_format import CHATML_CHAT_TEMPLATE

    loaded = llama(changed(path, tmp_path / "chatml.gguf", {"tokenizer.chat_template": CHATML_CHAT_TEMPLATE}))
    assert loaded.chat_format == "chatml"
    assert LlamaCppEngine.over(loaded).tokenizer.render([{"role": "user", "content": "Hi"}], None, False)


def test_a_template_that_is_given_is_used_whatever_the_format_is(path: Path) -> None:
    engine = LlamaCppEngine.over(llama(path, chat_format="vicuna"), chat_template="{{ 'mine ' }}" + CHATML)
    assert engine.tokenizer.render([{"role": "user", "content": "Hi"}], None, False).startswith("mine ")
    assert Memory(engine).session("a").chat([{"role": "user", "content": "Hi"}], max_tokens=2).usage.generated > 0


def test_another_rope_than_the_files_is_a_warning(path: Path) -> None:
    """LangChain sets 10000 for every model."""
    with pytest.warns(UserWarning, match="rope_freq_base=500000, where its file says 10000; that is taken over"):
        LlamaCppEngine.over(llama(path, rope_freq_base=500_000.0))
