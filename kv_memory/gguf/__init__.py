"""Models and erasers as GGUF files, the format of llama.cpp; needs the extra `llama`.

`export_model` writes Qwen3, Qwen2 and Llama models, which is what the embedded model and tests need; for other models
use llama.cpp's own converter. `export_adapter` writes a trained eraser as a LoRA for a model in either format.
`pocket_gguf` is the embedded model, converted once and kept in the user's cache directory.

Beside what llama.cpp reads, a file says under `MODEL_KEY` or `ERASER_KEY`, as JSON, which model or eraser it is, and a
model holds its whole tokenizer under `tokenizer.huggingface.json`: llama.cpp knows only some ways to cut text before
byte-pair merging, and the embedded model's is not one of them.
"""

from __future__ import annotations

from kv_memory.errors import KVMemoryError

try:
    import gguf as _gguf  # noqa: F401
except ImportError as error:
    raise KVMemoryError("GGUF files need the extra llama: pip install 'kv-memory[llama]'.") from error

from kv_memory.gguf.base_model import ERASER_KEY, MODEL_KEY, BaseModel, read_base
from kv_memory.gguf.cache import pocket_gguf
from kv_memory.gguf.model import export_model
from kv_memory.gguf.writer import Dtype

__all__ = [
    "ERASER_KEY",
    "MODEL_KEY",
    "BaseModel",
    "Dtype",
    "export_model",
    "pocket_gguf",
    "read_base",
]
