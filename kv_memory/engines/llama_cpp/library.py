"""The llama.cpp library: import, check for the functions that are needed, and logging of its messages."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache
from typing import Any

from kv_memory.errors import ModelError

_NEEDED = (
    "llama_decode",
    "llama_get_logits",
    "llama_adapter_lora_init",
    "llama_set_adapters_lora",
    "llama_memory_seq_cp",
    "llama_memory_seq_rm",
    "llama_memory_seq_pos_max",
    "llama_memory_seq_pos_min",
    "llama_model_is_hybrid",
    "llama_model_is_recurrent",
    "llama_state_seq_get_data_ext",
    "llama_state_seq_set_data_ext",
)
_ERROR = 4
_logger = logging.getLogger("kv_memory.llama_cpp")
_errors: deque[str] = deque(maxlen=8)
_callbacks: list[Any] = []
"""Callbacks that the library was given, kept as long as it may call them."""


@cache
def library() -> Any:
    """Return the module llama_cpp. Raises ModelError where it is not installed, not usable, or too old."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"GGUF models need llama-cpp-python 0.3.36 or newer ({error}); pip install 'kv-memory[llama]'."
        ) from error
    lacking = [name for name in _NEEDED if not hasattr(llama_cpp, name)]
    if lacking:
        raise ModelError(
            f"This llama-cpp-python ({llama_cpp.__version__}) has no {lacking[0]}; pip install 'kv-memory[llama]'."
        )
    _callbacks.append(llama_cpp.llama_log_callback(_note))
    llama_cpp.llama_backend_init()
    return llama_cpp


def forget_errors() -> None:
    """Clear the errors kept, before a call whose error is to be explained.

    From then on the library's messages go to `last_error` and the log, none to stderr.
    """
    _errors.clear()
    library().llama_log_set(_callbacks[0], ctypes.c_void_p(0))


def last_error(default: str = "llama.cpp gives no reason") -> str:
    """Return the first error that the library reported since `forget_errors`, on one line."""
    said = " ".join(_errors[0].split()) if _errors else default
    # NOTE: messages are like "llama_model_load: error loading model: why"; function names tell a user nothing.
    return said.split(": error loading model: ")[-1]


@cache
def ggml() -> Any:
    """Return the tensor library below llama.cpp, None where its functions cannot be reached; for `watch.py` alone."""
    loaded: Any = getattr(library().llama_cpp, "_lib", None)
    try:
        loaded.ggml_op_name.restype = ctypes.c_char_p
        loaded.ggml_op_name.argtypes = [ctypes.c_int]
        loaded.ggml_backend_tensor_get.restype = None
        loaded.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
    except AttributeError:
        return None
    return loaded


def _note(level: int, text: bytes, _: Any) -> None:
    """Log a message of the library, which calls this; errors are kept for the exceptions that follow."""
    said = text.decode(errors="replace").rstrip("\n")
    if level == _ERROR and said:
        _errors.append(said)
    _logger.debug("%s", said)
