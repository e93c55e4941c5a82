"""llama.cpp as a reference: the logits of a GGUF model, float32, without flash attention."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra llama)")
F32 = 0
_silent = llama_cpp.llama_log_callback(lambda level, text, data: None)  # llama.cpp keeps the pointer


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The model, by llama.cpp's low-level calls."""
    llama_cpp.llama_log_set(_silent, None)
    llama_cpp.llama_backend_init()
    parameters = llama_cpp.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, f"llama.cpp cannot load {path}"
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


def logits(path: Path, ids: list[int], adapter: Path | None = None) -> NDArray[np.float32]:
    """Return the logits of every position, [tokens, vocabulary]."""
    with opened(path) as model:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = 256
        parameters.n_threads = parameters.n_threads_batch = 1
        parameters.type_k = parameters.type_v = F32
        parameters.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        context = llama_cpp.llama_init_from_model(model, parameters)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        try:
            if adapter is not None:
                lora = llama_cpp.llama_adapter_lora_init(model, str(adapter).encode())
                assert lora, f"llama.cpp cannot load {adapter}"
                scales = (ctypes.c_float * 1)(1.0)
                loras = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(lora)
                assert llama_cpp.llama_set_adapters_lora(context, loras, 1, scales) == 0
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
            batch.n_tokens = len(ids)
            assert llama_cpp.llama_decode(context, batch) == 0
            size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
            rows = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), shape=(len(ids), size))
            return rows.copy()
        finally:
            llama_cpp.llama_batch_free(batch)
            llama_cpp.llama_free(context)


def tokenize(path: Path, text: str) -> list[int]:
    """llama.cpp's own ids of a text with special tokens in it."""
    with opened(path) as model:
        vocab = llama_cpp.llama_model_get_vocab(model)
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), True, True)
        return list(ids[:count])
