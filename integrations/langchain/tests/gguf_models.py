"""Tiny random GGUF models as other converters write them; tests skip where llama-cpp-python is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from kv_memory.testing.chat import CHATML, tiny_model, tiny_tokenizer


def tiny_gguf(folders: pytest.TempPathFactory, kind: str, template: str = CHATML) -> Path:
    """A model with a vocabulary of this kind: "llama.cpp, bytes" or "llama.cpp, sentencepiece"."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (make llama)", exc_type=ImportError)
    from kv_memory.gguf import export_model
    from kv_memory.testing.gguf_files import with_bytes, with_sentencepiece

    folder = folders.mktemp("gguf")
    tiny_model().save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    export_model(folder, folder / "ours.gguf", "f32")
    convert = with_sentencepiece if kind == "llama.cpp, sentencepiece" else with_bytes
    return convert(folder / "ours.gguf", folder / "model.gguf")
